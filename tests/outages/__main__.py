"""Outages of some length, with all pauses as they are. The status is 1 if somebody does not come back in time."""

from __future__ import annotations

import argparse
import sys

from tests.outages.crews import CREWS
from tests.outages.playing import play
from tests.outages.troubles import TROUBLES
from tests.transports.settings import LOOPS


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.outages', description=__doc__)
    parser.add_argument('--seconds', type=float, default=600.0, help='how long each outage lasts')
    parser.add_argument('--trouble', choices=TROUBLES, action='append', help='only this one; may be repeated')
    parser.add_argument('--loop', choices=LOOPS, action='append', help='only this one; default: asyncio and trio')
    parser.add_argument('--client', choices=CREWS, action='append', help='only this one')
    parser.add_argument('--hurry', action='store_true', help='pause at once as long as after many failures')
    arguments = parser.parse_args()
    failed = 0
    for trouble in arguments.trouble or TROUBLES:
        for loop in arguments.loop or ('asyncio', 'trio'):
            report = play(trouble, loop, arguments.seconds, hurry=arguments.hurry, crews=arguments.client or ())
            print(f'{trouble} for {arguments.seconds:g} s, {loop}: {report}', flush=True)
            failed += bool(report.late or report.grown)
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
