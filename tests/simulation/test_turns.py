"""Fairness of groups, over as many rounds as it takes to see a rule that is nearly right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from tests.simulation.clients import SCRIPTS
from tests.simulation.mutants_groups import returning_groups_enter_at_the_turn
from tests.simulation.server import KEYS
from torrelque.core.claiming import claim
from torrelque.core.commands import ENQUEUE, enqueue_item
from torrelque.core.groups import REGULATE, limits_item
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.protocol import blocking_drive
from torrelque.transports.memory.server import MemoryServer

ROUNDS = 6000
ONE = 1
"""By how many tasks a share may differ at any time: rounds are not whole."""


class Turns:
    """A queue, one task of which is taken at a time."""

    def __init__(self) -> None:
        self._execute = MemoryServer(lambda: 1_700_000_000.0).execute
        self._lanes = Lanes(SCRIPTS, KEYS, 'n')
        self._lane = Lane()
        self._tasks = 0

    def weigh(self, group: str, weight: int) -> None:
        item = limits_item(group, None, None, None, weight, None, None)
        blocking_drive(self._lanes.call('regulate', REGULATE.arguments([item]), REGULATE.parse), self._execute)

    def enqueue(self, group: str, tasks: int = 1) -> None:
        items = []
        for _ in range(tasks):
            self._tasks += 1
            item = enqueue_item(f'{self._tasks}', b'1', 300, None, None, b'')
            items.append((*item, '', '', '', group.encode(), ''))
        blocking_drive(self._lanes.call('enqueue', ENQUEUE.arguments(items), ENQUEUE.parse), self._execute)

    def take(self) -> str:
        (task,) = blocking_drive(claim(self._lanes, 1, 0.0, self._lane, 0.0), self._execute).tasks
        assert task.group is not None
        return task.group


def served(weights: Mapping[str, int], rounds: int) -> list[str]:
    """Serve a group with a backlog beside groups that enqueue their next task when the last one was taken."""
    turns = Turns()
    for group, weight in weights.items():
        if weight > 1:
            turns.weigh(group, weight)
        turns.enqueue(group, 250 if group == 'backlog' else 1)
    taken = []
    for at in range(rounds):
        taken.append(group := turns.take())
        if group != 'backlog':
            turns.enqueue(group)
        if at % 200 == 0:
            turns.enqueue('backlog', 200)
    return taken


@pytest.mark.parametrize(
    ('weights', 'rounds'),
    [
        ({'backlog': 1, 'a': 1, 'z': 1}, ROUNDS),
        ({'backlog': 1, 'a': 3}, ROUNDS),
        ({'backlog': 3, 'a': 1, 'z': 2}, 600),
    ],
    ids=str,
)
def test_the_entry_rule(weights: Mapping[str, int], rounds: int) -> None:
    """Each has its share at every moment, whether or not it has a backlog, and whatever its name is."""
    counts, total = Counter[str](), sum(weights.values())
    for taken, group in enumerate(served(weights, rounds), 1):
        counts[group] += 1
        for name, weight in weights.items():
            assert abs(counts[name] - taken * weight / total) <= ONE, (taken, counts)


def test_a_group_that_enters_at_the_turn_starves_others(monkeypatch: pytest.MonkeyPatch) -> None:
    returning_groups_enter_at_the_turn(monkeypatch)
    counts = Counter(served({'backlog': 1, 'a': 1, 'z': 1}, 300))
    assert max(counts.values()) > 2 * min(counts[name] for name in ('backlog', 'a', 'z')), counts
