"""Makes tables of results: medians, the least and the greatest, and ratios within the same round.

Ratios are taken to 0.9 and to raw commands: the same work without the library, on the same server (see
`systems.use_raw`), and for a hand-off on the same event loop, pipelined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, TypeAlias

from benchmarks.environments import BEFORE
from benchmarks.plan import DEPTH_ROWS, DISTRIBUTION, PIP, RAW_ROWS, TABLE_ROWS

Entry: TypeAlias = dict[str, Any]
Results: TypeAlias = Mapping[str, Any]
Value: TypeAlias = Callable[[Entry], float]


class Subject(NamedTuple):
    """What was measured."""

    system: str
    client: str
    loop: str
    server: str = PIP


Groups: TypeAlias = Mapping[Subject, list[Entry]]

NAMES = {
    'current': 'Torrelque',
    'published': 'Torrelque 0.9',
    'raw': 'raw commands',
    'sync': 'torrelque.sync',
    'before': f'Torrelque at {BEFORE}',
    'keeping': 'Torrelque, `finished_ttl=60`',
    'redis_py': 'redis-py',
    'streaq': 'streaQ',
    'saq': 'SAQ',
    'dramatiq': 'Dramatiq',
    'bullmq': 'BullMQ',
}
ORDER = ('current', 'keeping', 'sync', 'before', 'published', 'raw')
TITLES = {
    'floor': 'Floor: EVALSHA of a script that does nothing, 50 callers',
    'enqueue-single': 'Enqueue, single calls by 50 callers (or threads)',
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

AGAINST_OLD: tuple[tuple[str, Value], ...] = (
    ('tasks/s', rate),
    ('client CPU', client_us),
    ('p50', p50),
    ('bytes a task', held),
)
AGAINST_RAW: tuple[tuple[str, Value], ...] = (('server CPU', server_us), ('p50', p50))
"""Which columns are compared with 0.9, and which with raw commands."""


class Goal(NamedTuple):
    """A ratio to reach: at most so much, or at least."""

    row: str
    title: str
    value: Value
    subject: Subject
    reference: str
    limit: float
    at_least: bool = False


UVLOOP = Subject('current', 'native', 'uvloop')
REDIS_PY = Subject('current', 'redis_py', 'uvloop')
COREDIS = Subject('current', 'coredis', 'uvloop')


ROW_NAMES = {
    'enqueue-single': 'enqueue, single calls',
    'enqueue-100': 'enqueue, 100 a call',
    'work-off': 'work off',
    'lifecycle-single': 'lifecycle, single calls',
    'lifecycle-lone': 'lifecycle, single calls by one caller',
    'lifecycle-100': 'lifecycle, 100 a call',
    'hand-off': 'hand-off',
}
CLIENT_CPU = {
    'enqueue-single': 0.5,
    'enqueue-100': 0.35,
    'work-off': 0.6,
    'lifecycle-single': 0.6,
    'lifecycle-100': 0.45,
}
"""The goals for the client's CPU, as ratios to what it took before."""

