"""Rules left out of what is beyond claims: leases, forks, dead letters, audits, repetitions by users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.simulation import forks
from tests.simulation.mutants import Mutant
from torrelque.core import auditing, leases
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.leases import Leases
from torrelque.core.protocol import Arg, Interrupted, Operation, Reply
from torrelque.transports.memory import claims, verbs
from torrelque.transports.memory.prelude import Run, State

__all__ = ('MUTANTS',)

Fields = Mapping[bytes, bytes]


def lanes_kept_by_a_child(patch: pytest.MonkeyPatch) -> None:
    """After a fork the child goes on as if it were its parent."""
    patch.setattr(forks, 'settle_in', lambda *_: None)


def leases_renewed_too_late(patch: pytest.MonkeyPatch) -> None:
    """A lease is renewed when it has run out."""
    patch.setattr(leases, 'DUE', 1.0)


def leases_renewed_once(patch: pytest.MonkeyPatch) -> None:
    """Only the first of the renewals is made."""
    renewed = Leases.renewed

    def mutant(self: Leases[Any], key: Any, sent: float) -> float:  # noqa: ANN401 - as the original's
        renewed(self, key, sent)
        self._leases[key].renewing = True
        return self._leases[key].expires

    patch.setattr(Leases, 'renewed', mutant)


def redriven_but_not_counted_from_0(patch: pytest.MonkeyPatch) -> None:
    """A dead letter that is redriven has no more deliveries than it had."""
    transition = Run.transition

    def mutant(self: Run, task_id: bytes, state: State, status: bytes, fields: Fields) -> None:
        rest = {name: value for name, value in fields.items() if name != b'dequeue_base'}
        transition(self, task_id, state, status, rest)

    patch.setattr(Run, 'transition', mutant)


def purged_whatever_its_age(patch: pytest.MonkeyPatch) -> None:
    """A dead letter that was redriven and rejected again meanwhile is purged as if it were the old one."""
    purge = verbs.VERBS['purge']

    def mutant(run: Run) -> Reply:
        run.args = [b'' if at > 3 and at % 2 == 0 else word for at, word in enumerate(run.args)]
        return purge(run)

    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, 'purge': mutant})


def finished_states_with_empty_results(patch: pytest.MonkeyPatch) -> None:
    """The final state of a task without a result is kept as one with a result, an empty one."""
    transition = Run.transition

    def mutant(self: Run, task_id: bytes, state: State, status: bytes, fields: Fields) -> None:
        bare = b'release_time' in fields and b'result' not in fields and b'reason' not in fields
        transition(self, task_id, state, status, {**fields, b'result': b''} if bare else fields)

    patch.setattr(Run, 'transition', mutant)


def audits_that_look_once(patch: pytest.MonkeyPatch) -> None:
    """What looked wrong from afar is reported as it looked."""

    def mutant(self: Any, ids: Sequence[bytes], lists: Any) -> Operation[set[bytes]]:  # noqa: ANN401 - as the original's
        suspects: set[bytes] = yield from narrow(self, ids, lists)
        for task_id in suspects:
            self._found.append(auditing.Violation('lost', '', task_id.decode(), ''))
        return suspects

    narrow = auditing._Audit._narrow
    patch.setattr(auditing._Audit, '_narrow', mutant)


def enqueued_again_by_itself(patch: pytest.MonkeyPatch) -> None:
    """A call that was cut off after it was done is done once more, with other ids, though its caller does not ask."""
    attempt, settle = Lanes._attempt, Lanes._settle
    made: dict[Lane, tuple[str, tuple[Arg, ...]]] = {}

    def noted(self: Lanes, lane: Lane, name: str, args: tuple[Arg, ...]) -> Operation[Sequence[Reply]]:
        made[lane] = name, args
        return (yield from attempt(self, lane, name, args))

    def mutant(self: Lanes, lane: Lane, interrupted: Interrupted) -> Operation[Sequence[Reply]]:
        answer = yield from settle(self, lane, interrupted)
        name, args = made[lane]
        if name == 'enqueue':
            width, first = (2, 5) if args[0] == 2 else (6, 1)
            again = tuple(
                f'again-{word!r}' if at >= first and (at - first) % width == 0 else word for at, word in enumerate(args)
            )
            yield from attempt(self, Lane(), name, again)
        return answer

    patch.setattr(Lanes, '_attempt', noted)
    patch.setattr(Lanes, '_settle', mutant)


def the_newest_dead_letters_removed(patch: pytest.MonkeyPatch) -> None:
    """A cap removes those that were added last."""

    def mutant(run: Run, cap: Sequence[bytes], added: int) -> None:
        rejected = run.db.zset_at(run.keys['rejected'])
        surplus = len(rejected) - int(cap[0]) if added and cap and cap[0] else 0
        newest = [member for _, member in rejected.between(-math.inf, math.inf, len(rejected))][::-1][: max(0, surplus)]
        run.db.zrem(run.keys['rejected'], newest)
        run.db.hdel(run.keys['tasks'], newest)
        run.db.delete([run.state_key(task_id) for task_id in newest])

    patch.setattr(verbs, 'trim', mutant)


def dead_letters_removed_without_their_states(patch: pytest.MonkeyPatch) -> None:
    """A cap removes the payloads only."""

    def mutant(run: Run, cap: Sequence[bytes], added: int) -> None:
        before = dict(run.db.zset_at(run.keys['rejected']).scores)
        states = {task_id: dict(run.db.hash_at(run.state_key(task_id))) for task_id in before}
        trim(run, cap, added)
        for task_id in before.keys() - run.db.zset_at(run.keys['rejected']).scores.keys():
            run.db.hset(run.state_key(task_id), states[task_id])

    trim = claims.trim
    patch.setattr(verbs, 'trim', mutant)


def dead_letters_without_a_cap(patch: pytest.MonkeyPatch) -> None:
    """Nobody minds the cap."""
    patch.setattr(verbs, 'trim', lambda *_: None)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'lanes kept by a child': ('forks', lanes_kept_by_a_child),
    'leases renewed too late': ('crew', leases_renewed_too_late),
    'leases renewed once': ('crew', leases_renewed_once),
    'redriven but not counted from 0': ('calm', redriven_but_not_counted_from_0),
    'purged whatever its age': ('cuts', purged_whatever_its_age),
    'finished states with empty results': ('calm', finished_states_with_empty_results),
    'audits that look once': ('alone', audits_that_look_once),
    'enqueued again by itself': ('alone', enqueued_again_by_itself),
    'the newest dead letters removed': ('crew', the_newest_dead_letters_removed),
    'dead letters removed without their states': ('crew', dead_letters_removed_without_their_states),
    'dead letters without a cap': ('crew', dead_letters_without_a_cap),
}
"""By name: the world that has to notice, and the mutation."""
