"""Reads which workers a queue has, and which of them holds a task."""

from __future__ import annotations

from collections.abc import Iterable

from torrelque import Torrelque, TorrelqueReplyError, TorrelqueTask, WorkerInfo

__all__ = ('Holders', 'read_workers', 'try_workers')


async def read_workers(queue: Torrelque) -> list[WorkerInfo]:
    """Return the workers of a queue, sorted by name."""
    return sorted([worker async for worker in queue.workers()], key=lambda worker: (worker.name, worker.id))


async def try_workers(queue: Torrelque) -> list[WorkerInfo] | None:
    """Return the workers of a queue; None if the list is damaged, or if this user may not read it."""
    try:
        return await read_workers(queue)
    except TorrelqueReplyError as error:
        if error.code not in ('NOPERM', 'WRONGTYPE'):
            raise
        return None


class Holders:
    """Finds the worker that holds a task."""

    def __init__(self, workers: Iterable[WorkerInfo] | None) -> None:
        self._names: dict[str, list[str]] = {}
        for worker in workers or ():
            self._names.setdefault(worker.consumer, []).append(worker.name)

    def of(self, task: TorrelqueTask) -> str | None:
        """Return the name of the worker, or the names of all that are possible; None if it is unknown."""
        return ' or '.join(dict.fromkeys(self._names.get(task.consumer or '', ()))) or None
