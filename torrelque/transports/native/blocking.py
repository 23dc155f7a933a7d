"""Connections for what the server answers late: one for each call, or batch, at a time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueTooLargeError, is_demoted
from torrelque.transports import spares
from torrelque.transports.native.connection import CHUNK, Breaks, Connection
from torrelque.transports.native.dialer import Dialer

__all__ = ('BlockingPool',)

MARGIN = 2.0
"""How much later than asked an answer may arrive, in seconds: idle servers notice a time-out up to 0.1 s late."""

LAST_WORDS = 0.1
"""Seconds that an answer may take to arrive on a connection that cannot be written to any more."""


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
        (reply,) = await self.execute_all(data, 1, timeout + MARGIN)
        return reply

    async def execute_all(
        self, data: bytes, count: int, quiet: float, last: float = 0.0, *, breaks: Breaks | None = None
    ) -> list[Reply]:
        """The same for ``count`` calls.

        The connection may be silent for ``quiet`` seconds while something is
        sent or received, and for ``last`` seconds longer before the last reply.
        Where ``breaks`` are counted, none but the first attempt is made on a
        connection that was used before.
        """
        used = None if breaks is not None and breaks.alone else self._spares.take()
        connection = used or await self._dialer.open()
        replies: list[Reply] = []
        try:
            with connection.patience(quiet):
                await self._send(connection, data, count, replies)
                while len(replies) < count - 1:
                    replies += await connection.receive()
            with connection.patience(quiet + last):
                while len(replies) < count:
                    replies += await connection.receive()
            self._check(replies, count)
        except BaseException as error:
            await self._dialer.close(connection)
            if isinstance(error, TorrelqueConnectionError):
                await self.forget_idle()
                if breaks is not None and connection.cut:
                    breaks.alone += 1
            raise
        if connection.cut or any(is_demoted(reply) or isinstance(reply, TorrelqueTooLargeError) for reply in replies):
            await self._dialer.close(connection)
        else:
            await self._keep(connection)
        return replies

    def _check(self, replies: list[Reply], count: int) -> None:
        if len(replies) > count:
            raise TorrelqueConnectionError(f'{self._dialer.address}: {len(replies)} answers to {count} calls')

    async def _send(self, connection: Connection, data: bytes, count: int, replies: list[Reply]) -> None:
        """Send the calls. An answer may come before the last byte: then the server refuses to read on."""
        if len(data) <= CHUNK:
            await connection.send(data)
            return
        failures: list[TorrelqueConnectionError] = []
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                try:
                    while True:
                        replies.extend(await connection.receive())
                except TorrelqueConnectionError as error:
                    failures.append(error)
                    group.cancel_scope.cancel()

            group.start_soon(listen)
            try:
                await connection.send(data)
            except TorrelqueConnectionError as error:
                await anyio.sleep(LAST_WORDS)  # what the server said before it closed the connection may arrive yet
                failures.append(error)
            group.cancel_scope.cancel()
        if failures and len(replies) < count:
            raise failures[0]

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
