"""A connection that is subscribed to channels."""

from __future__ import annotations

from collections import deque

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueResponseTimeout
from torrelque.transports import connections
from torrelque.transports.connections import StreamListener
from torrelque.transports.native.connection import Connection, pack_words

__all__ = ('NativeListener',)


class NativeListener(StreamListener):
    """See :class:`torrelque.transports.base.Listener`."""

    def __init__(self, connection: Connection, address: object) -> None:
        self._connection = connection
        self._address = address
        self._arrived: deque[Reply] = deque()
        self._turn = anyio.Lock()

    async def arrive(self) -> Reply:
        while not self._arrived:
            self._arrived += await self._connection.receive()
        return self._arrived.popleft()

    def silent(self) -> TorrelqueResponseTimeout:
        return TorrelqueResponseTimeout(
            f'{self._address}: the server sent a listener nothing, not even an answer to PING'
        )

    async def ask(self, *words: str | bytes) -> None:
        # Shielded, because a command that is sent in part would put the connection out of step for its other users.
        with anyio.move_on_after(connections.SEND_TIMEOUT, shield=True) as scope:
            async with self._turn:
                await self._connection.send(pack_words(words))
        if scope.cancelled_caught:
            await self._connection.aclose()
            raise TorrelqueResponseTimeout(f'{self._address}: the server does not read what is sent to it')
