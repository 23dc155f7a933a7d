"""Where queues with shards are tested: in memory, on one server, and on a cluster of three."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests import clusters, servers
from tests.servers import Server
from tests.transports.settings import Setting
from torrelque import Torrelque, TorrelqueReplyError, connect
from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.testing import MemoryServer, MemoryTransport
from torrelque.transports.base import Transport

MEMORY = Setting('memory', 'trio', 'none')
SETTINGS = (
    MEMORY,
    Setting('native', 'asyncio+uvloop', 'valkey-9.1'),
    Setting('native-cluster', 'asyncio', 'valkey-9.1'),
)

in_memory = pytest.mark.parametrize('setting', [MEMORY], ids=str)

SOON = 20  # seconds until a test that waits in vain gives up


class Place:
    """The servers of a setting, empty, and clients of them."""

    def __init__(self, setting: Setting) -> None:
        self.memory = MemoryServer()
        self.servers: Sequence[Server] = ()
        self.url = ''
        try:
            if setting.client == 'native':
                server = servers.shared(setting.server)
                server.start()
                self.servers, self.url = [server], server.url
            elif setting.client == 'native-cluster':
                cluster = clusters.shared(setting.server)
                self.servers, self.url = cluster.primaries, f'redis+cluster://{cluster.hosts}'
        except servers.MissingServerError as error:
            pytest.skip(str(error))
        for server in self.servers:
            server.flush()

    @asynccontextmanager
    async def client(self, block_limit: float = 8.0) -> AsyncIterator[Transport]:
        """One whose waits last so long at most, in seconds."""
        if not self.servers:
            transport = MemoryTransport(server=self.memory)
            transport.block_limit = block_limit
            yield transport
            return
        async with connect(self.url) as client:
            client.block_limit = block_limit
            yield client

    @asynccontextmanager
    async def queue(self, shards: int, name: str = 'email', block_limit: float = 8.0) -> AsyncIterator[Torrelque]:
        """A queue object over a client of its own."""
        async with self.client(block_limit) as client, Torrelque(client, queue=name, shards=shards) as queue:
            yield queue

    def keys(self) -> set[str]:
        """The names of all keys."""
        time.sleep(0.01)  # the lanes of objects that were just closed expire within a millisecond
        if not self.servers:
            return {key.decode() for key in self.memory.snapshot()}
        return {key.decode() for server in self.servers for key in server.command('KEYS', '*')}

    def flush(self) -> None:
        """Remove all keys."""
        self.memory.call(Call('FLUSHALL'))
        for server in self.servers:
            server.flush()

    def delete(self, *keys: str) -> None:
        """Remove these keys."""
        for key in keys:
            self.memory.call(Call('DEL', (key,)))
            for server in self.servers:
                with suppress(TorrelqueReplyError):  # of a cluster, one has it
                    server.command('DEL', key)

    def blocked(self) -> list[int]:
        """How many clients wait on each server."""
        return [int(server.info('clients')['blocked_clients']) for server in self.servers]


class Watched(MemoryTransport):
    """Remembers the calls; ``places`` is how many servers it says that there are."""

    def __init__(self, places: int = 1, **options: Any) -> None:  # noqa: ANN401 - those of the memory transport
        super().__init__(**options)
        self.calls: list[Call[Reply]] = []
        self._places = places

    def node_of(self, key: bytes) -> int:
        number = key.partition(b':')[2].partition(b'}')[0]
        return int(number) % self._places if number.isdigit() else 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        self.calls += batch
        return await super().execute(batch)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self.calls.append(call)
        return await super().block(call, timeout)

    def taken(self) -> list[str]:
        """The names of the calls since it was asked last."""
        names = [call.command.name if isinstance(call.command, Script) else call.command for call in self.calls]
        self.calls.clear()
        return names
