"""Periodic tasks: three consumers, and no scheduler process.

One schedule adds a task each second by a cron expression, another each half second.
It ends once 9 tasks are done::

    python examples/schedules.py redis://localhost:6379
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import torrelque
from torrelque import Torrelque

SCHEDULES: dict[str, dict[str, Any]] = {
    'report': {'task': {'kind': 'report'}, 'cron': '* * * * * *', 'tz': 'Europe/Vienna'},
    'ping': {'task': {'kind': 'ping'}, 'every': 0.5, 'overlap': False},
}
TASKS = 9


async def main(url: str = 'redis://localhost:6379') -> None:
    async with torrelque.connect(url) as client, Torrelque(client, queue='periodic') as queue:
        await queue.set_schedules(SCHEDULES, owner='example')
        done: list[str] = []

        async def consume(name: str) -> None:
            while len(done) < TASKS:
                async with asyncio.timeout(10):
                    task = await queue.dequeue()
                late = time.time() - float(task.id.partition('@')[2])
                print(f'{task.id:>22} {1000 * late:5.1f} ms after its time, on {name}')
                done.append(str(task.id))
                await queue.release(task)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(consume(f'consumer {number}'))
        print(f'{len(done)} tasks, {len(done) - len(set(done))} of them twice')
        await queue.delete(force=True)


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
