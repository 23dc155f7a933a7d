"""Rules left out of what wakes consumers, and of what tells one call from another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.mutants import Mutant
from torrelque.core.machine import Turn
from torrelque.core.session import Session
from torrelque.transports.memory import claims, verbs
from torrelque.transports.memory.prelude import Run

__all__ = ('MUTANTS', 'every_waiter_keeps_the_timer', 'hint_left_over')

LEAVING = 2
"""Arguments of a tick without a cap; calls on lanes have three more."""


def absent_lane_accepted(patch: pytest.MonkeyPatch) -> None:
    """A call on a lane that has expired, or never was, is done."""
    enter = Run.enter

    def mutant(self: Run) -> tuple[bytes, bytes] | None:
        return None if self.lane_record() is None else enter(self)

    patch.setattr(Run, 'enter', mutant)


def closed_call_done(patch: pytest.MonkeyPatch) -> None:
    """A call that was settled before it arrived is done when it arrives."""
    enter = Run.enter

    def mutant(self: Run) -> tuple[bytes, bytes] | None:
        seen = enter(self)
        return None if seen is not None and seen[0] == b'CLOSED' else seen

    patch.setattr(Run, 'enter', mutant)


def no_record_left(patch: pytest.MonkeyPatch) -> None:
    """A call leaves its lane as it was."""
    patch.setattr(Run, 'record', lambda *_: None)


def hint_left_over(patch: pytest.MonkeyPatch) -> None:
    """A claim that finds nothing leaves the hint up."""
    hint = Run.hint

    def mutant(self: Run, *, empty: bool = False, event: float | None = None) -> None:
        hint(self, event=event)

    patch.setattr(Run, 'hint', mutant)


def timer_kept_by_who_leaves(patch: pytest.MonkeyPatch) -> None:
    """The last consumer of a queue object goes, and its timer stays."""
    drop_timer = Run.drop_timer

    def mutant(self: Run) -> None:
        if len(self.args) > LEAVING:
            drop_timer(self)

    patch.setattr(Run, 'drop_timer', mutant)


def no_hint_on_a_new_earliest(patch: pytest.MonkeyPatch) -> None:
    """Nobody learns of an event that comes before the one that a client handles."""

    def mutant(self: Run, event: float | None = None) -> bool:
        event = self.earliest() if event is None else event
        return event is not None and event <= self.now

    patch.setattr(Run, '_needs_somebody', mutant)


def every_waiter_keeps_the_timer(patch: pytest.MonkeyPatch) -> None:
    """Each claim that finds nothing takes the timer from its holder, which then looks again."""

    def mutant(self: Run, event: float) -> bool:
        minder, minded = self._timer()
        return minded is not None and minded <= event and minder == self.args[0]

    patch.setattr(Run, 'covered', mutant)


def an_item_twice(patch: pytest.MonkeyPatch) -> None:
    """Of two items with one id in a call the second does not see what the first did."""
    claimed_items = claims.claimed_items

    def mutant(run: Run, width: int, *, shared: int = 0, keeps: bool = False) -> tuple[list[Any], list[bytes]]:
        found, answers = claimed_items(run, width, shared=shared, keeps=keeps)
        live = {item.id: item for item in found}
        for place, (task_id, *_) in enumerate(run.items(width, shared)):
            if answers[place] == b'l' and task_id in live:
                answers[place] = b'o'
        return found, answers

    patch.setattr(verbs, 'claimed_items', mutant)


def a_renewal_twice(patch: pytest.MonkeyPatch) -> None:
    """Of two renewals of one claim in a call, the second learns that the claim is lost."""
    claimed_items = claims.claimed_items
    patch.setattr(verbs, 'claimed_items', lambda run, width, shared=0, **_: claimed_items(run, width, shared=shared))


def lanes_dropped_amid_calls(patch: pytest.MonkeyPatch) -> None:
    """A client drops its lanes while calls on them are under way."""
    poll = Session.poll

    def mutant(self: Session) -> Turn:
        last = self.drop_lanes() if self._in_flight else []
        turn = poll(self)
        return turn._replace(groups=[*turn.groups, *last])

    patch.setattr(Session, 'poll', mutant)


def later_features_ignored(patch: pytest.MonkeyPatch) -> None:
    """A client goes on although the queue uses features that it does not know."""
    patch.setattr(Run, 'check_features', lambda _: None)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'absent lane accepted': ('forks', absent_lane_accepted),
    'settled calls done when they arrive': ('cancel', closed_call_done),
    'no record left': ('alone', no_record_left),
    'timer kept by who leaves': ('calm', timer_kept_by_who_leaves),
    'no hint on a new earliest': ('calm', no_hint_on_a_new_earliest),
    'an item twice': ('alone', an_item_twice),
    'a renewal twice': ('alone', a_renewal_twice),
    'lanes dropped amid calls': ('alone', lanes_dropped_amid_calls),
    'features of a later version ignored': ('later', later_features_ignored),
}
"""By name: the world that has to notice, and the mutation."""
