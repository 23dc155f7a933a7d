"""A connection that is subscribed to channels."""

from __future__ import annotations

from collections import deque

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError, TorrelqueResponseTimeout
from torrelque.transports import base
from torrelque.transports.native.connection import Connection, pack_words

__all__ = ('NativeListener',)

QUIET = 8.0
"""After so many silent seconds the server is asked whether it is there, and has as long to answer."""

SEND_TIMEOUT = 5.0


class NativeListener(base.Listener):
    """See :class:`torrelque.transports.base.Listener`."""

    def __init__(self, connection: Connection, address: object) -> None:
        self._connection = connection
        self._address = address
        self._arrived: deque[Reply] = deque()
        self._turn = anyio.Lock()

    async def subscribe(self, channel: bytes) -> None:
        await self._send(b'SUBSCRIBE', channel)

    async def unsubscribe(self, channel: bytes) -> None:
        await self._send(b'UNSUBSCRIBE', channel)

    async def receive(self) -> base.Message:
        while True:
            while self._arrived:
                message = await self._arrive(self._arrived.popleft())
                if message is not None:
                    return message
            await self._wait()

    async def _arrive(self, reply: Reply) -> base.Message | None:
        """What a reply tells the one who receives."""
        return _as_message(reply)

    async def _wait(self) -> None:
        """Let something arrive. A connection that is open at this end only is found out by its silence."""
        with anyio.move_on_after(QUIET):
            self._arrived += await self._connection.receive()
            return
        await self._send(b'PING')
        with anyio.move_on_after(QUIET):
            self._arrived += await self._connection.receive()
            return
        raise TorrelqueResponseTimeout(f'{self._address}: the server is silent to a listener, also when asked')

    async def _send(self, *words: bytes) -> None:
        # Shielded, since half a command would put the connection out of step for the others that use it.
        with anyio.move_on_after(SEND_TIMEOUT, shield=True) as scope:
            async with self._turn:
                await self._connection.send(pack_words(words))
        if scope.cancelled_caught:
            await self._connection.aclose()
            raise TorrelqueResponseTimeout(f'{self._address}: the server does not read what is sent to it')


def _as_message(reply: Reply) -> base.Message | None:
    if isinstance(reply, TorrelqueReplyError):
        if reply.code == 'NOPERM' and "'ping'" in str(reply):
            return None  # an answer all the same
        raise reply
    match reply:
        case [b'message', bytes(channel), bytes(data)]:
            return base.Message(channel, data)
        case [b'subscribe', bytes(channel), _]:
            return base.Message(channel, None)
        case _:  # of UNSUBSCRIBE and PING
            return None
