"""The transports, event loops and servers that the conformance suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, NamedTuple

import coredis
import redis.asyncio
from anyio.lowlevel import checkpoint

from tests import servers
from tests.clusters import Cluster
from tests.servers import Server
from torrelque import Client as AnyClient
from torrelque.testing import MemoryServer, MemoryTransport
from torrelque.testing.conformance.support import CountBlocked
from torrelque.transports.native import connect

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    'asyncio': ('asyncio', {}),
    'asyncio+uvloop': ('asyncio', {'use_uvloop': True}),
    'trio': ('trio', {}),
}


class Client(NamedTuple):
    """A way to reach a server or a cluster. ``make(server)`` is a context that holds a client."""

    make: Callable[[Any], AbstractAsyncContextManager[AnyClient]]
    loops: tuple[str, ...] = tuple(LOOPS)
    servers: tuple[str, ...] = tuple(servers.SERVERS)
    """The kinds of servers that it meets by default; with ``--full`` it meets them all."""

    def settings(self, name: str, turn: int, *, full: bool) -> Iterator[Setting]:
        """Each server and each event loop at least once, the loops in turn; in full, every pair of them."""
        if full:
            yield from (Setting(name, loop, server) for loop in self.loops for server in servers.SERVERS)
        else:
            for count, server in enumerate(self.servers, turn):
                yield Setting(name, self.loops[count % len(self.loops)], server)


class Setting(NamedTuple):
    """What one run of the suite is about."""

    client: str
    loop: str
    server: str

    def __str__(self) -> str:
        return '/'.join(self)


NEWEST_AND_OLDEST = ('valkey-9.1', 'redis-6.2')


def redis_py(*loops: str, kinds: tuple[str, ...] = NEWEST_AND_OLDEST, **options: Any) -> Client:  # noqa: ANN401 - redis-py's
    @asynccontextmanager
    async def make(server: Server) -> AsyncIterator[AnyClient]:
        client = redis.asyncio.Redis.from_url(server.url, **options)
        async with aclosing(client):
            yield client

    return Client(make, loops, kinds)


def with_coredis(*loops: str, kinds: tuple[str, ...] = NEWEST_AND_OLDEST, **options: Any) -> Client:  # noqa: ANN401 - coredis's
    @asynccontextmanager
    async def make(server: Server) -> AsyncIterator[AnyClient]:
        client: coredis.Redis[Any] = coredis.Redis.from_url(server.url, **options)
        async with client:
            yield client

    return Client(make, loops, kinds)


ALL = tuple(servers.SERVERS)

CLIENTS: dict[str, Client] = {
    'native': Client(lambda server: connect(server.url)),
    'native-unix': Client(lambda server: connect(server.unix_url), ('asyncio', 'trio'), NEWEST_AND_OLDEST),
    'redis_py': redis_py('asyncio', 'asyncio+uvloop', kinds=ALL, protocol=2),
    'redis_py-decode': redis_py('asyncio', protocol=2, decode_responses=True),
    'redis_py-resp3': redis_py('asyncio+uvloop', protocol=3),
    'redis_py-resp3-decode': redis_py('asyncio', protocol=3, decode_responses=True),
    'redis_py-impatient': redis_py('asyncio+uvloop', socket_timeout=0.5),
    'coredis': with_coredis(*LOOPS, kinds=ALL),
    'coredis-decode': with_coredis('asyncio', 'trio', decode_responses=True),
}
"""Each transport meets each kind of server; its other settings, such as decoding, meet the newest and the oldest."""


def redis_py_cluster(*loops: str, kinds: tuple[str, ...] = ALL, **options: Any) -> Client:  # noqa: ANN401 - redis-py's
    @asynccontextmanager
    async def make(cluster: Cluster) -> AsyncIterator[AnyClient]:
        client = redis.asyncio.RedisCluster(host='127.0.0.1', port=cluster.nodes[0].port, **options)
        async with aclosing(client):
            yield client

    return Client(make, loops, kinds)


def tidy(client: coredis.RedisCluster[Any]) -> None:
    """Close what coredis leaves open, of which anyio would warn."""
    for stream in client.connection_pool.cluster_layout._error_stream:
        stream.close()


def coredis_cluster(*loops: str, kinds: tuple[str, ...] = ALL, **options: Any) -> Client:  # noqa: ANN401 - coredis's
    @asynccontextmanager
    async def make(cluster: Cluster) -> AsyncIterator[AnyClient]:
        client: coredis.RedisCluster[Any] = coredis.RedisCluster('127.0.0.1', cluster.nodes[0].port, **options)
        async with client:
            yield client
        tidy(client)

    return Client(make, loops, kinds)


CLUSTER_CLIENTS: dict[str, Client] = {
    'native-cluster': Client(lambda cluster: connect(f'redis+cluster://{cluster.hosts}')),
    'redis_py-cluster': redis_py_cluster('asyncio', 'asyncio+uvloop'),
    'redis_py-cluster-decode': redis_py_cluster(
        'asyncio+uvloop', kinds=('valkey-9.1',), protocol=3, decode_responses=True
    ),
    'coredis-cluster': coredis_cluster(*LOOPS),
    'coredis-cluster-decode': coredis_cluster('asyncio', kinds=('valkey-9.1',), decode_responses=True),
}


@asynccontextmanager
async def memory_client(server: MemoryServer) -> AsyncIterator[AnyClient]:
    yield MemoryTransport(server=server)


def blocked_on(*nodes: Server) -> CountBlocked:
    """Counts the blocked clients of servers without a client of the kind that is tested, which takes longer."""

    async def count() -> int:
        await checkpoint()
        return sum(int(node.info('clients')['blocked_clients']) for node in nodes)

    return count


def memory_settings() -> Iterator[Setting]:
    """Those without a server."""
    for loop in LOOPS:
        yield Setting('memory', loop, 'none')


def settings(clients: Mapping[str, Client], *, full: bool) -> Iterator[Setting]:
    """Those of all clients. In full or not, each event loop meets each kind of server."""
    for turn, (name, client) in enumerate(clients.items()):
        yield from client.settings(name, turn, full=full)
