"""What processes can be for besides: a Worker at work, and consumers in great numbers or in great haste."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

import anyio

from tests.chaos.clients import CLIENTS, TROUBLE, excuse
from tests.chaos.crews import Crew, Spec, note_claim, produce, release
from tests.chaos.ledger import Ledger
from torrelque import Retry, Task, Torrelque, Worker, events, retry

__all__ = ('CROWDS',)


async def work(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Produce, and have a Worker consume, whose handlers fail now and then, and overrun a lease that is renewed."""

    def tell(event: events.WorkerEvent) -> None:
        match event:
            case events.Finished(task):
                ledger.write('released', task.id, task.dequeue_count)
            case events.Retried(task):
                ledger.write('requeued', task.id, task.dequeue_count)
            case events.LeaseLost(task):
                ledger.write('lost', task.id, task.dequeue_count)
            case events.Unsettled(task):
                ledger.write('unknown', task.id, task.dequeue_count)

    async def handle(task: Task) -> list[object]:
        note_claim(ledger, task)
        chance = rng.random()
        await anyio.sleep(spec.task_timeout * 1.2 if chance < 0.01 else rng.uniform(0, 0.01))
        if chance > 0.98:
            raise Retry(rng.choice([0, 0.1]))
        if chance > 0.96:
            raise ValueError(chance)
        ledger.write('releasing', task.id, task.dequeue_count)
        return [ledger.name, task.dequeue_count]

    worker = Worker(queue, handle, concurrency=4, retry=retry.immediately(), on_event=tell)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce, spec, queue, ledger, rng)
        tasks.start_soon(worker.run)


async def take(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Take tasks and release them, with no other trouble than that of the connection."""

    async def consume() -> None:
        while True:
            try:
                task = await queue.dequeue()
            except TROUBLE as error:
                excuse(error)
                await anyio.sleep(0.01)
                continue
            ledger.write('claimed', task.id, task.dequeue_count)
            await anyio.sleep(rng.uniform(0, 0.01))
            await release(queue, ledger, task)

    ledger.write('ready')
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(consume)


async def wait(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Consumers, spread over queue objects, each with its own client."""

    async def consume(own: Torrelque) -> None:
        while True:
            task = await own.dequeue()
            ledger.write('claimed', task.id, task.dequeue_count)
            await release(own, ledger, task)

    async with AsyncExitStack() as stack:
        queues = [queue]
        while len(queues) < spec.objects:
            client = await stack.enter_async_context(CLIENTS[spec.client](spec.url))
            queues.append(await stack.enter_async_context(Torrelque(client, queue=spec.queue)))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for number in range(spec.consumers):
            tasks.start_soon(consume, queues[number % len(queues)])
        ledger.write('ready')
        await anyio.sleep_forever()


async def gulp(spec: Spec, queue: Torrelque, ledger: Ledger, rng: random.Random) -> None:
    """Take as many as there are and release them all. The ledger tells when and how many, not which."""
    ledger.write('ready')
    while True:
        tasks = await queue.dequeue(max_tasks=100)
        ledger.write('claimed', count=len(tasks))
        lost = sum(error is not None for error in await queue.release_many(tasks))
        if lost:
            ledger.write('lost', count=lost)


CROWDS: dict[str, Crew] = {'work': work, 'take': take, 'wait': wait, 'gulp': gulp}
