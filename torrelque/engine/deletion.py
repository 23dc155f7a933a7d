"""Deletes a whole queue, in bounded steps."""

from __future__ import annotations

from torrelque.core import operations
from torrelque.core.commands import ERASE, Outcome
from torrelque.core.wording import counted
from torrelque.engine.dispatch import Dispatcher
from torrelque.errors import TorrelqueUsageError

__all__ = ('delete',)


async def delete(dispatcher: Dispatcher, *, force: bool) -> None:
    """Delete all keys of a queue. Safe to repeat.

    Args:
        dispatcher: The queue's dispatcher.
        force: Also delete tasks and schedules.

    Raises:
        TorrelqueUsageError: There are tasks or schedules, and ``force`` is False; or tasks were added meanwhile.
    """
    engine, name = dispatcher.runtime.engine, dispatcher.runtime.name
    parts = await dispatcher.all_keys()
    for shard in range(len(parts)):
        if await engine.submit(ERASE, [(0,)], shard) == [Outcome.OK]:
            continue
        if not force:
            raise TorrelqueUsageError(await _has_tasks(dispatcher))
        while await engine.submit(ERASE, [(1,)], shard) != [Outcome.OK]:
            pass
    for keys in parts:
        if not await engine.run(operations.wipe(dispatcher.runtime.scripts, keys)):
            raise TorrelqueUsageError(
                f'tasks were added to queue {name!r} meanwhile: stop its producers, and delete it again'
            )
    await dispatcher.forget(parts)


async def _has_tasks(dispatcher: Dispatcher) -> str:
    counts = await dispatcher.each(operations.count_listed)
    pending, working, delayed, rejected, schedules = (sum(each) for each in zip(*counts, strict=True))
    more = f' and {counted(schedules, "schedule")}' if schedules else ''
    return (
        f'queue {dispatcher.runtime.name!r} has {pending:,} pending, {working:,} claimed and {delayed:,} delayed tasks '
        f'and {counted(rejected, "dead letter")}{more}: '
        'delete(force=True) removes them, too'
    )
