"""Over a ``coredis.RedisCluster`` that the user holds, on asyncio or Trio.

The client's settings and its retries are used, and its nodes to begin with, but
neither its connections nor its view of the slots: it asks nodes in one fixed
order, and waits without end for those that do not answer. To each primary there
are connections as to a single server.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import coredis
from anyio.lowlevel import checkpoint
from coredis import exceptions
from coredis import typing as coredis_typing
from coredis.connection import BaseConnection, TCPLocation
from coredis.patterns.pipeline import ClusterPipeline
from coredis.pool import ClusterConnectionPool

from torrelque.core.protocol import Arg, Batch, Call, Reply, Script
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueReplyError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    is_unavailable,
)
from torrelque.transports import base
from torrelque.transports.cluster.router import UNKNOWN, ClusterListener, Router
from torrelque.transports.cluster.slots import SLOTS, slot_of
from torrelque.transports.cluster.topology import endpoint
from torrelque.transports.coredis import (
    MARGIN,
    Connections,
    CoredisListener,
    Dialer,
    as_is,
    response_timeout_of,
)
from torrelque.transports.errors import dual_error
from torrelque.transports.naming import class_name, named
from torrelque.transports.repeating import repeat
from torrelque.transports.resp import encoded

__all__ = ('CoredisClusterTransport',)

CLUSTER_SLOTS: list[bytes | int] = [b'CLUSTER', b'SLOTS']


class _NodeDialer(Dialer):
    """Connections to one node, made from the settings of a cluster's pool."""

    def __init__(self, pool: ClusterConnectionPool, location: TCPLocation) -> None:
        super().__init__(pool)
        self._connection_class = pool.connection_class
        self._location = location

    async def make(self) -> BaseConnection:
        return self._connection_class(self._location, **self.settings())


class _Nodes(Router[TCPLocation]):
    """Who serves what, as the nodes tell, and the connections to each."""

    def __init__(self, pool: ClusterConnectionPool) -> None:
        super().__init__()
        self._pool = pool
        self._response_timeout = response_timeout_of(pool)
        self._owners: list[TCPLocation | None] = [None] * SLOTS
        self._primaries: tuple[TCPLocation, ...] = ()
        self._known: set[TCPLocation] = set()
        self._connections: dict[TCPLocation, Connections] = {}
        self.mark_stale()

    async def begin(self) -> None:
        """Nothing: they are read as whatever is in doubt."""

    async def read(self) -> None:
        told = await self._ask_around()
        owners: list[TCPLocation | None] = [None] * SLOTS
        for first, last, nodes in told:
            owners[first : last + 1] = [nodes[0]] * (last + 1 - first)
        self._owners = owners
        self._primaries = tuple({nodes[0] for _, _, nodes in told})
        self._known = {node for _, _, nodes in told for node in nodes}
        for gone in self._connections.keys() - self._known:
            self._connections.pop(gone).close()

    def owner_of(self, slot: int | None) -> TCPLocation | None:
        if slot is not None:
            return self._owners[slot]
        return random.choice(self._primaries) if self._primaries else None  # noqa: S311 - no secret

    def node_at(self, host: str, port: int, asked: TCPLocation) -> TCPLocation:
        return TCPLocation(host or asked.host, port)

    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        told = exceptions.RedisClusterError(f'no node of the cluster serves slot {slot}')
        return dual_error(TorrelqueConnectionError, told)

    def to(self, node: TCPLocation) -> Connections:
        connections = self._connections.get(node)
        if connections is None:
            dialer = _NodeDialer(self._pool, node)
            connections = self._connections[node] = Connections(dialer, self._response_timeout)
        return connections

    def close_idle(self) -> None:
        for connections in self._connections.values():
            connections.close_idle()

    def close(self) -> None:
        while self._connections:
            self._connections.popitem()[1].close()

    async def _ask_around(self) -> list[tuple[int, int, list[TCPLocation]]]:
        """What the first node tells that does. Raises the error of the last one if none does."""
        known = list(self._known)
        random.shuffle(known)
        seeds = [TCPLocation(seed.host, seed.port) for seed in self._pool.startup_nodes]
        error: TorrelqueConnectionError | None = None
        for location in sorted(dict.fromkeys((*known, *seeds)), key=self.failed.__contains__):
            try:
                return await self._told_by(location)
            except TorrelqueConnectionError as failure:
                # A node that refuses us tells more than one that is not there.
                error = error if isinstance(error, TorrelqueHandshakeError) else failure
        raise error or self.unowned(None)

    async def _told_by(self, asked: TCPLocation) -> list[tuple[int, int, list[TCPLocation]]]:
        connections = Connections(_NodeDialer(self._pool, asked), self._response_timeout)
        try:
            (reply,) = await connections.ask([CLUSTER_SLOTS])
        finally:
            connections.close()
        if isinstance(reply, TorrelqueReplyError):
            raise dual_error(
                TorrelqueConnectionError if is_unavailable(reply) else TorrelqueHandshakeError, reply
            ) from reply
        if not reply:
            raise self.unowned(None)
        return [(first, last, [_location(node, asked) for node in nodes]) for first, last, *nodes in reply]


