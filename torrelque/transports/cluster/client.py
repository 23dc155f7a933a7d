"""The common part of the transports that use a cluster client of redis-py or coredis."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.transports import base, connections
from torrelque.transports.client import ClientTransport, Servers
from torrelque.transports.cluster.listener import listen
from torrelque.transports.cluster.router import Router
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.cluster.topology import Endpoint, Topology
from torrelque.transports.connections import Connections, PushListener

__all__ = ('ClusterClientTransport', 'ClusterServers')


class ClusterServers(Servers):
    """The connections to the primaries of a cluster.

    Args:
        topology: Which node serves which slot.
        connect: Returns connections to a node. They need not be open yet.
        response_timeout: Maximum time that a node may take to answer, in seconds.
    """

    def __init__(
        self, topology: Topology, connect: Callable[[Endpoint], Connections[Any]], response_timeout: float
    ) -> None:
        self.response_timeout = response_timeout
        self.topology: Topology = topology
        keep_only = weakref.WeakMethod(self._keep_only)  # a strong one would keep both alive

        async def on_read(primaries: frozenset[Endpoint]) -> None:
            method = keep_only()
            if method is not None:
                await method(primaries)

        topology.on_read = on_read
        self._connect = connect
        self._router = Router(topology)
        self._nodes: dict[Endpoint, Connections[Any]] = {}

    def to(self, node: Endpoint) -> Connections[Any]:
        found = self._nodes.get(node)
        if found is None:
            found = self._nodes[node] = self._connect(node)
        return found

    async def ask(self, batch: Batch) -> Sequence[Reply]:
        async def send(node: Endpoint, calls: Batch) -> Sequence[Reply]:
            return await self.to(node).ask(calls)

        return await self._router.route(batch, send)

    async def ask_dedicated(self, batch: Batch, seconds: float, *, keep: bool = True) -> Sequence[Reply]:
        """Send calls on a dedicated connection. If one is redirected, all of them are sent again."""

        async def send(node: Endpoint, calls: Batch) -> Sequence[Reply]:
            return await self.to(node).ask_dedicated(calls, seconds, keep=keep)

        return await self._router.route(batch, send, together=True)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        async def send(node: Endpoint) -> Reply:
            (reply,) = await self.to(node).ask_dedicated((call,), timeout + connections.MARGIN)
            return reply

        return await self._router.block(call, timeout, send)

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        return listen(self.topology, self._listen_to)

    async def _listen_to(self, node: Endpoint, stack: AsyncExitStack) -> PushListener:
        return await stack.enter_async_context(self.to(node).listen())

    async def drop(self) -> None:
        self.topology.mark_stale()
        for each in tuple(self._nodes.values()):
            await each.drop()

    async def aclose(self) -> None:
        await self._keep_only(frozenset())

    async def _keep_only(self, primaries: frozenset[Endpoint]) -> None:
        for gone in self._nodes.keys() - primaries:
            await self._nodes.pop(gone).aclose()


class ClusterClientTransport(ClientTransport):
    """A transport over a cluster client. Calls go to the primary of their slot."""

    on_cluster = True

    def _servers(self) -> ClusterServers:
        raise NotImplementedError

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        return await self._servers().block(call, timeout)

    def node_of(self, key: bytes) -> Hashable:
        return self._servers().topology.known_owner(slot_of(key))

    async def nodes(self) -> Sequence[Arg | None]:
        return await self._servers().topology.nodes()
