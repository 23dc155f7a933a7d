"""What callers were told, held against what the server did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.simulation.rules import TAKEN_BACK, ClaimRecord, Key, Rules, require
from torrelque.core.commands import Answer, ClaimedTask, Outcome

__all__ = ('Ledger', 'key_of')


class _Errand:
    """Something that a user wants done: one task, or several where he could not know and enqueued it again."""

    __slots__ = ('claims', 'enqueued')

    def __init__(self) -> None:
        self.enqueued = 0
        self.claims: list[ClaimRecord] = []  # those that were handed out


class Ledger:
    """Checks the answers that reach callers, and counts in ``tally`` what happened to them.

    ``legacy``: 0.9 delivers, too, and knows no limits. ``calm``: nothing breaks and
    nobody is paused, so that leases run out only if nobody renews them.
    """

    def __init__(self, rules: Rules, *, legacy: bool, calm: bool) -> None:
        self._rules = rules
        self._legacy = legacy
        self._calm = calm
        self._used: set[Key] = set()
        self._unsure: set[Key] = set()
        self._errands: dict[bytes, _Errand] = {}  # by payload
        self.abandoned: set[Key] = set()  # claims whose holder does nothing any more with them
        self.tally: Counter[str] = Counter()

    def enqueues(self, payload: bytes) -> None:
        """A user asks for a task, maybe once more after an error."""
        errand = self._errands.setdefault(payload, _Errand())
        self.tally['enqueued once more'] += errand.enqueued > 0
        errand.enqueued += 1

    def enqueued(self, task_id: str, payload: bytes, outcome: Answer, *, unique: bool, confirmed: bool = False) -> None:
        """A task was acknowledged. ``confirmed``: by a client whose writes are waited for."""
        require(task_id.encode() in self._rules.incarnations, 'acknowledged what was never enqueued', task_id)
        self.tally[f'enqueue answered {outcome}'] += isinstance(outcome, Outcome)
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
            self.tally['delivered'] += 1
            place = (key[0], claim.incarnation)
            count = self._rules.handed_out[place] = self._rules.handed_out.get(place, 0) + 1
            if claim.limit is not None and not self._legacy:
                most = max(count, key[2] - claim.base)
                require(most <= claim.limit, 'handed out more often than allowed', key, count)
            self._check_duplicates(task, claim)

    def _check_duplicates(self, task: ClaimedTask, claim: ClaimRecord) -> None:
        """What is done once more was enqueued once more, given back by its holder, redriven, or its lease ran out."""
        errand = self._errands.get(task.payload)
        if errand is None:  # a producer of 0.9
            return
        errand.claims.append(claim)
        reasons = errand.enqueued + self._rules.redrives[task.payload] + sum(each.returned for each in errand.claims)
        reasons -= self._rules.replaced[task.payload]
        require(len(errand.claims) <= reasons, 'handed out once more without a reason', task, reasons)
        self.tally['delivered again'] += len(errand.claims) > 1

    def answered(self, task: ClaimedTask, verb: str, outcome: Answer, *, confirmed: bool = False) -> None:
        """The holder of a claim learned the outcome of a verb."""
        key = key_of(task)
        claim = self._rules.claims[key]
        if key in self._unsure:
            return
        first = key not in self._used
        if verb not in ('extend', 'progress'):
            self._used.add(key)
            if outcome is Outcome.OK:
                require(claim.ended in (verb, 'bare'), 'told that it was done', key, verb, claim.ended)
        if first and outcome is Outcome.LOST:
            require(claim.ended in TAKEN_BACK, 'lost a claim that nobody took', key, verb, claim.ended)
            self.tally['came too late'] += 1
        if not first:
            require(outcome is Outcome.LOST, 'a stale receipt was good for something', key, verb, outcome)

    def used(self, task: ClaimedTask) -> None:
        """The holder of a claim was not told what came of it."""
        self._unsure.add(key_of(task))

    def inherited(self, tasks: Iterable[ClaimedTask]) -> None:
        """Claims have two holders now, neither of which knows what the other does."""
        for task in tasks:
            self._unsure.add(key_of(task))
            self.tally['inherited'] += 1

    def lost(self, task: ClaimedTask) -> None:
        """A worker gave a claim up, as its lease ran out or its renewal was refused."""
        key = key_of(task)
        claim = self._rules.claims[key]
        require(not self._calm or claim.ended == 'bare', 'a worker lost a claim that it minded', key, claim.ended)
        self.abandoned.add(key)  # a renewal that is still on its way may prolong it all the same
        self.tally['lost by a worker'] += 1


def key_of(task: ClaimedTask) -> Key:
    return task.receipt.id.encode(), task.receipt.token.encode(), task.receipt.dequeue_count
