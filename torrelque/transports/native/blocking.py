"""Connections for what the server answers late: one for each call, or batch, at a time."""

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

    def __init__(self, dialer: Dialer, most_idle: int = MOST_IDLE) -> None:
        self._dialer = dialer
        self._most_idle = most_idle
        self._idle: list[Connection] = []

    async def execute(self, data: bytes, timeout: float) -> Reply:
        """Send one call and wait for its reply, at most ``timeout`` seconds and a margin.

        Never repeats. Raises TorrelqueConnectionError; when cancelled, closes the connection.
        """
        (reply,) = await self.execute_all(data, 1, timeout)
        return reply

    async def execute_all(self, data: bytes, count: int, timeout: float) -> list[Reply]:
        """The same for ``count`` calls, which may take so long together."""
        connection = self._idle.pop() if self._idle else await self._dialer.open()
        replies: list[Reply] = []
        try:
            with anyio.move_on_after(timeout + MARGIN):
                await connection.send(data)
                while len(replies) < count:
                    replies += await connection.receive()
            self._check(replies, count, timeout)
        except BaseException as error:
            await self._dialer.close(connection)
            if isinstance(error, TorrelqueConnectionError):
                await self.forget_idle()
            raise
        await self._keep(connection)
        return replies

    def _check(self, replies: list[Reply], count: int, timeout: float) -> None:
        if len(replies) < count:
            raise TorrelqueResponseTimeout(
                f'{self._dialer.address}: no answer to a call that blocks for {timeout:g} s at most'
            )
        if len(replies) > count:
            raise TorrelqueConnectionError(f'{self._dialer.address}: {len(replies)} answers to {count} calls')

    async def _keep(self, connection: Connection) -> None:
        if len(self._idle) < self._most_idle:
            self._idle.append(connection)
        else:
            await self._dialer.close(connection)

    async def forget_idle(self) -> None:
        """What broke one connection has probably broken those beside it."""
        while self._idle:
            await self._dialer.close(self._idle.pop())
