"""The native transport over a cluster: each batch goes to the primary of its keys' slot, wherever that is now."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio
import anyio.lowlevel

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueHandshakeError
from torrelque.transports import base
from torrelque.transports.cluster.redirection import Redirection, redirected, to_repeat
from torrelque.transports.cluster.router import ClusterListener
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.cluster.topology import Topology
from torrelque.transports.native.connection import Breaks
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.listener import NativeListener
from torrelque.transports.native.multiplexer import back_off
from torrelque.transports.native.node import Node
from torrelque.transports.native.options import Options
from torrelque.transports.native.transport import NativeTransport
from torrelque.transports.native.url import Address

__all__ = ('ClusterTransport',)

ASKING: Call[Reply] = Call('ASKING')
"""Says that the next call may be for a slot that is only just arriving."""

MOST_REDIRECTIONS = 5
"""So many are followed even when the time to repeat is over: a call that was redirected was not done."""


class Attempts:
    """How often, and until when, one call is tried."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._failures = 0
        self._redirections = 0

        self.breaks: Breaks = Breaks()

    @property
    def deadline(self) -> float:
        return self._deadline

    @property
    def left(self) -> float:
        return self._deadline - time.monotonic()

    async def another(self) -> bool:
        """Whether there is time to try again; if so, wait until then."""
        self._failures += 1
        delay = back_off(self._failures)
        if delay >= self.left:
            return False
        await anyio.sleep(delay)
        return True

    async def follow(self) -> bool:
        """The same for a redirection: the first ones at once."""
        self._redirections += 1
        return self._redirections <= MOST_REDIRECTIONS or await self.another()


