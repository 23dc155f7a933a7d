"""Cancelling running tasks: one is ended, one cleans up when it is asked to end, one would rather finish.

A worker in the same process hears of each cancellation at once::

    python examples/cancel.py redis://localhost:6379
"""

from __future__ import annotations

import asyncio
import sys

import torrelque
from torrelque import Task, Torrelque, TorrelqueLookupError, Worker, events


async def handle(task: Task) -> str:
    print(f'{task.data} starts')
    if task.data == 'stubborn':
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return 'finished all the same'
    try:
        await asyncio.sleep(60)
    finally:
        print(f'{task.data} cleans up')
    return 'done'


async def main(url: str = 'redis://localhost:6379') -> None:
    running: asyncio.Queue[str] = asyncio.Queue()

    def note(event: events.WorkerEvent) -> None:
        if isinstance(event, events.Started):
            running.put_nowait(event.task.id)

    async with torrelque.connect(url) as client, Torrelque(client, queue='cancelled-tasks') as queue:
        worker = Worker(queue, handle, concurrency=3, on_event=note, handle_signals=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            for name, how in (('ended', 'end'), ('gentle', 'ask'), ('stubborn', 'ask')):
                task_id = await queue.enqueue(name)
                await running.get()
                await asyncio.sleep(0.1)  # it works
                await queue.cancel(task_id, running='end' if how == 'end' else 'ask')
                try:
                    state = await queue.wait(task_id, timeout=10)
                    print(f'{name}: {state.result}')
                except TorrelqueLookupError:
                    print(f'{name}: removed')
            worker.stop()
        await queue.delete(force=True)


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
