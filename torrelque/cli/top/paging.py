"""Reads a queue's tasks page by page, but no further than necessary."""

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
    """A row of a page: a task, or the reason why it is no longer there."""

    id: str
    task: TorrelqueTask | None
    trouble: str = ''


class Pager:
    """The tasks with one status, in no particular order, ``size`` per page.

    Only tasks whose id or reason contains ``wanted`` are listed, ignoring case.
    Make one call at a time.
    """

    def __init__(self, queue: Torrelque, status: TorrelqueTaskStatus, size: int, wanted: str = '') -> None:
        self._found = _matching(queue, status, wanted.lower())
        self._size = size
        self._ids: list[str] = []
        self._known: set[str] = set()
        self._at_end = False

    async def read(self, page: int) -> list[str]:
        """Return the ids of a page, counted from 0; none beyond the last page. Raises the errors of reading."""
        first = page * self._size
        await self._read_until(first + self._size + 1)  # one more shows whether there is another page
        return self._ids[first : first + self._size]

    def has(self, page: int) -> bool:
        """Return whether a page exists, as far as known: up to one page after those that were read."""
        return page * self._size < len(self._ids)

    async def _read_until(self, count: int) -> None:
        while len(self._ids) < count and not self._at_end:
            try:
                task_id = await anext(self._found)
            except StopAsyncIteration:
                self._at_end = True
            else:
                if task_id not in self._known:  # a task may be found more than once
                    self._known.add(task_id)
                    self._ids.append(task_id)


async def _matching(queue: Torrelque, status: TorrelqueTaskStatus, wanted: str) -> AsyncGenerator[str, None]:
    async for task_id, state in queue.tasks(status):
        if wanted in task_id.lower() or wanted in (state.reason or '').lower():
            yield task_id


async def read_rows(queue: Torrelque, ids: list[str]) -> list[Row]:
    """Read the current state of these tasks together. Raises TorrelqueConnectionError."""
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
