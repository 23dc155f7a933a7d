"""Makes tables of results: medians, the least and the greatest, ratios against 0.9 in the same round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.plan import REFERENCE, TABLE_ROWS

Entry = dict[str, Any]
Results = dict[str, Any]

NAMES = {'current': 'Torrelque', 'published': 'Torrelque 0.9', 'redis_py': 'redis-py', 'native': 'native'}


def quantile(ordered: Sequence[float], part: float) -> float:
    """A value of an ascending sequence that the given part of it does not exceed."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _p50(entry: Entry) -> float:
    return quantile(entry['latencies_ms'], 0.5)


def _p99(entry: Entry) -> float:
    return quantile(entry['latencies_ms'], 0.99)


COLUMNS: dict[str, tuple[tuple[str, Callable[[Entry], float]], ...]] = {
    'handoff': (('p50, ms', _p50), ('p99, ms', _p99)),
    'delayed': (('p50, ms', _p50), ('p99, ms', _p99), ('early', lambda entry: entry['early'])),
    'memory': (('bytes a task', lambda entry: entry['bytes']),),
}
THROUGHPUT: tuple[tuple[str, Callable[[Entry], float]], ...] = (
    ('tasks/s', lambda entry: entry['rate']),
    ('client CPU, µs a task', lambda entry: entry['client_us']),
    ('server CPU, µs a task', lambda entry: entry['server_us']),
)
TITLES = {
    'floor': 'Floor: EVALSHA of a script that does nothing, 50 callers',
    'enqueue': 'Enqueue, single calls',
    'enqueue_100': 'Enqueue, 100 a call',
    'work_off': 'Work off a backlog, with acknowledgement',
    'lifecycle': 'Enqueue, dequeue, release by 50 tasks, single calls',
    'lifecycle_100': 'The same, 100 a call',
    'handoff': 'Idle worker: from the enqueue call to the start of the handler',
    'delayed': 'Delayed tasks: start of the handler after due',
    'memory': 'Server memory of a pending task',
}


def tables(results: Results) -> str:
    """All rows, as Markdown."""
    measured = [entry for entry in results['measured'] if 'error' not in entry]
    return '\n\n'.join(filter(None, (_table(row, measured) for row in TABLE_ROWS)))


def _table(row: str, measured: list[Entry]) -> str:
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in measured:
        if entry['row'] == row:
            groups.setdefault((entry['system'], entry['client'], entry['loop']), []).append(entry)
    if not groups:
        return ''
    columns = COLUMNS.get(row, THROUGHPUT)
    reference = groups.get((REFERENCE.system, REFERENCE.client, REFERENCE.loop), [])
    lines = [
        f'### {TITLES[row]}',
        '',
        '| | | | ' + ' | '.join(name for name, _ in columns) + ' | against 0.9 |',
        '|---|---|---|' + '--:|' * (len(columns) + 1),
    ]
    for (system, client, loop), entries in sorted(groups.items()):
        cells = [_spread([value(entry) for entry in entries]) for _, value in columns]
        ratio = _ratio(entries, reference, columns[0][1])
        lines.append(
            f'| {NAMES.get(system, system)} | {NAMES.get(client, client)} | {loop} | {" | ".join(cells)} | {ratio} |'
        )
    return '\n'.join(lines)


def _ratio(entries: list[Entry], reference: list[Entry], value: Callable[[Entry], float]) -> str:
    """The median of each round's ratio; where 0.9 was measured in one round only, that one is taken for all."""
    by_round = {entry['round']: value(entry) for entry in reference}
    if not by_round:
        return ''
    other = median(by_round.values())
    return f'{median(value(entry) / by_round.get(entry["round"], other) for entry in entries):.2f} x'


def _spread(values: list[float]) -> str:
    middle = _text(median(values))
    return middle if len(values) == 1 else f'{middle} ({_text(min(values))} - {_text(max(values))})'


def _text(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 or value == int(value) else f'{value:.3g}'
