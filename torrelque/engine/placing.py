"""Keeps each schedule of a queue with shards on one shard: that of its group, or else the one that its id belongs to.

A schedule has to move when its group changes, or the number of shards. At no moment
do two shards have it fire. Each change draws a rank, higher than those that it
found. It has the schedule held where it is, has all other shards refuse lower ranks,
puts the schedule where it belongs, and only then lets it fire there, if no other
change has been there meanwhile. Of changes that meet, the one with the highest rank
goes through, and the others begin again. Shards remember ranks for as long as any
client repeats a call, so calls that come late are refused.

If that is interrupted, the schedule is held. The next claim on its shard finds it
after a few seconds, and that client completes the move.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from torrelque.core import schedules
from torrelque.core.commands import Answer, Item, Outcome
from torrelque.core.models import Payload
from torrelque.core.operations import server_time
from torrelque.core.schedules import SCHEDULE, Draft, Place
from torrelque.core.sharding.layout import home_of, mark_of
from torrelque.engine.dispatch import Dispatcher
from torrelque.engine.schedules import Schedules
from torrelque.engine.sharded import ShardedDispatcher
from torrelque.errors import TorrelqueShardsError, TorrelqueUsageError

__all__ = ('ShardedSchedules', 'make_schedules')

TRIES = 30
"""Maximum number of attempts to change a schedule while others do."""

PAUSE = 0.002
"""Seconds between two attempts, at first."""

_RANKS = 1 << 21
"""Ranks in a second. Until 2106, scripts can compare them without loss."""


class ShardedSchedules(Schedules[Payload]):
    """The schedules of one object of a queue with shards.

    Args:
        dispatcher: The queue's dispatcher.
        load: Deserialises a payload.
    """

    _dispatcher: ShardedDispatcher

    def __init__(self, dispatcher: ShardedDispatcher, load: Callable[[bytes], Payload]) -> None:
        super().__init__(dispatcher, load)
        dispatcher.settle_schedule = self._settle

    async def _set(self, draft: Draft, owner: str | None) -> Answer:
        for number in range(TRIES):
            places = await self._look(draft.name, number)
            newest, home = _newest(places), self._home(draft.name, draft.group)
            if newest is not None and places[newest].value('owner').decode(errors='replace') not in ('', owner):
                return Outcome.WORKING
            rank, is_settled = await self._rank(places), _is_settled(places, home)
            if is_settled or await self._bring(draft.name, places, home, rank):
                times = await self._times(self._dispatcher.known[home], draft.timing)
                seen = places[home].rank if is_settled or newest is None else rank
                words = schedules.place_words(self._generation, rank, seen, mark_of(draft.group))
                answer = await self._submit((*draft.write(times), *words), home)
                if answer is not Outcome.AGAIN:
                    return answer
        raise self._contended(draft.name)

    async def _owner_of(self, name: str) -> str | None:
        places = await self._look(name, 0)
        newest = _newest(places)
        return None if newest is None else places[newest].value('owner').decode(errors='replace') or None

    async def _remove(self, name: str, owner: str = '') -> Answer:
        for number in range(TRIES):
            places = await self._look(name, number)
            newest = _newest(places)
            if newest is None or (owner and places[newest].value('owner') != owner.encode()):
                return Outcome.UNKNOWN
            rank = await self._rank(places)
            there = [shard for shard, place in enumerate(places) if place.kept]
            remove, retire = schedules.remove_item(name, owner, rank), schedules.retire_item(name, rank)
            if await self._submit_all(remove, there) and await self._submit_all(
                retire, [shard for shard in range(len(places)) if shard not in there]
            ):
                return Outcome.OK
        raise self._contended(name)

    async def _fire(self, name: str) -> str | None:
        for _ in range(TRIES):
            found = await self._settle(name)
            if found is None:
                return None
            shard, mark = found
            time = await self._dispatcher.runtime.engine.run(server_time(self._dispatcher.known[shard]))
            answer = await self._submit(schedules.fire_item(name, time), shard)
            if answer not in (Outcome.AGAIN, Outcome.UNKNOWN):
                return schedules.slot_id(name, time, mark)
        raise self._contended(name)

    async def _settle(self, name: str) -> tuple[int, str] | None:
        """Complete a move. Returns the shard of a schedule and the mark of its group; None if there is none."""
        for number in range(TRIES):
            places = await self._look(name, number)
            newest = _newest(places)
            if newest is None:
                return None
            home, mark = self._home(name, places[newest].value('group')), places[newest].value('mark').decode()
            if _is_settled(places, home):
                return home, mark
            rank = await self._rank(places)
            if await self._bring(name, places, home, rank):
                answer = await self._submit(schedules.activate_item(name, rank), home)
                if answer is Outcome.OK:
                    return home, mark
        raise self._contended(name)

    async def _bring(self, name: str, places: Sequence[Place], home: int, rank: int) -> bool:
        """Leave a schedule, if there is one, on one shard, held. Returns whether no higher rank was met."""
        newest = _newest(places)
        if newest is not None:
            held = await self._submit(schedules.hold_item(name, places[newest].rank, rank), newest)
            if held is not Outcome.OK:
                return False
        retire = schedules.retire_item(name, rank)
        others = [shard for shard in range(len(places)) if shard not in (home, newest)]
        if not await self._submit_all(retire, others):
            return False
        if newest is None or newest == home:
            return True
        place = await self._dispatcher.runtime.engine.run(schedules.read_place(self._dispatcher.known[newest], name))
        if place.rank != rank or not place.kept:
            return False
        put = await self._submit(schedules.put_item(name, place.kept, rank), home)
        return put is Outcome.OK and await self._submit_all(retire, [newest])

    # Calls -----------------------------------------------------------------------------------------------------------

    async def _look(self, name: str, number: int) -> Sequence[Place]:
        """Return what each shard has of a schedule. Pause before, unless this is the first attempt."""
        if number:
            await self._dispatcher.runtime.engine.rest(PAUSE * number * (1 + os.urandom(1)[0] / 256))
        return await self._dispatcher.each(lambda keys: schedules.read_place(keys, name))

    def _home(self, name: str, group: bytes) -> int:
        layout = self._dispatcher.layout
        assert layout is not None  # noqa: S101 - callers have looked
        return home_of(group or name, layout.shards)

    @property
    def _generation(self) -> int:
        layout = self._dispatcher.layout
        assert layout is not None  # noqa: S101 - callers have looked
        return layout.generation

    async def _rank(self, places: Sequence[Place]) -> int:
        """Draw a rank. Its last digits are random, so that no two changes have the same."""
        time = await self._dispatcher.runtime.engine.run(server_time(self._dispatcher.first))
        drawn = int.from_bytes(os.urandom(4), 'big') % _RANKS
        return max(int(time) * _RANKS, max(place.rank for place in places) + 1) + drawn

    async def _submit(self, item: Item, shard: int) -> Answer:
        try:
            (answer,) = await self._dispatcher.runtime.engine.submit(SCHEDULE, [item], shard)
        except TorrelqueShardsError:
            await self._dispatcher.catch_up()
            return Outcome.AGAIN
        return answer

    async def _submit_all(self, item: Item, shards: Sequence[int]) -> bool:
        """Send an item to some shards at once. Returns whether none of them refused it."""
        answers: list[Answer] = []
        errors: list[Exception] = []

        async def submit(shard: int) -> None:
            try:
                answers.append(await self._submit(item, shard))
            except Exception as error:  # noqa: BLE001 - raised below, not in a group
                errors.append(error)

        await self._dispatcher.runtime.engine.run_all([partial(submit, shard) for shard in shards])
        if errors:
            raise errors[0]
        return Outcome.AGAIN not in answers

    def _contended(self, name: str) -> TorrelqueUsageError:
        return TorrelqueUsageError(
            f'schedule {name!r} of queue {self._dispatcher.runtime.name!r} is being changed by others'
        )


def _newest(places: Sequence[Place]) -> int | None:
    """Return the shard with a schedule, or with its latest copy if there are several; None if no shard has it."""
    there = [shard for shard, place in enumerate(places) if place.kept]
    return max(there, key=lambda shard: places[shard].rank, default=None)


def _is_settled(places: Sequence[Place], home: int) -> bool:
    """Whether a schedule is at home, fires, and is nowhere else."""
    there = [shard for shard, place in enumerate(places) if place.kept]
    return there == [home] and not places[home].is_held


def make_schedules(dispatcher: Dispatcher, load: Callable[[bytes], Payload]) -> Schedules[Payload]:
    """Return the schedules of a queue object."""
    if isinstance(dispatcher, ShardedDispatcher):
        return ShardedSchedules(dispatcher, load)
    return Schedules(dispatcher, load)
