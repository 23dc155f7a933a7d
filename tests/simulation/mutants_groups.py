"""Rules left out of groups and levels."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation import grouping
from tests.simulation.mutants import Mutant
from torrelque.core.protocol import Operation
from torrelque.transports.memory import groups, serving, verbs
from torrelque.transports.memory.claims import Plan
from torrelque.transports.memory.groups import Group
from torrelque.transports.memory.prelude import Limits, Run, State, microseconds, whole
from torrelque.transports.memory.serving import Serving

__all__ = ('MUTANTS',)


def _without(patch: pytest.MonkeyPatch, name: str, result: object = None) -> None:
    patch.setattr(groups, name, lambda *_, **__: result)


def _nothing(*_: object) -> Operation[None]:
    return
    yield ()


def the_hint_counts_pending_tasks_only(patch: pytest.MonkeyPatch) -> None:
    """Nobody is woken for tasks that wait elsewhere."""
    patch.setattr(Run, 'left', lambda self: len(self.db.list_at(self.keys['pending'])))


def stale_claims_hold_their_slots(patch: pytest.MonkeyPatch) -> None:
    """A stale task returns to its line, and still counts as claimed."""
    carry_out = Plan.carry_out

    def mutant(self: Plan, run: Run) -> int:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(groups, 'leave_groups', lambda *_: None)
            return carry_out(self, run)

    patch.setattr(Plan, 'carry_out', mutant)


def returning_groups_enter_at_the_turn(patch: pytest.MonkeyPatch) -> None:
    """Nobody knows any more how much a group has had that has no tasks for a moment."""
    patch.setattr(groups, 'keep_tag', lambda *_: None)
    patch.setattr(serving, 'keep_tag', lambda *_: None)


def any_number_at_once(patch: pytest.MonkeyPatch) -> None:
    """What is claimed of a group does not count."""
    allowed = Group.allowed
    patch.setattr(Group, 'allowed', lambda self, _: allowed(self, 0))


def deliveries_of_groups_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """The rate of a group never permits less."""
    patch.setattr(Group, 'ahead', property(lambda _: 0.0))


def rates_in_force_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What is written down of the rates and holds of groups is forgotten before it is over."""

    def mutant(run: Run) -> None:
        key = groups.key_of(run, b'arrivals')
        names = [*run.db.hash_at(key)]
        if names:
            run.db.hdel(key, names)

    for module in (groups, serving):
        patch.setattr(module, 'forget_arrivals', mutant)


