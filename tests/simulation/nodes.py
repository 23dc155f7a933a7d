"""A primary and its replica: the state of a moment ago, which takes over at times.

There is one server object, whose data is put back to what the replica has: a state that the primary had, whole, as
replication is in order. The primary learns a little later which one that is. Then those who wait for their writes are
told, and from then on no older state is promoted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation.configs import Failovers
from tests.simulation.history import Facts, LedgerOfReplicas, RulesOfReplicas
from tests.simulation.scheduler import Event
from tests.simulation.server import ObservedKeyspace

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ('Nodes',)


class _State(NamedTuple):
    """What the primary had at a moment, and what was known of it."""

    taken: float
    db: ObservedKeyspace
    facts: Facts


class _Waiting(NamedTuple):
    """Somebody waits for the replica to have what was written until then."""

    since: float
    time_out: Event
    tell: Callable[[int | None], object]


class Nodes:
    """``term`` counts the primaries; ``skew`` is by how much the clock of this one is off."""

    def __init__(self, world: World, settings: Failovers) -> None:
        self.term = 0
        self.skew = 0.0
        self.settings = settings
        self._world = world
        self._up_at = 0.0
        self._waiting: list[_Waiting] = []
        self._failed: list[float] = []  # when primaries did
        self._states: list[_State] = []  # those that may be promoted, the oldest first

    def is_down(self, key: bytes = b'') -> bool:
        """Whether the old primary is gone, and the new one does not serve yet."""
        return self._world.scheduler.now < self._up_at

    @property
    def spread(self) -> float:
        """Seconds by which the clocks of those that serve now differ."""
        return 0.0

    @property
    def longest_leap(self) -> float:
        """Seconds by which a clock may be behind another, and one more."""
        return max(self.settings.skew) + max(*self.settings.skew, self.settings.ahead) + 1

    def failed_since(self, moment: float) -> int:
        """How many primaries failed since then."""
        return sum(each >= moment for each in self._failed)

    def begin(self) -> None:
        """Let primaries fail, until the world comes to rest."""
        world = self._world
        if not self.term:
            self.skew = self._draw_first_skew()
        if isinstance(world.rules, RulesOfReplicas):
            self._states = [self._take()]
            self._replicate_later()
        self._fail_later()
        world.scheduler.after(world.config.seconds - world.random.random(), self.fail)  # who tidies up in the end?

    def end(self) -> None:
        """No more fails, and the replica gets up with the primary."""
        if isinstance(self._world.rules, RulesOfReplicas):
            self._replicate()

    def _draw_first_skew(self) -> float:
        return self._world.random.choice((self._draw_skew(), self.settings.ahead))

    def _draw_skew(self) -> float:
        return self._world.random.choice(self.settings.skew) * self._world.random.uniform(-1, 1)

    def _draw_outage(self) -> float:
        return self._world.random.choice((0.0, 0.3, 1.0)) * self._world.random.random() * self.settings.outage

    # Replication ---------------------------------------------------------------

    def wait(self, seconds: float, tell: Callable[[int | None], object]) -> None:
        """Tell how many replicas have what was written until now, after so long at the most; None if that failed."""
        scheduler = self._world.scheduler

        def time_out() -> None:
            self._waiting.remove(waiting)
            tell(0)

        waiting = _Waiting(scheduler.now, scheduler.after(seconds, time_out), tell)
        self._waiting.append(waiting)
        if self._world.ending:
            scheduler.after(0.01, self._replicate)

    def _take(self) -> _State:
        world = self._world
        rules = world.rules
        assert isinstance(rules, RulesOfReplicas)
        now = world.scheduler.now
        return _State(now, copy.deepcopy(world.server._db), rules.keep(now))

    def _replicate_later(self) -> None:
        """The replica gets behind at times, and up again."""
        world, term = self._world, self.term
        pause = world.random.choice((0.01, 0.2, 0.2, 1.0, self.settings.lag)) * world.random.random()
        world.scheduler.after(pause, lambda: self._replicate() if term == self.term else None)

    def _replicate(self) -> None:
        world, term = self._world, self.term
        state = self._take()
        oldest = world.scheduler.now - self.settings.lag
        self._states = [*(each for each in self._states if each.taken >= oldest), state]
        delay = world.random.choice((0.001, 0.001, 0.3)) * world.random.random()
        world.scheduler.after(delay, lambda: self._acknowledge(state) if term == self.term else None)
        if not world.ending:
            self._replicate_later()

    def _acknowledge(self, state: _State) -> None:
        """The primary learns that its replica has got so far."""
        known = [waiting for waiting in self._waiting if waiting.since <= state.taken]
        if not known:
            return
        self._waiting = [waiting for waiting in self._waiting if waiting.since > state.taken]
        self._states = [each for each in self._states if each.taken >= state.taken]
        for waiting in known:
            waiting.time_out.cancel()
            waiting.tell(1)

    # Fail-over -----------------------------------------------------------------

    def _fail_later(self) -> None:
        world = self._world
        # Often soon after another, while clients are still about to find their way.
        pause = world.random.choice((0.2, 1.8)) * world.random.expovariate(1 / self.settings.every)
        world.scheduler.after(pause, self._fail)

    def _fail(self) -> None:
        if not self._world.ending:
            self.fail()
            self._fail_later()

    def fail(self, *, up_to_date: bool = False) -> None:
        """The primary fails now; its replica may be up to date."""
        if self._world.choices.may('fail-over'):
            self._fail_over(self._take() if up_to_date else self._lagging())

    def _lagging(self) -> _State:
        return self._world.random.choice((self._states[0], self._world.random.choice(self._states)))

    def _fail_over(self, state: _State) -> None:
        world = self._world
        assert isinstance(world.ledger, LedgerOfReplicas)
        self.term += 1
        self._failed.append(world.scheduler.now)
        self.skew = self._draw_skew()
        outage = self._draw_outage()
        self._up_at = world.scheduler.now + outage
        lag = world.scheduler.now - state.taken
        world.tell(f'fail-over: {lag:.6f} s are lost, the clock is off by {self.skew:.3f} s, down for {outage:.3f} s')
        world.server._db = state.db
        world.ledger.failed_over(state.facts)
        for rules in world.group_rules:
            rules.forget()
        self._states = [self._take()]
        self._replicate_later()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.time_out.cancel()
            each.tell(None)
        self._end_waits()

    def _end_waits(self, prefix: bytes = b'') -> None:
        """Nobody waits for these keys any more at the server that was; most of them hear of it."""
        world, random, waiters = self._world, self._world.random, self._world.server._waiters
        for key in [key for key in waiters if key.startswith(prefix)]:
            del waiters[key]
        for client in world.clients:
            if random.random() < 0.7:
                client.later(random.choice((0.01, 1.0)) * random.random(), partial(client.wait_broke, prefix))
