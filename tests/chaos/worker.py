"""Processes that produce and consume. They are forked from one parent that has imported all clients and loops.

``python -m tests.chaos.worker`` is that parent. It reads commands, a JSON list a line, and answers each with a line.
When its input ends, because its parent has gone, it takes its children along.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import anyio
import trio
import uvloop

from tests.chaos.clients import CLIENTS, shift_clock
from tests.chaos.crews import CREWS, ENOUGH, Spec
from tests.chaos.crowds import CROWDS
from tests.chaos.ledger import Ledger
from torrelque import Torrelque

PRELOADED = (trio, uvloop)


async def work(spec: Spec, ledger: Ledger) -> None:
    shift_clock(spec.skew)
    rng = random.Random(f'{spec.seed} {spec.name}')
    with anyio.fail_after(ENOUGH + spec.rounds if spec.rounds else math.inf):
        async with CLIENTS[spec.client](spec.url) as client, Torrelque(client, queue=spec.queue) as queue:
            await {**CREWS, **CROWDS}[spec.crew](spec, queue, ledger, rng)


def child(spec: Spec) -> NoReturn:
    status = 1
    try:
        with Ledger(Path(spec.folder), spec.name) as ledger:
            backend, _, uvloop = spec.loop.partition('+')
            options = {'use_uvloop': True} if uvloop else {}
            anyio.run(work, spec, ledger, backend=backend, backend_options=options)
        status = 0
    except BaseException:  # noqa: BLE001 - the parent's code must not go on in a fork
        sys.stderr.write(f'{asdict(spec)}\n{traceback.format_exc()}')
        sys.stderr.flush()
    finally:
        os._exit(status)


def start(spec: dict[str, object]) -> int:
    pid = os.fork()
    if pid == 0:
        child(Spec(**spec))  # type: ignore[arg-type]  # made by asdict
    return pid


def send(pid: int, number: int) -> None:
    os.kill(pid, number)


def wait(pid: int) -> int:
    """How it ended. Until then it is a zombie, so its pid can mean nobody else."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


COMMANDS: dict[str, Callable[..., object]] = {'start': start, 'send': send, 'wait': wait}


def main() -> None:
    gc.freeze()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)
    os.killpg(0, signal.SIGKILL)  # it leads a group of its own


if __name__ == '__main__':
    main()
