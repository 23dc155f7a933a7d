"""Rules left out of waits that several queue objects share, and of a worker's shares."""

from __future__ import annotations

import math

import pytest

from tests.simulation.mutants import Mutant
from torrelque.core.protocol import Call, Reply
from torrelque.core.shared_waits import Round, SharedWaits
from torrelque.worker.shares import Share, Shares

__all__ = (
    'MUTANTS',
    'an_empty_queue_is_not_looked_at_while_busy',
    'each_queue_waits_alone',
    'strict_is_by_weight',
    'weights_do_not_count',
)


def the_first_gets_the_hint(patch: pytest.MonkeyPatch) -> None:
    """A hint for any queue wakes the first wait of the round."""
    ended = SharedWaits.ended

    def mutant(self: SharedWaits, round_: Round, reply: Reply, now: float) -> None:
        ended(self, round_, reply and [round_.waits[0].key, *reply[1:]], now)

    patch.setattr(SharedWaits, 'ended', mutant)


def late_waits_stay_apart(patch: pytest.MonkeyPatch) -> None:
    """A wait that comes later ends when it likes, not with the one that has begun."""
    begin = SharedWaits.begin

    def mutant(self: SharedWaits, round_: Round, now: float) -> tuple[Call[Reply], float]:
        begun, self._begun = self._begun, set()
        call = begin(self, round_, now)
        self._begun |= begun
        return call

    patch.setattr(SharedWaits, 'begin', mutant)


def reserved_slots_are_taken(patch: pytest.MonkeyPatch) -> None:
    """No slot is kept free for a queue."""
    patch.setattr(Share, 'spare', property(lambda _: 0))


def an_empty_queue_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A worker does not wait for a queue that had no tasks."""
    patch.setattr(Shares, '_wait', lambda *_: [])


def an_empty_queue_is_not_looked_at_while_busy(patch: pytest.MonkeyPatch) -> None:
    """A queue that was empty is only looked at when no other has tasks."""
    patch.setattr('torrelque.worker.shares.STALE', math.inf)


def each_queue_waits_alone(patch: pytest.MonkeyPatch) -> None:
    """Nobody gathers: each wait is a call."""
    patch.setattr(SharedWaits, 'is_complete', lambda *_: True)


def weights_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """Each queue has the same share."""
    patch.setattr(Share, 'weight', property(lambda _: 1.0, lambda *_: None), raising=False)


def strict_is_by_weight(patch: pytest.MonkeyPatch) -> None:
    """Lower queues have their turn, though they are to wait for the higher ones."""
    init = Shares.__init__

    def mutant(self: Shares, concurrency: int, shares: list[Share], *, strict: bool = False) -> None:
        init(self, concurrency, shares, strict=False)

    patch.setattr(Shares, '__init__', mutant)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'the first of a round gets the hint': ('queues', the_first_gets_the_hint),
    'late waits stay apart': ('queues', late_waits_stay_apart),
    'reserved slots are taken': ('queues', reserved_slots_are_taken),
    'an empty queue is forgotten': ('queues', an_empty_queue_is_forgotten),
}
"""By name: the world that has to notice, and the mutation."""
