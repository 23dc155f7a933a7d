"""What looks at all shards pays for those that have something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from torrelque import Torrelque, TorrelqueTaskStatus
from torrelque.core.protocol import Batch, Reply
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

SHARDS = 200


class CountingTransport(MemoryTransport):
    """Counts batches, and calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.trips = 0
        self.calls: Counter[str] = Counter()

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        self.trips += 1
        self.calls.update(call.command if isinstance(call.command, str) else call.command.name for call in batch)
        return await super().execute(batch)

    def reset(self) -> None:
        self.trips = 0
        self.calls.clear()


async def test_an_audit_is_of_the_shards_that_have_something() -> None:
    transport = CountingTransport()
    async with Torrelque(transport, shards=SHARDS) as queue:
        await queue.enqueue('payload', task_id='a')
        await queue.enqueue('payload', task_id='b')
        transport.reset()

        assert await queue.audit() == []

        assert transport.trips < SHARDS / 5
        assert transport.calls['SCAN'] <= 2 * (SHARDS // 250 + 1)
        assert transport.calls['inspect'] <= 2, 'only shards that have tasks are looked at'
        assert transport.calls['TYPE'] < 2 * SHARDS, 'only keys that exist'


async def test_results_of_all_shards_are_found_in_one_walk() -> None:
    transport = CountingTransport()
    async with Torrelque(transport, shards=SHARDS) as queue:
        ids = [await queue.enqueue('payload') for _ in range(3)]
        for task in await queue.dequeue_many(3):
            await queue.release(task, result='done')
        await queue.enqueue('payload')
        transport.reset()

        found = [(task_id, state.result) async for task_id, state in queue.tasks(TorrelqueTaskStatus.COMPLETED)]

        assert sorted(found) == sorted((task_id, 'done') for task_id in ids)
        assert transport.calls['SCAN'] <= 2
        assert transport.trips <= 5
