"""Limits of a queue: two workers share them, as if they ran on two machines.

At most 3 tasks run at once, and after a burst of 5 one starts every fifth of a
second, whichever worker is free. It ends once 12 tasks are done::

    python examples/limits.py redis://localhost:6379
"""

from __future__ import annotations

import asyncio
import sys
import time

import torrelque
from torrelque import Burst, Task, Torrelque, Worker

TASKS = 12


class Calls:
    """Calls a service that permits no more than that."""

    def __init__(self) -> None:
        self.begun: float = time.monotonic()
        self.running: int = 0
        self.most: int = 0

    async def handle(self, task: Task) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        print(f'{time.monotonic() - self.begun:5.2f} s  call {task.data} starts, {self.running} at once')
        await asyncio.sleep(0.1)  # the call
        self.running -= 1


async def main(url: str = 'redis://localhost:6379') -> None:
    async with torrelque.connect(url) as client, Torrelque(client, queue='limited-calls') as queue:
        await queue.limit(concurrency=3, rate=(5, 1))
        await queue.enqueue_many(range(1, TASKS + 1))
        calls, burst = Calls(), Burst()
        async with asyncio.TaskGroup() as group:
            for name in ('one', 'two'):
                worker = Worker(queue, calls.handle, concurrency=10, burst=burst, name=name)
                group.create_task(worker.run())
        print(f'{TASKS} calls in {time.monotonic() - calls.begun:.1f} s, at most {calls.most} at once')
        await queue.delete()


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
