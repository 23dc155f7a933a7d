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
        await self.ask('SUBSCRIBE', channel)

    async def unsubscribe(self, channel: bytes) -> None:
        await self.ask('UNSUBSCRIBE', channel)

    async def receive(self) -> base.Message:
        while True:
            match await self.next():
                case [b'message', bytes(channel), bytes(data)]:
                    return base.Message(channel, data)
                case [b'subscribe', bytes(channel), _]:
                    return base.Message(channel, None)
                case _:  # of UNSUBSCRIBE and PING
                    pass

    async def next(self) -> Reply:
        """The next reply or message. A connection that is open at this end only is found out by its silence."""
        while not self._arrived:
            await self._wait()
        reply = self._arrived.popleft()
        if isinstance(reply, TorrelqueReplyError):
            if reply.code == 'NOPERM' and "'ping'" in str(reply):
                return b''  # an answer all the same
            raise reply
        return reply

    async def ask(self, *words: str | bytes) -> None:
        """Send a command, whose answer is among what arrives."""
        # Shielded, since half a command would put the connection out of step for the others that use it.
        with anyio.move_on_after(SEND_TIMEOUT, shield=True) as scope:
            async with self._turn:
                await self._connection.send(pack_words(words))
        if scope.cancelled_caught:
            await self._connection.aclose()
            raise TorrelqueResponseTimeout(f'{self._address}: the server does not read what is sent to it')

    async def _wait(self) -> None:
        for is_last in (False, True):
            with anyio.move_on_after(QUIET):
                self._arrived += await self._connection.receive()
                return
            if not is_last:
                await self.ask('PING')
        raise TorrelqueResponseTimeout(f'{self._address}: the server is silent to a listener, also when asked')
