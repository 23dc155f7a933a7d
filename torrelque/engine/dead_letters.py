"""Redrives and purges dead letters in bounded steps, by id or by age."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torrelque.core import checks, operations
from torrelque.core.commands import Command, Item, Outcome
from torrelque.core.keys import Keys
from torrelque.engine.dispatch import Dispatcher
from torrelque.errors import TorrelqueLookupError

__all__ = ('DeadLetters',)


class DeadLetters:
    """The dead letters of one queue."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._name = dispatcher.runtime.name

    async def do(
        self,
        command: Command,
        write: Callable[[str, float], Item],
        task_ids: str | Iterable[str] | None,
        age: float,
        limit: int | None,
    ) -> int:
        """Run a command on dead letters.

        Args:
            command: The command.
            write: Makes an item from an id and the latest time of rejection.
            task_ids: An id, or several; None takes the oldest.
            age: Without ids, only those that were rejected at least this number of seconds ago.
            limit: Maximum number of dead letters.

        Returns:
            The number of dead letters on which the command took effect.
        """
        most = math.inf if limit is None else checks.check_count('limit', limit)
        if task_ids is None:
            return await self._do_to_oldest(command, write, age, most)
        ids = [str(each) for each in checks.check_ids(task_ids)]
        await self._check_known(ids)
        wanted = ids if limit is None else ids[:limit]
        return await self._do_to(command, [write(task_id, math.inf) for task_id in wanted])

    async def _check_known(self, ids: list[str]) -> None:
        layout = self._dispatcher.layout
        unknown = await self._unknown_of(ids)
        if unknown and await self._dispatcher.is_changed(layout):
            unknown = await self._unknown_of(unknown)
        if unknown:
            names = ', '.join(repr(task_id) for task_id in unknown[:10])
            raise TorrelqueLookupError(f'no dead letters in queue {self._name!r}: {names}')

    async def _unknown_of(self, ids: list[str]) -> list[str]:
        """Return the ids that are not dead letters."""
        by_keys: dict[Keys, list[str]] = {}
        for task_id in ids:
            by_keys.setdefault(await self._dispatcher.keys_of(task_id), []).append(task_id)
        unknown: list[str] = []
        for keys, here in by_keys.items():
            for first in range(0, len(here), operations.PAGE):
                page = here[first : first + operations.PAGE]
                known = await self._dispatcher.runtime.engine.run(operations.are_rejected(keys, page))
                unknown += [task_id for task_id, is_known in zip(page, known, strict=True) if not is_known]
        return unknown

    async def _do_to_oldest(
        self, command: Command, write: Callable[[str, float], Item], age: float, most: float
    ) -> int:
        engine, count = self._dispatcher.runtime.engine, 0
        for keys in await self._dispatcher.keys():
            before = await engine.run(operations.server_time(keys)) - age
            while count < most:
                page = int(min(operations.PAGE, most - count))
                ids = await engine.run(operations.rejected_before(keys, before, page))
                done = await self._do_to(command, [write(task_id, before) for task_id in ids])
                if not done:  # none are left, or their states have a wrong type
                    break
                count += done
        return count

    async def _do_to(self, command: Command, items: list[Item]) -> int:
        answers = await self._dispatcher.many(command, items, None)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers.count(Outcome.OK)
