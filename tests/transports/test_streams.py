"""Connections over TCP on asyncio that pass on what arrives, without a task that reads."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from tests.engine.support import until
from tests.transports.settings import LOOPS
from torrelque import TorrelqueConnectionError
from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueResponseTimeout
from torrelque.transports.native.connection import MOST_WAITING, Connection
from torrelque.transports.native.url import Address
from torrelque.transports.streams import transport_of

pytestmark = pytest.mark.anyio

MANY = 5_000
"""Number of replies of 4 kB; more than the operating system buffers for a connection."""


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return LOOPS[request.param]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, socket.socket]]:
    """Open a connection, and return it with its other end."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        stream = await anyio.connect_tcp(*listener.getsockname()[:2])
        other, _ = listener.accept()
        with other:
            other.setblocking(False)  # noqa: FBT003 - the standard library's
            connection = Connection(stream, Address('127.0.0.1', 1))
            try:
                yield connection, other
            finally:
                await connection.aclose()


async def test_a_stream_over_tcp_has_a_transport_until_something_arrives_or_it_ends(anyio_backend_name: str) -> None:
    """If this fails, anyio has changed. Connections work, but take more time."""
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


async def test_what_arrived_before_the_end_is_received() -> None:
    async with connected() as (connection, other):
        other.send(b'+a\r\n+b\r\n')
        other.close()
        assert await connection.receive() == [b'a', b'b']
        with pytest.raises(TorrelqueConnectionError, match='the server closed the connection'):
            await connection.receive()
        assert not connection.usable


async def test_a_receiver_is_woken_when_the_connection_is_closed() -> None:
    async with connected() as (connection, _), anyio.create_task_group() as group:

        async def receive() -> None:
            with pytest.raises(TorrelqueConnectionError, match='the connection was closed'):
                await connection.receive()

        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await connection.aclose()


async def test_a_receiver_that_is_cancelled_loses_nothing() -> None:
    async with connected() as (connection, other):
        with anyio.move_on_after(0):
            await connection.receive()
        other.send(b'+a\r\n')
        assert await connection.receive() == [b'a']


async def test_bytes_that_are_no_replies_are_an_error_for_good() -> None:
    async with connected() as (connection, other):
        other.send(b'+a\r\n?\r\n')
        assert await connection.receive() == [b'a']
        for _ in range(2):
            with pytest.raises(TorrelqueConnectionError, match='Protocol error'):
                await connection.receive()


async def test_an_error_of_the_sink_is_raised_and_ends_it() -> None:
    async with connected() as (connection, other), anyio.create_task_group() as group:
        passed: list[Reply] = []

        def refuse(replies: list[Reply]) -> None:
            passed.extend(replies)
            raise TorrelqueConnectionError(f'unexpected {replies}')

        async def receive() -> None:
            with pytest.raises(TorrelqueConnectionError, match=r"unexpected \[b'a'\]"):
                await connection.receive_all(refuse)

        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        if connection._arrivals is None:
            other.send(b'+a\r\n')
        else:  # uvloop may read twice in a turn
            connection._arrivals.data_received(b'+a\r\n')
            connection._arrivals.data_received(b'+b\r\n')
    assert passed == [b'a']


async def test_a_sink_gets_the_replies_before_an_error_of_the_protocol() -> None:
    async with connected() as (connection, other):
        passed: list[Reply] = []
        other.send(b'+a\r\n?\r\n')
        with pytest.raises(TorrelqueConnectionError, match='Protocol error'):
            await connection.receive_all(passed.extend)
        assert passed == [b'a']


async def test_an_idle_connection_that_the_server_closes_is_not_usable() -> None:
    async with connected() as (connection, other):
        assert connection.usable
        other.close()
        if connection._arrivals is not None:  # Trio reads only for a receiver
            await until(lambda: not connection.usable)


async def test_a_connection_stops_reading_what_nobody_receives() -> None:
    async with connected() as (connection, other):
        left = memoryview(b'$4096\r\n%b\r\n' % bytes(4096) * MANY)
        quiet = 0
        while left and quiet < 20:  # until the other end cannot send any more
            try:
                left = left[other.send(left) :]
                quiet = 0
            except BlockingIOError:
                await anyio.sleep(0.01)
                quiet += 1
        assert left, 'all was read'
        received = 0
        while received < MANY:
            received += len(await connection.receive())
            if left:
                with suppress(BlockingIOError):
                    left = left[other.send(left) :]
        assert received == MANY > MOST_WAITING


async def test_an_exchange_without_a_task_notices_silence_and_what_arrived_before(anyio_backend_name: str) -> None:
    async with connected() as (connection, other):
        news = anyio.Event()
        started = connection.start(b'PING\r\n', 0.05, news.set)
        assert started == (anyio_backend_name != 'trio')
        if not started:
            return
        await news.wait()
        assert connection.take_good(1) is None
        with pytest.raises(TorrelqueResponseTimeout, match='no answer for'):
            await connection.receive()
        assert other.recv(100) == b'PING\r\n'
        assert not connection.start(b'PING\r\n', 8, news.set)  # it is closed


@pytest.mark.parametrize(
    ('answer', 'taken'),
    [(b'+a\r\n+b\r\n', [b'a', b'b']), (b'+a\r\n-ERR b\r\n', None), (b'+a\r\n', None), (b'+a\r\n+b\r\n+c\r\n', None)],
)
async def test_an_exchange_without_a_task_takes_replies_that_are_no_errors(
    answer: bytes, taken: list[Reply] | None, anyio_backend_name: str
) -> None:
    if anyio_backend_name == 'trio':
        return
    async with connected() as (connection, other):
        news, never = anyio.Event(), anyio.Event()
        assert connection.start(b'PING\r\n', 8, news.set)
        other.sendall(answer)
        await news.wait()
        assert connection.take_good(2) == taken
        if taken is None:
            assert (await connection.receive())[0] == b'a'  # a task goes on with what arrived
        assert connection.start(b'PING\r\n', 8, never.set)
        connection.stop()
        other.close()
        await until(lambda: not connection.usable)
        assert not never.is_set()
