"""The transports, event loops and servers that the conformance suite runs over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, NamedTuple

import coredis
import redis.asyncio
from anyio.lowlevel import checkpoint

from tests import clusters, servers
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
    """A way to reach a server. ``make(server)`` is a context that holds a client."""

    make: Callable[[Server], AbstractAsyncContextManager[AnyClient]]
    loops: tuple[str, ...] = tuple(LOOPS)


def redis_py(*loops: str, **options: Any) -> Client:  # noqa: ANN401 - whatever redis-py takes
    @asynccontextmanager
    async def make(server: Server) -> AsyncIterator[AnyClient]:
        client = redis.asyncio.Redis.from_url(server.url, **options)
        async with aclosing(client):
            yield client

    return Client(make, loops)


def with_coredis(*loops: str, **options: Any) -> Client:  # noqa: ANN401 - whatever coredis takes
    @asynccontextmanager
    async def make(server: Server) -> AsyncIterator[AnyClient]:
        client: coredis.Redis[Any] = coredis.Redis.from_url(server.url, **options)
        async with client:
            yield client

    return Client(make, loops or tuple(LOOPS))


CLIENTS: dict[str, Client] = {
    'native': Client(lambda server: connect(server.url)),
    'native-unix': Client(lambda server: connect(server.unix_url), ('asyncio', 'trio')),
    'redis_py': redis_py('asyncio', 'asyncio+uvloop', protocol=2),
    'redis_py-decode': redis_py('asyncio', protocol=2, decode_responses=True),
    'redis_py-resp3': redis_py('asyncio+uvloop', protocol=3),
    'redis_py-resp3-decode': redis_py('asyncio', protocol=3, decode_responses=True),
    'redis_py-impatient': redis_py('asyncio+uvloop', socket_timeout=0.5),
    'coredis': with_coredis(),
    'coredis-decode': with_coredis('asyncio', 'trio', decode_responses=True),
}
"""The settings of a client that decode or time out differently take turns over the event loops, to save time."""


class ClusterClient(NamedTuple):
    """A way to reach a cluster. ``make(cluster)`` is a context that holds a client; None: all ``turns`` there are."""

    make: Callable[[Cluster], AbstractAsyncContextManager[AnyClient]]
    turns: dict[str, tuple[str, ...]] | None = None
    """The event loops, each with the kinds of servers that it has its turn with."""


def redis_py_cluster(turns: dict[str, tuple[str, ...]], **options: Any) -> ClusterClient:  # noqa: ANN401 - redis-py's
    @asynccontextmanager
    async def make(cluster: Cluster) -> AsyncIterator[AnyClient]:
        client = redis.asyncio.RedisCluster(host='127.0.0.1', port=cluster.nodes[0].port, **options)
        async with aclosing(client):
            yield client

    return ClusterClient(make, turns)


def tidy(client: coredis.RedisCluster[Any]) -> None:
    """Close what coredis leaves open, of which anyio would warn."""
    for stream in client.connection_pool.cluster_layout._error_stream:
        stream.close()


def coredis_cluster(turns: dict[str, tuple[str, ...]], **options: Any) -> ClusterClient:  # noqa: ANN401 - coredis's
    @asynccontextmanager
    async def make(cluster: Cluster) -> AsyncIterator[AnyClient]:
        client: coredis.RedisCluster[Any] = coredis.RedisCluster('127.0.0.1', cluster.nodes[0].port, **options)
        async with client:
            yield client
        tidy(client)

    return ClusterClient(make, turns)


CLUSTER_CLIENTS: dict[str, ClusterClient] = {
    'native-cluster': ClusterClient(lambda cluster: connect(f'redis+cluster://{cluster.hosts}')),
    'redis_py-cluster': redis_py_cluster(
        {'asyncio': ('redis-7.0', 'valkey-9.1'), 'asyncio+uvloop': ('redis-8.2', 'redis-6.2')}
    ),
    'redis_py-cluster-decode': redis_py_cluster({'asyncio+uvloop': ('valkey-9.1',)}, protocol=3, decode_responses=True),
    'coredis-cluster': coredis_cluster(
        {'asyncio': ('redis-8.2', 'redis-6.2'), 'asyncio+uvloop': ('redis-7.0',), 'trio': ('redis-7.0', 'valkey-9.1')}
    ),
    'coredis-cluster-decode': coredis_cluster({'asyncio': ('valkey-9.1',)}, decode_responses=True),
}
"""Each client is run on each kind of server; its event loops and its settings take turns over these, to save time."""


@asynccontextmanager
async def memory_client(server: MemoryServer) -> AsyncIterator[AnyClient]:
    yield MemoryTransport(server=server)


def blocked_on(*nodes: Server) -> CountBlocked:
    """Counts the blocked clients of servers without a client of the kind that is tested, which takes longer."""

    async def count() -> int:
        await checkpoint()
        return sum(int(node.info('clients')['blocked_clients']) for node in nodes)

    return count


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


def cluster_settings() -> Iterator[Setting]:
    """Those with a cluster."""
    for client, (_, turns) in CLUSTER_CLIENTS.items():
        for loop, kinds in (turns or dict.fromkeys(LOOPS, clusters.KINDS)).items():
            for kind in kinds:
                yield Setting(client, loop, kind)
