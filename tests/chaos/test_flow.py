"""Whether the journals would notice deliveries that are not permitted. ``test_chaos.py`` plays the scenarios."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos.flow import Journal
from tests.chaos.grouping import GroupJournal

GOOD = """
    a 0, a 1, paused, a 3, resuming,
    slots 2, b 0, b 1, c 0, c 1, b 0, b 1, b 2, d 1, d 3, lifting, e 1,
    rate 1 1 2 0, f 1, g 1, g 0, g 1, h 0, lifting, h 1,
    asked h, ended e, h 3
"""


GOOD_GROUPS = """
    a/o0 2, b/o0 0, a/o0 0, c/o0 0, b/o0 1, b/o0 2, b/o0 0, b/o0 1, b/o0 3, a/o0 1,
    in c0 slots 1, a/c0 0, a/c0 1, in c0 lifting, b/c0 0, b/c0 1,
    a/w1 0, b/w1 0, c/w1 0, a/w3 0, b/w3 0, c/w3 0, d/w3 0, e/w3 0,
    a/w3 1, b/w3 1, a/w1 1, c/w3 1, d/w3 1, d/w3 0, d/w3 1,
    beat@7.05 0, beat@7.1 0, beat@7.05 1, beat@7.05 3
"""


def read(text: str, journal: Journal | None = None) -> Journal:
    """Each step is a mark, or a task and its status; all transitions happen in the first half of a second."""
    journal = journal or Journal()
    for step in text.split(','):
        first, *words = step.split()
        if len(first) == 1 or '/' in first or '@' in first:
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


def read_groups(text: str) -> GroupJournal:
    journal = GroupJournal()
    read(text, journal)
    return journal


def test_what_is_permitted_in_groups() -> None:
    journal = read_groups(GOOD_GROUPS)
    journal.check_slots('beat', 7.05, 7.15)
    journal.check_fences({'b/o0': [3, 4], 'a/o0': [5], 'd/w3': [9], 'a/w3': [1]})
    assert journal.violations == []
    assert journal.figures['fences compared'] == 4, 'one of a task is not known'


@pytest.mark.parametrize(
    ('more', 'problem'),
    [
        ('c/o0 1', 'c/o0: delivered before a/o0'),
        ('a/o0 0, c/o0 1', 'c/o0: delivered before a/o0'),
        ('a/o0 3, c/o0 1, c/o0 0, d/o0 0, d/o0 1', 'd/o0: delivered before c/o0'),
        ('in c0 slots 2, c/c0 0, c/c0 1', '3 at once, the limit is 2'),
        ('in c0 rate 1 1 2 0, c/c0 0, c/c0 1, d/c0 0, d/c0 1, e/c0 0, e/c0 1', '3 deliveries, 2.5 are permitted'),
        ('f/w3 0, e/w3 1, f/w3 1, d/w3 0, d/w3 1', 'w3 had more than its share'),
        ('beat@7.05 0', '0 after its end'),
        ('in o0 ended a/o0, a/o0 0', '0 after it was ended'),
    ],
)
def test_what_is_not_permitted_in_groups_is_noticed(more: str, problem: str) -> None:
    assert any(problem in each for each in read_groups(f'{GOOD_GROUPS}, {more}').violations)


@pytest.mark.parametrize('more', ['beat@7.1 1', 'beat@7.2 0', 'beat@7.15 0, beat@7.17 0'])
def test_a_slot_without_a_task_is_noticed(more: str) -> None:
    journal = read_groups(f'{GOOD_GROUPS}, {more}')
    journal.check_slots('beat', 7.05, 7.2)
    assert 'beat: added' in journal.violations[0]


@pytest.mark.parametrize('fences', [{'b/o0': [3, 6], 'a/o0': [5]}, {'b/o0': [3, 4], 'a/o0': [4]}])
def test_fences_that_do_not_grow_are_noticed(fences: dict[str, Sequence[int]]) -> None:
    journal = read_groups(GOOD_GROUPS)
    journal.check_fences(fences)
    assert 'o0: fence' in journal.violations[0]
