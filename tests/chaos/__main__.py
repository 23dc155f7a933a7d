"""Play scenarios, one after the other, until stopped or until one finds a violation."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from itertools import count

from tests.chaos.scenarios import SCENARIOS, play


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.chaos', description=__doc__)
    parser.add_argument('--scenario', choices=SCENARIOS, action='append', help='only this one')
    parser.add_argument('--seed', type=int, default=secrets.randbelow(1_000_000), help='the first seed')
    parser.add_argument('--each', type=float, default=30, help='how many seconds each scenario is to last')
    parser.add_argument('--seconds', type=float, default=float('inf'), help='begin none after so much time')
    arguments = parser.parse_args()
    begun = time.monotonic()
    exceeded: list[str] = []
    try:
        for seed in count(arguments.seed):
            for name in arguments.scenario or SCENARIOS:
                if time.monotonic() - begun > arguments.seconds:
                    return told(exceeded)
                print(f'{name}: seed {seed}', flush=True)
                report = play(name, seed, arguments.each)
                print(f'{name}: {report}', *report.violations, sep='\n    ', flush=True)
                exceeded += [f'{name}: {each}' for each in report.exceeded]
                if report.violations:
                    return 1
    except KeyboardInterrupt:
        pass
    return told(exceeded)


def told(exceeded: list[str]) -> int:
    print(*(exceeded or ['no violation, no limit exceeded']), sep='\n')
    return int(bool(exceeded))


if __name__ == '__main__':
    sys.exit(main())
