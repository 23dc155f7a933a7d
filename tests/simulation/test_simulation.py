"""A thousand worlds, some with shards, and what they would have to notice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from tests.simulation import (
    mutants,
    mutants_behind,
    mutants_beyond,
    mutants_enqueue,
    mutants_flow,
    mutants_groups,
    mutants_limits,
    mutants_nodes,
    mutants_schedules,
    mutants_shards,
    mutants_sharing,
    mutants_waiting,
)
from tests.simulation.clients import SCRIPTS
from tests.simulation.configs import CONFIGS
from tests.simulation.rules import Violation
from tests.simulation.server import KEYS
from tests.simulation.world import World, simulate
from torrelque.core.commands import ADD, ENQUEUE, Answer, Outcome, enqueue_item
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Call, Reply, Script, blocking_drive
from torrelque.errors import TorrelqueError, TorrelqueUsageError
from torrelque.transports.memory.prelude import Record, Run
from torrelque.transports.memory.server import MemoryServer

SEEDS, PART = 100, 20
"""Of each kind of world, and how many of them are one test."""

FEWER = {
    'calm': 40, 'cuts': 40, 'forks': 60, 'cancel': 60, 'workers': 60,
    'debounce': 60, 'limits': 40, 'limits-faults': 20, 'limits-shards': 20, 'schedules': 20,
    'schedules-faults': 20, 'schedules-moves': 20, 'schedules-failover': 20, 'shards': 40, 'shards-calm': 20,
    'moves': 60, 'moves-shards': 40, 'groups': 20, 'groups-faults': 20, 'groups-shards': 20,
    'queues': 20, 'queues-cuts': 20, 'queues-faults': 20,
}  # fmt: skip
"""Of these, which take their time; many more are run by hand."""

SEEDS_FOR_MUTANTS = 200

FIRST_SEEDS = {
    'a cancelled delivery does not count': 34,
    'a claim behind a wait not settled': 80,
    'a held group goes on too late': 7,
    'a schedule adds tasks beside their group': 54,
    'a sweep leaves empty groups listed': 25,
    'any number of shards will do': 13,
    'called off, but taken back by a claim': 10,
    'called off, but taken back by others': 13,
    'dead letters hold no ready group': 25,
    'dead letters removed without their states': 12,
    'dead letters without a cap': 12,
    'ended in silence': 81,
    'hint lost beside a claim': 50,
    'levels upside down': 7,
    'never settled later': 26,
    'old results kept': 42,
    'only the first shard paused': 22,
    'redriven in silence': 23,
    'resumed in silence': 6,
    'retried after it expired': 27,
    'returning groups enter at the turn': 37,
    'the newest dead letters removed': 12,
    'the next delivery missed': 8,
    'too large a refund': 34,
}
"""Which are violated, where 0 and the next are not for long; they may change with any rule, and then all are tried."""

MUTANTS = (
    mutants.MUTANTS
    | mutants_behind.MUTANTS
    | mutants_beyond.MUTANTS
    | mutants_enqueue.MUTANTS
    | mutants_flow.MUTANTS
    | mutants_groups.MUTANTS
    | mutants_limits.MUTANTS
    | mutants_waiting.MUTANTS
    | mutants_nodes.MUTANTS
    | mutants_schedules.MUTANTS
    | mutants_shards.MUTANTS
    | mutants_sharing.MUTANTS
)


@pytest.mark.parametrize(
    ('name', 'first'), [(name, first) for name in CONFIGS for first in range(0, FEWER.get(name, SEEDS), PART)]
)
def test_worlds(name: str, first: int) -> None:
    for seed in range(first, first + PART):
        try:
            simulate(seed, CONFIGS[name])
        except Violation as violation:
            raise AssertionError(f'python -m tests.simulation --config {name} --seed {seed} --trim') from violation


@pytest.mark.parametrize('name', CONFIGS)
def test_a_seed_replays_exactly(name: str) -> None:
    first, second = list[str](), list[str]()
    for trace in (first, second):
        simulate(7, CONFIGS[name], lambda now, text, trace=trace: trace.append(f'{now!r} {text}'))  # type: ignore[misc]  # mypy infers no lambda's default
    assert first == second
    assert len(first) > 100


def test_a_trace_changes_nothing() -> None:
    traced = World(7, CONFIGS['alone'], lambda *_: None)
    untraced = World(7, CONFIGS['alone'])
    for world in (traced, untraced):
        world.run()
    assert traced.scheduler.steps == untraced.scheduler.steps
    assert traced.server.snapshot() == untraced.server.snapshot()


def test_a_failing_seed_can_be_run_by_hand() -> None:
    command = [sys.executable, '-m', 'tests.simulation', '--config', 'calm', '--seed', '3']
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 'claim (' in done.stdout
    assert 'no violation' in done.stdout


@pytest.mark.parametrize('name', MUTANTS)
def test_a_rule_left_out_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, mutate = MUTANTS[name]
    mutate(monkeypatch)
    assert any(_is_violated(seed, config) for seed in (FIRST_SEEDS.get(name, 0), *range(SEEDS_FOR_MUTANTS)))


def _is_violated(seed: int, config: str) -> bool:
    try:
        simulate(seed, CONFIGS[config])
    except (Violation, ValueError, TorrelqueUsageError):  # a server may choke on a record that it could not have got
        return True
    return False


def _enqueue_again_without_a_lane() -> list[bytes]:
    """A call is done and its reply lost, then its lane, and the call is repeated. Returns the waiting ids."""
    server, lanes, lost = MemoryServer(lambda: 1.0), Lanes(SCRIPTS, KEYS, 'first'), list[Reply]()

    def execute(calls: Sequence[Call[Any]]) -> Sequence[Reply]:
        replies = server.execute(calls)
        if isinstance(calls[0].command, Script) and calls[0].command.name == 'enqueue' and not lost:
            lost.extend(replies)
            server.call(Call('DEL', (KEYS['lane'] + b':' + str(calls[0].args[0]).encode(),)))
            return server.execute(calls)
        return replies

    item = enqueue_item('a', b'data', 300, None, None, b'')
    answers = blocking_drive(lanes.call('enqueue', ADD.arguments([item]), ADD.parse), execute)
    assert (lost, answers) == ([[b'OK', b'n']], [Outcome.EXISTING])
    waiting: list[bytes] = server.call(Call('LRANGE', (KEYS['pending'],), (0, -1)))
    return waiting


def test_a_new_id_is_looked_for_on_another_lane() -> None:
    assert _enqueue_again_without_a_lane() == [b'a']


def test_a_new_id_is_added_twice_if_it_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torrelque.core.lanes.NEW_IDS', None)
    with pytest.raises(AssertionError):
        _enqueue_again_without_a_lane()


def _enqueue_beside_a_twin() -> list[Answer]:
    """Two clients that were given the same lane: the server had lost its counter, and its clock stood still."""
    server = MemoryServer(lambda: 1.0)
    first, second = Lanes(SCRIPTS, KEYS, 'first'), Lanes(SCRIPTS, KEYS, 'second')
    answers = []
    for task_id, lanes in (('a', first), ('b', first), ('c', second), ('d', first), ('e', second)):
        if task_id == 'c':
            server.call(Call('DEL', (KEYS['epoch'],)))
        item = enqueue_item(task_id, b'data', 300, None, None, b'')
        answers += blocking_drive(lanes.call('enqueue', ENQUEUE.arguments([item]), ENQUEUE.parse), server.execute)
    return answers


def test_a_lane_number_given_twice_is_no_matter() -> None:
    assert _enqueue_beside_a_twin() == [Outcome.NEW] * 5


def test_a_lane_number_given_twice_matters_if_the_nonce_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    lane_record = Run.lane_record

    def mutant(self: Run) -> Record | None:
        record = lane_record(self)
        return record and record._replace(nonce=self.args[1])

    monkeypatch.setattr(Run, 'lane_record', mutant)
    with pytest.raises(TorrelqueError, match='LATE'):
        _enqueue_beside_a_twin()
