"""Whether the journal would notice deliveries that are not permitted. ``test_chaos.py`` plays the scenario."""

from __future__ import annotations

import pytest

from tests.chaos.flow import Journal

GOOD = """
    a 0, a 1, paused, a 3, resuming,
    slots 2, b 0, b 1, c 0, c 1, b 0, b 1, b 2, d 1, d 3, lifting, e 1,
    rate 1 1 2 0, f 1, g 1, g 0, g 1, h 0, lifting, h 1,
    asked h, ended e, h 3
"""


def read(text: str) -> Journal:
    """Each step is a mark, or a task and its status; all transitions happen in the first half of a second."""
    journal = Journal()
    for step in text.split(','):
        first, *words = step.split()
        if len(first) == 1:
            journal.transition(first, words[0], 0.5)
        else:
            journal.mark(step)
    return journal


def test_what_is_permitted() -> None:
    journal = read(GOOD)
    assert journal.violations == []
    assert journal.figures['lifting'] == 2


@pytest.mark.parametrize(
    ('more', 'problem'),
    [
        ('paused, x 1', 'during a pause'),
        ('slots 3, x 1', '5 at once, the limit is 3'),
        ('rate 1 1 2 0, x 1, x 3, y 1, y 3, z 1', '3 deliveries, 2.5 are permitted'),
        ('x 1, asked x, x 0, x 1', 'asked to end'),
        ('x 1, ended x, x 0', '0 after it was ended'),
        ('x 1, ended x, x cancelled', 'cancelled after it was ended'),
    ],
)
def test_what_is_not_permitted_is_noticed(more: str, problem: str) -> None:
    (found,) = read(f'{GOOD}, {more}').violations
    assert problem in found


def test_what_is_cancelled_is_no_loss() -> None:
    assert read(f'{GOOD}, x 1, asked x, x cancelled').removed == {'x'}
