"""Listens on the node of a cluster that serves a channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError
from torrelque.transports import base
from torrelque.transports.cluster.router import redirected
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.cluster.topology import Endpoint, Topology
from torrelque.transports.connections import PushListener

__all__ = ('UNKNOWN', 'ClusterListener', 'listen')

UNKNOWN = 'unknown command'


class ClusterListener(base.Listener):
    """Connects at the first subscription, to the node of its channel. All other channels must be on the same node.

    It subscribes with SSUBSCRIBE, or with SUBSCRIBE if the server is too old.

    Args:
        connect: Opens a connection to the node that serves a channel.
        mark_stale: Called when the connection was lost, or when another node serves the channels.
    """

    def __init__(self, connect: Callable[[bytes], Awaitable[PushListener]], mark_stale: Callable[[], None]) -> None:
        self._connect = connect
        self._mark_stale = mark_stale
        self._inner: PushListener | None = None
        self._connected = anyio.Event()
        self._turn = anyio.Lock()
        self._prefix = 'S'
        self._wanted: set[bytes] = set()
        self._leaving: Counter[bytes] = Counter()

    def _subscribe_plainly(self) -> None:
        """Use SUBSCRIBE, because the server has no sharded channels."""
        self._prefix = ''
        self._leaving.clear()

    async def subscribe(self, channel: bytes) -> None:
        async with self._turn:
            if self._inner is None:
                self._inner = await self._connect(channel)
                if not await self._inner.knows('SSUBSCRIBE'):
                    self._subscribe_plainly()
                self._connected.set()
        self._wanted.add(channel)
        await self._ask('SUBSCRIBE', channel)

    async def unsubscribe(self, channel: bytes) -> None:
        if channel in self._wanted:
            self._wanted.discard(channel)
            if self._prefix:
                self._leaving[channel] += 1
            await self._ask('UNSUBSCRIBE', channel)

    async def receive(self) -> base.Message:
        await self._connected.wait()
        assert self._inner is not None  # noqa: S101 - set before the event
        while True:
            try:
                reply = await self._inner.next()
            except TorrelqueConnectionError:
                self._mark_stale()
                raise
            except TorrelqueReplyError as error:
                await self._refused(error)
                continue
            message = self._understand(reply)
            if message is not None:
                return message

    def _understand(self, reply: Reply) -> base.Message | None:
        match reply:
            case [b'smessage' | b'message', bytes(channel), bytes(data)]:
                return base.Message(channel, data)
            case [b'ssubscribe' | b'subscribe', bytes(channel), _]:
                return base.Message(channel, None)
            case [b'sunsubscribe', bytes(channel), _]:
                if not self._leaving[channel]:
                    self._mark_stale()
                    raise TorrelqueConnectionError(f'the slot of channel {channel!r} has moved to another node')
                self._leaving -= Counter((channel,))  # also removes entries that reach 0
            case _:  # the answers to UNSUBSCRIBE and PING
                pass
        return None

    async def _ask(self, command: str, channel: bytes) -> None:
        assert self._inner is not None  # noqa: S101 - connected before
        try:
            await self._inner.ask(self._prefix + command, channel)
        except TorrelqueConnectionError:
            self._mark_stale()
            raise
        except TorrelqueReplyError as error:
            await self._refused(error)

    async def _refused(self, error: TorrelqueReplyError) -> None:
        """Handle an error reply to a subscription: use SUBSCRIBE if that can help, otherwise raise."""
        if redirected(error) is not None:
            self._mark_stale()
            raise TorrelqueConnectionError(f'another node serves the channel: {error}') from error
        if UNKNOWN not in str(error):
            raise error
        if self._prefix:
            self._subscribe_plainly()
            for channel in tuple(self._wanted):
                await self._ask('SUBSCRIBE', channel)
        # Otherwise SUBSCRIBE is already in use, and this is the same answer for another channel.


@asynccontextmanager
async def listen(
    topology: Topology, connect: Callable[[Endpoint, AsyncExitStack], Awaitable[PushListener]]
) -> AsyncIterator[ClusterListener]:
    """Listen on the node that serves the first channel.

    Args:
        topology: Which node serves which slot.
        connect: Opens a connection to a node. The stack closes it.
    """
    async with AsyncExitStack() as stack:
        version: int | None = None

        async def to_owner(channel: bytes) -> PushListener:
            nonlocal version
            owner = await topology.owner(slot_of(channel))
            version = topology.version
            return await connect(owner, stack)

        yield ClusterListener(to_owner, lambda: topology.mark_stale(version))
