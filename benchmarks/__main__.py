"""Measure how fast the library is, beside its predecessor and its peers.

commands:
  run       measure; a full run also rewrites docs/performance/ (the default, and what make bench does)
  report    write the last results to docs/performance/, whatever they are
  profile   measure where the time of one task goes, by layer and by script
  flow      measure what limits, expiry, cancellation and so on cost, beside a plain task

To see what a change gains, compare it with the revision before it. Both take turns, so that other load on the machine
affects both alike. The change is the working tree, or the revision that --with names:

  python -m benchmarks --compare HEAD
  python -m benchmarks --compare HEAD~1 --rows enqueue-single,lifecycle-100,hand-off --quick
  python -m benchmarks --compare v0.9.1 --with HEAD --systems current/redis_py/asyncio

rows: {rows}
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from benchmarks import flow, profiling, report
from benchmarks.compare import QUICK_SECONDS, SECONDS, compare
from benchmarks.environments import FOLDER, ROOT, UnavailableError
from benchmarks.plan import (
    DEPTH_ROWS,
    FULL,
    PIP,
    QUICK,
    QUICK_ROUNDS,
    ROUNDS,
    TABLE_ROWS,
    VARIANTS,
    Variant,
    is_chosen,
    steps,
)
from benchmarks.publishing import PAGES, publish
from benchmarks.running import Runner

ROWS = TABLE_ROWS + DEPTH_ROWS
RESULTS = FOLDER / 'results.json'


def main() -> int:
    options = _parse()
    if options.compare:
        try:
            _compare(options)
        except UnavailableError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    if options.command == 'run':
        _run(options)
    in_full = not (options.quick or options.rows or options.systems)
    if options.command == 'report' or (options.command == 'run' and in_full):
        publish(options.results)
    if options.command == 'profile' or (options.command == 'run' and in_full):
        text = profiling.tables()
        (PAGES / 'profile.md').write_text(text)
        print(text)
    if options.command == 'flow':
        text = flow.table(flow.measure(options.rounds or (flow.QUICK_TURNS if options.quick else flow.TURNS)))
        if not options.quick:
            (PAGES / 'flow.md').write_text(text)
        print(text)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks',
        description=(__doc__ or '').format(rows=textwrap.fill(', '.join(ROWS), 110, subsequent_indent='  ')),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('command', nargs='?', default='run', choices=('run', 'report', 'profile', 'flow'))
    parser.add_argument(
        '--quick', action='store_true', help='about 5 minutes: fewer systems, less of each row; comparing: 20 s a row'
    )
    parser.add_argument('--compare', metavar='REV', help='compare the working tree with this revision of the library')
    parser.add_argument('--with', dest='other', metavar='REV', help='compare this revision instead of the working tree')
    parser.add_argument('--rounds', type=int, help=f'how often to measure ({ROUNDS}; quick: {QUICK_ROUNDS})')
    parser.add_argument(
        '--seconds', type=float, help=f'how long to compare each row ({SECONDS}; quick: {QUICK_SECONDS})'
    )
    parser.add_argument('--rows', type=_words, default=[], metavar='ROW,ROW', help='the rows to measure (all)')
    parser.add_argument(
        '--systems',
        type=_words,
        default=[],
        metavar='SYSTEM,SYSTEM',
        help='such as current/native/uvloop, current, published (all; comparing: current/native/uvloop)',
    )
    parser.add_argument('--results', type=Path, default=RESULTS, help='the file (%(default)s)')
    parser.add_argument('--append', action='store_true', help='replace only what is measured in the file')
    options = parser.parse_args()
    rows = TABLE_ROWS if options.compare else ROWS  # a comparison cannot repeat the rows about depth
    if unknown := set(options.rows) - set(rows):
        parser.error(f'unknown rows: {", ".join(sorted(unknown))}; choose from {", ".join(rows)}')
    if options.other and not options.compare:
        parser.error('--with needs --compare')
    return options


def _words(text: str) -> list[str]:
    return text.split(',')


def _compare(options: argparse.Namespace) -> None:
    rows = options.rows or [row for row in TABLE_ROWS if row != 'floor']
    variants = [
        variant
        for variant in VARIANTS
        if variant.system == 'current'
        and is_chosen(variant, options.systems or ['current/native/uvloop'])
        and (variant.server == PIP or str(variant) in options.systems)
    ]
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    for line in compare(options.compare, options.other, rows, variants, seconds):
        print(line, flush=True)


def _run(options: argparse.Namespace) -> None:
    settings = QUICK if options.quick else FULL
    plan = list(
        steps(
            options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
            quick=options.quick,
            rows=options.rows,
            systems=options.systems,
        )
    )
    runner = Runner(settings)
    measured: list[dict[str, Any]] = []
    if options.append:
        earlier = json.loads(options.results.read_text())
        again = {(step.row, str(step.variant)) for step in plan}
        measured = [entry for entry in earlier['measured'] if (entry['row'], _subject(entry)) not in again]
        runner.versions, runner.builds = earlier['versions'], earlier['builds']
    begin = time.monotonic()
    for number, step in enumerate(plan, 1):
        entry = runner.run(step)
        if entry is None:
            continue
        if 'latencies_ms' in entry:
            entry['latencies_ms'] = [report.quantile(entry['latencies_ms'], part / 100) for part in range(101)]
        measured.append(entry)
        minutes = (time.monotonic() - begin) / 60
        print(f'{minutes:5.1f} min {number}/{len(plan)} {step.row} {step.variant} {_brief(entry)}', file=sys.stderr)
        options.results.parent.mkdir(exist_ok=True)
        options.results.write_text(
            json.dumps(
                {
                    'machine': _machine(),
                    'cores': os.cpu_count(),
                    'date': time.strftime('%Y-%m-%d', time.gmtime()),
                    'revision': _revision(),
                    'builds': runner.builds,
                    'python': platform.python_version(),
                    'versions': runner.versions,
                    'settings': settings,
                    'measured': measured,
                }
            )
        )
    print(report.tables(json.loads(options.results.read_text())))


def _machine() -> str:
    """The processor, its cores, and the system."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    model = next(
        (line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine()
    )
    return f'{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}'


def _revision() -> str:
    done = subprocess.run(
        ['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or 'unknown'


def _subject(entry: dict[str, Any]) -> str:
    return str(Variant(entry['system'], entry['client'], entry['loop'], (), server=entry['server']))


def _brief(entry: dict[str, Any]) -> str:
    if 'error' in entry:
        return 'failed'
    if 'latencies_ms' in entry:
        return f'p50 {report.p50(entry):.3f} ms'
    if 'points' in entry:
        return ' '.join(f'{point["depth"]}: {point["server_us"]:.1f} us' for point in entry['points'])
    if 'bytes' in entry:
        return f'{entry["bytes"]:.0f} B'
    return f'{entry["rate"]:,.0f}/s, client {entry["client_us"]:.1f} us, server {entry["server_us"]:.1f} us'


if __name__ == '__main__':
    sys.exit(main())
