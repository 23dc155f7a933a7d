"""What the patterns share."""

from __future__ import annotations

from collections.abc import Awaitable

import anyio

from torrelque import Task, Torrelque

__all__ = ('Handled', 'end_all', 'look_once')


class Handled:
    """A handler that counts, and whose count can be waited for."""

    def __init__(self) -> None:
        self.number = 0
        self._news = anyio.Event()

    async def __call__(self, task: Task) -> None:
        self.tell()

    def tell(self) -> None:
        """Count one more."""
        self.number += 1
        self._news.set()

    async def see(self, number: int, adding: Awaitable[object]) -> None:
        """Await what adds tasks, and then until that many more have been handled than before."""
        goal = self.number + number
        await adding
        await self.reach(goal)

    async def reach(self, number: int) -> None:
        """Return when that many have been handled."""
        while self.number < number:
            self._news = anyio.Event()
            await self._news.wait()


async def end_all(queue: Torrelque) -> None:
    """Take what there is and release it."""
    while tasks := await queue.dequeue_nowait(max_tasks=100):
        await queue.release_many(tasks)


async def look_once(queue: Torrelque, task: str | Task) -> None:
    """Watch a task for one state, and leave."""
    states = queue.watch(task)
    async for _ in states:
        break
    await states.aclose()  # type: ignore[attr-defined]  # it is a generator
