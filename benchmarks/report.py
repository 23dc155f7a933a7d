"""Makes tables of results: medians, the least and the greatest, ratios against 0.9 in the same round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

from benchmarks.plan import DEPTH_ROWS, REFERENCE, TABLE_ROWS

Entry: TypeAlias = dict[str, Any]
Results: TypeAlias = Mapping[str, Any]
Value: TypeAlias = Callable[[Entry], float]
Subject: TypeAlias = tuple[str, str, str]
"""System, client, event loop."""

NAMES = {
    'current': 'Torrelque',
    'published': 'Torrelque 0.9',
    'redis_py': 'redis-py',
    'streaq': 'streaQ',
    'saq': 'SAQ',
    'dramatiq': 'Dramatiq',
    'bullmq': 'BullMQ',
}
ORDER = ('current', 'published')
TITLES = {
    'floor': 'Floor: EVALSHA of a script that does nothing, 50 callers',
    'enqueue-single': 'Enqueue, single calls by 50 callers',
    'enqueue-100': 'Enqueue, 100 a call, by 10 callers',
    'work-off': 'Work off a backlog, with acknowledgement, 50 at a time',
    'lifecycle-single': 'Enqueue, dequeue, release by 50 tasks, single calls',
    'lifecycle-lone': 'Enqueue, dequeue, release, single calls by one task',
    'lifecycle-100': 'Enqueue, dequeue, release by 10 tasks, 100 a call',
    'hand-off': 'Idle worker: from the enqueue call to the start of the handler',
    'delayed': 'Delayed tasks: start of the handler after due',
    'memory': 'Server memory of a pending task',
    'depth-pending': 'Server CPU of a single lifecycle beside pending tasks',
    'depth-delayed': 'Server CPU of a single lifecycle beside delayed tasks',
}


def quantile(ordered: Sequence[float], part: float) -> float:
    """A value of an ascending sequence that the given part of it does not exceed."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def rate(entry: Entry) -> float:
    return float(entry['rate'])


def server_us(entry: Entry) -> float:
    return float(entry['server_us'])


def client_us(entry: Entry) -> float:
    return float(entry['client_us'])


def held(entry: Entry) -> float:
    return float(entry['bytes'])


def p50(entry: Entry) -> float:
    return quantile(entry['latencies_ms'], 0.5)


def p99(entry: Entry) -> float:
    return quantile(entry['latencies_ms'], 0.99)


COLUMNS: dict[str, tuple[tuple[str, Value], ...]] = {
    'hand-off': (('p50, ms', p50), ('p99, ms', p99)),
    'delayed': (('p50, ms', p50), ('p99, ms', p99), ('early', lambda entry: entry['early'])),
    'memory': (('bytes a task', held),),
}
THROUGHPUT: tuple[tuple[str, Value], ...] = (
    ('tasks/s', rate),
    ('client CPU, µs a task', client_us),
    ('server CPU, µs a task', server_us),
)

COMPARED = frozenset({rate, client_us, p50, held})

GOALS: tuple[tuple[str, str, Value, str], ...] = (
    ('enqueue-single', 'enqueue, single calls, tasks/s', rate, '6 x'),
    ('enqueue-100', 'enqueue, 100 a call, tasks/s', rate, '5 x'),
    ('work-off', 'work off, with acknowledgement, tasks/s', rate, '5 x'),
    ('lifecycle-single', 'enqueue, dequeue, release, single calls, tasks/s', rate, '5 x'),
    ('lifecycle-100', 'the same, 100 a call, tasks/s', rate, '6 x'),
    ('hand-off', 'idle worker: enqueue call to handler, p50, ms', p50, '0.6 x'),
    ('hand-off', 'the same, p99, ms', p99, 'no worse'),
    ('delayed', 'delayed task: start after due, p99, ms', p99, '5 ms'),
    ('memory', 'server memory a pending task, bytes', held, 'no more'),
    ('enqueue-single', 'client CPU an enqueueing, single calls, µs', client_us, ''),
    ('work-off', 'client CPU a task worked off, µs', client_us, ''),
    ('lifecycle-single', 'client CPU a lifecycle, single calls, µs', client_us, ''),
    ('lifecycle-single', 'server CPU a lifecycle, single calls, µs', server_us, '18 µs'),
    ('lifecycle-100', 'the same, 100 a call, µs', server_us, '13 µs'),
)
"""What is to be reached on the native transport and uvloop, as a ratio to 0.9 or as a value."""

FIRST: Subject = ('current', 'native', 'uvloop')
SECOND: Subject = (REFERENCE.system, REFERENCE.client, REFERENCE.loop)


def grouped(results: Results, row: str) -> dict[Subject, list[Entry]]:
    """What was measured of a row, this project first; failures are left out."""
    groups: dict[Subject, list[Entry]] = {}
    for entry in results['measured']:
        if entry['row'] == row and 'error' not in entry:
            groups.setdefault((entry['system'], entry['client'], entry['loop']), []).append(entry)
    return dict(sorted(groups.items(), key=lambda item: _rank(item[0])))