def _location(told: Sequence[Reply], asked: TCPLocation) -> TCPLocation:
    host, port = endpoint(told)
    return TCPLocation(host or asked.host, port)


class CoredisClusterTransport(base.Transport):
    """See :class:`torrelque.transports.base.Transport`. Works between the client's entry and its exit."""

    on_cluster = True
    in_order = True

    def __init__(self, client: coredis.RedisCluster[Any]) -> None:
        if client.noreply:
            raise TorrelqueUsageError('the coredis client is made with noreply=True, but a queue needs the replies')
        pool: ClusterConnectionPool = client.connection_pool
        db = pool.connection_kwargs.get('db')
        if db:
            raise TorrelqueUsageError(f'the coredis client is made with db={db}, but a queue on a cluster is in 0')
        self._client = client
        self._nodes = _Nodes(pool)
        self._response_timeout: float = response_timeout_of(pool)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls to the primary of their slot, as often as the client's ``retry_policy`` says.

        Safe to cancel.
        """
        if not batch:
            await checkpoint()
            return []

        return await repeat(batch, self._route, self._client.retry_policy.call_with_retries)

    async def _route(self, batch: Batch) -> Sequence[Reply]:
        async def send(node: TCPLocation, calls: Batch) -> list[Reply]:
            return await self._nodes.to(node).ask([encoded(call.words()) for call in calls])

        return await self._nodes.route(batch, send)

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a connection of their own, as often as the client's ``retry_policy`` says.

        Where one is redirected all are sent again, with the wait at their end.
        """
        seconds = self._response_timeout + timeout

        async def send(node: TCPLocation, calls: Batch) -> list[Reply]:
            return await self._nodes.to(node).ask_apart([encoded(call.words()) for call in calls], seconds)

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await self._nodes.route(calls, send, together=True)

        return await repeat(batch, attempt, self._client.retry_policy.call_with_retries, together=True)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        command = encoded(call.words())

        async def send(node: TCPLocation) -> Reply:
            (reply,) = await self._nodes.to(node).ask_apart([command], timeout + MARGIN)
            return reply

        return await self._nodes.block(call, timeout, send)

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[base.Listener]:
        async with AsyncExitStack() as stack:

            async def connect(channel: bytes) -> CoredisListener:
                node = await self._nodes.node_of(channel)
                subscriber = await stack.enter_async_context(self._nodes.to(node).dialer.listener())
                if not await _knows(subscriber, 'SSUBSCRIBE'):
                    listener.subscribe_plainly()
                return subscriber

            listener = ClusterListener(connect, self._nodes.mark_stale)
            yield listener

    def node_of(self, key: bytes) -> Hashable:
        return self._nodes.owner_of(slot_of(key))

    async def nodes(self) -> Sequence[Arg | None]:
        return await self._nodes.nodes()

    async def reconnect(self) -> None:
        await checkpoint()
        self._nodes.mark_stale()
        self._nodes.close_idle()

    async def aclose(self) -> None:
        await checkpoint()
        self._nodes.close()

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``coredis.RedisCluster``. Raises TorrelqueTypeError for anything else."""
        if not isinstance(pipeline, ClusterPipeline):
            raise TorrelqueTypeError(f'pipeline: expected a pipeline of a coredis.RedisCluster, not {named(pipeline)}')
        pipeline.create_request(*_request(call), callback=as_is)


async def _knows(subscriber: CoredisListener, command: str) -> bool:
    """Whether the server knows a command that takes arguments.

    Asked without any: an old server's error names them, and coredis closes the connection if they are not UTF-8.
    """
    try:
        await subscriber.ask(command)
    except TorrelqueReplyError as error:
        return UNKNOWN not in str(error)
    return True


def _request(call: Call[Any]) -> tuple[Any, ...]:
    """A call's name and arguments as a pipeline takes them."""
    name = 'EVAL' if isinstance(call.command, Script) else call.command
    words: list[Any] = encoded(call.words_with_source()[len(name.split()) :])
    key = getattr(coredis_typing, 'Key', None)  # how keys are told from other words; older versions find them by name
    if key is not None:
        first = 2 if isinstance(call.command, Script) else 0
        last = first + len(call.keys)
        words[first:last] = [key(word) for word in words[first:last]]
    return name.encode(), *words
