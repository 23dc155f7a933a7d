"""What came of each task while servers died and slots moved, and what that proves."""

from __future__ import annotations

import itertools
import math
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torrelque import Task, TorrelqueReplyError

RESUMED_IN = 2.0
"""Seconds after a promotion, or the arrival of a slot, in which work has to resume."""

REPLIES_UNDERWAY = 1.0
"""Seconds around a fail-over in which a caller may still read what the old primary answered."""

EARLY = 0.005
"""Seconds that a delivery may seem too early: the server counts milliseconds, the caller's clock is another."""

Outcome = Literal['confirmed', 'acknowledged', 'gone', 'unknown']


@dataclass(eq=False)
class Claim:
    """One delivery, in somebody's hands until it is settled or expires."""

    task_id: str
    made: float
    expires: float


@dataclass(eq=False)
class FailOver:
    """The time in which more than one server may have answered, or have lost what it answered."""

    begun: float
    is_hit: Callable[[str], bool]
    ended: float = math.inf

    def end(self) -> float:
        """It is over. When."""
        self.ended = time.monotonic()
        return self.ended


@dataclass(frozen=True)
class Pause:
    """How work on a queue or shard stood still for an event."""

    event: str
    lasted: float
    """Seconds from the beginning of the event to its end: the promotion, or the slot's arrival."""
    longest: float
    """Seconds without a delivery, the longest of these times around the event."""
    resumed: float
    """Seconds from the end of the event to the next delivery."""


