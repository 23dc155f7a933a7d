"""Rules left out of what schedules do. Those of a refill are tested in tests/engine/test_schedules.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.simulation.mutants import Mutant
from torrelque.transports.memory import groups, schedules
from torrelque.transports.memory.prelude import Run, State

__all__ = ('MUTANTS',)

split = schedules._split


def a_time_stays(patch: pytest.MonkeyPatch) -> None:
    """A schedule does not go on from the time that fired."""

    def mutant(run: Run, fields: Mapping[bytes, bytes], most: int) -> tuple[list[float], list[float]]:
        due, left = split(run, fields, most)
        return due, [*due[-1:], *left]

    patch.setattr(schedules, '_split', mutant)


def all_times_made_up_for(patch: pytest.MonkeyPatch) -> None:
    """Whatever a schedule says of missed times."""
    patch.setattr(schedules, '_split', lambda run, fields, most: split(run, {**fields, b'missed': b'all'}, most))


def no_time_made_up_for(patch: pytest.MonkeyPatch) -> None:
    """But the last one, whatever a schedule says of missed times."""
    patch.setattr(schedules, '_split', lambda run, fields, most: split(run, {**fields, b'missed': b'skip'}, most))


def before_its_time(patch: pytest.MonkeyPatch) -> None:
    """A time that is near counts as due."""

    def mutant(run: Run, fields: Mapping[bytes, bytes], most: int) -> tuple[list[float], list[float]]:
        run.now += 0.4
        try:
            return split(run, fields, most)
        finally:
            run.now -= 0.4

    patch.setattr(schedules, '_split', mutant)


def overlaps(patch: pytest.MonkeyPatch) -> None:
    """The last task is not looked for."""
    patch.setattr(schedules._Plan, '_is_known', lambda *_: False)


def in_a_pause(patch: pytest.MonkeyPatch) -> None:
    """A paused queue adds tasks."""
    fire_due = schedules.fire_due

    def mutant(run: Run) -> tuple[int, list[bytes]]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Run, 'paused_until', lambda _: None)
            return fire_due(run)

    patch.setattr(schedules, 'fire_due', mutant)


def nobody_looks(patch: pytest.MonkeyPatch) -> None:
    """When a schedule fires, no consumer looks."""
    patch.setattr(Run, '_next_slot', lambda *_: None)


def a_group_is_not_placed(patch: pytest.MonkeyPatch) -> None:
    """The first task of a group that a schedule adds does not put the group among those that can be served."""

    def mutant(run: Run, task_id: bytes, state: State) -> None:
        run.db.lpush(groups.list_of(run, state.group, state.level), (task_id,))

    patch.setattr(groups, 'join', mutant)


def beside_its_group(patch: pytest.MonkeyPatch) -> None:
    """Tasks of schedules wait in pending, whatever group they have."""
    patch.setattr(groups, 'join', lambda run, task_id, _: run.db.lpush(run.keys['pending'], (task_id,)))


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'a time stays': ('schedules', a_time_stays),
    'all missed times made up for': ('schedules', all_times_made_up_for),
    'no missed time made up for': ('schedules', no_time_made_up_for),
    'a schedule fires before its time': ('schedules', before_its_time),
    'a schedule overlaps': ('schedules', overlaps),
    'a schedule fires in a pause': ('schedules', in_a_pause),
    'a schedule does not place a group': ('schedules-faults', a_group_is_not_placed),
    'a schedule adds tasks beside their group': ('schedules-faults', beside_its_group),
    'nobody looks when a schedule fires': ('schedules', nobody_looks),
    'a time stays where primaries fail': ('schedules-failover', a_time_stays),
    'no missed time made up for where slots move': ('schedules-moves', no_time_made_up_for),
    'a time stays where slots move': ('schedules-moves', a_time_stays),
}
"""By name: the world that has to notice, and the mutation."""
