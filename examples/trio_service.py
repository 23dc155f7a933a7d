"""A service on Trio: a worker that stops gracefully, and a producer.

In one terminal, or in as many as you like::

    python examples/trio_service.py work redis://localhost:6379

SIGTERM, as service managers send it, or Ctrl-C lets it finish what it has begun
for at most 10 s; what is not done by then goes back to the front of the queue.
In another terminal::

    python examples/trio_service.py produce redis://localhost:6379
"""

from __future__ import annotations

import logging
import random
import sys

import trio

import torrelque
from torrelque import Task, Torrelque, Worker, events, retry

QUEUE = 'thumbnails'


async def make_thumbnail(task: Task) -> str:
    """The work. What it returns is kept as the task's result."""
    name: str = task.data['image']
    await trio.sleep(random.uniform(0.5, 1.5))
    if random.random() < 0.2:
        raise OSError(f'{name} cannot be read')
    return f'small-{name}'


def report(event: events.WorkerEvent) -> None:
    """Print what the worker does not log by itself."""
    match event:
        case events.Started(task):
            print(f'{task.data["image"]}: begun, attempt {task.attempt}')
        case events.Finished(task, result):
            print(f'{task.data["image"]}: done, {result}')
        case events.GivenBack(task):
            print(f'{task.data["image"]}: given back')


async def work(url: str) -> None:
    async with torrelque.connect(url) as client, Torrelque(client, queue=QUEUE) as queue:
        worker = Worker(
            queue,
            make_thumbnail,
            concurrency=4,
            retry=retry.exponential(base=0.5, attempts=10),
            grace=10,
            handle_signals=True,
            on_event=report,
        )
        print('waiting for images')
        await worker.run()
        print('stopped')


async def produce(url: str) -> None:
    async with (
        torrelque.connect(url) as client,
        Torrelque(client, queue=QUEUE) as queue,
        trio.open_nursery() as nursery,
    ):
        for number in range(1, 11):
            nursery.start_soon(order, queue, f'{number}.png')


async def order(queue: Torrelque, image: str) -> None:
    """Enqueue one image, and wait for its thumbnail."""
    task_id = await queue.enqueue({'image': image}, task_timeout=30)
    state = await queue.wait(task_id)
    print(f'{image}: {state.status.name} {state.result or state.reason}')


if __name__ == '__main__':
    logging.basicConfig(level=logging.INFO)
    verb, url, *_ = [*sys.argv[1:], 'redis://localhost:6379']
    trio.run({'work': work, 'produce': produce}[verb], url)
