"""Which connections of clients on asyncio can be taken over. The clients' own tests show what becomes of them."""

from __future__ import annotations

import socket

import anyio
import pytest

from tests.transports.settings import LOOPS
from torrelque.transports.streams import transport_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return LOOPS[request.param]


async def test_a_stream_over_tcp_has_a_transport_until_something_arrives_or_it_ends(anyio_backend_name: str) -> None:
    """If this fails, anyio has changed. Connections work, but over coredis they take more time."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        stream = await anyio.connect_tcp(*listener.getsockname()[:2])
        other, _ = listener.accept()
        with other:
            assert (transport_of(stream) is None) == (anyio_backend_name == 'trio')
            other.sendall(b'-ERR max number of clients reached\r\n')
            assert await stream.receive(1) == b'-'
            assert transport_of(stream) is None
        await stream.aclose()
    assert transport_of(stream) is None


async def test_other_streams_have_none() -> None:
    assert transport_of(object()) is None
    sender, receiver = anyio.create_memory_object_stream[bytes]()
    assert transport_of(receiver) is None
    sender.close()
    receiver.close()