def a_rate_is_judged_too_late(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks when a held group may go on."""
    first = Run._first

    def mutant(self: Run, key: bytes) -> float | None:
        return None if key.endswith(b':held') else first(self, key)

    patch.setattr(Run, '_first', mutant)


def returned_tasks_lose_their_place(patch: pytest.MonkeyPatch) -> None:
    """A task of an ordered group that was not finished comes after those that were enqueued after it."""
    _without(patch, 'is_ordered', result=False)


def due_tasks_jump_the_queue(patch: pytest.MonkeyPatch) -> None:
    """A delayed task goes in front of those that were there before it was due."""
    push = groups.push

    def mutant(run: Run, tasks: Any, *, front: bool = False) -> None:  # noqa: ANN401 - as the original's
        tasks = list(tasks)
        is_due = [(task_id, state) for task_id, state in tasks if state.status == b'2']
        push(run, [each for each in tasks if each not in is_due], front=front)
        push(run, is_due, front=True)

    patch.setattr(groups, 'push', mutant)


def retries_let_others_pass(patch: pytest.MonkeyPatch) -> None:
    """A retried task does not hold its group."""
    _without(patch, 'hold')


def dead_letters_hold_nothing(patch: pytest.MonkeyPatch) -> None:
    """A dead letter lets its group go on, whatever its limits say."""
    _without(patch, 'bury')


def dead_letters_hold_no_ready_group(patch: pytest.MonkeyPatch) -> None:
    """A dead letter holds its group only from when that is placed again."""
    patch.setattr(serving, 'is_held_by_dead', lambda *_: False)


def redriven_in_silence(patch: pytest.MonkeyPatch) -> None:
    """A group that a dead letter held is not placed again."""

    def mutant(run: Run, ids: Any) -> set[bytes]:  # noqa: ANN401 - as the original's
        for task_id in ids:
            state = run.read_state(task_id)
            if state is not None and state.group:
                run.db.srem(groups.key_of(run, b'rejected', state.group), (task_id,))
        return set()

    patch.setattr(groups, 'unbury', mutant)


def released_in_silence(patch: pytest.MonkeyPatch) -> None:
    """Nobody hears that a slot of a group is free."""

    def mutant(run: Run, task_id: bytes, state: State) -> None:
        if state.group:
            run.db.srem(groups.key_of(run, b'working', state.group), (task_id,))

    patch.setattr(groups, 'release', mutant)


def a_raised_default_is_missed(patch: pytest.MonkeyPatch) -> None:
    """Who sets the default is gone before groups are placed again, and nobody else does it."""
    _without(patch, 'recheck')
    patch.setattr(grouping, 'recheck', _nothing)


def the_same_fence(patch: pytest.MonkeyPatch) -> None:
    """Claims of one moment have one fence."""
    patch.setattr(Serving, 'next_fence', lambda self, _: whole(microseconds(self._run.now)))


def levels_upside_down(patch: pytest.MonkeyPatch) -> None:
    """Low goes before high."""
    patch.setattr(serving, 'COSTS', {b'high': 16.0, b'': 4.0, b'low': 1.0})


def strict_is_not_strict(patch: pytest.MonkeyPatch) -> None:
    """Lower levels have their turn, though they are to wait for the higher ones."""
    init = Limits.__init__

    def mutant(self: Limits, *args: Any) -> None:  # noqa: ANN401 - as the original's
        init(self, *args)
        self.is_strict = False

    patch.setattr(Limits, '__init__', mutant)


def a_sweep_leaves_empty_groups_listed(patch: pytest.MonkeyPatch) -> None:
    """Groups whose last tasks a sweep ended are still among those that can be served."""
    sweep = verbs.VERBS['sweep']

    def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
        with pytest.MonkeyPatch.context() as inner:
            if run.args[0] == b'expired':
                inner.setattr(groups, 'touch', lambda *_: None)
            return sweep(run)

    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, 'sweep': mutant})


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'the hint counts pending tasks only': ('groups', the_hint_counts_pending_tasks_only),
    'stale claims hold the slots of groups': ('groups', stale_claims_hold_their_slots),
    'returning groups enter at the turn': ('groups-faults', returning_groups_enter_at_the_turn),
    'any number of a group at once': ('groups', any_number_at_once),
    'deliveries of groups do not count': ('groups', deliveries_of_groups_do_not_count),
    'rates in force are forgotten': ('groups', rates_in_force_are_forgotten),
    'a held group goes on too late': ('groups', a_rate_is_judged_too_late),
    'returned tasks lose their place': ('groups', returned_tasks_lose_their_place),
    'due tasks jump the queue': ('groups', due_tasks_jump_the_queue),
    'retries let others pass': ('groups', retries_let_others_pass),
    'dead letters hold nothing': ('groups', dead_letters_hold_nothing),
    'dead letters hold no ready group': ('groups', dead_letters_hold_no_ready_group),
    'redriven in silence': ('groups', redriven_in_silence),
    'a slot of a group is free in silence': ('groups', released_in_silence),
    'a raised default is missed': ('groups', a_raised_default_is_missed),
    'the same fence': ('groups', the_same_fence),
    'levels upside down': ('groups', levels_upside_down),
    'a sweep leaves empty groups listed': ('groups', a_sweep_leaves_empty_groups_listed),
    'strict is not strict': ('groups', strict_is_not_strict),
}
"""By name: the world that has to notice, and the mutation."""
