"""The command: ``python -m benchmarks [run|report|profile]``.

``run``, as ``make bench`` does, measures and, if it was everything in full, writes docs/performance/ anew.
``report`` puts the tables and plots of what was measured last there, whatever it was, ``profile`` where the time of
one task goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import profiling, report
from benchmarks.environments import FOLDER
from benchmarks.plan import DEPTH_ROWS, FULL, QUICK, QUICK_ROUNDS, ROUNDS, TABLE_ROWS, steps
from benchmarks.publishing import PAGES, publish
from benchmarks.running import Runner

RESULTS = FOLDER / 'results.json'


def main() -> int:
    options = _parse()
    if options.command == 'run':
        _run(options)
    in_full = not (options.quick or options.rows or options.systems)
    if options.command == 'report' or (options.command == 'run' and in_full):
        publish(options.results)
    if options.command == 'profile' or (options.command == 'run' and in_full):
        text = profiling.tables()
        (PAGES / 'profile.md').write_text(text)
        print(text)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('command', nargs='?', default='run', choices=('run', 'report', 'profile'))
    parser.add_argument('--quick', action='store_true', help='about 5 minutes: fewer systems, less of each row')
    parser.add_argument('--rounds', type=int, help=f'how often, in turns ({ROUNDS}; quick: {QUICK_ROUNDS})')
    parser.add_argument('--rows', nargs='+', default=[], choices=TABLE_ROWS + DEPTH_ROWS, metavar='ROW')
    parser.add_argument(
        '--systems', nargs='+', default=[], metavar='SYSTEM', help='such as current/native/uvloop, current, published'
    )
    parser.add_argument('--results', type=Path, default=RESULTS, help='the file (%(default)s)')
    parser.add_argument('--append', action='store_true', help='replace in the file only what is measured anew')
    return parser.parse_args()


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
        anew = {(step.row, str(step.variant)) for step in plan}
        measured = [entry for entry in earlier['measured'] if (entry['row'], _subject(entry)) not in anew]
        runner.versions = earlier['versions']
    begin = time.monotonic()
    for number, step in enumerate(plan, 1):
        entry = runner.run(step)
        if entry is None:
            continue
        measured.append(entry)
        minutes = (time.monotonic() - begin) / 60
        print(f'{minutes:5.1f} min {number}/{len(plan)} {step.row} {step.variant} {_brief(entry)}', file=sys.stderr)
        options.results.parent.mkdir(exist_ok=True)
        options.results.write_text(
            json.dumps(
                {
                    'cores': os.cpu_count(),
                    'python': platform.python_version(),
                    'versions': runner.versions,
                    'settings': settings,
                    'measured': measured,
                }
            )
        )
    print(report.tables(json.loads(options.results.read_text())))


def _subject(entry: dict[str, Any]) -> str:
    return f'{entry["system"]}/{entry["client"]}/{entry["loop"]}'


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