def named(subject: Subject) -> tuple[str, str, str]:
    system, client, loop = subject
    return NAMES.get(system, system), NAMES.get(client, client), loop


def tables(results: Results) -> str:
    """All that was measured, as Markdown: where it was, what was to be reached, each row."""
    parts = [_circumstances(results), _goals(results)]
    parts += [_table(row, results) for row in TABLE_ROWS]
    parts += [_depth(row, results) for row in DEPTH_ROWS]
    parts.append(_failures(results))
    return '\n\n'.join(filter(None, parts)) + '\n'


def _circumstances(results: Results) -> str:
    if 'versions' not in results:
        return ''
    used: dict[str, list[str]] = {}
    for name, version in sorted(results['versions'].items()):
        system, package = name.split()
        used.setdefault(NAMES.get(system) or system, []).append(f'{package} {version}')
    versions = '\n'.join(f'- {system}: {", ".join(packages)}' for system, packages in used.items())
    rounds = 1 + max((entry['round'] for entry in results['measured']), default=0)
    text = f'{results["cores"]} cores, Python {results["python"]}, rounds: {rounds}.'
    if loads := [entry['load'] for entry in results['measured'] if 'load' in entry]:
        text += f' Load average before a measurement: {_spread(loads)}.'
        if median(loads) > results['cores']:
            text += ' The machine was busy with other things: compare CPU, which depends little on that, not rates.'
    return f'{text}\n\n{versions}'


def _goals(results: Results) -> str:
    lines = []
    for row, title, value, goal in GOALS:
        groups = grouped(results, row)
        if FIRST not in groups or SECOND not in groups:
            continue
        ours, theirs = groups.pop(FIRST), groups.pop(SECOND)
        ratio = _ratio(ours, theirs, value)
        cells = [title, *(_text(median(value(entry) for entry in entries)) for entries in (theirs, ours)), ratio, goal]
        lines.append(f'| {" | ".join(cells)} |')
    if not lines:
        return ''
    head = '### Native transport on uvloop beside 0.9\n\n| | 0.9 | Torrelque | ratio | goal |\n|---|--:|--:|--:|--:|\n'
    return head + '\n'.join(lines)


def _table(row: str, results: Results) -> str:
    groups = grouped(results, row)
    if not groups:
        return ''
    columns = COLUMNS.get(row, THROUGHPUT)
    reference = groups.get(SECOND, [])
    compared = [column for column in columns if column[1] in COMPARED]
    names = [name for name, _ in columns] + [f'{name.partition(",")[0]} against 0.9' for name, _ in compared]
    lines = [
        f'### {TITLES[row]}',
        '',
        f'| | client | loop | {" | ".join(names)} |',
        '|---|---|---|' + '--:|' * len(names),
    ]
    for subject, entries in groups.items():
        cells = [*named(subject), *(_spread([value(entry) for entry in entries]) for _, value in columns)]
        cells += [_ratio(entries, reference, value) for _, value in compared]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _depth(row: str, results: Results) -> str:
    points: dict[int, list[Entry]] = {}
    for entries in grouped(results, row).values():
        for entry in entries:
            for point in entry['points']:
                points.setdefault(point['depth'], []).append(point)
    if not points:
        return ''
    least = median(server_us(point) for point in points[min(points)])
    lines = [
        f'### {TITLES[row]}',
        '',
        '| tasks | server CPU, µs | against the first | lifecycles/s |',
        '|--:|--:|--:|--:|',
    ]
    for depth, found in sorted(points.items()):
        cost = [server_us(point) for point in found]
        speed = _spread([rate(point) for point in found])
        lines.append(f'| {depth:,} | {_spread(cost)} | {median(cost) / least:.2f} x | {speed} |')
    return '\n'.join(lines)


def _failures(results: Results) -> str:
    failed = [entry for entry in results['measured'] if 'error' in entry]
    if not failed:
        return ''
    lines = [f'- round {entry["round"]}, {entry["row"]}, {entry["system"]} ({entry["loop"]})' for entry in failed]
    return '### What failed, and counts nowhere\n\n' + '\n'.join(lines)


def _rank(subject: Subject) -> tuple[int, Subject]:
    return ORDER.index(subject[0]) if subject[0] in ORDER else len(ORDER), subject


def _ratio(entries: list[Entry], reference: list[Entry], value: Value) -> str:
    """The median of each round's ratio; where 0.9 was measured in one round only, that one is taken for all."""
    by_round = {entry['round']: value(entry) for entry in reference}
    if not by_round:
        return ''
    other = median(by_round.values())
    ratio = median(value(entry) / by_round.get(entry['round'], other) for entry in entries)
    return f'{ratio:.2f} x' if ratio >= 0.01 else f'{ratio:.1g} x'


def _spread(values: list[float]) -> str:
    middle = _text(median(values))
    return middle if len(values) == 1 else f'{middle} ({_text(min(values))} - {_text(max(values))})'


def _text(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 or value == int(value) else f'{value:.3g}'
