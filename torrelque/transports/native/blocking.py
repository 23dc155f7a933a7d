"""Connections for the calls that the server answers late: one for each call at a time."""

from __future__ import annotations

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueResponseTimeout
from torrelque.transports.native.connection import Connection, Dialer

__all__ = ('BlockingPool',)

MARGIN = 2.0
"""How much later than asked an answer may arrive, in seconds: idle servers notice a time-out up to 0.1 s late."""

MOST_IDLE = 4


class BlockingPool:
    """Lends a connection to a call, and keeps it for the next one only after a clean and complete answer."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._idle: list[Connection] = []

    async def execute(self, data: bytes, timeout: float) -> Reply:
        """Send one call and wait for its reply, at most ``timeout`` seconds and a margin.

        Never repeats. Raises TorrelqueConnectionError; when cancelled, closes the connection.
        """
        connection = self._idle.pop() if self._idle else await self._dialer.open()
        replies: list[Reply] = []
        try:
            with anyio.move_on_after(timeout + MARGIN):
                await connection.send(data)
                replies = await connection.receive()
            reply = self._only(replies, timeout)
        except BaseException as error:
            await self._dialer.close(connection)
            if isinstance(error, TorrelqueConnectionError):
                await self._forget_idle()
            raise
        await self._keep(connection)
        return reply

    def _only(self, replies: list[Reply], timeout: float) -> Reply:
        if not replies:
            raise TorrelqueResponseTimeout(
                f'{self._dialer.address}: no answer to a call that blocks for {timeout:g} s at most'
            )
        if len(replies) > 1:
            raise TorrelqueConnectionError(f'{self._dialer.address}: {len(replies)} answers to one call')
        return replies[0]

    async def _keep(self, connection: Connection) -> None:
        if len(self._idle) < MOST_IDLE:
            self._idle.append(connection)
        else:
            await self._dialer.close(connection)

    async def _forget_idle(self) -> None:
        """What broke one connection has probably broken those beside it."""
        while self._idle:
            await self._dialer.close(self._idle.pop())
