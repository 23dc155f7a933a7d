"""A queue's tasks, page by page, read no further than they are looked at."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

import anyio

from torrelque import (
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueTask,
    TorrelqueTaskStatus,
)
from torrelque.cli.states import read_task

__all__ = ('Pager', 'Row', 'read_rows')


class Row(NamedTuple):
    """A task of a page: itself, or why there is nothing to show of it any more."""

    id: str
    task: TorrelqueTask | None
    trouble: str = ''


class Pager:
    """The tasks with one status, in no order, ``size`` a page.

    ``wanted`` is what their id or reason has to contain, in any case. One call
    at a time.
    """

    def __init__(self, queue: Torrelque, status: TorrelqueTaskStatus, size: int, wanted: str = '') -> None:
        self._found = _matching(queue, status, wanted.lower())
        self._size = size
        self._ids: list[str] = []
        self._known: set[str] = set()
        self._at_end = False

    async def read(self, page: int) -> list[str]:
        """The ids of a page, from 0; fewer on the last one, none beyond it. Raises what reading raises."""
        first = page * self._size
        await self._read_until(first + self._size + 1)  # one more tells whether there is another page
        return self._ids[first : first + self._size]

    def has(self, page: int) -> bool:
        """Whether there is such a page, as far as it was read: the one after the last that was read is known of."""
        return page * self._size < len(self._ids)

    async def _read_until(self, count: int) -> None:
        while len(self._ids) < count and not self._at_end:
            try:
                task_id = await anext(self._found)
            except StopAsyncIteration:
                self._at_end = True
            else:
                if task_id not in self._known:  # a task may come more than once
                    self._known.add(task_id)
                    self._ids.append(task_id)


async def _matching(queue: Torrelque, status: TorrelqueTaskStatus, wanted: str) -> AsyncGenerator[str, None]:
    async for task_id, state in queue.tasks(status):
        if wanted in task_id.lower() or wanted in (state.reason or '').lower():
            yield task_id


async def read_rows(queue: Torrelque, ids: list[str]) -> list[Row]:
    """These tasks as they are now, asked for in one go. Raises TorrelqueConnectionError."""
    rows: dict[str, Row] = {}
    lost: list[TorrelqueConnectionError] = []

    async def read(task_id: str) -> None:
        try:
            rows[task_id] = Row(task_id, await read_task(queue, task_id))
        except TorrelqueConnectionError as error:
            lost.append(error)
        except TorrelqueError as error:
            rows[task_id] = Row(task_id, None, str(error))

    async with anyio.create_task_group() as group:
        for task_id in ids:
            group.start_soon(read, task_id)
    if lost:
        raise lost[0]
    return [rows[task_id] for task_id in ids]
