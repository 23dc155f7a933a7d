"""The benchmarks still run, on little: what they measure here says nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks import measure, profiling, publishing, report
from benchmarks.metering import ServerInfo
from benchmarks.plan import DEPTH_ROWS, TABLE_ROWS, VARIANTS, steps
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
@pytest.mark.parametrize(
    ('system', 'client', 'row', 'kept'),
    [('sync', 'redis_py', 'enqueue-single', 'pending'), ('keeping', 'native', 'lifecycle-100', 'finished')],
)
def test_other_uses_of_the_library_are_measured(
    system: str, client: str, row: str, kept: str, valkey: servers.Server
) -> None:
    result = measure.run(system, client, 'uvloop', row, valkey.url, SETTINGS)

    assert result['tasks'] > 0
    states = int(valkey.command('DBSIZE'))
    pending = int(valkey.command('LLEN', 'trq:pending'))
    assert states >= result['tasks']
    assert pending >= result['tasks'] if kept == 'pending' else pending == 0


@pytest.mark.server
@pytest.mark.parametrize(('system', 'client', 'key'), [('current', 'native', 'trq'), ('raw', 'streams', 'raw')])
def test_depth_is_measured_beside_that_many_tasks(system: str, client: str, key: str, valkey: servers.Server) -> None:
    result = measure.run(system, client, 'uvloop', 'depth-delayed', valkey.url, SETTINGS)

    assert [point['depth'] for point in result['points']] == [1000]
    assert int(valkey.command('ZCARD', f'{key}:delayed')) == 1000


@pytest.mark.server
@pytest.mark.parametrize('loop', ['asyncio', 'trio'])
def test_raw_commands_do_the_work_and_leave_nothing(loop: str, valkey: servers.Server) -> None:
    result = measure.run('raw', 'streams', loop, 'hand-off', valkey.url, SETTINGS)

    assert len(result['latencies_ms']) == 18, 'all but those that warm up'
    assert int(valkey.command('DBSIZE')) == 0

    for row in ('lifecycle-single', 'lifecycle-lone', 'lifecycle-100', 'work-off'):
        assert measure.run('raw', 'streams', loop, row, valkey.url, SETTINGS)['tasks'] > 0
        assert int(valkey.command('DBSIZE')) == 0


def test_depth_is_reported_beside_raw_commands_at_the_same_depth() -> None:
    def entry(system: str, client: str, *costs: float) -> dict[str, Any]:
        points = [{'depth': 1000 ** (n + 1), 'server_us': cost, 'rate': 9.0} for n, cost in enumerate(costs)]
        return {
            'round': 0,
            'row': 'depth-pending',
            'system': system,
            'client': client,
            'loop': 'uvloop',
            'points': points,
        }

    text = report.tables({'measured': [entry('current', 'native', 20.0, 40.0), entry('raw', 'streams', 10.0, 25.0)]})

    assert '| 1,000 | 20 | 10 | 2.00 x | 9 |' in text
    assert '| 1,000,000 | 40 | 25 | 1.60 x | 9 |' in text


@pytest.mark.server
def test_profile_tells_the_cost_of_each_script(valkey: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, 'TASKS', 500)

    lines = profiling.tables().splitlines()

    for script in ('enqueue', 'claim', 'release'):
        single, bulk = (
            [float(cell) for cell in line.split('|')[3:-1]] for line in lines if line.startswith(f'| {script} | ')
        )
        # The first to enqueue is taken for a lone caller: once it is a call ahead of the others, on a lane of its own.
        most = 12 if script == 'enqueue' else 10
        assert round(500 / single[0]) <= most, 'single calls of one tick are one call of the script'
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

    assert '| Torrelque | native | uvloop | 1,800 (600 - 3,000) | 1 (1 - 1) | 1 (1 - 1) | 3.00 x | 1.00 x |  |' in text
    assert '| Torrelque 0.9 | rate, enqueue, single calls | 1,800 | 600 | 3.00 x | at least 10 x | no |' in text


def test_both_sides_of_each_goal_are_measured() -> None:
    for goal in report.GOALS:
        measured: report.Groups = {
            report.Subject(variant.system, variant.client, variant.loop, variant.server): [{'row': goal.row}]
            for variant in VARIANTS
            if goal.row in variant.rows
        }
        assert goal.subject in measured
        assert report.reference_of(goal.reference, goal.subject, measured), goal


def test_a_goal_is_reached_if_the_ratio_shown_reaches_it() -> None:
    names = {'round': 0, 'row': 'memory', 'loop': 'uvloop'}
    ours = {**names, 'system': 'current', 'client': 'native', 'bytes': 310.2}
    theirs = {**names, 'system': 'published', 'client': 'redis_py', 'bytes': 309.0}

    text = report.tables({'measured': [ours, theirs]})
    assert '| 310 | 309 | 1.00 x | at most 1 x | yes |' in text
    assert '1.01 x | at most 1 x | no |' in report.tables({'measured': [{**ours, 'bytes': 312.0}, theirs]})


def test_a_client_is_beside_itself_as_it_was() -> None:
    def entry(system: str, client: str, cost: float) -> dict[str, Any]:
        names = {'round': 0, 'row': 'enqueue-100', 'system': system, 'client': client, 'loop': 'uvloop'}
        return {**names, 'rate': 1000 / cost, 'client_us': cost, 'server_us': 1.0}

    costs = [
        ('current', 'native', 3.0),
        ('current', 'coredis', 6.0),
        ('before', 'native', 10.0),
        ('before', 'coredis', 24.0),
    ]
    text = report.tables({'measured': [entry(*cost) for cost in costs]})

    assert (
        f'| {report.NAMES["before"]} | client CPU, enqueue, 100 a call | 3 | 10 | 0.30 x | at most 0.35 x | yes |'
        in text
    )
    assert '| rate, enqueue, 100 a call, coredis | 167 | 41.7 | 4.00 x | at least 2 x | yes |' in text


def test_a_hand_off_is_beside_raw_commands_on_the_same_loop_and_server() -> None:
    def entry(system: str, client: str, loop: str, server: str, late: float) -> dict[str, Any]:
        names = {'system': system, 'client': client, 'loop': loop, 'server': server}
        return {'round': 0, 'row': 'hand-off', **names, 'latencies_ms': [late] * 101}

    measured = [
        entry('current', 'native', 'trio', 'valkey-9.1', 0.8),
        entry('raw', 'streams', 'trio', 'valkey-9.1', 0.4),
        entry('raw', 'streams', 'uvloop', 'valkey-9.1', 0.1),
        entry('current', 'native', 'uvloop', 'redis-7.0', 0.9),
        entry('raw', 'streams', 'uvloop', 'redis-7.0', 0.2),
    ]
    text = report.tables({'measured': measured})

    assert 'p50, x raw pipelined |' in text
    assert '| Torrelque | native | trio | 0.8 | 0.8 |  | 2.00 x |' in text
    assert '| Torrelque | native | uvloop | 0.9 | 0.9 |  | 4.50 x |' in text.partition(', on redis-7.0')[2]


def test_a_tiny_ratio_can_be_read() -> None:
    def entry(system: str, client: str, late: float) -> dict[str, Any]:
        names = {'system': system, 'client': client, 'loop': 'uvloop'}
        return {'round': 0, 'row': 'delayed', **names, 'early': 0, 'latencies_ms': [late] * 101}

    text = report.tables({'measured': [entry('current', 'native', 2.0), entry('published', 'redis_py', 28_000.0)]})

    assert '| 1/14,000 |' in text


@pytest.mark.server
def test_results_name_the_build_of_the_server(valkey: servers.Server) -> None:
    with ServerInfo(valkey.url) as info:
        assert re.fullmatch(r'Valkey 9\.1\.\d+, allocator \S+, gcc \S+', info.build())


def test_the_readme_has_the_figures_of_each_queue_with_their_conditions() -> None:
    def entry(system: str, client: str, row: str, loop: str = 'uvloop', **values: object) -> dict[str, Any]:
        return {'round': 0, 'row': row, 'system': system, 'client': client, 'loop': loop, **values}

    text = report.beside_peers(
        {
            'date': '2026-11-26',
            'versions': {'saq saq': '0.26.4', 'saq redis': '7.4.1'},
            'measured': [
                entry('current', 'native', 'enqueue-single', rate=38_920.0),
                entry('current', 'native', 'hand-off', latencies_ms=[1.0, 1.0, 1.5]),
                entry('saq', 'redis_py', 'enqueue-single', rate=11_258.0),
                entry('current', 'coredis', 'enqueue-single', rate=1.0),  # not in the README
            ],
        }
    )
    assert '| Torrelque, native | 38,920 |  | 1 | 1.5 |' in text
    assert '| SAQ 0.26.4 | 11,258 |  |  |  |' in text
    assert 'coredis' not in text
    assert '2026-11-26, medians of 1 rounds' in text

    readme = publishing.README.read_text()
    table = readme.partition(publishing.BEGIN)[2].partition(publishing.END)[0]
    assert table.splitlines()[0] == text.splitlines()[0], 'make bench finds the place where it writes'
