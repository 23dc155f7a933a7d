"""Processes that produce and consume. They are forked from one parent that has imported all clients and loops.

``python -m tests.chaos.worker`` is that parent. It reads commands, a JSON list a line, and answers each with a line.
When its input ends, because whoever started it has gone, it takes its children along.
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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import anyio
import coredis
import redis.asyncio
import trio

from tests.chaos.ledger import Ledger
from torrelque import Task, Torrelque, TorrelqueConnectionError, TorrelqueLeaseLostError, TorrelqueReplyError, connect

PRELOADED = (trio,)
TROUBLE = (TorrelqueConnectionError, TorrelqueReplyError)
PATIENCE = 1.0
"""How long a client waits for an answer, in seconds."""

ENOUGH = 60.0
"""How long something may take that takes moments, before it counts as never happening."""

Crew = Callable[['Spec', Torrelque, Ledger, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Spec:
    """A worker process to be."""

    name: str
    loop: str
    client: str
    url: str
    queue: str
    folder: str
    seed: int
    crew: str
    task_timeout: float
    rounds: int = 0
    """How much a crew does that comes to an end; ``serve`` does not."""

    gate: str = ''


@asynccontextmanager
async def redis_py(url: str) -> AsyncIterator[object]:
    async with redis.asyncio.Redis.from_url(url, socket_timeout=PATIENCE) as client:
        yield client


@asynccontextmanager
async def with_coredis(url: str) -> AsyncIterator[object]:
    client: coredis.Redis[bytes] = coredis.Redis.from_url(url, stream_timeout=PATIENCE, connect_timeout=PATIENCE)
    async with client:
        yield client


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[object]]] = {
    'native': lambda url: connect(url, response_timeout=PATIENCE, retry_timeout=2 * PATIENCE),
    'redis-py': redis_py,
    'coredis': with_coredis,
}


def excuse(error: TorrelqueConnectionError | TorrelqueReplyError) -> None:
    """The server is away, or has just come back; anything else is raised."""
    if isinstance(error, TorrelqueReplyError) and error.code != 'LOADING':
        raise error


async def produce(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Enqueue each task once: a call whose outcome is unknown is not repeated, so that a task has but one life."""
    number = 0
    while True:
        number += 1
        task_id = f'{spec.name}.{number}'
        delay = rng.uniform(0.001, 0.3) if rng.random() < 0.2 else None
        ledger.write('enqueuing', task_id)
        try:
            await queue.enqueue(number, task_id=task_id, task_timeout=spec.task_timeout, delay=delay)
        except TROUBLE as error:
            excuse(error)
            await anyio.sleep(0.05)
        else:
            ledger.write('enqueued', task_id)
        await anyio.sleep(rng.uniform(0, 0.03))


async def consume(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    while True:
        try:
            task = await dequeue(queue, rng)
            if task is not None:
                ledger.write('claimed', task.id, task.dequeue_count)
                await handle(spec, queue, ledger, rng, task)
        except TROUBLE as error:
            excuse(error)
            await anyio.sleep(0.05)


async def dequeue(queue: Torrelque, rng: random.Random) -> Task | None:
    """Some consumers lose patience, and are cancelled at any moment."""
    if rng.random() < 0.8:
        return await queue.dequeue()
    with anyio.move_on_after(rng.uniform(0, 0.02)):
        return await queue.dequeue()
    return None


async def handle(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random, task: Task) -> None:
    """Most are done at once, some overrun their lease, some are requeued, some are cut short, as by an error."""
    chance = rng.random()
    await anyio.sleep(spec.task_timeout * 1.2 if chance < 0.01 else rng.uniform(0, 0.01))
    if chance > 0.99:
        return
    if chance > 0.95:
        with suppress(TorrelqueLeaseLostError):
            await queue.requeue(task, delay=rng.choice([None, 0.1]))
            ledger.write('requeued', task.id, task.dequeue_count)
    else:
        await release(queue, ledger, task)


async def release(queue: Torrelque, ledger: Ledger, task: Task) -> None:
    """Until it is known to be released, or lost."""
    while True:
        ledger.write('releasing', task.id, task.dequeue_count)
        try:
            await queue.release(task, result=[ledger.name, task.dequeue_count])
        except TROUBLE as error:
            excuse(error)
            ledger.write('unknown', task.id, task.dequeue_count)
            await anyio.sleep(0.05)
        except TorrelqueLeaseLostError:
            ledger.write('lost', task.id, task.dequeue_count)
            return
        else:
            ledger.write('released', task.id, task.dequeue_count)
            return


async def serve(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce, spec, queue, ledger, rng)
        for _ in range(4):
            tasks.start_soon(consume, spec, queue, ledger, rng)


async def hold(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Claim so many tasks, and release them when the gate is there."""
    tasks = await queue.dequeue(max_tasks=spec.rounds)
    while len(tasks) < spec.rounds:
        tasks.append(await queue.dequeue())
    for task in tasks:
        ledger.write('claimed', task.id, task.dequeue_count)
    while not await anyio.Path(spec.gate).exists():  # noqa: ASYNC110 - another process makes it
        await anyio.sleep(0.02)
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(release, queue, ledger, task)


async def cancel(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Cancel a waiting consumer about a millisecond after an enqueue began, again and again.

    The time follows the machine: about half of the consumers are to get their task.
    """
    got: list[Task] = []
    window = 0.001

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            got.append(await queue.dequeue())

    for number in range(spec.rounds):
        task_id = f'{spec.name}.{number}'
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, scope)
            await anyio.sleep(0.002)
            scope.deadline = anyio.current_time() + window * rng.uniform(0, 2)
            ledger.write('enqueuing', task_id)
            await queue.enqueue(number, task_id=task_id, task_timeout=spec.task_timeout)
            ledger.write('enqueued', task_id)
        window *= 1.1 if scope.cancelled_caught else 0.9
        if scope.cancelled_caught:
            ledger.write('cancelled')
        if number + 1 < spec.rounds:  # so that the next one has to wait; what the last one left, others have to find
            got += await queue.dequeue_nowait(max_tasks=10)
        while got:
            task = got.pop()
            ledger.write('claimed', task.id, task.dequeue_count)
            await release(queue, ledger, task)


CREWS: dict[str, Crew] = {'serve': serve, 'hold': hold, 'cancel': cancel}


async def work(spec: Spec, ledger: Ledger) -> None:
    rng = random.Random(f'{spec.seed} {spec.name}')
    with anyio.fail_after(ENOUGH + spec.rounds if spec.rounds else math.inf):
        async with CLIENTS[spec.client](spec.url) as client, Torrelque(client, queue=spec.queue) as queue:
            await CREWS[spec.crew](spec, queue, ledger, rng)


def child(spec: Spec) -> NoReturn:
    status = 1
    try:
        with Ledger(Path(spec.folder), spec.name) as ledger:
            anyio.run(work, spec, ledger, backend=spec.loop)
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
