"""What a process can be for: producing, consuming by hand, and being cancelled or held up at it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio

from tests.chaos.clients import CLIENTS, TROUBLE, excuse
from tests.chaos.ledger import Ledger
from torrelque import Task, Torrelque, TorrelqueLeaseLostError

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
    consumers: int = 0
    objects: int = 1
    """How many consumers, over how many queue objects, where a crew is a crowd."""

    skew: float = 0.0
    """Seconds by which the process's clock is wrong."""

    groups: Sequence[str] = ()
    """To which tasks are enqueued; '' is none. The id of a task ends with the group's name."""


async def produce(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Enqueue each task once: a call whose outcome is unknown is not repeated, so that a task has but one life."""
    number = 0
    while True:
        number += 1
        group = rng.choice(spec.groups) if spec.groups else ''
        task_id = f'{spec.name}.{number}' + (f'/{group}' if group else '')
        delay = rng.uniform(0.001, 0.3) if rng.random() < 0.2 else None
        ledger.write('enqueuing', task_id)
        try:
            await queue.enqueue(
                number, task_id=task_id, task_timeout=spec.task_timeout, delay=delay, group=group or None
            )
        except TROUBLE as error:
            excuse(error)
            await anyio.sleep(0.05)
        else:
            ledger.write('enqueued', task_id)
        await anyio.sleep(rng.uniform(0, 0.2 if spec.groups else 0.03))


async def consume(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    while True:
        try:
            task = await dequeue(queue, rng)
            if task is not None:
                note_claim(ledger, task)
                await handle(spec, queue, ledger, rng, task)
        except TROUBLE as error:
            excuse(error)
            await anyio.sleep(0.05)


def note_claim(ledger: Ledger, task: Task) -> None:
    ledger.write('claimed', task.id, task.dequeue_count)
    if task.fence is not None:
        ledger.write('fenced', task.id, task.fence)


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
    """Claim that many tasks, and release them when the gate is there."""
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

    The time follows the machine: about half of the consumers are to get their task. What the others do not get is
    there for somebody else; the ledger tells how many microseconds after the cancellation and the enqueue.
    """
    async with CLIENTS[spec.client](spec.url) as client, Torrelque(client, queue=spec.queue) as other:
        await _cancel(spec, queue, other, ledger, rng)


async def _cancel(spec: Spec, queue: Torrelque, other: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    got: list[Task] = []
    window = 0.001
    cancelled = begun = acknowledged = 0.0

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            got.append(await queue.dequeue())
        nonlocal cancelled
        cancelled = anyio.current_time()

    for number in range(spec.rounds):
        task_id = f'{spec.name}.{number}'
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, scope)
            await anyio.sleep(0.002)
            begun = anyio.current_time()
            scope.deadline = begun + window * rng.uniform(0, 2)
            ledger.write('enqueuing', task_id)
            await queue.enqueue(number, task_id=task_id, task_timeout=spec.task_timeout)
            acknowledged = anyio.current_time()
            ledger.write('enqueued', task_id)
        window *= 1.1 if scope.cancelled_caught else 0.9
        if scope.cancelled_caught:
            away = max(0.0, begun - cancelled, cancelled - acknowledged)
            ledger.write('cancelled', task_id, int(away * 1e6))
            if number + 1 < spec.rounds:  # what the last one left, others have to find
                while not got:
                    got += await other.dequeue_nowait(max_tasks=10)
                ledger.write('back', task_id, int((anyio.current_time() - max(cancelled, acknowledged)) * 1e6))
        while got:
            task = got.pop()
            ledger.write('claimed', task.id, task.dequeue_count)
            await release(other, ledger, task)


CREWS: dict[str, Crew] = {'serve': serve, 'hold': hold, 'cancel': cancel}
