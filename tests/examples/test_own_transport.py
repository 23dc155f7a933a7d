"""The transport that the documentation shows is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from examples.own_transport import PlainTransport
from torrelque import Client
from torrelque.embedded import EmbeddedServer
from torrelque.testing.conformance import ClientFactory, QueueConformance, ServerConformance


@pytest.fixture(scope='module')
def address() -> Iterator[tuple[str, int]]:
    with EmbeddedServer(port=0) as server:
        assert isinstance(server.address, tuple)
        yield server.address


class TestPlainTransport(ServerConformance, QueueConformance):
    @pytest.fixture
    def client_factory(self, address: tuple[str, int]) -> ClientFactory:
        @asynccontextmanager
        async def make() -> AsyncIterator[Client]:
            transport = PlainTransport(*address)
            yield transport
            await transport.aclose()

        return make
