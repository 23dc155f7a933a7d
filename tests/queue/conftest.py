"""The queue over the native transport, on one kind of server: the other kinds are the conformance suite's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests import servers
from tests.servers import Server
from torrelque import Torrelque, connect
from torrelque.transports.native import NativeTransport


@pytest.fixture
def server() -> Server:
    """Empty, and shared: tests that reconfigure one take ``fresh_server``."""
    try:
        shared = servers.shared('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    shared.start()
    shared.flush()
    return shared


@pytest.fixture
async def client(server: Server) -> AsyncIterator[NativeTransport]:
    async with connect(server.url) as client:
        yield client


@pytest.fixture
async def queue(client: NativeTransport) -> AsyncIterator[Torrelque]:
    async with Torrelque(client, queue='q') as queue:
        yield queue
