"""The project with ``finished_ttl=60``: the states of finished tasks are kept for a minute, as a worker keeps them."""

from __future__ import annotations

from benchmarks.systems import Payload, use_current

FINISHED_TTL = 60


class Subject(use_current.Subject):
    async def lifecycle(self, task: Payload) -> None:
        await self._queue.enqueue(task)
        await self._queue.release(await self._queue.dequeue(), finished_ttl=FINISHED_TTL)

    async def lifecycle_many(self, tasks: list[Payload]) -> int:
        await self._queue.enqueue_many(tasks)
        claimed = await self._queue.dequeue(max_tasks=len(tasks))
        await self._queue.release_many(claimed, finished_ttl=FINISHED_TTL)
        return len(claimed)
