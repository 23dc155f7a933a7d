"""Run worlds: one with a trace, some, or as many as time allows. What fails is trimmed to a short trace."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Hashable
from itertools import count

from tests.servers import SERVERS, Server, shared
from tests.simulation.configs import CONFIGS
from tests.simulation.replay import Replayer, record
from tests.simulation.trimming import SECONDS, Failure, failure_of, trim
from tests.simulation.world import simulate

DEFAULT = 'valkey-9.1'

Run = Callable[[int, str], int]
"""Runs a seed of a kind of world; how many steps it took."""


def _trace(now: float, text: str) -> None:
    print(f'{now:12.6f}  {text}')


def _replay(seed: int, name: str) -> int:
    steps = simulate(seed, CONFIGS[name], _trace)
    print(f'{name} {seed}: {steps} steps, no violation')
    return 0


def _trim(seed: int, name: str, seconds: float) -> int:
    whole = failure_of(seed, CONFIGS[name])
    if whole is None:
        print(f'{name} {seed}: no violation')
        return 0
    _print_trimmed(seed, name, whole, seconds)
    return 1


def _print_trimmed(seed: int, name: str, whole: Failure, seconds: float) -> None:
    trimmed = trim(seed, CONFIGS[name], whole, seconds)
    for now, text in trimmed.lines:
        _trace(now, text)
    print(*traceback.format_exception_only(trimmed.failure.error), end='')
    print(
        f'{name} {seed}: {len(trimmed.lines)} lines of {trimmed.whole_lines}, {len(trimmed.failure.made)} choices of '
        f'{len(whole.made)}, after {trimmed.runs} runs',
        flush=True,
    )


def _simulate(seed: int, name: str) -> int:
    return simulate(seed, CONFIGS[name])


def _run(run: Run, names: list[str], arguments: argparse.Namespace) -> int:
    first, seeds = arguments.first, None if arguments.forever else arguments.seeds
    begin = time.perf_counter()
    total = done = failed = 0
    known: set[Hashable] = set()
    for seed in count(first) if seeds is None else range(first, first + seeds):
        for name in names:
            try:
                total += run(seed, name)
            except Exception:  # noqa: BLE001 - whatever it is, the seed replays it
                failed += 1
                print(f'{name} {seed}: {traceback.format_exc(limit=-1)}', flush=True)
                failure = failure_of(seed, CONFIGS[name])
                if failure is not None and failure.kind not in known:
                    known.add(failure.kind)
                    _print_trimmed(seed, name, failure, arguments.trim_seconds)
            done += 1
        elapsed = time.perf_counter() - begin
        if seeds is None and seed % 100 == 0:
            print(f'{done} worlds, {total / elapsed:,.0f} steps/s, {failed} violations', flush=True)
        if elapsed > arguments.seconds or (seeds is None and failed):
            break
    elapsed = time.perf_counter() - begin
    print(f'{done} worlds in {elapsed:.1f} s: {total} steps, {total / elapsed:,.0f} steps/s, {failed} violations')
    return 1 if failed else 0


def _run_real(server: Server, names: list[str], arguments: argparse.Namespace) -> int:
    """The same, each world also on a real server."""
    calls = 0
    with Replayer.on(server) as replayer:

        def run(seed: int, name: str) -> int:
            nonlocal calls
            world, done = record(seed, CONFIGS[name])
            replayer.replay(done)
            calls += len(done)
            return world.scheduler.steps

        failed = _run(run, names, arguments)
    print(f'{calls} calls and looks on {server.name}, version {server.version}')
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.simulation', description=__doc__)
    parser.add_argument('--config', choices=CONFIGS, action='append', help='only this kind of world')
    parser.add_argument('--seed', type=int, help='replay one seed, with a trace')
    parser.add_argument('--trim', action='store_true', help='trim that seed, which fails, to a short trace')
    parser.add_argument(
        '--trim-seconds', type=float, default=SECONDS, help='seconds of CPU time to look for a shorter trace'
    )
    parser.add_argument(
        '--real', choices=SERVERS, nargs='?', const=DEFAULT, help=f'compare with a real server, {DEFAULT} or another'
    )
    parser.add_argument('--seeds', type=int, help='how many seeds of each kind; default: until stopped, or a violation')
    parser.add_argument('--first', type=int, default=0, help='the first of the seeds')
    parser.add_argument('--seconds', type=float, default=float('inf'), help='stop after so much time')
    parser.add_argument('--forever', action='store_true', help='the default: until stopped, or a violation')
    arguments = parser.parse_args()
    names = arguments.config or list(CONFIGS)
    if arguments.real is not None:
        names = [name for name in names if CONFIGS[name].failovers is None]  # there is no replica to promote
    if arguments.trim and arguments.seed is None:
        parser.error('--trim needs --seed')
    if arguments.seed is not None:
        if arguments.trim:
            return max(_trim(arguments.seed, name, arguments.trim_seconds) for name in names)
        return max(_replay(arguments.seed, name) for name in names)
    try:
        if arguments.real is not None:
            return _run_real(shared(arguments.real), names, arguments)
        return _run(_simulate, names, arguments)
    except KeyboardInterrupt:
        return 0


if __name__ == '__main__':
    sys.exit(main())
