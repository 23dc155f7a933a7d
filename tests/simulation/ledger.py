"""What callers were told, held against what the server did."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.rules import TAKEN_BACK, Key, Rules, require
from torrelque.core.verbs import Answer, ClaimedTask, Outcome

__all__ = ('Ledger',)


class Ledger:
    """Checks the answers that reach callers. ``legacy``: 0.9 delivers, too, and knows no limits."""

    def __init__(self, rules: Rules, *, legacy: bool) -> None:
        self._rules = rules
        self._legacy = legacy
        self._used: set[Key] = set()
        self._unsure: set[Key] = set()
        self.abandoned: set[Key] = set()  # claims whose holder does nothing any more with them
        self.deliveries = 0

    def enqueued(self, task_id: str, payload: bytes, outcome: Answer, *, unique: bool) -> None:
        """A task was acknowledged."""
        require(task_id.encode() in self._rules.incarnations, 'acknowledged what was never enqueued', task_id)
        if unique:
            require(outcome is Outcome.NEW, 'told of a new task that it was there', task_id, outcome)
            known = self._rules.shadow[task_id.encode()].payload
            require(known in (None, payload), 'kept another payload', task_id, known)

    def delivered(self, tasks: Iterable[ClaimedTask]) -> None:
        """Tasks were handed to a caller."""
        for task in tasks:
            key = key_of(task)
            claim = self._rules.claims.get(key)
            if claim is None:
                require(False, 'handed out a claim that the server did not make', key)  # noqa: FBT003 - as assert
                return
            require(not claim.delivered, 'handed out twice', key)
            require(claim.ended is None or claim.ended in TAKEN_BACK, 'handed out what had ended', key, claim.ended)
            claim.delivered = True
            self.deliveries += 1
            place = (key[0], claim.incarnation)
            count = self._rules.handed_out[place] = self._rules.handed_out.get(place, 0) + 1
            if claim.limit is not None and not self._legacy:
                require(max(count, key[2]) <= claim.limit, 'handed out more often than allowed', key, count)

    def answered(self, task: ClaimedTask, verb: str, outcome: Answer) -> None:
        """The holder of a claim was told what came of a verb."""
        key = key_of(task)
        claim = self._rules.claims[key]
        if key in self._unsure:
            return
        first = key not in self._used
        if verb != 'extend':
            self._used.add(key)
            if outcome is Outcome.OK:
                require(claim.ended in (verb, 'bare'), 'told that it was done', key, verb, claim.ended)
        if first and outcome is Outcome.LOST:
            require(claim.ended in TAKEN_BACK, 'lost a claim that nobody took', key, verb, claim.ended)
        if not first:
            require(outcome is Outcome.LOST, 'a stale receipt was good for something', key, verb, outcome)

    def used(self, task: ClaimedTask) -> None:
        """The holder of a claim was not told what came of it."""
        self._unsure.add(key_of(task))


def key_of(task: ClaimedTask) -> Key:
    return task.receipt.id.encode(), task.receipt.token.encode(), task.receipt.dequeue_count
