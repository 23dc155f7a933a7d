"""One thing can be left out of a world while all else stays as it was."""

from __future__ import annotations

import pytest

from tests.simulation.choices import Choice, Dice
from tests.simulation.configs import CONFIGS
from tests.simulation.world import World


def _run(seed: int, name: str, only: list[Choice] | None = None) -> tuple[list[str], list[Choice]]:
    trace: list[str] = []
    world = World(seed, CONFIGS[name], lambda now, text: trace.append(f'{now!r} {text}'), only)
    world.run()
    return trace, world.choices.made


@pytest.mark.parametrize('name', CONFIGS)
def test_the_same_choices_make_the_same_world(name: str) -> None:
    trace, made = _run(7, name)
    assert _run(7, name, made) == (trace, made)


def test_without_choices_nothing_happens() -> None:
    trace, made = _run(7, 'alone', [])
    assert made == []
    assert not [line for line in trace if 'enqueue' in line]


def test_leaving_the_last_fault_out_changes_nothing_before_it() -> None:
    trace, made = _run(7, 'alone')
    last = max(choice for choice in made if choice.kind == 'repeat')
    before = sum(float(line.split()[0]) < last.moment for line in trace)
    shorter, _ = _run(7, 'alone', [choice for choice in made if choice != last])
    assert trace[:before] == shorter[:before]
    assert trace != shorter


def test_dice_depend_on_the_moment_only() -> None:
    first, second = Dice(1), Dice(1)
    first.random()
    for dice in (first, second):
        dice.move_to(1.5)
    assert [first.random() for _ in range(3)] == [second.random() for _ in range(3)]


def test_dice_are_fair() -> None:
    dice = Dice(3)
    faces = [0] * 6
    for moment in range(1000):
        dice.move_to(moment * 0.001)
        for _ in range(6):
            faces[int(dice.random() * 6)] += 1
    assert all(900 < face < 1100 for face in faces)
