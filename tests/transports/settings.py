"""The transports, event loops and servers that the conformance suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from tests import servers
from tests.servers import Server
from torrelque.testing import MemoryServer, MemoryTransport
from torrelque.transports.native import connect

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    'asyncio': ('asyncio', {}),
    'asyncio+uvloop': ('asyncio', {'use_uvloop': True}),
    'trio': ('trio', {}),
}
ASYNCIO_ONLY = ('asyncio', 'asyncio+uvloop')


class Client(NamedTuple):
    """A way to reach a server. ``make(server)`` is a context that holds a client."""

    make: Callable[[Server], AbstractAsyncContextManager[object]]
    loops: tuple[str, ...] = tuple(LOOPS)


CLIENTS: dict[str, Client] = {
    'native': Client(lambda server: connect(server.url)),
    'native-unix': Client(lambda server: connect(server.unix_url)),
}


@asynccontextmanager
async def memory_client(server: MemoryServer) -> AsyncIterator[object]:
    yield MemoryTransport(server=server)


class Setting(NamedTuple):
    """What one run of the suite is about."""

    client: str
    loop: str
    server: str

    def __str__(self) -> str:
        return '/'.join(self)


def memory_settings() -> Iterator[Setting]:
    """Those without a server."""
    for loop in LOOPS:
        yield Setting('memory', loop, 'none')


def settings() -> Iterator[Setting]:
    """Those with a server."""
    for client, (_, loops) in CLIENTS.items():
        for loop in loops:
            for server in servers.SERVERS:
                yield Setting(client, loop, server)
