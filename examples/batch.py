"""A finite batch: count the lines of a folder's Python files; consumers stop on a poison pill.

The files are enqueued in bulk, and claimed and released in bulk. One that is no
text goes to the dead letters, with the reason::

    python examples/batch.py redis://localhost:6379 FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import torrelque
from torrelque import ReleaseItem, Task, Torrelque, TorrelqueTaskStatus

CONSUMERS = 4
BULK = 50
PILL = None
"""The payload that ends consumers. It is enqueued last, so every file is claimed before it."""


def find_files(folder: str) -> list[str]:
    return [str(path) for path in Path(folder).rglob('*.py')]


def count_lines(path: str) -> int:
    return len(Path(path).read_text(encoding='utf-8').splitlines())


async def consume(queue: Torrelque, pill_id: str) -> None:
    pill: Task | None = None
    while pill is None:
        done: list[ReleaseItem] = []
        for task in await queue.dequeue(max_tasks=BULK):
            if task.id == pill_id:
                pill = task
            elif task.data is PILL:
                done.append(ReleaseItem(task))  # left over from a run that was interrupted
            else:
                try:
                    lines = await asyncio.to_thread(count_lines, task.data)
                except (OSError, UnicodeError) as error:
                    await queue.reject(task, str(error))
                else:
                    done.append(ReleaseItem(task, result=lines))
        for failure in await queue.release_many(done):
            if failure is not None:
                raise failure
    await queue.requeue(pill)  # one is enough for everybody: pass it on


async def main(url: str = 'redis://localhost:6379', folder: str = '.') -> None:
    async with torrelque.connect(url) as client, Torrelque(client, queue='line-count') as queue:
        batch = set[str]()
        for added in await queue.enqueue_many(find_files(folder)):
            if isinstance(added, Exception):
                raise added
            batch.add(added)
        print(f'{len(batch)} files enqueued')

        pill_id = await queue.enqueue(PILL)
        async with asyncio.TaskGroup() as group:
            for _ in range(CONSUMERS):
                group.create_task(consume(queue, pill_id))
        await queue.cancel(pill_id)

        counted = {id_: state.result async for id_, state in queue.tasks(TorrelqueTaskStatus.COMPLETED) if id_ in batch}
        print(f'{len(counted)} files counted: {sum(counted.values())} lines')
        async for task_id, state in queue.rejected():
            if task_id in batch:
                print(f'not counted: {(await queue.get_task(task_id)).data}: {state.reason}')


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
