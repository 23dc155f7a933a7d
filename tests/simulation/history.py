"""The rules where a replica takes over that lagged: what is known of the server goes back to what the replica knows.

What callers were told does not go back. So the ledger has to know what was forgotten in a fail-over: that alone may be
missing, may be there again, or may be done once more; and nothing of it may have been confirmed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.simulation.ledger import Ledger, key_of
from tests.simulation.rules import Args, Changes, Key, Rules, require
from tests.simulation.server import ObservedShard, View
from torrelque.core.commands import RELEASE, Answer, ClaimedTask, Outcome
from torrelque.core.durability import CONFIRMED
from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueDurabilityError

__all__ = ('FORGOTTEN', 'Facts', 'LedgerOfReplicas', 'RulesOfReplicas')

FORGOTTEN = 'fail-over'
"""How a claim ended of which the new primary does not know that it was made."""

Lane = tuple[bytes, ...]


class Facts(NamedTuple):
    """What was known of the server at a moment."""

    taken: float
    shadow: Mapping[bytes, View]
    claims: Mapping[Key, tuple[str | None, bool, bool]]
    incarnations: Mapping[bytes, int]
    redrives: Mapping[bytes, int]
    replaced: Mapping[bytes, int]
    answers: Mapping[Lane, Reply]
    asked: Mapping[Lane, tuple[str, Args]]
    undone: frozenset[Lane]
    last_added: Mapping[bytes, bytes]
    scheduled: Any


class RulesOfReplicas(Rules):
    """``lost``: ids whose enqueueing was forgotten; ``touched``: claims of which something was, or may have been."""

    def __init__(self, server: ObservedShard, clock: Callable[[], float]) -> None:
        super().__init__(server, clock, legacy=False)
        self.lost: set[bytes] = set()
        self.touched: set[Key] = set()
        self.gone: set[bytes] = set()  # ids whose release was confirmed
        self._asked: dict[Lane, tuple[str, Args]] = {}
        self._once: set[Lane] = set()  # calls that were done, or said to be undone, which is forgotten

    def keep(self, taken: float) -> Facts:
        """What is known now, at a moment of the world's time."""
        claims = {key: (claim.ended, claim.returned, claim.uncounted) for key, claim in self.claims.items()}
        return Facts(
            taken, dict(self.shadow), claims, dict(self.incarnations), dict(self.redrives), dict(self.replaced),
            dict(self._answers), dict(self._asked), frozenset(self._undone),
            dict(self._last_added), self.on_fire and self.on_fire.keep(),
        )  # fmt: skip

    def put_back(self, facts: Facts) -> set[bytes]:
        """Forget what is not among the facts. Returns the ids whose enqueueing was forgotten just now."""
        lost = {task_id for task_id in self.incarnations if task_id not in facts.incarnations} - self.lost
        self.lost |= lost
        self._once |= (self._undone - facts.undone) | (self._answers.keys() - facts.answers.keys())
        self.handed_out.clear()
        for key, claim in self.claims.items():
            ended, returned, uncounted = facts.claims.get(key, (FORGOTTEN, True, False))
            if ended != claim.ended:
                self.touched.add(key)
            claim.ended, claim.returned, claim.uncounted = ended, returned, uncounted
            if claim.delivered and not uncounted and ended not in (FORGOTTEN, 'giveback'):
                self._count_delivery(key)
        self.shadow = dict(facts.shadow)
        self.incarnations = dict(facts.incarnations)
        self.redrives = Counter(facts.redrives)
        self.replaced = Counter(facts.replaced)
        self._answers = dict(facts.answers)
        self._asked = dict(facts.asked)
        self._undone = set(facts.undone)
        self._last_added = dict(facts.last_added)
        if self.on_fire is not None:
            self.on_fire.put_back(facts.scheduled)
        return lost

    def _count_delivery(self, key: Key) -> None:
        place = key[0], self.claims[key].incarnation
        self.handed_out[place] = self.handed_out.get(place, 0) + 1

    def _count_incarnation(self, task_id: bytes) -> None:
        super()._count_incarnation(task_id)
        self.lost.discard(task_id)

    def _begin_claim(self, task_id: bytes, view: View, *, legacy: bool = False) -> None:
        """A claim that was forgotten may be made again, by a repeat: it is the same, and has the same holder."""
        assert view.receipt is not None
        key = (task_id, *view.receipt)
        before = self.claims.get(key)
        if before is not None and before.ended == FORGOTTEN:
            del self.claims[key]
        super()._begin_claim(task_id, view, legacy=legacy)
        if before is not None and before.delivered:
            self.claims[key].delivered = True
            self._count_delivery(key)
        if tuple(view.receipt[0].split(b':')) in self._once:
            self.touched.add(key)

    def _laned(self, name: str, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        """What is answered from a record is a repeat of the call that was recorded."""
        asked = self._asked.setdefault(tuple(args[:3]), (name, args))
        require(asked == (name, args), 'answered from the record of another call', name, args, asked)
        return super()._laned(name, args, reply, changes)

    def _enqueue(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        new_ids = super()._enqueue(args, reply, changes)
        require(not new_ids & self.gone, 'enqueued again after its release was confirmed', new_ids & self.gone)
        return new_ids


class LedgerOfReplicas(Ledger):
    """Knows what was confirmed. ``now`` is the world's time."""

    _rules: RulesOfReplicas

    def __init__(self, rules: RulesOfReplicas, now: Callable[[], float], chosen: Iterable[str]) -> None:
        super().__init__(rules, legacy=False, calm=False)
        self._now = now
        self._chosen = frozenset(task_id.encode() for task_id in chosen)
        self.abandoned = rules.touched  # what was forgotten of a claim nobody minds
        self._acknowledged: dict[bytes, float] = {}
        self._confirmed: set[bytes] = set()
        self._ended: dict[Key, str] = {}  # claims whose end was confirmed, and how
        self._told: set[Key] = set()  # claims whose end was acknowledged

    def failed_over(self, facts: Facts) -> None:
        """The server has become what it was then."""
        told = {key for key in self._told if not self._is_open(key)}
        lost = self._rules.put_back(facts)
        for task_id in lost & self._acknowledged.keys():
            require(self._acknowledged[task_id] >= facts.taken, 'lost what the replica had', task_id)
            self._enqueue_lost(task_id)
        for key, verb in self._ended.items():
            self._check_end(key, verb)
        self.tally['acknowledged ends lost'] += sum(self._is_open(key) for key in told)
        self.tally['fail-overs'] += 1

    def _is_open(self, key: Key) -> bool:
        return self._rules.claims[key].ended in (None, FORGOTTEN)

    def _enqueue_lost(self, task_id: bytes) -> None:
        require(task_id not in self._confirmed, 'a confirmed enqueue was lost', task_id)
        self.tally['acknowledged enqueues lost'] += 1
        self._acknowledged.pop(task_id, None)  # done once more by a repeat, it is not acknowledged once more

    def _check_end(self, key: Key, verb: str) -> None:
        ended = self._rules.claims[key].ended
        require(ended in (verb, 'bare'), f'a confirmed {verb} was lost', key, ended)

    def enqueued(self, task_id: str, payload: bytes, outcome: Answer, *, unique: bool, confirmed: bool = False) -> None:
        unconfirmed = isinstance(outcome, TorrelqueDurabilityError)
        key = task_id.encode()
        self.tally['enqueues acknowledged'] += unique
        if unique:
            self._acknowledged[key] = self._now()
            if confirmed and not unconfirmed:
                self._confirmed.add(key)
                self.tally['enqueues confirmed'] += 1
        self.tally['enqueues not confirmed in time'] += unconfirmed
        if key in self._rules.lost:
            self._enqueue_lost(key)
        else:
            super().enqueued(task_id, payload, outcome, unique=unique and not unconfirmed)

    def delivered(self, tasks: Iterable[ClaimedTask]) -> None:
        for task in tasks:
            claim = self._rules.claims.get(key_of(task))
            if claim is None or claim.ended != FORGOTTEN:
                super().delivered([task])
                continue
            require(not claim.delivered, 'handed out twice', key_of(task))
            claim.delivered = True
            self.tally['delivered, but forgotten'] += 1
            self._check_duplicates(task, claim)

    def answered(self, task: ClaimedTask, verb: str, outcome: Answer, *, confirmed: bool = False) -> None:
        key = key_of(task)
        if isinstance(outcome, TorrelqueDurabilityError):
            self.tally['ends not confirmed in time'] += 1
            outcome, confirmed = Outcome.OK, False
        if key not in self._rules.touched:
            super().answered(task, verb, outcome)
        if outcome is not Outcome.OK or verb not in CONFIRMED:
            return
        self._told.add(key)
        self.tally['ends acknowledged'] += 1
        if confirmed:
            self._check_end(key, verb)
            self._ended[key] = verb
            self.tally['ends confirmed'] += 1
            if verb == RELEASE.name and key[0] not in self._chosen:
                self._rules.gone.add(key[0])
