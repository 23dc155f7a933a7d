"""Schedules of a queue with shards that several clients change at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from random import Random

import anyio
import anyio.lowlevel
import pytest

from tests.queue.sharding.test_schedules import GROUPS, START, shards_of, worked_off
from tests.queue.transports import runs
from torrelque import Torrelque, TorrelqueConnectionError, TorrelqueLookupError, TorrelqueUsageError
from torrelque.core.commands import Outcome
from torrelque.core.protocol import Batch, Reply
from torrelque.core.schedules import activate_item, hold_item, place_words, put_item, remove_item, retire_item
from torrelque.core.sharding.layout import home_of
from torrelque.engine.placing import ShardedSchedules
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio


async def test_calls_that_come_late_do_nothing() -> None:
    clock = VirtualClock(START)
    async with Torrelque(MemoryTransport(clock=clock), shards=3) as queue:
        placing = queue._schedules
        assert isinstance(placing, ShardedSchedules)
        await queue.schedule('x', 1, every=5)
        home = home_of('x', 3)
        before = (await placing._look('x', 0))[home]
        draft = queue._schedule_of('x', {'task': 2, 'every': 5})
        late = (*draft.write(()), *place_words(placing._generation, before.rank + 1, before.rank, ''))
        await queue.schedule('x', 3, every=5)
        assert await placing._submit(late, home) is Outcome.AGAIN
        assert await placing._submit(hold_item('x', before.rank, before.rank + 1), home) is Outcome.UNKNOWN
        assert await placing._submit(activate_item('x', before.rank), home) is Outcome.UNKNOWN
        assert await placing._submit(retire_item('x', before.rank), home) is Outcome.AGAIN
        assert await placing._submit(remove_item('x', '', before.rank), home) is Outcome.AGAIN
        assert [each.task async for each in queue.schedules()] == [3]
        await queue.unschedule('x')
        assert await placing._submit(late, home) is Outcome.AGAIN
        assert await placing._submit(put_item('x', before.kept, before.rank), home) is Outcome.AGAIN
        assert await placing._submit(put_item('x', before.kept, before.rank), (home + 1) % 3) is Outcome.AGAIN
        assert [each async for each in queue.schedules()] == []
        await clock.advance(1000)  # by then no client repeats a call
        assert not [key for key in queue._transport.server.snapshot() if b':schedule:' in key]  # type: ignore[attr-defined]


class _Unsteady(MemoryTransport):
    """Calls take their time, arrive late, or get lost, as chance has it. Looks at the schedule after each."""

    def __init__(self, clock: VirtualClock, chance: Random) -> None:
        super().__init__(clock=clock)
        self.chance = chance
        self.late: list[Batch] = []

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        is_change = runs(batch, 'schedule')
        for _ in range(self.chance.randrange(3)):
            await anyio.lowlevel.checkpoint()
        if is_change and self.chance.random() < 0.05:
            self.late.append(batch)
            raise TorrelqueConnectionError('the connection broke')
        replies = await super().execute(batch)
        self.check()
        for _ in range(self.chance.randrange(3)):
            await anyio.lowlevel.checkpoint()
        if self.late and self.chance.random() < 0.1:
            await super().execute(self.late.pop(self.chance.randrange(len(self.late))))
            self.check()
        return replies

    def check(self) -> None:
        live = [
            key
            for key, (_, content, _) in self.server.snapshot().items()
            if key.endswith(b':schedule:x') and isinstance(content, dict)
            if content.get(b'payload') and not content.get(b'held')
        ]
        assert len(live) <= 1, live


@pytest.mark.parametrize('seed', range(8))
async def test_changes_that_meet(seed: int) -> None:
    """At most one shard fires a schedule, even if changes to it meet or are interrupted."""
    chance, clock = Random(seed), VirtualClock(START)
    transport = _Unsteady(clock, chance)
    got: list[str] = []

    async def change(queue: Torrelque) -> None:
        for number in range(12):
            with anyio.move_on_after(60) as scope:
                if chance.random() < 0.3:
                    tasks.start_soon(_cancel_later, scope, chance)
                with suppress(TorrelqueConnectionError, TorrelqueLookupError, TorrelqueUsageError):
                    await _change(queue, number, chance)

    async def consume(queue: Torrelque) -> None:
        while True:
            await clock.advance(0.05)
            with suppress(TorrelqueConnectionError):
                for task in await queue.dequeue_nowait(max_tasks=99):
                    got.append(str(task.id))
                    with suppress(TorrelqueConnectionError):
                        await queue.release(task)

    async with Torrelque(transport, shards=3) as first, Torrelque(transport, shards=3) as second:
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as changes:
                for queue in (first, second, second):
                    changes.start_soon(change, queue)
                tasks.start_soon(consume, first)
            tasks.cancel_scope.cancel()
        transport.chance = Random(0)
        transport.late.clear()
        chance = transport.chance
        transport.execute = MemoryTransport(server=transport.server, clock=clock).execute  # type: ignore[method-assign]
        got += await worked_off(first, clock, 12)
        there = {each.id async for each in first.schedules()}
        assert len(shards_of(transport.server)) == len(there)
        if there:
            (before,) = [each async for each in first.schedules()]
            assert before.next is not None
            assert shards_of(transport.server) == {'x': home_of(before.group or 'x', 3)}
            got += await worked_off(first, clock, 3)
            assert len(got) > 3
        slots = [task_id.rpartition('@')[2] for task_id in got]
        assert len({*slots}) == len(slots)
        await first.schedule('x', 99, every=1, group='acme')
        assert [(each.task, each.group) async for each in first.schedules()] == [(99, 'acme')]
        assert await first.audit() == []


async def _change(queue: Torrelque, number: int, chance: Random) -> None:
    if chance.random() < 0.15:
        await queue.unschedule('x')
    else:
        await queue.schedule('x', number, every=1, group=chance.choice((*GROUPS, None)), missed='all')


async def _cancel_later(scope: anyio.CancelScope, chance: Random) -> None:
    for _ in range(chance.randrange(40)):
        await anyio.lowlevel.checkpoint()
    scope.cancel()
