"""Doing a verb to dead letters: those with given ids, or all up to an age, in bounded steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torrelque.core import checks, operations
from torrelque.core.verbs import Item, Outcome, Verb
from torrelque.errors import TorrelqueLookupError

if TYPE_CHECKING:
    from torrelque.observing import Observer

__all__ = ('DeadLetters',)


class DeadLetters:
    """The dead letters of one queue."""

    def __init__(self, queue: Observer) -> None:
        self._queue = queue

    async def do(
        self,
        verb: Verb,
        write: Callable[[str, float], Item],
        task_ids: str | Iterable[str] | None,
        age: float,
        limit: int | None,
    ) -> int:
        """Do a verb to at most ``limit`` of them; how many it was done to.

        Without ids to those that were rejected ``age`` s ago and more, the oldest
        first. ``write`` makes an item of an id and the latest time of rejection.
        """
        most = math.inf if limit is None else checks.check_count('limit', limit)
        if task_ids is None:
            return await self._do_to_oldest(verb, write, age, most)
        ids = [str(checks.check_id(each)) for each in ([task_ids] if isinstance(task_ids, str) else task_ids)]
        await self._check_known(ids)
        wanted = ids if limit is None else ids[:limit]
        return await self._do_to(verb, [write(task_id, math.inf) for task_id in wanted])

    async def _check_known(self, ids: list[str]) -> None:
        known = await self._queue._engine.run(operations.are_rejected(self._queue._keys, ids))  # noqa: SLF001 - a part of the queue in a module of its own
        unknown = [task_id for task_id, is_known in zip(ids, known, strict=True) if not is_known]
        if unknown:
            names = ', '.join(repr(task_id) for task_id in unknown[:10])
            raise TorrelqueLookupError(f'no dead letters in queue {self._queue.queue!r}: {names}')

    async def _do_to_oldest(self, verb: Verb, write: Callable[[str, float], Item], age: float, most: float) -> int:
        engine, keys = self._queue._engine, self._queue._keys  # noqa: SLF001 - as above
        before = await engine.run(operations.server_time(keys)) - age
        count = 0
        while count < most:
            page = int(min(operations.PAGE, most - count))
            ids = await engine.run(operations.rejected_before(keys, before, page))
            done = await self._do_to(verb, [write(task_id, before) for task_id in ids])
            if not done:  # none are left, or none that it can be done to: the state is of a wrong type
                break
            count += done
        return count

    async def _do_to(self, verb: Verb, items: list[Item]) -> int:
        count = 0
        for first in range(0, len(items), verb.limit):
            answers = await self._queue._engine.submit(verb, items[first : first + verb.limit])  # noqa: SLF001 - as above
            count += answers.count(Outcome.OK)
        return count
