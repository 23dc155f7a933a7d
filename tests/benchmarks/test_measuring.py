"""The benchmarks still run, on little: what they measure here says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import measure, profiling, report
from benchmarks.plan import DEPTH_ROWS, TABLE_ROWS, steps
from benchmarks.systems import PAYLOAD_BYTES, make_payload
from tests import servers

SETTINGS = {
    'seconds': 0.1,
    'warm_up': 0.1,
    'idle': 0.1,
    'rest': 0.1,
    'backlog': 700,
    'handoffs': 20,
    'delayed': 10,
    'delay_span': 0.2,
    'stored': 500,
    'deepest': 1000,
}


@pytest.fixture
def valkey() -> servers.Server:
    try:
        server = servers.shared('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    server.flush()
    return server


@pytest.mark.server
@pytest.mark.parametrize('row', ['enqueue-single', 'lifecycle-100', 'work-off', 'delayed'])
def test_a_row_is_measured_and_reported(row: str, valkey: servers.Server) -> None:
    loop = 'trio' if row == 'work-off' else 'uvloop'
    result = measure.run('current', 'native', loop, row, valkey.url, SETTINGS)

    assert result['tasks'] >= 10
    assert result['rate'] > 0
    assert result.get('early', 0) == 0
    entry = {'round': 0, 'row': row, 'system': 'current', 'client': 'native', 'loop': loop, **result}
    (line,) = [line for line in report.tables({'measured': [entry]}).splitlines() if 'Torrelque' in line]
    assert line.startswith(f'| Torrelque | native | {loop} |')


@pytest.mark.server
def test_depth_is_reported_by_point(valkey: servers.Server) -> None:
    result = measure.run('current', 'native', 'asyncio', 'depth-delayed', valkey.url, SETTINGS)

    entry = {'round': 0, 'row': 'depth-delayed', 'system': 'current', 'client': 'native', 'loop': 'asyncio', **result}
    assert '| 1,000 | ' in report.tables({'measured': [entry]})
    assert int(valkey.command('ZCARD', 'trq:delayed')) == 1000


@pytest.mark.server
def test_profile_tells_the_cost_of_each_script(valkey: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, 'TASKS', 500)

    lines = profiling.tables().splitlines()

    for script in ('enqueue', 'claim', 'release'):
        single, bulk = (
            [float(cell) for cell in line.split('|')[3:-1]] for line in lines if line.startswith(f'| {script} | ')
        )
        assert single[0] == 50.0, 'single calls of one tick are one call of the script'
        assert bulk[0] >= 100.0
        assert single[2] > single[3] > 0, 'a script takes longer than its commands'
    assert any(line.startswith('| together | ') for line in lines)  # which layers were met is a matter of chance


def test_payloads_are_of_one_size() -> None:
    assert {len(json.dumps(make_payload(number))) for number in (0, 7, 12_345)} == {PAYLOAD_BYTES}


def test_each_round_does_all_rows_in_another_order() -> None:
    def order(number: int) -> list[str]:
        return [str(step.variant) for step in plan if step.round == number and step.row == 'enqueue-single']

    plan = list(steps(2, quick=False, rows=[], systems=[]))

    assert {step.row for step in plan} == {*TABLE_ROWS, *DEPTH_ROWS}
    assert order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1))


def test_a_ratio_is_that_of_the_same_round() -> None:
    def entry(number: int, system: str, client: str, rate: float) -> dict[str, Any]:
        cost = {'rate': rate, 'client_us': 1.0, 'server_us': 1.0}
        return {'round': number, 'row': 'enqueue-single', 'system': system, 'client': client, 'loop': 'uvloop', **cost}

    measured = [
        entry(0, 'current', 'native', 600.0),
        entry(0, 'published', 'redis_py', 200.0),  # a slow round for both
        entry(1, 'current', 'native', 3000.0),
        entry(1, 'published', 'redis_py', 1000.0),
        {
            'round': 1,
            'row': 'enqueue-single',
            'system': 'current',
            'client': 'native',
            'loop': 'uvloop',
            'error': 'no server',
        },
    ]
    text = report.tables({'measured': measured})

    assert '| Torrelque | native | uvloop | 1,800 (600 - 3,000) | 1 (1 - 1) | 1 (1 - 1) | 3.00 x | 1.00 x |' in text
