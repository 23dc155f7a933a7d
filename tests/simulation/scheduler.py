"""Virtual time: what happens when."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from tests.simulation.choices import Dice, Moment

__all__ = ('Event', 'Scheduler')

MOST_STEPS = 200_000


class Event:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ('action',)

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None


class Scheduler:
    """Runs events in the order of their times; those of one moment in random order."""

    def __init__(self, dice: Dice) -> None:
        self.now = 0.0
        self.steps = 0
        self._dice = dice
        self._heap: list[tuple[float, int, int, Event]] = []
        self._count = 0

    def at(self, moment: float, action: Callable[[], object]) -> Event:
        event = Event(action)
        if moment < math.inf:
            self._count += 1
            heapq.heappush(self._heap, (max(moment, self.now), self._dice.tie(), self._count, event))
        return event

    def after(self, delay: float | Moment, action: Callable[[], object]) -> Event:
        return self.at(delay.time if isinstance(delay, Moment) else self.now + delay, action)

    def run(self, until: float = math.inf, unless: Callable[[], bool] | None = None) -> None:
        """Let time pass until then, until nothing is left to happen, or until ``unless`` holds after a step."""
        while self._heap and self._heap[0][0] <= until:
            moment, _, _, event = heapq.heappop(self._heap)
            if event.action is None:
                continue
            self.now = moment
            self._dice.move_to(moment)
            self.steps += 1
            assert self.steps < MOST_STEPS, 'it goes on and on'
            event.action()
            if unless is not None and unless():
                return
        if until < math.inf:
            self.now = max(self.now, until)
            self._dice.move_to(self.now)

    def leap(self, seconds: float) -> None:
        """Time passes in which nothing happens; what was due in it happens afterwards."""
        self.now += seconds
        self._dice.move_to(self.now)
