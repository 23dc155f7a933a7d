"""Groups: three tenants share two workers fairly, and the tasks of each run in order.

The first tenant enqueues many tasks before the others enqueue any. It does not delay
them: tenants take turns, and one task of each runs at a time. It ends once all tasks
are done::

    python examples/groups.py redis://localhost:6379
"""

from __future__ import annotations

import asyncio
import sys

import torrelque
from torrelque import Burst, Task, Torrelque, Worker

TASKS = {'acme': 12, 'globex': 3, 'initech': 3}


class Log:
    """Handles tasks, and records which ones ran."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def handle(self, task: Task) -> None:
        print(f'{task.group:8} task {task.data:2}, fence {task.fence}')
        await asyncio.sleep(0.02)  # the work
        self.done.append(str(task.group))


async def main(url: str = 'redis://localhost:6379') -> None:
    async with torrelque.connect(url) as client, Torrelque(client, queue='tenants') as queue:
        await queue.limit(group='*', ordered=True)
        for tenant, count in TASKS.items():
            await queue.enqueue_many(range(1, count + 1), group=tenant)
        log, burst = Log(), Burst()
        async with asyncio.TaskGroup() as group:
            for name in ('one', 'two'):
                worker = Worker(queue, log.handle, concurrency=2, burst=burst, name=name)
                group.create_task(worker.run())
        for tenant, count in TASKS.items():
            last = len(log.done) - log.done[::-1].index(tenant)
            print(f'{tenant}: {count} tasks, the last was number {last} of {len(log.done)}')
        await queue.delete()


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