GOALS = (
    Goal('hand-off', 'hand-off p50', p50, UVLOOP, 'published', 0.55),
    Goal('hand-off', 'hand-off p99', p99, UVLOOP, 'published', 1.0),
    Goal('hand-off', 'hand-off p50', p50, UVLOOP, 'raw', 2.7),
    Goal('hand-off', 'hand-off p50, asyncio', p50, UVLOOP._replace(loop='asyncio'), 'raw', 2.0),
    Goal('hand-off', 'hand-off p50, Trio', p50, UVLOOP._replace(loop='trio'), 'raw', 3.0),
    Goal('hand-off', 'hand-off p50, redis-py', p50, REDIS_PY, 'raw', 2.7),
    Goal('hand-off', 'hand-off p50, redis-py, asyncio', p50, REDIS_PY._replace(loop='asyncio'), 'raw', 2.0),
    Goal('lifecycle-100', 'server CPU, lifecycle, 100 a call', server_us, UVLOOP, 'raw', 1.45),
    Goal('lifecycle-single', 'server CPU, lifecycle, single calls by 50 callers', server_us, UVLOOP, 'raw', 1.6),
    Goal('lifecycle-lone', 'server CPU, lifecycle, single calls by one caller', server_us, UVLOOP, 'raw', 4.2),
    Goal('enqueue-single', 'rate, enqueue, single calls', rate, UVLOOP, 'published', 10, at_least=True),
    Goal('enqueue-100', 'rate, enqueue, 100 a call', rate, UVLOOP, 'published', 12, at_least=True),
    Goal('lifecycle-single', 'rate, lifecycle, single calls', rate, UVLOOP, 'published', 7, at_least=True),
    Goal('lifecycle-100', 'rate, lifecycle, 100 a call', rate, UVLOOP, 'published', 6, at_least=True),
    Goal('work-off', 'rate, work off', rate, UVLOOP, 'published', 7, at_least=True),
    Goal('memory', 'server memory, pending task', held, UVLOOP, 'published', 1.0),
    *(Goal(row, f'client CPU, {ROW_NAMES[row]}', client_us, UVLOOP, 'before', x) for row, x in CLIENT_CPU.items()),
    Goal('hand-off', 'hand-off p50, coredis', p50, COREDIS, 'before', 0.55),
    *(Goal(row, f'rate, {ROW_NAMES[row]}, coredis', rate, COREDIS, 'before', 2, at_least=True) for row in CLIENT_CPU),
    *(
        Goal(row, f'client CPU, {name}, redis-py', client_us, REDIS_PY, 'native', 1.15)
        for row, name in ROW_NAMES.items()
    ),
    Goal('hand-off', 'hand-off p50', p50, UVLOOP, 'bullmq', 1.0),
    Goal('hand-off', 'hand-off p99', p99, UVLOOP, 'bullmq', 1.0),
    Goal('enqueue-single', 'rate, enqueue, single calls', rate, UVLOOP, 'bullmq', 1, at_least=True),
    Goal('work-off', 'rate, work off', rate, UVLOOP, 'bullmq', 1, at_least=True),
)
"""What is to be reached, as a ratio to 0.9, to raw commands, to the same client before the work on its speed, or to the
native client, on the same event loop, or to BullMQ."""

REFERENCES = {
    'published': Subject('published', 'redis_py', 'uvloop'),
    'raw': Subject('raw', 'streams', 'uvloop'),
    'native': UVLOOP,
    'before': Subject('before', 'native', 'uvloop'),
    'bullmq': Subject('bullmq', 'ioredis', 'node'),
}

EXPECTED: tuple[tuple[str, str, Value], ...] = (
    ('enqueue-single', 'enqueue, single calls, tasks/s', rate),
    ('enqueue-100', 'enqueue, 100 tasks a call, tasks/s', rate),
    ('work-off', 'work off a backlog, with acknowledgement, tasks/s', rate),
    ('lifecycle-single', 'enqueue, dequeue and release, single calls, tasks/s', rate),
    ('lifecycle-100', 'the same, 100 tasks a call, tasks/s', rate),
    ('hand-off', 'idle worker, from the enqueue call to the handler, p50, ms', p50),
    ('hand-off', 'the same, p99, ms', p99),
    ('delayed', 'delayed task, start after due, p99, ms', p99),
    ('memory', 'server memory for a pending task, bytes', held),
)


PEERS = (
    REDIS_PY,
    UVLOOP,
    REFERENCES['bullmq'],
    Subject('saq', 'redis_py', 'uvloop'),
    Subject('streaq', 'coredis', 'uvloop'),
    Subject('arq', 'redis_py', 'uvloop'),
    Subject('taskiq', 'redis_py', 'uvloop'),
    Subject('dramatiq', 'redis_py', 'asyncio'),
    REFERENCES['published'],
)
BESIDE_PEERS: tuple[tuple[str, str, Value], ...] = (
    ('enqueue-single', 'enqueue, tasks/s', rate),
    ('work-off', 'work off, tasks/s', rate),
    ('hand-off', 'hand-off p50, ms', p50),
    ('hand-off', 'hand-off p99, ms', p99),
)


def grouped(results: Results, row: str) -> dict[Subject, list[Entry]]:
    """What was measured of a row, this project first; failures are left out."""
    groups: dict[Subject, list[Entry]] = {}
    for entry in results['measured']:
        if entry['row'] == row and 'error' not in entry:
            subject = Subject(entry['system'], entry['client'], entry['loop'], entry.get('server', PIP))
            groups.setdefault(subject, []).append(entry)
    return dict(sorted(groups.items(), key=lambda item: _rank(item[0])))


def named(subject: Subject) -> tuple[str, str, str]:
    """Return the names of the system, its client and its event loop for readers."""
    return NAMES.get(subject.system, subject.system), NAMES.get(subject.client, subject.client), subject.loop


