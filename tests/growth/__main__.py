"""Run patterns and print what grows with the number of rounds. The status is 1 if anything does."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterator

from tests.growth import patterns
from tests.growth.explaining import explain
from tests.growth.measuring import Pattern, Report, measure
from tests.growth.stage import KINDS, Setting
from tests.transports.settings import LOOPS


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.growth', description=__doc__)
    parser.add_argument('--rounds', type=int, help='N; the default is that of the short form')
    parser.add_argument('--pattern', choices=patterns.PATTERNS, action='append', help='only this one; may be repeated')
    parser.add_argument('--client', choices=KINDS, action='append', help='only this one; default: all but clusters')
    parser.add_argument('--loop', choices=LOOPS, action='append', help='only this one')
    parser.add_argument('--shards', type=int, help='the number of shards of each queue')
    parser.add_argument('--seconds', type=float, default=float('inf'), help='begin nothing more after so much time')
    parser.add_argument('--explain', action='store_true', help='name the holders of what grows')
    arguments = parser.parse_args()
    begun = time.monotonic()
    failed = 0
    try:
        for pattern in [patterns.PATTERNS[name] for name in arguments.pattern or patterns.PATTERNS]:
            print(f'\n{pattern.name}')
            for setting in settings(pattern, arguments):
                if time.monotonic() - begun > arguments.seconds:
                    return int(failed > 0)
                failed += not row(pattern, setting, arguments)
    except KeyboardInterrupt:
        pass
    print(f'\n{failed} grow or fail, {time.monotonic() - begun:.0f} s')
    return int(failed > 0)


def settings(pattern: Pattern, arguments: argparse.Namespace) -> Iterator[Setting]:
    for client in arguments.client or [client for client in KINDS if not client.endswith('-cluster')]:
        for loop in arguments.loop or KINDS[client]:
            setting = Setting(client, loop, arguments.shards)
            if loop in KINDS[client] and pattern.runs_on(setting):
                yield setting


def row(pattern: Pattern, setting: Setting, arguments: argparse.Namespace) -> bool:
    """Print a row of the pattern's table; whether it was flat."""
    begun = time.monotonic()
    try:
        report = measure(pattern, setting, arguments.rounds, explain if arguments.explain else None)
    except Exception:  # noqa: BLE001 - the others are to be run all the same
        print(f'  {setting!s:<24} FAILED\n{traceback.format_exc()}', flush=True)
        return False
    growing = report.growing()
    print(f'  {setting!s:<24} {told(report):<60} {time.monotonic() - begun:5.1f} s')
    if growing:
        print(*str(report).splitlines()[1:], sep='\n')
    sys.stdout.flush()
    return not growing


def told(report: Report) -> str:
    if not report.growing():
        return f'flat over {report.marks[-1]} rounds'
    return 'grows: ' + ', '.join(f'{name} {report.per_round(name):+.1f}' for name in list(report.growing())[:3])


if __name__ == '__main__':
    sys.exit(main())
