"""The command: ``python -m benchmarks [run|report|profile]``; ``make bench`` runs the first two."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.environments import FOLDER
from benchmarks.plan import DEPTH_ROWS, FULL, QUICK, QUICK_ROUNDS, ROUNDS, TABLE_ROWS, steps
from benchmarks.running import Runner

RESULTS = FOLDER / 'results.json'


def main() -> int:
    options = _parse()
    if options.command == 'run':
        _run(options)
    else:
        print(report.tables(json.loads(options.results.read_text())))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__)
    parser.add_argument('command', nargs='?', default='run', choices=('run', 'report'))
    parser.add_argument('--quick', action='store_true', help='about 5 minutes: fewer systems, less of each row')
    parser.add_argument('--rounds', type=int, help=f'how often, in turns ({ROUNDS}; quick: {QUICK_ROUNDS})')
    parser.add_argument('--rows', nargs='+', default=[], choices=TABLE_ROWS + DEPTH_ROWS, metavar='ROW')
    parser.add_argument(
        '--systems', nargs='+', default=[], metavar='SYSTEM', help='such as current/native/uvloop, current, published'
    )
    parser.add_argument('--results', type=Path, default=RESULTS, help='the file (%(default)s)')
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


def _brief(entry: dict[str, Any]) -> str:
    if 'error' in entry:
        return 'failed'
    if 'latencies_ms' in entry:
        return f'p50 {report.quantile(entry["latencies_ms"], 0.5):.3f} ms'
    if 'points' in entry:
        return ' '.join(f'{point["depth"]}: {point["server_us"]:.1f} us' for point in entry['points'])
    if 'bytes' in entry:
        return f'{entry["bytes"]:.0f} B'
    return f'{entry["rate"]:,.0f}/s, client {entry["client_us"]:.1f} us, server {entry["server_us"]:.1f} us'


if __name__ == '__main__':
    sys.exit(main())
