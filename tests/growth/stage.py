"""Where patterns are run: clients of one kind, and the server, or cluster, or model of one that they are of."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, NamedTuple

import anyio

from tests import clusters, servers
from tests.growth import census
from tests.growth.census import Census
from tests.servers import Client, Server
from tests.transports.settings import CLIENTS, CLUSTER_CLIENTS, LOOPS
from torrelque import Client as AnyClient
from torrelque import Task, Torrelque, Worker
from torrelque.testing import MemoryServer, MemoryTransport
from torrelque.transports import Transport, adapt

__all__ = ('KINDS', 'SOON', 'Handler', 'Setting', 'Stage', 'quiet')

SERVER = 'valkey-9.1'

KINDS: Mapping[str, tuple[str, ...]] = {
    'redis_py': ('asyncio', 'asyncio+uvloop'),
    'coredis': tuple(LOOPS),
    'native': tuple(LOOPS),
    'memory': tuple(LOOPS),
    'redis_py-cluster': ('asyncio', 'asyncio+uvloop'),
    'coredis-cluster': tuple(LOOPS),
    'native-cluster': tuple(LOOPS),
}
"""The clients, each with the event loops that it runs on."""

SLICE = 0.02
"""Seconds that one wait on the server lasts here, so that idle consumers go through many of them."""

SOON = 30
"""Seconds until a round that waits in vain gives up."""

Handler = Callable[[Task], Awaitable[Any]]


class Setting(NamedTuple):
    """What a pattern runs on; with ``shards``, the queues have that number."""

    client: str
    loop: str
    shards: int | None = None

    def __str__(self) -> str:
        return f'{self.client}-{self.loop}' + (f'-{self.shards}-shards' if self.shards else '')


@cache
def own_server() -> Server:
    """A server whose waits end in time: an idle one notices up to a tenth of a second late."""
    return servers.start(SERVER, '--hz', '100', '--dynamic-hz', 'no')


class Stage:
    """Opens clients and queue objects, and counts what they leave."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.memory: MemoryServer | None = None
        self.servers: list[Server] = []
        self.cluster: clusters.Cluster | None = None
        if setting.client == 'memory':
            self.memory = MemoryServer(time.time)
        elif setting.client in CLUSTER_CLIENTS:
            self.cluster = clusters.shared(SERVER)
            self.servers = self.cluster.primaries
        else:
            self.servers = [own_server()]
        for server in self.servers:
            server.start()
            server.flush()
        self._counting: dict[int, Client] = {}

    def close(self) -> None:
        while self._counting:
            self._counting.popitem()[1].close()

    @property
    def server(self) -> Server:
        return self.servers[0]

    @property
    def on_asyncio(self) -> bool:
        return self.setting.loop != 'trio'

    def count(self) -> Census:
        """A census of this process and of the servers."""
        return census.count([self._client_of(server) for server in self.servers], self.memory)

    def cut(self) -> None:
        """Have the servers close all connections but those that count."""
        for server in self.servers:
            self._client_of(server).command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
            self._client_of(server).command('CLIENT', 'KILL', 'TYPE', 'pubsub')

    async def restart(self) -> None:
        """Kill a server and start it again."""
        self.close()
        await anyio.to_thread.run_sync(self.server.restart)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AnyClient]:
        """A client as users have it."""
        if self.memory is not None:
            yield MemoryTransport(server=self.memory)
        elif self.cluster is not None:
            async with CLUSTER_CLIENTS[self.setting.client].make(self.cluster) as client:
                yield client
        else:
            async with CLIENTS[self.setting.client].make(self.server) as client:
                yield client

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[Transport]:
        """The same, adapted, with short waits."""
        async with self.client() as client:
            transport = adapt(client)
            transport.block_limit = SLICE
            yield transport
            if transport is not client:
                await transport.aclose()

    def make(self, client: AnyClient, **options: Any) -> Torrelque:  # noqa: ANN401 - whatever it takes
        """A queue object, not entered."""
        return Torrelque(client, **{'queue': 'q', 'shards': self.setting.shards, **options})

    @asynccontextmanager
    async def queue(self, **options: Any) -> AsyncIterator[Torrelque]:  # noqa: ANN401
        """A queue object over a client of its own, whose waits are short."""
        async with self.transport() as transport, self.make(transport, **options) as queue:
            yield queue

    @asynccontextmanager
    async def working(
        self,
        queue: Torrelque | Mapping[Torrelque, float],
        handler: Handler,
        concurrency: int = 3,
        **options: Any,  # noqa: ANN401
    ) -> AsyncIterator[Worker]:
        """A worker beside the body."""
        async with anyio.create_task_group() as group:
            # Final states that stay for a minute would look like growth.
            worker = Worker(queue, handler, concurrency=concurrency, finished_ttl=0, **options)
            await group.start(worker.run)
            try:
                yield worker
            finally:
                worker.stop(0)

    def _client_of(self, server: Server) -> Client:
        if server.port not in self._counting:
            self._counting[server.port] = Client(server.socket, server.password)
        return self._counting[server.port]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the log out of pytest's hands, which would hold on to every record, with what it refers to."""
    loggers = [logging.getLogger(name) for name in ('torrelque', 'coredis', 'redis')]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
