"""The transport over the user's ``coredis.RedisCluster``, on asyncio or Trio.

It uses the client's settings and retries, and starts with the client's nodes, but
opens its own connections to each primary and reads the slots itself: the client
would ask the nodes in a fixed order, and wait without limit for one that does not
answer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import coredis
from coredis import exceptions
from coredis import typing as coredis_typing
from coredis.connection import BaseConnection, TCPLocation
from coredis.patterns.pipeline import ClusterPipeline
from coredis.pool import ClusterConnectionPool

from torrelque.core.protocol import Call, Reply, Script
from torrelque.errors import TorrelqueConnectionError, TorrelqueTypeError, TorrelqueUsageError
from torrelque.transports.cluster.client import ClusterClientTransport, ClusterServers
from torrelque.transports.cluster.topology import CLUSTER_SLOTS, Endpoint, SlotTopology
from torrelque.transports.connections import Connections
from torrelque.transports.coredis import Dialer, TakenConnection, as_is, response_timeout_of
from torrelque.transports.errors import dual_error
from torrelque.transports.naming import named
from torrelque.transports.repeating import Policy
from torrelque.transports.resp import encoded

__all__ = ('CoredisClusterTransport',)


class _NodeDialer(Dialer):
    """Opens connections to one node with the settings of a cluster's pool."""

    def __init__(self, pool: ClusterConnectionPool, node: Endpoint) -> None:
        super().__init__(pool)
        self._connection_class = pool.connection_class
        self._location = TCPLocation(*node)

    async def make(self) -> BaseConnection:
        return self._connection_class(self._location, **self.settings())


def _as_theirs(error: TorrelqueConnectionError) -> TorrelqueConnectionError:
    return dual_error(type(error), exceptions.RedisClusterError(str(error)), **error.__dict__)


def _connections(pool: ClusterConnectionPool, node: Endpoint) -> Connections[TakenConnection | BaseConnection]:
    return _NodeDialer(pool, node).connections()


async def _ask(pool: ClusterConnectionPool, asked: Endpoint) -> Reply:
    """Return a node's answer to CLUSTER SLOTS."""
    node = _connections(pool, asked)
    try:
        (reply,) = await node.ask_dedicated((CLUSTER_SLOTS,), node.response_timeout, keep=False)
    finally:
        await node.aclose()
    return reply


class CoredisClusterTransport(ClusterClientTransport):
    """See :class:`torrelque.transports.base.Transport`. Works while the client's context is entered."""

    def __init__(self, client: coredis.RedisCluster[Any]) -> None:
        super().__init__(client)
        if client.noreply:
            raise TorrelqueUsageError('the coredis client was created with noreply=True, but a queue needs the replies')
        pool: ClusterConnectionPool = client.connection_pool
        db = pool.connection_kwargs.get('db')
        if db:
            raise TorrelqueUsageError(f'the coredis client was created with db={db}, but a cluster has only database 0')
        self._client = client
        seeds = [Endpoint(seed.host, seed.port) for seed in pool.startup_nodes]
        topology = SlotTopology(seeds, partial(_ask, pool), _as_theirs)
        self._nodes = ClusterServers(topology, partial(_connections, pool), response_timeout_of(pool))

    def _servers(self) -> ClusterServers:
        return self._nodes

    def _policy(self) -> Policy:
        return self._client.retry_policy.call_with_retries

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``coredis.RedisCluster``. Raises TorrelqueTypeError for anything else."""
        if not isinstance(pipeline, ClusterPipeline):
            raise TorrelqueTypeError(f'pipeline: expected a pipeline of a coredis.RedisCluster, not {named(pipeline)}')
        pipeline.create_request(*_request(call), callback=as_is)


def _request(call: Call[Any]) -> tuple[Any, ...]:
    """Return a call's name and arguments for a pipeline."""
    name = 'EVAL' if isinstance(call.command, Script) else call.command
    words: list[Any] = encoded(call.words_with_source()[len(name.split()) :])
    key = getattr(coredis_typing, 'Key', None)  # marks keys; older versions find keys by the command's name
    if key is not None:
        first = 2 if isinstance(call.command, Script) else 0
        last = first + len(call.keys)
        words[first:last] = [key(word) for word in words[first:last]]
    return name.encode(), *words
