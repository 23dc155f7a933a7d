"""The native transport over a cluster. Each batch goes to the current primary of its slot."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace

import anyio
import anyio.lowlevel

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError
from torrelque.transports import base
from torrelque.transports.cluster.listener import listen
from torrelque.transports.cluster.router import ASKING, Router
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.cluster.topology import CLUSTER_SLOTS, Endpoint, SlotTopology
from torrelque.transports.native.connection import Breaks, pack
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.listener import NativeListener
from torrelque.transports.native.node import Node
from torrelque.transports.native.options import Options
from torrelque.transports.native.transport import NativeTransport
from torrelque.transports.native.url import Address

__all__ = ('ClusterTransport',)


class ClusterTransport(NativeTransport):
    """A client for a cluster, made by ``torrelque.connect('redis+cluster://...')``. It is connected within its context.

    It works like :class:`NativeTransport`, with connections to each primary that is needed.

    Args:
        seeds: The nodes to ask first.
        options: How to connect.
    """

    on_cluster = True
    in_order = True

    def __init__(self, seeds: Sequence[Address], options: Options) -> None:
        super().__init__(seeds[0], options)
        self._nodes: dict[Endpoint, Node] = {}
        self._topology = SlotTopology([Endpoint(seed.host, seed.port) for seed in seeds], self._ask)
        self._topology.on_read = self._keep_only
        self._router = Router(self._topology, lambda: self._open)

    async def _start(self) -> None:
        async def send(_node: Endpoint, calls: Batch) -> Sequence[Reply]:
            await anyio.lowlevel.checkpoint()
            return [None] * len(calls)

        await self._router.route((CLUSTER_SLOTS,), send, seconds=self._options.retry_timeout)

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls to the primary of their slot and return their replies. Safe to cancel.

        Redirections are followed, and calls are repeated while the cluster cannot
        serve them. Calls without an answer are sent again, to a promoted replica
        if there is one. After ``retry_timeout`` the last answer is the reply;
        without an answer TorrelqueConnectionError is raised.
        """
        return await self._execute(batch, repeat=True)

    async def _execute(self, batch: Batch, *, repeat: bool) -> Sequence[Reply]:
        self._usable()
        if not batch:
            await anyio.lowlevel.checkpoint()
            return []
        seconds = self._options.retry_timeout if repeat else 0.0
        deadline, breaks = time.monotonic() + seconds, Breaks()

        async def send(node: Endpoint, calls: Batch) -> Sequence[Reply]:
            if calls[0] is ASKING:
                return await self._node_at(node).execute_dedicated(calls, 0.0, 0.0)
            return await self._node_at(node).execute(calls, deadline, breaks)

        return await self._router.route(batch, send, seconds=seconds)

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a dedicated connection. If one is redirected, all of them are sent again."""
        self._usable()
        deadline = self._deadline()

        async def send(node: Endpoint, calls: Batch) -> Sequence[Reply]:
            return await self._node_at(node).execute_dedicated(calls, timeout, deadline)

        return await self._router.route(batch, send, seconds=self._options.retry_timeout, together=True)

    def node_of(self, key: bytes) -> Hashable:
        return self._topology.known_owner(slot_of(key))

    async def nodes(self) -> Sequence[Arg | None]:
        self._usable()
        return await self._topology.nodes()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        """Block as on one server. While the call's slot is moving, wait as if no message arrived."""
        self._usable()

        async def send(node: Endpoint) -> Reply:
            return await self._node_at(node).block(call, timeout)

        return await self._router.block(call, timeout, send)

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        self._usable()
        return listen(self._topology, self._connect)

    async def _connect(self, node: Endpoint, stack: AsyncExitStack) -> NativeListener:
        dialer = self._node_at(node).dialer
        connection = await dialer.open()
        stack.push_async_callback(dialer.close, connection)
        return NativeListener(connection, node)

    async def aclose(self) -> None:
        await super().aclose()
        while self._nodes:
            await self._nodes.popitem()[1].aclose()

    # Nodes

    def _node_at(self, endpoint: Endpoint) -> Node:
        node = self._nodes.get(endpoint)
        if node is None:
            if not self._open:
                raise self._dialer.closed()
            node = self._nodes[endpoint] = Node(
                self._dialer_to(endpoint),
                repeats=False,
                response_timeout=self._options.response_timeout,
                start=self._start_soon,
            )
        return node

    def _dialer_to(self, endpoint: Endpoint) -> Dialer:
        return Dialer(replace(self._address, host=endpoint.host, port=endpoint.port), self._options)

    async def _ask(self, asked: Endpoint) -> Reply:
        """Return a node's answer to CLUSTER SLOTS."""
        dialer = self._dialer_to(asked)
        try:
            with anyio.fail_after(self._options.connect_timeout):
                connection = await dialer.open()
                await connection.send(pack((CLUSTER_SLOTS,)))
                reply, *_ = await connection.receive()
        except TimeoutError:
            raise TorrelqueConnectionError(f'{asked}: did not return the slots of the cluster') from None
        finally:
            await dialer.aclose()
        return reply

    async def _keep_only(self, primaries: frozenset[Endpoint]) -> None:
        for gone in self._nodes.keys() - primaries:
            await self._nodes.pop(gone).aclose()
