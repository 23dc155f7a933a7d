"""Primaries die and slots move under load, in short; ``python -m tests.chaos.failovers`` goes on for longer."""

from __future__ import annotations

import time
from collections import Counter

import anyio
import pytest

from tests import servers
from tests.chaos.failovers import SCENARIOS
from tests.chaos.findings import RESUMED_IN, Findings, Pause, longest_gap, table
from torrelque import Task
from torrelque.core.models import Receipt

EVENTS = {
    'kills': {'primaries killed': 1},
    'slots': {'slots moved': 2},
    'shards': {'slots moved': 1, 'primaries killed': 1},
    'sentinel': {'primaries killed': 1},
}
"""What is done at least, and so in no time."""


@pytest.mark.server
@pytest.mark.timeout(240)
@pytest.mark.parametrize('name', SCENARIOS)
def test_nothing_confirmed_is_lost(name: str) -> None:
    try:
        findings = anyio.run(SCENARIOS[name], 'valkey-9.1', 0.0, 1)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    print(findings)
    assert findings.violations == []
    assert {event: findings.figures[event] for event in EVENTS[name]} == EVENTS[name]
    assert len(findings.pauses) == sum(EVENTS[name].values())
    assert findings.confirmed
    assert findings.acknowledged - findings.confirmed
    assert findings.ended


# The driver itself ---------------------------------------------------------------------------------------------------


def task(number: int = 1, lease: float = 5.0) -> Task:
    return Task(Receipt('a', 'token', number), None, 0.0, time.monotonic() + lease)


def good(*, may_lose: bool = True) -> Findings:
    return Findings(
        may_lose, begun={'a': 0.0, 'b': 0.0}, confirmed={'a'}, acknowledged={'a', 'b'}, handled=Counter('a')
    )


def test_what_is_lost_is_told() -> None:
    assert good().violations == []
    assert good().unconfirmed_lost == 1
    assert good(may_lose=False).violations == ['b: acknowledged, and lost']
    findings = good()
    findings.handled['c'] += 1
    findings.confirmed.add('b')
    findings.audited.append('found')
    findings.pauses.append(Pause('slot', 0.1, 0.2, RESUMED_IN + 1))
    assert findings.violations == ['b: confirmed, and lost', 'c: handled, but never enqueued', 'found']
    assert findings.exceeded == ['slot: work resumed only after 3.00 s']


def test_two_claims_at_once_need_a_fail_over_between_them() -> None:
    findings = good()
    findings.begin_failover().ended = time.monotonic() - 10
    findings.begin_failover(lambda task_id: task_id == 'b')
    first = findings.deliver(task(1))
    findings.deliver(task(2))
    findings.settle(first, 'gone')
    assert ['another had it' in each for each in findings.wrong] == [True, False]
    assert 'lost before it expired' in findings.wrong[1]
    excused = good()
    first = excused.deliver(task(1))
    excused.begin_failover()
    excused.deliver(task(2))
    excused.settle(first, 'gone')
    assert excused.violations == []
    assert sum(excused.figures.values()) == 2
    expired = good(may_lose=False)
    expired.acknowledged.discard('b')
    first = expired.deliver(task(1, lease=-1))
    expired.deliver(task(2))
    expired.settle(first, 'gone')
    assert expired.violations == []


@pytest.mark.parametrize(
    ('outcome', 'may_lose', 'told'),
    [('confirmed', True, 1), ('acknowledged', True, 0), ('acknowledged', False, 1), ('unknown', False, 0)],
)
def test_a_delivery_after_a_release(outcome: str, told: int, *, may_lose: bool) -> None:
    findings = good(may_lose=may_lose)
    findings.settle(findings.deliver(task(1)), outcome)  # type: ignore[arg-type]  # of the parameters
    findings.deliver(task(2))
    assert len(findings.wrong) == told


def test_a_delivery_before_its_time_is_told() -> None:
    findings = good()
    findings.begun['a'] = time.monotonic() + 1
    findings.deliver(task())
    assert 'before it was due' in findings.wrong[0]


def test_the_longest_gap_is_of_the_event() -> None:
    moments = [0.0, 5.0, 5.1, 5.4, 5.5, 9.0]
    assert longest_gap(moments, 5.05, 5.45) == pytest.approx(0.3)
    assert longest_gap(moments, 6.0, 8.0) == pytest.approx(3.5)
    assert longest_gap([], 0.0, 1.0) == 0.0


def test_the_table_has_a_column_for_each() -> None:
    first, second = good(), good()
    first.errors['enqueue: Error'] += 2
    second.figures['slots moved'] += 3
    lines = table({'one': first, 'two': second}).splitlines()
    assert lines[0].split() == ['one', 'two']
    assert lines[-1].split() == ['error:', 'enqueue:', 'Error', '2', '-']
    assert any(line.split() == ['slots', 'moved', '-', '3'] for line in lines)
