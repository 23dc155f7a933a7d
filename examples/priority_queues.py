"""Three queues and one worker: who gets the slots when all queues have tasks, and when one has long ones.

The first worker shares its slots by weight. The second one has a queue whose long
tasks would take all of them, and keeps a slot free for the urgent ones::

    python examples/priority_queues.py redis://localhost:6379
"""

from __future__ import annotations

import asyncio
import sys
import time

import torrelque
from torrelque import Source, Task, Torrelque, Worker

order: list[str] = []


async def note(task: Task) -> None:
    order.append(task.queue.removeprefix('example-'))


async def work_long(_task: Task) -> None:
    await asyncio.sleep(1)


async def share_by_weight(critical: Torrelque, default: Torrelque, low: Torrelque) -> None:
    for queue in (low, default, critical):
        await queue.enqueue_many(range(100))
    await Worker({critical: 6, default: 3, low: 1}, note, concurrency=5, burst=True).run()
    first = order[:100]
    print(
        'of the first 100 tasks:', ', '.join(f'{first.count(name)} {name}' for name in ('critical', 'default', 'low'))
    )


async def keep_a_slot_free(critical: Torrelque, low: Torrelque) -> None:
    queues = {critical: Source(note), low: Source(work_long)}
    worker = Worker(queues, concurrency=3, reserve={critical: 1})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        await low.enqueue_many(range(4))
        await asyncio.sleep(0.2)  # the long tasks have all slots that they may have
        begun = time.monotonic()
        await critical.wait(await critical.enqueue('urgent'))
        print(f'an urgent task beside long ones took {time.monotonic() - begun:.3f} s')
        worker.stop()
        await running


async def main(url: str = 'redis://localhost:6379') -> None:
    async with (
        torrelque.connect(url) as client,
        Torrelque(client, queue='example-critical') as critical,
        Torrelque(client, queue='example-default') as default,
        Torrelque(client, queue='example-low') as low,
    ):
        await share_by_weight(critical, default, low)
        await keep_a_slot_free(critical, low)
        for queue in (critical, default, low):
            await queue.delete(force=True)


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
