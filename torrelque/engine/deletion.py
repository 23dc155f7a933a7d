"""Deleting a whole queue, in bounded steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torrelque.core import operations
from torrelque.core.commands import ERASE, Outcome
from torrelque.errors import TorrelqueUsageError

if TYPE_CHECKING:
    from torrelque.observing import Observer

__all__ = ('delete',)


async def delete(queue: Observer, *, force: bool) -> None:
    """Remove a queue's keys; its tasks as well with ``force``, else it must have none."""
    engine, routes = queue._engine, queue._routes  # noqa: SLF001 - a part of the queue in a module of its own
    places = await routes.all_keys()
    for shard in range(len(places)):
        if await engine.submit(ERASE, [(0,)], shard) == [Outcome.OK]:
            continue
        if not force:
            raise TorrelqueUsageError(await _has_tasks(queue))
        while await engine.submit(ERASE, [(1,)], shard) != [Outcome.OK]:
            pass
    for keys in places:
        if not await engine.run(operations.wipe(queue._scripts, keys)):  # noqa: SLF001 - as above
            raise TorrelqueUsageError(
                f'tasks were added to queue {queue.queue!r} meanwhile: stop its producers, and delete it again'
            )
    await routes.forget(places)


async def _has_tasks(queue: Observer) -> str:
    counts = await queue._routes.each(operations.count_listed)  # noqa: SLF001 - as above
    pending, working, delayed, rejected = (sum(each) for each in zip(*counts, strict=True))
    return (
        f'queue {queue.queue!r} has {pending} pending, {working} claimed and {delayed} delayed tasks '
        f'and {rejected} dead letters: delete(force=True) removes them, too'
    )
