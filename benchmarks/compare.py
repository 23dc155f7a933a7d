"""Compares two revisions of the library: ``python -m benchmarks --compare REV``.

Both revisions run in this environment, each in a process of its own with a server of its own, and take turns of about
half a second. So whatever else the machine does disturbs both alike. The ratio is the median of the ratios within
each turn. Raw commands (see `systems.use_raw`) take turns, too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import comb
from pathlib import Path
from statistics import median

from benchmarks.environments import FOLDER, ROOT, export
from benchmarks.plan import FULL, RAW_ROWS, Variant
from benchmarks.report import THROUGHPUT, Entry, Value, client_us, held, p50, server_us
from benchmarks.running import Subject

SETTINGS = {
    **FULL,
    'seconds': 0.3,
    'warm_up': 0.05,
    'idle': 0.2,
    'rest': 0.1,
    'backlog': 3_000,
    'handoffs': 50,
    'delayed': 50,
    'delay_span': 0.5,
    'stored': 10_000,
    'deepest': 100_000,
}
QUICK_SECONDS, SECONDS = 17, 60
"""How long a row takes turns."""

LEAST = 3
"""Turns of a row, however long they take."""

DOUBT = 0.05
"""How often the interval may miss the ratio."""

CPU: tuple[tuple[str, Value], ...] = (('client CPU, µs', client_us), ('server CPU, µs', server_us))
COLUMNS: dict[str, tuple[tuple[str, Value], ...]] = {
    'hand-off': (('p50, ms', p50), *CPU),
    'delayed': (('p50, ms', p50), *CPU),
    'memory': (('bytes a task', held),),
}
"""What is compared besides a rate and both sides' CPU."""


@contextmanager
def exported(revision: str) -> Iterator[Path]:
    """Yield a temporary folder that has the library of a revision. Raises UnavailableError."""
    with tempfile.TemporaryDirectory(prefix='torrelque-') as folder:
        export(revision, Path(folder))
        yield Path(folder)


def compare(
    revision: str, other: str | None, rows: Sequence[str], variants: Sequence[Variant], seconds: float
) -> Iterator[str]:
    """Measure, and yield the lines of a table in Markdown.

    Args:
        revision: The revision to compare with.
        other: The revision to compare; None is the working tree.
        rows: What to measure.
        variants: On which clients and event loops.
        seconds: How long to measure each row on each of these.

    """
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        libraries = [stack.enter_context(exported(revision))]
        libraries.append(ROOT if other is None else stack.enter_context(exported(other)))
        names = f'{revision} | {other or "working tree"}'
        yield f'| row | client | | {names} | ratio | with {1 - DOUBT:.0%} confidence | x raw |'
        yield '|---|---|---|--:|--:|--:|--:|--:|'
        for row in rows:
            for variant in variants:
                yield from _compare_row(row, variant, libraries, seconds)


def _compare_row(row: str, variant: Variant, libraries: Sequence[Path], seconds: float) -> Iterator[str]:
    with ExitStack() as stack:
        subjects = [stack.enter_context(Subject(variant, row, SETTINGS, library)) for library in libraries]
        if row in RAW_ROWS:
            raw = Variant('raw', 'streams', variant.loop, RAW_ROWS)
            subjects.append(stack.enter_context(Subject(raw, row, SETTINGS)))
        found: list[list[Entry]] = [[] for _ in subjects]
        end = time.monotonic() + seconds
        order = list(range(len(subjects)))
        while time.monotonic() < end or len(found[0]) < LEAST:
            for number in order:
                found[number].append(subjects[number].measure()['result'])
            order.reverse()
    for name, value in COLUMNS.get(row, THROUGHPUT):
        before, after, *raws = ([value(entry) for entry in entries] for entries in found)
        ratios = sorted(new / old for old, new in zip(before, after, strict=True) if old)
        if ratios:
            cells = [f'{median(before):,.4g}', f'{median(after):,.4g}', f'{median(ratios):.3f} x']
            cells.append(' - '.join(f'{bound:.3f}' for bound in interval(ratios)))
            cells += [f'{median(new / old for old, new in zip(each, after, strict=True)):.2f} x' for each in raws]
            yield f'| {row} | {variant.client}/{variant.loop} | {name} | {" | ".join(cells)} |'


def interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Return between which values of an ascending sequence the true median lies, by the ranks of a binomial."""
    rank, miss = 0, 2.0 ** -len(ordered)
    while 2 * miss <= DOUBT:
        rank += 1
        miss += comb(len(ordered), rank) * 2.0 ** -len(ordered)
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[-rank]