@dataclass
class Findings:
    """What was done, and what came of it."""

    may_lose: bool = True
    """Whether servers die, so that what is not confirmed may be lost."""
    figures: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """What callers had to see, by verb and class."""
    begun: dict[str, float] = field(default_factory=dict)
    """When each task that was to be enqueued could be due at the earliest."""
    confirmed: set[str] = field(default_factory=set)
    """Enqueued, and as many replicas as asked for have it."""
    acknowledged: set[str] = field(default_factory=set)
    """Enqueued without an error, or with one that says that only the confirmation is missing."""
    ended: set[str] = field(default_factory=set)
    """Tasks whose release is confirmed."""
    released: set[str] = field(default_factory=set)
    """Tasks whose release was acknowledged."""
    handled: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What no order of events allows."""
    audited: list[str] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    doubled: list[float] = field(default_factory=list)
    """Seconds that two servers took themselves for the primary, each time."""
    _live: defaultdict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    _failovers: list[FailOver] = field(default_factory=list)

    # While it goes on ------------------------------------------------------------------------------------------------

    def fail(self, verb: str, error: Exception) -> None:
        """A caller saw an error."""
        code = f' {error.code}' if isinstance(error, TorrelqueReplyError) and error.code else ''
        self.errors[f'{verb}: {type(error).__name__}{code}'] += 1

    def begin_failover(self, is_hit: Callable[[str], bool] = lambda _: True) -> FailOver:
        """From now until it is said to have ended claims may be lost, if they are on tasks that it hits."""
        failover = FailOver(time.monotonic(), is_hit)
        self._failovers.append(failover)
        return failover

    def deliver(self, task: Task) -> Claim:
        """A task was handed out. Others may only have it if a fail-over lost their claim, or theirs expired."""
        now, task_id = time.monotonic(), str(task.id)
        claim = Claim(task_id, now, task.expires)
        self.handled[task_id] += 1
        if now < self.begun.get(task_id, 0.0) - EARLY:
            self.wrong.append(f'{task_id}: delivered {self.begun[task_id] - now:.3f} s before it was due')
        if task_id in self.ended:
            self.wrong.append(f'{task_id}: delivered after its release was confirmed')
        elif task_id in self.released:
            self._excuse(claim, 'delivered again after a release that was not confirmed')
        others = [other for other in self._live[task_id] if other.expires > now]
        for other in others:
            self._excuse(other, 'delivered while another had it')
        self._live[task_id] = [*others, claim]
        return claim

    def settle(self, claim: Claim, outcome: Outcome) -> None:
        """What a claim's holder got when it released the claim."""
        now = time.monotonic()
        if claim in self._live[claim.task_id]:
            self._live[claim.task_id].remove(claim)
        if not self._live[claim.task_id]:
            del self._live[claim.task_id]
        if outcome in {'confirmed', 'acknowledged'}:
            self.released.add(claim.task_id)
        if outcome == 'confirmed':
            self.ended.add(claim.task_id)
        elif outcome == 'gone' and claim.expires > now:
            self._excuse(claim, 'its claim was lost before it expired')

    def _excuse(self, claim: Claim, what: str) -> None:
        """Only a fail-over since the claim was made is an excuse."""
        if any(each.ended + REPLIES_UNDERWAY >= claim.made and each.is_hit(claim.task_id) for each in self._failovers):
            self.figures[what] += 1
        elif self.may_lose and what.startswith('delivered again'):
            self.figures[what] += 1  # the fail-over lies before this claim
        else:
            self.wrong.append(f'{claim.task_id}: {what}, and no fail-over explains it')

    # What it proves --------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> list[str]:
        return sorted((self.confirmed if self.may_lose else self.acknowledged | self.confirmed) - self.handled.keys())

    @property
    def unconfirmed_lost(self) -> int:
        return len(self.acknowledged - self.confirmed - self.handled.keys())

    @property
    def strange(self) -> list[str]:
        return sorted(self.handled.keys() - self.begun.keys())

    @property
    def violations(self) -> list[str]:
        return [
            *(f'{each}: {"confirmed" if each in self.confirmed else "acknowledged"}, and lost' for each in self.lost),
            *(f'{each}: handled, but never enqueued' for each in self.strange),
            *self.wrong,
            *self.audited,
        ]

    @property
    def exceeded(self) -> list[str]:
        late = (each for each in self.pauses if each.resumed > RESUMED_IN)
        return [f'{each.event}: work resumed only after {each.resumed:.2f} s' for each in late]

    @property
    def rows(self) -> dict[str, str]:
        """The figures, as they are reported."""
        unconfirmed = self.acknowledged - self.confirmed
        unknown = self.begun.keys() - self.acknowledged - self.confirmed
        rows = {
            'enqueueings confirmed': str(len(self.confirmed)),
            '  of them lost': str(len(self.confirmed - self.handled.keys())),
            'enqueueings acknowledged only': str(len(unconfirmed)),
            '  of them lost ': str(self.unconfirmed_lost),
            'enqueueings with unknown outcome': str(len(unknown)),
            '  of them done': str(len(unknown & self.handled.keys())),
            'tasks handled': str(len(self.handled)),
            'handled more than once': str(sum(count > 1 for count in self.handled.values())),
            'contradictions': str(len(self.strange) + len(self.wrong)),
            'found by audits': str(len(self.audited)),
        }
        rows.update((name, str(number)) for name, number in sorted(self.figures.items()))
        for event in sorted({each.event for each in self.pauses}):
            these = [each for each in self.pauses if each.event == event]
            rows[f'{event}: how often'] = str(len(these))
            rows[f'{event}: lasted (s)'] = _range([each.lasted for each in these])
            rows[f'{event}: no delivery for up to (s)'] = _range([each.longest for each in these])
            rows[f'{event}: work after its end (s)'] = _range([each.resumed for each in these])
        if self.doubled:
            rows['two were primaries: how often'] = str(len(self.doubled))
            rows['two were primaries: for (s)'] = _range(self.doubled)
        rows.update((f'error: {name}', str(number)) for name, number in sorted(self.errors.items()))
        return rows

    def __str__(self) -> str:
        return table({'': self})


def longest_gap(moments: Sequence[float], begun: float, ended: float) -> float:
    """The longest time between two of these moments, which ascend, that touches the span from begun to ended."""
    first = max(bisect_right(moments, begun) - 1, 0)
    last = bisect_left(moments, ended) + 1
    these = moments[first:last]
    return max((after - before for before, after in itertools.pairwise(these)), default=0.0)


def table(findings: dict[str, Findings]) -> str:
    """The figures of all scenarios, a column each."""
    columns = {name: each.rows for name, each in findings.items()}
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    names.sort(key=lambda name: name.startswith('error'))  # these last, all else as it came
    wide = max(map(len, names), default=0)
    lines = [' ' * wide + ''.join(f'{name:>16}' for name in columns)] if any(columns) else []
    lines += [f'{name:<{wide}}' + ''.join(f'{rows.get(name, "-"):>16}' for rows in columns.values()) for name in names]
    return '\n'.join(line.rstrip() for line in lines)


def _range(values: list[float]) -> str:
    return f'{min(values):.2f} to {max(values):.2f}'
