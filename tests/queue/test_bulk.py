"""Bulk calls: checked before anything is sent, in chunks that let others run, large items each in a call of its own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.queue.transports import RecordingTransport
from torrelque import EnqueueItem, ReleaseItem, RequeueItem, Torrelque, TorrelqueConnectionError
from torrelque.core.merging import LARGE
from torrelque.core.protocol import Batch, Reply
from torrelque.engine.dispatch import CHUNK
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

MANY = 20 * CHUNK

BULK: dict[str, Callable[[Torrelque, Sequence[Any]], Awaitable[Any]]] = {
    'enqueue_many': lambda queue, items: queue.enqueue_many(items),
    'requeue_many': lambda queue, items: queue.requeue_many(items),
    'release_many': lambda queue, items: queue.release_many(items),
}
GOOD: dict[str, Callable[[int], Any]] = {
    'enqueue_many': str,
    'requeue_many': lambda number: RequeueItem(f'id {number}'),
    'release_many': lambda number: ReleaseItem(f'id {number}', result=number),
}
BAD = {
    'enqueue_many': EnqueueItem('task', delay=float('nan')),
    'requeue_many': RequeueItem('id', delay=float('nan')),
    'release_many': ReleaseItem('id', result=object()),
}


class Ticks:
    """Counts turns of the event loop."""

    count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await checkpoint()


class Counting:
    """A serialiser that tells how much it did in one turn."""

    def __init__(self, ticks: Ticks) -> None:
        self.ticks = ticks
        self.of_turn: dict[int, int] = {}

    def dumps(self, data: Any) -> bytes:  # noqa: ANN401 - anything
        self.of_turn[self.ticks.count] = self.of_turn.get(self.ticks.count, 0) + 1
        return json.dumps(data).encode()

    def loads(self, data: bytes) -> Any:  # noqa: ANN401
        return json.loads(data)


@pytest.mark.parametrize('shards', [None, 3])
@pytest.mark.parametrize('call', ['enqueue_many', 'release_many'])
async def test_others_run_while_many_are_serialised(call: str, shards: int | None) -> None:
    ticks = Ticks()
    serialiser = Counting(ticks)
    items = [GOOD[call](number) for number in range(MANY)]
    async with (
        Torrelque(MemoryTransport(), serialiser=serialiser, shards=shards) as queue,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ticks.run)
        await BULK[call](queue, items)
        tasks.cancel_scope.cancel()
    assert sum(serialiser.of_turn.values()) == MANY
    assert max(serialiser.of_turn.values()) <= 2 * CHUNK  # on Trio a task may come first in one turn, last in the next


@pytest.mark.parametrize('call', BULK)
async def test_a_bad_item_at_the_end_leaves_nothing_sent(call: str) -> None:
    transport = RecordingTransport()
    async with Torrelque(transport) as queue:
        with pytest.raises((TypeError, ValueError)):
            await BULK[call](queue, [*(GOOD[call](number) for number in range(MANY)), BAD[call]])
        assert transport.calls == []


@pytest.mark.parametrize('call', BULK)
async def test_one_that_is_cancelled_while_items_are_checked_has_sent_nothing(call: str) -> None:
    transport = RecordingTransport()
    async with Torrelque(transport) as queue:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await BULK[call](queue, [GOOD[call](number) for number in range(MANY)])
        assert transport.calls == []


class NarrowTransport(MemoryTransport):
    """Its connection breaks over whatever is large."""

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if any(isinstance(word, bytes) and len(word) >= LARGE for call in batch for word in call.args):
            raise TorrelqueConnectionError('connection reset')
        return await super().execute(batch)


@pytest.mark.parametrize('shards', [None, 3])
async def test_a_large_item_of_a_bulk_fails_alone(shards: int | None) -> None:
    items = ['a', 'x' * LARGE, *map(str, range(2 * CHUNK)), 'y' * LARGE, 'b']
    async with Torrelque(NarrowTransport(), shards=shards) as queue:
        answers = await queue.enqueue_many(items)
        failed = [
            item[0] for item, answer in zip(items, answers, strict=True) if isinstance(answer, TorrelqueConnectionError)
        ]
        assert failed == ['x', 'y']
        assert (await queue.get_queue_stats()).pending == len(items) - 2


@pytest.mark.parametrize('shards', [None, 3])
async def test_a_large_call_fails_alone(shards: int | None) -> None:
    outcomes: dict[str, str] = {}

    async def enqueue(task: str) -> None:
        try:
            await queue.enqueue(task)
        except TorrelqueConnectionError as error:
            outcomes[task[0]] = str(error)
        else:
            outcomes[task[0]] = 'done'

    async with Torrelque(NarrowTransport(), shards=shards) as queue:
        async with anyio.create_task_group() as tasks:
            for task in ('a', 'b', 'c', 'x' * LARGE, 'd', 'e', 'f'):
                tasks.start_soon(enqueue, task)
        assert outcomes == dict.fromkeys('abcdef', 'done') | {'x': 'connection reset'}


async def test_lone_calls_wait_for_few_parts_of_a_long_one() -> None:
    steps = 0
    waited: list[int] = []

    def count(_done: int, _total: int) -> None:
        nonlocal steps
        steps += 1

    async def enqueue(queue: Torrelque) -> None:
        while True:
            before = steps
            await queue.enqueue('lone')
            waited.append(steps - before)

    async with Torrelque(MemoryTransport()) as queue, anyio.create_task_group() as tasks:
        tasks.start_soon(enqueue, queue)
        await queue.enqueue_many(range(40 * CHUNK), on_progress=count)
        tasks.cancel_scope.cancel()
    assert steps == 40
    assert len(waited) >= 10
    assert max(waited) <= 3
