"""Leased connections of the native transport, for calls that block or need a dedicated connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError
from torrelque.transports import connections
from torrelque.transports.base import Then
from torrelque.transports.connections import Dialer, Later, Leases
from torrelque.transports.native.connection import CHUNK, Breaks, Connection

__all__ = ('BlockingPool',)

PING = b'*1\r\n$4\r\nPING\r\n'

LAST_WORDS = 0.1
"""How long to wait for an answer on a connection that can no longer be written to, in seconds."""


class BlockingPool(Leases[Connection]):
    """Sends packed calls on leased connections."""

    def __init__(self, dialer: Dialer[Connection], address: object, later: Later) -> None:
        super().__init__(dialer, later)
        self._address = address

    async def execute(self, data: bytes, count: int, timeout: float) -> list[Reply]:
        """Send a call that blocks, and others behind it, and return their replies. Never repeats.

        A cancellation closes the connection.

        Args:
            data: The packed calls.
            count: The number of calls.
            timeout: How long the first call may block, in seconds. The answer may be late by a margin.

        Raises:
            TorrelqueConnectionError: The connection failed.
        """
        return await self.execute_all(data, count, timeout + connections.MARGIN, blocks=True)

    def start(self, data: bytes, count: int, timeout: float, then: Then) -> Callable[[], Awaitable[object]] | None:
        """Do what `execute` does without a waiting task. See `Transport.start_block`."""
        connection = self.take_idle()
        if connection is None:
            return None
        quiet = timeout + connections.MARGIN

        def receive() -> None:
            replies = connection.take_good(count)
            if replies is not None and self.give_back(connection):
                then(replies)
            else:
                then(partial(self.lend, partial(go_on, replies), given=connection))

        async def go_on(replies: list[Reply] | None, connection: Connection) -> list[Reply]:
            return replies or await self._exchange(connection, b'', count, quiet, 0.0, blocks=True)

        async def close() -> None:
            connection.stop()
            await self.drop(connection)

        if connection.start(data, quiet, receive):
            return close
        self.put_back(connection)
        return None

    async def execute_all(
        self,
        data: bytes,
        count: int,
        quiet: float,
        last: float = 0.0,
        *,
        breaks: Breaks | None = None,
        blocks: bool = False,
    ) -> list[Reply]:
        """Send several calls and return their replies. Never repeats.

        Args:
            data: The packed calls.
            count: The number of calls.
            quiet: How long the server may be silent while something is sent or received, in seconds.
            last: How much longer it may be silent before the last reply, in seconds.
            breaks: Counts the connections that broke. Only the first attempt may use a connection that was used before.
            blocks: Whether the first call blocks. KeyDB runs the next one only when more bytes arrive.

        Raises:
            TorrelqueConnectionError: The connection failed.
        """

        async def exchange(connection: Connection) -> list[Reply]:
            try:
                return await self._exchange(connection, data, count, quiet, last, blocks=blocks)
            except TorrelqueConnectionError:
                if breaks is not None and connection.cut:
                    breaks.alone += 1
                raise

        return await self.lend(exchange, fresh=breaks is not None and bool(breaks.alone))

    async def _exchange(
        self, connection: Connection, data: bytes, count: int, quiet: float, last: float, *, blocks: bool
    ) -> list[Reply]:
        replies: list[Reply] = []
        with connection.fail_if_quiet(quiet):
            if data:
                await _send(connection, data, count, replies)
            while len(replies) < (1 if blocks else count - 1):
                replies += await connection.receive()
        nudged = blocks and len(replies) < count
        if nudged:
            await connection.send(PING)
            count += 1
        if len(replies) < count:
            with connection.fail_if_quiet(quiet + last):
                while len(replies) < count:
                    replies += await connection.receive()
        if len(replies) > count:
            raise TorrelqueConnectionError(f'{self._address}: {len(replies)} answers to {count} calls')
        if nudged:
            del replies[-1]
        return replies


async def _send(connection: Connection, data: bytes, count: int, replies: list[Reply]) -> None:
    """Send the calls. If the server answers before it has all of them, it has stopped reading."""
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
            await anyio.sleep(LAST_WORDS)  # the server's last answer may still arrive
            failures.append(error)
        group.cancel_scope.cancel()
    if failures and len(replies) < count:
        raise failures[0]
