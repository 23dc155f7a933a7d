"""Rules left out of what schedules do. Those of a refill are tested in tests/engine/test_schedules.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.simulation.mutants import Mutant
from torrelque.transports.memory import schedules
from torrelque.transports.memory.prelude import Run

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


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'a time stays': ('schedules', a_time_stays),
    'all missed times made up for': ('schedules', all_times_made_up_for),
    'no missed time made up for': ('schedules', no_time_made_up_for),
    'a schedule fires before its time': ('schedules', before_its_time),
    'a schedule overlaps': ('schedules', overlaps),
    'a schedule fires in a pause': ('schedules', in_a_pause),
    'nobody looks when a schedule fires': ('schedules', nobody_looks),
}
"""By name: the world that has to notice, and the mutation."""
