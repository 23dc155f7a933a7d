"""A listener on the node of a cluster that the channel belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError, is_unavailable
from torrelque.transports import base
from torrelque.transports.native.connection import Connection
from torrelque.transports.native.listener import NativeListener

__all__ = ('ClusterListener', 'ShardListener')


class ShardListener(NativeListener):
    """Subscribes with SSUBSCRIBE, or with SUBSCRIBE where the server is too old to know it."""

    def __init__(self, connection: Connection, address: object) -> None:
        super().__init__(connection, address)
        self._prefix = b'S'
        self._wanted: set[bytes] = set()
        self._leaving: Counter[bytes] = Counter()

    async def subscribe(self, channel: bytes) -> None:
        self._wanted.add(channel)
        await self._send(self._prefix + b'SUBSCRIBE', channel)

    async def unsubscribe(self, channel: bytes) -> None:
        if channel not in self._wanted:
            return  # a node refuses to leave a channel of another node's
        self._wanted.discard(channel)
        self._leaving[channel] += 1
        await self._send(self._prefix + b'UNSUBSCRIBE', channel)

    async def _arrive(self, reply: Reply) -> base.Message | None:
        match reply:
            case TorrelqueReplyError() if is_unavailable(reply):
                raise TorrelqueConnectionError(f'{self._address}: {reply}')
            case TorrelqueReplyError() if self._prefix and _is_unknown(reply):
                self._prefix = b''
                for channel in self._wanted:
                    await self._send(b'SUBSCRIBE', channel)
                return None
            case TorrelqueReplyError() if _is_unknown(reply):  # the same, of the other channels
                return None
            case [b'smessage', bytes(channel), bytes(data)]:
                return base.Message(channel, data)
            case [b'ssubscribe', bytes(channel), _]:
                return base.Message(channel, None)
            case [b'sunsubscribe', bytes(channel), _]:
                self._leaving[channel] -= 1
                if self._leaving[channel] < 0:
                    raise TorrelqueConnectionError(f'{self._address}: the slot of channel {channel!r} has moved')
                return None
            case _:
                return await super()._arrive(reply)


class ClusterListener(base.Listener):
    """Connects at the first subscription, to its channel's node; the others must be of the same one.

    ``connect`` opens a connection there, ``doubt`` is called when it breaks.
    """

    def __init__(self, connect: Callable[[bytes], Awaitable[ShardListener]], doubt: Callable[[], None]) -> None:
        self._connect = connect
        self._doubt = doubt
        self._inner: ShardListener | None = None
        self._connected = anyio.Event()
        self._turn = anyio.Lock()

    async def subscribe(self, channel: bytes) -> None:
        async with self._turn:
            if self._inner is None:
                self._inner = await self._connect(channel)
                self._connected.set()
        await self._inner.subscribe(channel)

    async def unsubscribe(self, channel: bytes) -> None:
        if self._inner is not None:
            await self._inner.unsubscribe(channel)

    async def receive(self) -> base.Message:
        await self._connected.wait()
        assert self._inner is not None  # noqa: S101 - set before the event
        try:
            return await self._inner.receive()
        except TorrelqueConnectionError:
            self._doubt()
            raise


def _is_unknown(reply: TorrelqueReplyError) -> bool:
    return 'unknown command' in str(reply) and 'SUBSCRIBE' in str(reply).upper()
