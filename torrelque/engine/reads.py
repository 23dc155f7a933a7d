"""Merges reads that callers make at the same time.

The first caller of a turn of the event loop leads: it waits one turn, drives all
reads that have gathered as one operation, and distributes the results. Callers do
this themselves, so that reading needs no background task. If the leader is
cancelled, another caller reads again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar

from anyio.lowlevel import checkpoint

from torrelque.core.combinators import together
from torrelque.core.protocol import Operation
from torrelque.errors import renew
from torrelque.transports.oneshot import OneShot, oneshot_maker

__all__ = ('Reads',)

T = TypeVar('T')

MOST_TOGETHER = 250
"""Maximum number of reads in one batch."""

MOST_UNDER_WAY = 4
"""Maximum number of concurrent batches. Further reads wait, and are merged."""


class _Read:
    """One caller's read. ``turn`` is set when it is ``done``, or when its caller becomes the leader."""

    __slots__ = ('done', 'error', 'gone', 'leads', 'make', 'node', 'turn', 'value')

    def __init__(self, make: Callable[[], Operation[Any]], node: Hashable, turn: OneShot) -> None:
        self.make = make
        self.node = node
        self.turn = turn
        self.done = False
        self.leads = False
        self.gone = False
        self.value: Any = None
        self.error: Exception | None = None


class Reads:
    """Merges the reads of one queue object, on one event loop."""

    def __init__(self, drive: Callable[[Operation[list[Any]]], Awaitable[list[Any]]]) -> None:
        self._drive = drive
        self._make_once = oneshot_maker()
        self._waiting: deque[_Read] = deque()
        self._gathering = False
        self._leaders = 0

    async def run(self, make: Callable[[], Operation[T]], node: Hashable = None) -> T:
        """Run an operation, merged with others of the same ``node``. Safe to cancel.

        Args:
            make: Makes the operation; called again if the read is repeated.
            node: The server to read from. Only reads from the same server are merged.

        Returns:
            What the operation returns.

        Raises:
            Exception: The operation or the driver failed.
        """
        read = _Read(make, node, self._make_once())
        self._waiting.append(read)
        self._appoint(read)
        while not read.done:
            if read.leads:
                await self._lead(read)
            else:
                await self._follow(read)
        if read.error is not None:
            raise read.error
        value: T = read.value
        return value

    def _appoint(self, read: _Read) -> None:
        if not self._gathering and self._leaders < MOST_UNDER_WAY:
            self._gathering = True
            self._leaders += 1
            read.leads = True

    async def _follow(self, read: _Read) -> None:
        try:
            await read.turn.wait()
        except BaseException:
            read.gone = True
            if read in self._waiting:
                self._waiting.remove(read)
            if read.leads:  # appointed and cancelled at the same time
                self._stand_down(read, gathering=True)
            raise

    async def _lead(self, own: _Read) -> None:
        batch: Sequence[_Read] = ()
        try:
            try:
                await checkpoint()  # reads of this turn join
            finally:
                batch = self._take(own)
                self._gathering = False
                self._appoint_next()
            results = await self._drive(together([read.make() for read in batch]))
        except Exception as error:  # noqa: BLE001 - raised to every caller
            for read in batch:
                self._resolve(read, error=renew(error))
        except BaseException:  # cancelled: the other callers still need their reads
            self._waiting.extendleft(read for read in reversed(batch) if not (read is own or read.gone))
            raise
        else:
            for read, result in zip(batch, results, strict=True):
                self._resolve(read, result)
        finally:
            self._stand_down(own)

    def _take(self, own: _Read) -> list[_Read]:
        """Remove and return the leader's read and those to send with it."""
        batch = [read for read in self._waiting if read.node == own.node and read is not own][: MOST_TOGETHER - 1]
        taken = {own, *batch}
        self._waiting = deque(read for read in self._waiting if read not in taken)
        return [own, *batch]

    def _stand_down(self, read: _Read, *, gathering: bool = False) -> None:
        read.leads = False
        self._leaders -= 1
        if gathering:
            self._gathering = False
        self._appoint_next()

    def _appoint_next(self) -> None:
        if self._waiting:
            first = self._waiting[0]
            self._appoint(first)
            if first.leads:
                first.turn.set()

    @staticmethod
    def _resolve(read: _Read, value: object = None, *, error: Exception | None = None) -> None:
        if isinstance(value, Exception):
            value, error = None, value
        read.value, read.error, read.done = value, error, True
        read.turn.set()
