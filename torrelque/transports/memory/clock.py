"""Time that stands still until a test moves it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from torrelque.core import checks
from torrelque.errors import TorrelqueUsageError

__all__ = ('VirtualClock',)

QUIET = 30
"""Rounds of the event loop without anything done on a transport after which the tasks are taken to have settled."""

MOST_ROUNDS = 100_000
"""Rounds after which tasks that never settle are reported."""


FEW = 16
"""Cancelled timers that are not worth a clean-up."""


class _Timer(NamedTuple):
    rings: float
    number: int
    moment: float
    callback: Callable[[], object]


class VirtualClock:
    """A clock for tests: time stands still until :meth:`advance`.

    Pass it to a :class:`MemoryTransport`. Delays, leases, time-outs of dequeue,
    schedules and expiry then follow it, so hours pass in a millisecond, and
    always in the same order::

        clock = VirtualClock()
        async with Torrelque(MemoryTransport(clock=clock)) as queue:
            await queue.enqueue('tea', delay=240)
            await clock.advance(239)
            assert await queue.dequeue_nowait() == []
            await clock.advance(1)
            [task] = await queue.dequeue_nowait()

    Everything else, such as ``anyio.sleep``, still waits for real time. Pass
    :meth:`sleep` to code under test that sleeps.

    Args:
        start: The first time, in Unix seconds.

    Raises:
        TorrelqueTypeError: ``start`` is not a number.
        TorrelqueValueError: It is negative or not finite.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = _exact(checks.check_moment('start', start))
        self._now = 0.0  # since the start, as small numbers are exact enough to add up
        self._timers: list[_Timer] = []  # a heap; those that were cancelled stay in it for a while
        self._live: set[int] = set()  # the numbers of the others
        self._numbers = count()
        self._activity = 0
        self._advancing = False

    def time(self) -> float:
        """Return the time, in Unix seconds, to the microsecond."""
        return _exact(self._start + self._now)

    def now(self) -> float:
        """Return the seconds since the start, as timers count them."""
        return self._now

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that becomes due, in order.

        At each moment at which something is due, time stops until the tasks have
        settled, that is until none of them uses a transport of this clock for
        some dozens of turns of the event loop. If the call is cancelled, the
        clock stays at the time that it has reached.

        Args:
            seconds: How much time passes. With 0, the tasks only settle.

        Raises:
            TorrelqueTypeError: ``seconds`` is not a number.
            TorrelqueValueError: It is negative or not finite.
            TorrelqueUsageError: Another task is advancing this clock.
        """
        seconds = checks.check_amount('seconds', seconds)
        if self._advancing:
            raise TorrelqueUsageError('another task is advancing this clock')
        self._advancing = True
        try:
            end = _exact(self._now + seconds)
            await self._settle()
            while (moment := self._next_timer()) <= end:
                self._now = max(self._now, moment)
                self._ring()
                await self._settle()
            self._now = max(self._now, end)
        finally:
            self._advancing = False

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by this number of seconds. Safe to cancel."""
        await self.pause(anyio.Event(), self._now + seconds)

    async def pause(self, event: anyio.Event, until: float) -> None:
        """Wait until the event is set or :meth:`now` has reached ``until``. Safe to cancel."""
        self.stir()
        with anyio.CancelScope() as scope:
            cancel_timer = self.call_at(until, scope.cancel)
            try:
                await event.wait()
            finally:
                cancel_timer()

    def call_at(self, moment: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback`` when :meth:`now` has reached ``moment``. Returns a function that prevents it."""
        if moment <= self._now:
            callback()
            return _nothing
        if moment == math.inf:
            return _nothing
        number = next(self._numbers)
        heapq.heappush(self._timers, _Timer(_exact(moment), number, moment, callback))
        self._live.add(number)
        return partial(self._cancel, number)

    def stir(self) -> None:
        """Record that something was done, so that its consequences are awaited before time passes."""
        self._activity += 1

    def _cancel(self, number: int) -> None:
        self._live.discard(number)
        if len(self._timers) > 2 * len(self._live) + FEW:
            self._timers = [timer for timer in self._timers if timer.number in self._live]
            heapq.heapify(self._timers)

    def _next_timer(self) -> float:
        while self._timers and self._timers[0].number not in self._live:
            heapq.heappop(self._timers)
        return self._timers[0].rings if self._timers else math.inf

    def _ring(self) -> None:
        while self._next_timer() <= self._now:
            timer = heapq.heappop(self._timers)
            self._live.discard(timer.number)
            self._now = max(self._now, timer.moment)  # a task that waited for it must not find it in the future
            timer.callback()

    async def _settle(self) -> None:
        quiet = 0
        for _ in range(MOST_ROUNDS):
            before = self._activity
            await checkpoint()
            quiet = quiet + 1 if self._activity == before else 0
            if quiet == QUIET:
                return
        raise TorrelqueUsageError(
            f'the tasks did not settle within {MOST_ROUNDS} rounds: something keeps using the queue at the same moment'
        )


def _exact(moment: float) -> float:
    """To the microsecond, as servers have it: what is due at a moment is not to be missed by the width of a float."""
    return round(moment, 6)


def _nothing() -> None:
    """Prevents a callback that came at once, or never will."""
