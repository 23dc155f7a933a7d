"""Rules left out of what replaces a task that waits, and of how tasks expire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.simulation.mutants import Mutant
from torrelque.transports.memory import claims, verbs
from torrelque.transports.memory.enqueueing import _Enqueue, _New
from torrelque.transports.memory.keyspace import Keyspace
from torrelque.transports.memory.prelude import Run, State, stamp

__all__ = ('MUTANTS',)


def replaced_while_worked_on(patch: pytest.MonkeyPatch) -> None:
    """A task that is being worked on gets another payload under its consumer."""
    place = _Enqueue._place
    patch.setattr(_Enqueue, '_place', lambda self, task_id: place(self, task_id).replace('w', 'pending'))


def dead_letters_replaced(patch: pytest.MonkeyPatch) -> None:
    """A dead letter becomes another task that is none."""
    place = _Enqueue._place

    def mutant(self: _Enqueue, task_id: bytes) -> str:
        found = place(self, task_id)
        return 'pending' if found == 'd' else found

    patch.setattr(_Enqueue, '_place', mutant)


def the_old_payload_kept(patch: pytest.MonkeyPatch) -> None:
    """A task that is replaced gets another time only."""
    hset = Keyspace.hset

    def kept(self: Keyspace, key: bytes, fields: Any) -> int:  # noqa: ANN401 - as the original's
        if key.endswith(b':tasks'):
            fields = {**fields, **{name: old for name, old in self.hash_at(key).items() if name in fields}}
        return hset(self, key, fields)

    _while_enqueueing(patch, 'hset', kept)


def the_first_of_a_call_counts(patch: pytest.MonkeyPatch) -> None:
    """What replaces a task that the same call has added is answered as done, and forgotten."""
    answer = _Enqueue._answer

    def mutant(self: _Enqueue, item: _New) -> bytes:
        before = self.fresh.get(item.id)
        found = answer(self, item)
        if before is not None:
            self.fresh[item.id] = before
        return found

    patch.setattr(_Enqueue, '_answer', mutant)


def _while_enqueueing(patch: pytest.MonkeyPatch, name: str, changed: Any) -> None:  # noqa: ANN401 - any method
    enqueue = verbs.VERBS['enqueue']

    def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Keyspace, name, changed)
            return enqueue(run)

    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, 'enqueue': mutant})


def limited_without_a_revision(patch: pytest.MonkeyPatch) -> None:
    """A new task with a limit or headers has no revision, so the claim does not look for them."""
    hset = Keyspace.hset

    def mutant(self: Keyspace, key: bytes, fields: Mapping[bytes, bytes]) -> int:
        return hset(self, key, {name: value for name, value in fields.items() if (name, value) != (b'revision', b'1')})

    _while_enqueueing(patch, 'hset', mutant)


def _leaving_it(name: str) -> Mutant:
    """A task that moves stays where it was, too."""
    return lambda patch: _while_enqueueing(patch, name, lambda *_: 0)


def started_after_it_expired(patch: pytest.MonkeyPatch) -> None:
    """Who claims does not look when a task expires."""
    claim = verbs.VERBS['claim']

    def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Run, 'is_late', lambda *_: False)
            return claim(run)

    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, 'claim': mutant})


def expired_when_it_is_due(patch: pytest.MonkeyPatch) -> None:
    """A delayed task that expires before it is due is left until then."""
    patch.setattr(Run, 'due_time', lambda self, _, delay: float(stamp(self.now + float(delay))))


def retried_after_it_expired(patch: pytest.MonkeyPatch) -> None:
    """What comes back from a consumer does not expire any more."""
    requeue = verbs.VERBS['requeue']

    def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
        reply = requeue(run)
        for task_id in run.args[3::5]:
            run.db.hdel(run.state_key(task_id), (b'expires',))
        return reply

    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, 'requeue': mutant})


def expired_without_a_trace(patch: pytest.MonkeyPatch) -> None:
    """A caller that looks a moment later gets the answer that there never was such a task."""
    end_late = claims.end_late

    def mutant(run: Run, late: Any) -> int:  # noqa: ANN401 - as the original's
        rejected = end_late(run, late)
        run.db.delete([run.state_key(item.id) for item in late if not item.state.rejects])
        return rejected

    patch.setattr(claims, 'end_late', mutant)
    patch.setattr(verbs, 'end_late', mutant)


def expired_at_its_limit(patch: pytest.MonkeyPatch) -> None:
    """A task that has had all its deliveries is dropped, not a dead letter, if it expires before anybody looks."""
    ends = claims.Plan.ends

    def mutant(self: claims.Plan, run: Run, task_id: bytes, state: State | None) -> bool:
        if state is not None and run.is_late(state):
            state.max_dequeues = None
        return ends(self, run, task_id, state)

    patch.setattr(claims.Plan, 'ends', mutant)


def dead_letters_that_expire_again(patch: pytest.MonkeyPatch) -> None:
    """A dead letter that is redriven expires at once, for ever."""
    hdel = Keyspace.hdel

    def mutant(self: Keyspace, key: bytes, fields: Any) -> int:  # noqa: ANN401 - as the original's
        return hdel(self, key, [field for field in fields if field not in (b'expires', b'on_expiry')])

    patch.setattr(Keyspace, 'hdel', mutant)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'limited without a revision': ('alone', limited_without_a_revision),
    'replaced while worked on': ('debounce', replaced_while_worked_on),
    'dead letters replaced': ('debounce', dead_letters_replaced),
    'the old payload kept': ('debounce', the_old_payload_kept),
    'the first of a call counts': ('debounce', the_first_of_a_call_counts),
    'postponed, and pending still': ('debounce', _leaving_it('lrem')),
    'advanced, and delayed still': ('debounce', _leaving_it('zrem')),
    'started after it expired': ('alone', started_after_it_expired),
    'expired when it is due': ('alone', expired_when_it_is_due),
    'retried after it expired': ('alone', retried_after_it_expired),
    'expired without a trace': ('alone', expired_without_a_trace),
    'expired at its limit': ('alone', expired_at_its_limit),
    'dead letters that expire again': ('alone', dead_letters_that_expire_again),
}
"""By name: the world that has to notice, and the mutation."""
