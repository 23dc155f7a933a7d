"""Adds, changes, removes and lists the schedules of a queue."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic

from torrelque.core import schedules
from torrelque.core.commands import Answer, Outcome
from torrelque.core.keys import Keys
from torrelque.core.models import Payload
from torrelque.core.operations import server_time
from torrelque.core.schedules import AHEAD, SCHEDULE, Draft, Schedule, Timing
from torrelque.engine.cron import next_times
from torrelque.engine.dispatch import Dispatcher
from torrelque.engine.listing import Listing
from torrelque.errors import TorrelqueLookupError, TorrelqueUsageError, TorrelqueValueError

__all__ = ('Schedules',)


class Schedules(Generic[Payload]):
    """The schedules of one queue object.

    Args:
        dispatcher: The queue's dispatcher.
        load: Deserialises a payload.
    """

    def __init__(self, dispatcher: Dispatcher, load: Callable[[bytes], Payload]) -> None:
        self._dispatcher = dispatcher
        self._load = load

    async def set(self, draft: Draft, owner: str | None) -> None:
        """Add or change a schedule. Safe to repeat."""
        _check_cron(draft.timing)
        if await self._set(draft, owner) is Outcome.WORKING:
            await self._check_owner(draft.name, owner)

    async def _set(self, draft: Draft, owner: str | None) -> Answer:
        del owner
        await self._dispatcher.is_changed()
        item = draft.write(await self._times(self._dispatcher.first, draft.timing))
        return await self._dispatcher.one(SCHEDULE, item)

    async def _times(self, keys: Keys, timing: Timing) -> Sequence[float]:
        if timing.every is not None:
            return ()
        after = math.floor(await self._dispatcher.runtime.engine.run(server_time(keys)))
        times = next_times(timing.cron, timing.tz, after, AHEAD)
        if not times:
            raise TorrelqueValueError(f'cron must match a time within 50 years, got {timing.cron!r}')
        return times

    async def _check_owner(self, name: str, owner: str | None) -> None:
        """Raise if another owner holds a schedule."""
        held = await self._owner_of(name)
        if held not in (None, owner):
            mine = 'not to this caller, who named no owner' if owner is None else f'not to {owner!r}'
            raise TorrelqueUsageError(f'schedule {name!r} belongs to owner {held!r}, {mine}: nothing was changed')

    async def _owner_of(self, name: str) -> str | None:
        return await self._dispatcher.read_first(lambda keys: schedules.read_owner(keys, name))

    async def replace(self, drafts: Sequence[Draft], owner: str) -> None:
        """Have an owner hold exactly these schedules. Nothing is changed if another owner holds one of them."""
        for draft in drafts:
            _check_cron(draft.timing)
        for draft in drafts:
            await self._check_owner(draft.name, owner)
        for draft in drafts:
            await self.set(draft, owner)
        wanted = {draft.name for draft in drafts}
        async for found in self.list():
            if found.owner == owner and found.id not in wanted:
                await self._remove(found.id, owner)

    async def remove(self, name: str) -> None:
        """Remove a schedule."""
        if await self._remove(name) is not Outcome.OK:
            raise self._unknown(name)

    async def _remove(self, name: str, owner: str = '') -> Answer:
        await self._dispatcher.is_changed()
        return await self._dispatcher.one(SCHEDULE, schedules.remove_item(name, owner))

    async def fire(self, name: str) -> str:
        """Have a schedule add a task now, and return the task's id."""
        task_id = await self._fire(name)
        if task_id is None:
            raise self._unknown(name)
        return task_id

    async def _fire(self, name: str) -> str | None:
        time = await self._dispatcher.read_first(server_time)
        answer = await self._dispatcher.one(SCHEDULE, schedules.fire_item(name, time))
        return None if answer is Outcome.UNKNOWN else schedules.slot_id(name, time)

    def _unknown(self, name: str) -> TorrelqueLookupError:
        return TorrelqueLookupError(f'no schedule {name!r} in queue {self._dispatcher.runtime.name!r}')

    def list(self) -> AsyncIterator[Schedule[Payload]]:
        """Iterate over all schedules, in bounded steps, each once."""
        known: set[str] = set()

        async def page(keys: Keys, cursor: bytes) -> tuple[bytes, list[Schedule[Payload]]]:
            cursor, found = await self._dispatcher.runtime.engine.run(schedules.scan_schedules(keys, cursor))
            new = {
                name: schedules.make_schedule(name, values, self._load) for name, values in found if name not in known
            }
            known.update(new)
            return cursor, [*new.values()]

        return Listing(self._dispatcher.keys, page)


def _check_cron(timing: Timing) -> None:
    """Check the syntax of a cron expression and the name of the time zone."""
    if timing.every is None:
        next_times(timing.cron, timing.tz, 0, 1)