class ClusterTransport(NativeTransport):
    """A cluster, as long as the context lasts: ``async with torrelque.connect('redis+cluster://...') as client``.

    Like a :class:`NativeTransport` of one server, with a connection to each
    primary that is needed. ``seeds`` are the nodes to ask first.
    """

    on_cluster = True
    in_order = True

    def __init__(self, seeds: Sequence[Address], options: Options) -> None:
        super().__init__(seeds[0], options)
        self._nodes: dict[Address, Node] = {}
        self._topology = Topology(seeds, self._dialer_to, options.connect_timeout, self._leave_those_gone)

    async def _start(self) -> None:
        attempts = Attempts(self._options.retry_timeout)
        while True:
            try:
                await self._topology.owner(None)
            except TorrelqueHandshakeError:
                raise
            except TorrelqueConnectionError:
                if not await attempts.another():
                    raise
            else:
                return

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls to the primary of their slot and return their replies. Safe to cancel.

        Those that are redirected follow, and are tried again while the cluster
        cannot serve them; what was not answered is sent again, to a promoted
        replica if need be. When ``retry_timeout`` has passed the cluster's
        answer is the reply, and without any TorrelqueConnectionError is raised.
        """
        return await self._execute(batch, repeat=True)

    async def _execute(self, batch: Batch, *, repeat: bool) -> Sequence[Reply]:
        self._usable()
        if not batch:
            await anyio.lowlevel.checkpoint()
            return []

        attempts = Attempts(self._options.retry_timeout if repeat else 0.0)

        async def send(node: Node, calls: Batch) -> Sequence[Reply]:
            return await node.execute(calls, attempts.deadline, attempts.breaks)

        return await self._run(batch, send, attempts, together=False)

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """The same on a connection apart. If one call is redirected all are sent again, with the wait at their end."""
        self._usable()

        attempts = Attempts(self._options.retry_timeout)

        async def send(node: Node, calls: Batch) -> Sequence[Reply]:
            return await node.execute_dedicated(calls, timeout, attempts.deadline)

        return await self._run(batch, send, attempts, together=True)

    async def _run(
        self,
        batch: Batch,
        send: Callable[[Node, Batch], Awaitable[Sequence[Reply]]],
        attempts: Attempts,
        *,
        together: bool,
    ) -> Sequence[Reply]:
        slot = _slot(batch)
        replies: list[Reply] = [None] * len(batch)
        places: Sequence[int] = range(len(batch))
        while True:
            version = self._topology.version
            try:
                owner = await self._topology.owner(slot)
                version = self._topology.version
                calls = batch if len(places) == len(batch) else [batch[place] for place in places]
                wanted = self._keep(replies, places, await send(self._node_at(owner), calls), owner, version)
                if not together:
                    await self._ask(batch, wanted, replies)
            except TorrelqueHandshakeError:
                raise
            except TorrelqueConnectionError:
                self._topology.mark_stale(version)
                if not (self._open and await attempts.another() and self._open):
                    raise
                continue
            if not wanted:
                return replies
            moved = all(redirection.code == 'MOVED' for redirection in wanted.values())
            if not await (attempts.follow() if moved else attempts.another()):
                return replies
            if not self._open:
                raise self._dialer.closed()
            if not together:
                places = to_repeat(batch, places, set(wanted))

    def _keep(
        self, replies: list[Reply], places: Sequence[int], answers: Sequence[Reply], owner: Address, version: int
    ) -> dict[int, Redirection]:
        """Put the answers in their places; gives those that are none."""
        wanted: dict[int, Redirection] = {}
        for place, answer in zip(places, answers, strict=True):
            replies[place] = answer
            redirection = redirected(answer, owner)
            if redirection is not None:
                wanted[place] = redirection
                if redirection.code in ('MOVED', 'CLUSTERDOWN'):
                    self._topology.mark_stale(version, redirection.to)
        return wanted

    async def _ask(self, batch: Batch, wanted: dict[int, Redirection], replies: list[Reply]) -> None:
        """Do the calls that ASK was answered to where their slot is moving to; one that cannot be done there stays."""
        for place, redirection in sorted(wanted.items()):
            target = redirection.to
            if redirection.code != 'ASK' or target is None:
                continue
            calls = [batch[index] for index in to_repeat(batch, range(place + 1), {place})]
            calls[-1:] = [ASKING, calls[-1]]
            *_, replies[place] = await self._node_at(target).execute_dedicated(calls, 0.0, 0.0)
            again = redirected(replies[place], target)
            if again is None:
                del wanted[place]
            else:
                wanted[place] = again

    def node_of(self, key: bytes) -> Hashable:
        return self._topology.known_owner(slot_of(key))

    async def nodes(self) -> Sequence[Arg | None]:
        self._usable()
        return await self._topology.nodes()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        """As on one server. While the call's slot is on its way, the time passes as if nothing came."""
        self._usable()
        attempts = Attempts(timeout)
        while True:
            owner = await self._topology.owner(_slot((call,)))
            version = self._topology.version
            try:
                reply = await self._node_at(owner).block(call, timeout)
            except TorrelqueConnectionError:
                self._topology.mark_stale(version)
                raise
            redirection = redirected(reply, owner)
            if redirection is None:
                return reply
            if redirection.code in ('MOVED', 'CLUSTERDOWN'):
                self._topology.mark_stale(version, redirection.to)
            if not await attempts.another():
                return None
            # The call says itself how long it may take: begun late, it is left to end late.

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[base.Listener]:
        async with AsyncExitStack() as stack:
            version = self._topology.version

            async def connect(channel: bytes) -> NativeListener:
                nonlocal version
                owner = await self._topology.owner(slot_of(channel))
                version = self._topology.version
                dialer = self._node_at(owner).dialer
                connection = await dialer.open()
                stack.push_async_callback(dialer.close, connection)
                return NativeListener(connection, owner)

            yield ClusterListener(connect, lambda: self._topology.mark_stale(version))

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        self._usable()
        return self._listen()

    async def aclose(self) -> None:
        await super().aclose()
        while self._nodes:
            await self._nodes.popitem()[1].aclose()

    # Nodes

    def _node_at(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            if not self._open or self._group is None:
                raise self._dialer.closed()
            node = self._nodes[address] = Node(
                self._dialer_to(address),
                repeats=False,
                response_timeout=self._options.response_timeout,
                start=self._start_soon,
            )
        return node

    def _dialer_to(self, address: Address) -> Dialer:
        return Dialer(address, self._options)

    async def _leave_those_gone(self) -> None:
        for address in self._nodes.keys() - set(self._topology.primaries):
            await self._nodes.pop(address).aclose()


def _slot(batch: Batch) -> int | None:
    """The slot that the batch's calls are of; None if they may go anywhere."""
    for call in batch:
        key = call.routing_key
        if key is not None:
            return slot_of(key)
    return None