def expectations(results: Results) -> str:
    """The figures that users may expect, as Markdown."""
    subjects = {
        'native client': UVLOOP,
        'redis-py': REDIS_PY,
        'coredis': COREDIS,
        'Torrelque 0.9': REFERENCES['published'],
    }
    lines = [f'| | {" | ".join(subjects)} |', '|---|' + '--:|' * len(subjects)]
    for row, title, value in EXPECTED:
        groups = grouped(results, row)
        cells = [_middle(groups.get(subject, []), value) for subject in subjects.values()]
        lines.append(f'| {title} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def beside_peers(results: Results) -> str:
    """The same few figures of each queue, and the conditions, as Markdown for the README."""
    lines = [f'| | {" | ".join(title for _, title, _ in BESIDE_PEERS)} |', '|---|' + '--:|' * len(BESIDE_PEERS)]
    for subject in PEERS:
        found = [(grouped(results, row).get(subject, []), value) for row, _, value in BESIDE_PEERS]
        if not any(entries for entries, _ in found):
            continue
        system, client, _ = named(subject)
        version = results['versions'].get(f'{subject.system} {subject.system}', '')
        name = f'{system}, {client}' if subject.system == 'current' else f'{system} {version}'.strip()
        lines.append(f'| {name} | {" | ".join(_middle(entries, value) for entries, value in found)} |')
    rounds = 1 + max(entry['round'] for entry in results['measured'])
    conditions = f'{results["date"]}, medians of {rounds} rounds, in turns: one process on uvloop (BullMQ: Node,'
    lines += [
        '',
        conditions,
        'Dramatiq: threads), 50 callers, 50 handlers that do nothing, and Valkey 9.1 on the same two cores.',
    ]
    return '\n'.join(lines) + '\n'


def tables(results: Results) -> str:
    """All that was measured, as Markdown: where it was, what was to be reached, each row."""
    parts = [_circumstances(results), _goals(results)]
    parts += [_table(row, results, PIP) for row in TABLE_ROWS]
    parts += [_depth(row, results) for row in DEPTH_ROWS]
    parts += [_table(row, results, DISTRIBUTION) for row in RAW_ROWS]
    parts.append(_failures(results))
    return '\n\n'.join(filter(None, parts)) + '\n'


def _circumstances(results: Results) -> str:
    if 'versions' not in results:
        return ''
    used: dict[str, list[str]] = {}
    for name, version in sorted(results['versions'].items()):
        system, package = name.split()
        used.setdefault(NAMES.get(system) or system, []).append(f'{package} {version}')
    rounds = 1 + max((entry['round'] for entry in results['measured']), default=0)
    text = f'{results["machine"]}, Python {results["python"]}, {results["date"]}, revision {results["revision"]}, '
    text += f'rounds: {rounds}.'
    if loads := [entry['load'] for entry in results['measured'] if 'load' in entry]:
        text += f' Load average before a measurement: {_spread(loads)}.'
        if median(loads) > results['cores']:
            text += ' The machine was busy with other things: compare ratios and CPU, which depend little on that.'
    lines = [f'- server {name}: {build}' for name, build in results['builds'].items()]
    lines += [f'- {system}: {", ".join(packages)}' for system, packages in used.items()]
    return '\n'.join((text, '', *lines))


def _goals(results: Results) -> str:
    lines = []
    for goal in GOALS:
        groups = grouped(results, goal.row)
        ours, theirs = groups.get(goal.subject), reference_of(goal.reference, goal.subject, groups)
        if not ours or not theirs:
            continue
        reached = round(ratio(ours, theirs, goal.value), 2)  # as shown: a byte of 310 is the chance of hash tables
        good = reached >= goal.limit if goal.at_least else reached <= goal.limit
        cells = [goal.title, _middle(ours, goal.value), _middle(theirs, goal.value), _as_ratio(reached)]
        cells += [f'{"at least" if goal.at_least else "at most"} {goal.limit:g} x', 'yes' if good else 'no']
        lines.append(f'| {NAMES.get(goal.reference, "native client")} | {" | ".join(cells)} |')
    if not lines:
        return ''
    heads = ('beside', '', 'Torrelque', 'beside it', 'ratio', 'goal', 'reached')
    return f'### Goals\n\n| {" | ".join(heads)} |\n|---|---|--:|--:|--:|--:|---|\n' + '\n'.join(lines)


def _table(row: str, results: Results, server: str) -> str:
    groups = {subject: entries for subject, entries in grouped(results, row).items() if subject.server == server}
    if not groups:
        return ''
    columns = COLUMNS.get(row, THROUGHPUT)
    shown = {value for _, value in columns}
    ratios = [(f'{name}, x 0.9', value, 'published') for name, value in AGAINST_OLD if value in shown]
    if row in RAW_ROWS:
        pipelined = ' pipelined' if row == 'hand-off' else ''
        ratios += [(f'{name}, x raw{pipelined}', value, 'raw') for name, value in AGAINST_RAW if value in shown]
    names = [name for name, _ in columns] + [name for name, _, _ in ratios]
    on = '' if server == PIP else f', on {server}'
    lines = [
        f'### {TITLES[row]}{on}',
        '',
        f'| | client | loop | {" | ".join(names)} |',
        '|---|---|---|' + '--:|' * len(names),
    ]
    for subject, entries in groups.items():
        cells = [*named(subject), *(_spread([value(entry) for entry in entries]) for _, value in columns)]
        for _, value, reference in ratios:
            other = reference_of(reference, subject, groups)
            cells.append(_as_ratio(ratio(entries, other, value)) if other else '')
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _depth(row: str, results: Results) -> str:
    """Server CPU by depth, beside that of raw commands at the same depth: no code can help the processor's caches."""
    groups = grouped(results, row)
    ours, raw = (_by_depth(groups.get(subject, [])) for subject in (UVLOOP, REFERENCES['raw']))
    if not ours:
        return ''
    lines = [
        f'### {TITLES[row]}',
        '',
        '| tasks | server CPU, µs | raw commands, µs | x raw | lifecycles/s |',
        '|--:|--:|--:|--:|--:|',
    ]
    for depth, found in sorted(ours.items()):
        beside = raw.get(depth, [])
        cells = [
            _spread([value(point) for point in points]) if points else ''
            for value, points in ((server_us, found), (server_us, beside))
        ]
        cells.append(_as_ratio(ratio(found, beside, server_us)) if beside else '')
        lines.append(f'| {depth:,} | {" | ".join(cells)} | {_spread([rate(point) for point in found])} |')
    return '\n'.join(lines)


def _by_depth(entries: list[Entry]) -> dict[int, list[Entry]]:
    points: dict[int, list[Entry]] = {}
    for entry in entries:
        for point in entry['points']:
            points.setdefault(point['depth'], []).append({**point, 'round': entry['round']})
    return points


def _failures(results: Results) -> str:
    failed = [entry for entry in results['measured'] if 'error' in entry]
    if not failed:
        return ''
    lines = [f'- round {entry["round"]}, {entry["row"]}, {entry["system"]} ({entry["loop"]})' for entry in failed]
    return '### What failed, and counts nowhere\n\n' + '\n'.join(lines)


def _rank(subject: Subject) -> tuple[int, Subject]:
    return ORDER.index(subject.system) if subject.system in ORDER else len(ORDER), subject


def reference_of(name: str, subject: Subject, groups: Groups) -> list[Entry]:
    """What a subject is compared with: 0.9 on uvloop; anything else on its own event loop, if it was measured there.

    It is compared with the library as it was before on its own client, too.
    """
    reference = REFERENCES[name]._replace(server=subject.server)
    if name == 'before':
        reference = reference._replace(client=subject.client)
    if name != 'published' and (same := groups.get(reference._replace(loop=subject.loop))):
        return same
    return groups.get(reference, [])


def ratio(entries: list[Entry], reference: list[Entry], value: Value) -> float:
    """The median of each round's ratio; where the reference was measured in one round only, that one counts for all."""
    by_round = {entry['round']: value(entry) for entry in reference}
    other = median(by_round.values())
    return median(value(entry) / by_round.get(entry['round'], other) for entry in entries)


def _as_ratio(value: float) -> str:
    """A ratio that can be read: not 9e-05 x, but 1/11,000."""
    return f'{value:.2f} x' if value >= 0.1 else f'1/{1 / value:,.0f}'


def _middle(entries: list[Entry], value: Value) -> str:
    return _text(median(value(entry) for entry in entries)) if entries else ''


def _spread(values: list[float]) -> str:
    middle = _text(median(values))
    return middle if len(values) == 1 else f'{middle} ({_text(min(values))} - {_text(max(values))})'


def _text(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 or value == int(value) else f'{value:.3g}'
