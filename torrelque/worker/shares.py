"""Decides which of a worker's queues gets the next free slots. It does no I/O.

Theory of operation. A worker with several queues *looks* at them: it claims what
is available now, in rounds. A round gives each free slot to the queue whose turn
it is among those that may have tasks. The next round begins when all looks of
the last one were answered, so a slow answer costs no queue its turn, but none is
waited for longer than `OVERDUE` seconds.

A queue that had fewer tasks than asked for is *empty*. If there are slots that no
other queue takes, the worker *waits* for its tasks. If not, it is looked at again
once its answer is stale: with weights after `STALE` seconds, so an empty queue
costs a busy worker next to nothing; in strict order with the next free slot.

The waits do not hold slots: tasks of one queue can take all of them, and what
arrives for another at that moment is given back.

A queue whose tasks end quickly gets its turns in bulk: all slots that are free
at one time. Otherwise each round would make a claim for each queue, and each
claim costs as much as several tasks. Slots that are taken for long are dealt
one at a time.

Turns are those of start-time fair queueing. Each queue has a tag, the virtual
time at which its next task starts. A task adds 1/weight. A queue that had no
tasks enters at the present time, so it neither gets a burst for the time that it
was empty nor waits for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from enum import Enum, auto
from typing import NamedTuple

__all__ = ('OVERDUE', 'STALE', 'Claim', 'Share', 'Shares')

STALE = 0.1
"""Seconds for which a busy worker takes a queue to be empty after a look."""

QUICK = 0.02
"""Seconds for which the tasks of a queue take a slot on average, up to which it gets its turns in bulk."""

FEW = 4
"""Number of tasks that must have ended before that is known."""

WINDOW = 64
"""Number of tasks from which on those that have ended count half as much as later ones."""

OVERDUE = 1.0
"""Seconds after which a look that was not answered gives up its slots to other queues."""


class Phase(Enum):
    """What is known of a queue."""

    BUSY = auto()
    """It may have tasks."""
    EMPTY = auto()
    """The last look found fewer tasks than it asked for."""
    LOOKING = auto()
    """A look is not answered yet, and holds slots."""
    LATE = auto()
    """A look is not answered yet, and holds no slots any more."""
    WAITING = auto()
    """The worker waits for tasks."""


class Share:
    """The share of one queue.

    Args:
        weight: Its weight.
        reserve: The number of slots that are kept for it.

    Attributes:
        held: The number of its tasks that the worker holds.
        has_been_empty: Whether a look has found fewer tasks than it asked for yet.
    """

    def __init__(self, weight: float = 1.0, reserve: int = 0) -> None:
        self.weight: float = weight
        self.reserve: int = reserve
        self.held: int = 0
        self.has_been_empty: bool = False
        self.phase: Phase = Phase.BUSY
        self.tag: float = 0.0
        self.asked: int = 0  # by the look in flight or the wait
        self.begun: float = -math.inf  # when it began
        self.looked_at: float = -math.inf  # when the queue was last known to be empty
        self._ended = 0  # tasks
        self._taken_for = 0.0  # slots times seconds
        self._counted_at = 0.0

    @property
    def taken(self) -> int:
        """The number of slots that its tasks and its look take."""
        return self.held + (self.asked if self.phase is Phase.LOOKING else 0)

    @property
    def spare(self) -> int:
        """The number of slots that others must leave free for it."""
        return max(0, self.reserve - self.taken)

    def hold(self, change: int, now: float) -> None:
        """Record that it holds more slots, or that a task has ended."""
        self._taken_for += self.held * (now - self._counted_at)
        self._counted_at = now
        self.held += change
        if change < 0:
            self._ended += 1
            if self._ended >= WINDOW:
                self._ended, self._taken_for = self._ended // 2, self._taken_for / 2

    def is_quick(self, now: float) -> bool:
        """Whether its tasks soon free their slots."""
        taken_for = self._taken_for + self.held * (now - self._counted_at)
        return self._ended >= FEW and taken_for <= QUICK * self._ended


class Claim(NamedTuple):
    """A claim to make.

    Attributes:
        share: Of which queue.
        many: Maximum number of tasks.
        waits: Whether to wait for tasks, or to take what is available now.
    """

    share: Share
    many: int
    waits: bool


class Shares:
    """The shares of a worker's queues.

    Args:
        concurrency: The number of slots.
        shares: The shares, in order.
        strict: Whether a queue gets a slot only if those before it have no tasks. Otherwise the weights decide.
    """

    def __init__(self, concurrency: int, shares: Sequence[Share], *, strict: bool = False) -> None:
        self._concurrency = concurrency
        self._shares = shares
        self._strict = strict
        self._now = 0.0  # the virtual time, which never goes back
        self._freed_at = -math.inf  # when a slot was last freed

    def room(self, share: Share) -> int:
        """Return how many slots a queue may take now."""
        free = self._concurrency - sum([each.taken for each in self._shares])
        return free - sum([each.spare for each in self._shares if each is not share])

    def most(self, share: Share) -> int:
        """Return how many slots a queue may take at most."""
        return self._concurrency - sum([each.reserve for each in self._shares if each is not share])

    def freed(self, share: Share, now: float) -> None:
        """Record that a task of a queue has ended."""
        share.hold(-1, now)
        self._freed_at = now

    def plan(self, now: float) -> list[Claim]:
        """Return the claims to begin now. Each is answered with `answered`, `failed` or `withdrawn`."""
        for share in self._shares:
            if share.phase is Phase.LOOKING and share.begun + OVERDUE <= now:
                share.phase = Phase.LATE
        if any(share.phase is Phase.LOOKING for share in self._shares):
            return []
        candidates = [share for share in self._shares if self._is_candidate(share, now)]
        claims = self._deal(candidates[:1] if self._strict else candidates, now)
        while self._strict and candidates and not claims:  # the first may not take the slots that are reserved
            del candidates[0]
            claims = self._deal(candidates[:1], now)
        if claims:
            return claims
        empty = [share for share in self._shares if share.phase is Phase.EMPTY and self.room(share) > 0]
        return self._wait(empty, now)

    def to_withdraw(self) -> list[Share]:
        """Return the queues that the worker waits for although no slot is left for them."""
        return [share for share in self._shares if share.phase is Phase.WAITING and self.room(share) <= 0]

    def timer(self) -> float:
        """Return when to call `plan` again at the latest."""
        return min([share.begun + OVERDUE for share in self._shares if share.phase is Phase.LOOKING], default=math.inf)

    def is_late(self, share: Share) -> bool:
        """Whether a claim of this queue holds no slots, so that what it brings may be too much."""
        return share.phase in (Phase.LATE, Phase.WAITING)

    def away(self, share: Share) -> None:
        """Record that a queue's server is away, so that its claim holds no slots."""
        share.phase = Phase.LATE

    def answered(self, share: Share, got: int, now: float) -> int:
        """Record the answer to a claim. Returns how many of the tasks there is room for; they are held."""
        asked, share.asked = share.asked, 0
        share.phase = Phase.BUSY if got >= asked else Phase.EMPTY
        share.has_been_empty = share.has_been_empty or got < asked
        share.looked_at = now
        kept = min(got, max(0, self.room(share)))
        if kept:
            share.hold(kept, now)
            share.tag = max(share.tag, self._now) + kept / share.weight
            busy = [each.tag for each in self._shares if each.phase is not Phase.EMPTY and not self.is_late(each)]
            self._now = max(self._now, min(busy, default=share.tag))
        return kept

    def withdrawn(self, share: Share, now: float) -> None:
        """Record that a wait was ended without tasks."""
        share.phase, share.asked, share.looked_at = Phase.EMPTY, 0, now

    # Within ----------------------------------------------------------------------------------------------------------

    def _is_candidate(self, share: Share, now: float) -> bool:
        if share.phase is Phase.EMPTY:
            return share.looked_at < self._freed_at if self._strict else share.looked_at + STALE <= now
        return share.phase is Phase.BUSY

    def _deal(self, candidates: Sequence[Share], now: float) -> list[Claim]:
        """Deal the free slots out, one at a time or in bulk, each to the queue whose turn it is."""
        in_bulk = {share for share in candidates if share.phase is Phase.BUSY and share.is_quick(now)}
        counts = self._split(candidates, lambda share: max(share.tag, self._now), in_bulk)
        return [self._begin(share, count, Phase.LOOKING, now) for share, count in counts.items()]

    def _wait(self, empty: Sequence[Share], now: float) -> list[Claim]:
        """Wait for all of these queues, each for its share of the free slots, but at least one."""
        counts = {share: self.room(share) for share in empty} if self._strict else self._split(empty, lambda _: 0.0)
        return [self._begin(share, counts.get(share, 1), Phase.WAITING, now) for share in empty]

    def _split(
        self, candidates: Sequence[Share], tag_of: Callable[[Share], float], in_bulk: Collection[Share] = ()
    ) -> dict[Share, int]:
        counts: dict[Share, int] = {}
        tags = {share: tag_of(share) for share in candidates}
        rooms = {share: self.room(share) for share in candidates}
        while tags:
            first = min(tags, key=tags.__getitem__)
            if rooms[first] <= 0:
                del tags[first]
                continue
            slots = rooms[first] if first in in_bulk else 1
            before = first.held + counts.get(first, 0)
            reserved = min(slots, max(0, first.reserve - before))
            counts[first] = counts.get(first, 0) + slots
            tags[first] += slots / first.weight
            for share in rooms:
                rooms[share] -= slots if share is first else slots - reserved
        return counts

    def _begin(self, share: Share, count: int, phase: Phase, now: float) -> Claim:
        share.phase, share.asked, share.begun = phase, count, now
        return Claim(share, count, phase is Phase.WAITING)
