"""The transport over the user's ``redis.asyncio.RedisCluster``.

It uses the client's table of slots, but follows redirections itself: the client
would send ASKING on a different connection than the call, and it routes commands by
the keys that it finds in them. Connections to each node are opened as for a single
server.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from redis import exceptions
from redis.asyncio import Connection
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueTypeError,
    TorrelqueUsageError,
)
from torrelque.transports import connections
from torrelque.transports.cluster.client import ClusterClientTransport, ClusterServers
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.cluster.topology import Endpoint, Topology
from torrelque.transports.connections import Connections
from torrelque.transports.errors import dual_error
from torrelque.transports.naming import named
from torrelque.transports.redis_py_connections import LAST_CALL, Dialer, is_plain, policy_of, response_timeout_of
from torrelque.transports.redis_py_errors import (
    ANSWERS_THAT_END_A_CONNECTION,
    as_failure,
    handshake_failure,
    late_connection,
)
from torrelque.transports.redis_py_loops import PerLoop, keep_cancelled, on_this_loop
from torrelque.transports.repeating import Policy
from torrelque.transports.resp import encoded
from torrelque.transports.tls import failed_handshake, reason_of

__all__ = ('RedisPyClusterTransport', 'unreachable')

NO_CLUSTER = 'Cluster mode is not enabled'


class _ClientTopology(Topology):
    """The nodes as the client knows them."""

    def __init__(self, client: RedisCluster) -> None:
        super().__init__()
        self._client = client

    async def read(self) -> frozenset[Endpoint]:
        if self.version:
            await self._drop_free()  # they are probably broken as well
            await on_this_loop(lambda: _limited(self._client.nodes_manager.initialize), self._drop_free)
        else:
            await on_this_loop(lambda: _limited(self._client.initialize), self._drop_free)  # if it is not initialized
        return frozenset(_endpoint(node) for node in self._client.get_primaries())

    async def _drop_free(self) -> None:
        for node in self._client.get_nodes():
            for connection in tuple(node._free):  # noqa: SLF001 - no public way in older versions
                with suppress(exceptions.RedisError, OSError, RuntimeError):
                    await connection.disconnect(nowait=True)

    def known_owner(self, slot: int | None) -> Endpoint | None:
        if slot is None:
            nodes = self._client.get_primaries()
            return _endpoint(random.choice(nodes)) if nodes else None  # noqa: S311 - no secret
        serving = self._client.nodes_manager.slots_cache.get(slot)
        return _endpoint(serving[0]) if serving else None

    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        said = exceptions.SlotNotCoveredError(f'no node of the cluster serves slot {slot}')
        return dual_error(TorrelqueConnectionError, said)

    def resolve(self, host: str, port: int, asked: Endpoint) -> Endpoint:
        client, manager = self._client, self._client.nodes_manager
        host, port = manager.remap_host_port(host or asked.host, port)
        node = client.get_node(host=host, port=port)
        if node is None:  # it serves no slot yet; the client will close it with its other nodes
            node = ClusterNode(host, port, 'primary', **client.connection_kwargs)
            manager.set_nodes(manager.nodes_cache, {node.name: node})
        return _endpoint(node)


def _endpoint(node: ClusterNode) -> Endpoint:
    return Endpoint(str(node.host), int(node.port))


async def _limited(function: Callable[[], Awaitable[object]]) -> None:
    try:
        with anyio.fail_after(connections.CONNECT_TIMEOUT):
            await keep_cancelled(function())
    except TimeoutError:
        raise late_connection() from None
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        raise unreachable(error) from error


def unreachable(error: Exception) -> TorrelqueError:
    """Return why the client could not read the slots."""
    reason = reason_of(error)
    if reason is not None:
        return handshake_failure(failed_handshake('the cluster', reason))
    cause = error.__cause__ or error
    if isinstance(cause.__context__, exceptions.NoPermissionError):  # redis-py reports another error
        cause = cause.__context__
    if isinstance(cause, (exceptions.ResponseError, *ANSWERS_THAT_END_A_CONNECTION)):
        return as_failure(cause)
    if NO_CLUSTER in str(error):
        return dual_error(TorrelqueHandshakeError, error)
    return dual_error(TorrelqueConnectionError, error)


def _connect(client: RedisCluster, endpoint: Endpoint) -> Connections[Any]:
    node = client.get_node(host=endpoint.host, port=endpoint.port)
    if node is None:
        raise dual_error(TorrelqueConnectionError, exceptions.ConnectionError(f'{endpoint} has left the cluster'))
    return Dialer(node).connections()


class RedisPyClusterTransport(ClusterClientTransport):
    """See :class:`torrelque.transports.base.Transport`. Needs asyncio."""

    def __init__(self, client: RedisCluster) -> None:
        super().__init__(client)
        self._client = client
        self.in_order: bool = is_plain(client.connection_kwargs.get('connection_class', Connection))
        self._here = PerLoop(
            lambda: ClusterServers(
                _ClientTopology(client), partial(_connect, client), response_timeout_of(client.connection_kwargs)
            )
        )

    def _servers(self) -> ClusterServers:
        return self._here.get()

    def _policy(self) -> Policy:
        return policy_of(self._client.retry)

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        # A closed client would connect again, and leave connections open.
        servers = self._servers()
        replies: list[Reply] = []
        for call in batch:
            slot = None if call.routing_key is None else slot_of(call.routing_key)
            node = servers.topology.known_owner(slot)
            if node is None:
                raise servers.topology.unowned(slot)
            replies += await servers.to(node).ask_dedicated((call,), LAST_CALL, keep=False)
        return replies

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``redis.asyncio.RedisCluster``, with ``transaction=True`` or without.

        Raises:
            TorrelqueTypeError: ``pipeline`` is anything else.
            TorrelqueUsageError: It is a transaction that would run the call at once, because it is between
                ``watch()`` and ``multi()``. Or it is a transaction, and the client is not initialized yet.
        """
        if not isinstance(pipeline, ClusterPipeline):
            raise TorrelqueTypeError(
                f'pipeline: expected a pipeline of a redis.asyncio.RedisCluster, not {named(pipeline)}'
            )
        strategy = getattr(pipeline, '_execution_strategy', None)  # redis-py has no public attribute
        if hasattr(strategy, '_watching'):  # a transaction; older versions have none
            _check_transaction(strategy, begun=not getattr(self._client, '_initialize', False))
        name, *rest = call.words_with_source()
        pipeline.execute_command(name, *encoded(rest))


def _check_transaction(strategy: object, *, begun: bool) -> None:
    if not begun:  # redis-py would initialize it on another event loop
        raise TorrelqueUsageError('pipeline: a transaction needs the client initialized: `await client.initialize()`')
    if getattr(strategy, '_watching', False) and not getattr(strategy, '_explicit_transaction', False):
        raise TorrelqueUsageError('pipeline: it watches keys and would run the call at once: call its multi() first')
