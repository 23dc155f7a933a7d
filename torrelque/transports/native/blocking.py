"""Connections for what the server answers late: one for each call, or batch, at a time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueResponseTimeout
from torrelque.transports import spares
from torrelque.transports.native.connection import Connection, Dialer

__all__ = ('BlockingPool',)

MARGIN = 2.0
"""How much later than asked an answer may arrive, in seconds: idle servers notice a time-out up to 0.1 s late."""


class BlockingPool:
    """Lends a connection to a call, and keeps it for the next one only after a clean and complete answer.

    ``start`` runs a function in the background: here one that closes the
    connections that are not used any more.
    """

    def __init__(self, dialer: Dialer, start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]) -> None:
        self._dialer = dialer
        self._start = start
        self._spares: spares.Spares[Connection] = spares.Spares()
        self._tending: anyio.CancelScope | None = None
        self._stopped = False

    async def execute(self, data: bytes, timeout: float) -> Reply:
        """Send one call and wait for its reply, at most ``timeout`` seconds and a margin.

        Never repeats. Raises TorrelqueConnectionError; when cancelled, closes the connection.
        """
        (reply,) = await self.execute_all(data, 1, timeout)
        return reply

    async def execute_all(self, data: bytes, count: int, timeout: float) -> list[Reply]:
        """The same for ``count`` calls, which may take so long together."""
        connection = self._spares.take() or await self._dialer.open()
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
        if self._stopped:
            await self._dialer.close(connection)
            return
        self._spares.put(connection)
        if self._tending is None:
            self._tending = anyio.CancelScope()
            self._start(self._tend)

    async def _tend(self) -> None:
        assert self._tending is not None  # noqa: S101 - set when this was started
        with self._tending:
            while self._spares:
                await anyio.sleep(spares.KEEP / 4)
                for connection in self._spares.take_unused():
                    await self._dialer.close(connection)
        self._tending = None

    async def forget_idle(self) -> None:
        """What broke one connection has probably broken those beside it."""
        while connection := self._spares.take():
            await self._dialer.close(connection)

    def stop(self) -> None:
        """End what runs in the background. The dialer closes the connections."""
        self._stopped = True
        if self._tending is not None:
            self._tending.cancel()
