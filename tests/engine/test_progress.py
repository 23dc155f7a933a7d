"""How far a task has come, as its handler reports it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from torrelque import (
    TaskProgress,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLeaseLostError,
    TorrelqueReplyError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.core.protocol import Batch, Reply, Script
from torrelque.engine.progress import INTERVAL, KEPT
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio


class Counting(MemoryTransport):
    """Counts the writes of progress; breaks them if told to."""

    writes = 0
    trouble: Exception | None = None

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        named = [call.command.name for call in batch if isinstance(call.command, Script)]
        if 'progress' in named and 'load' not in named:
            self.writes += 1
            if isinstance(self.trouble, TorrelqueReplyError):
                return [self.trouble for _ in batch]
            if self.trouble is not None:
                raise self.trouble
        return await super().execute(batch)

    def start(self, batch: Batch, then: Any) -> None:  # noqa: ANN401 - it takes over nothing
        return None


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def transport(clock: VirtualClock) -> Counting:
    return Counting(clock=clock)


@pytest.fixture
async def memory(transport: Counting) -> AsyncIterator[Torrelque]:
    async with Torrelque(transport, queue='q') as queue:
        yield queue


async def progress_of(queue: Torrelque, task_id: str) -> TaskProgress | None:
    return (await queue.get_task_state(task_id)).progress


async def test_is_in_the_state_until_the_claim_ends(memory: Torrelque, clock: VirtualClock) -> None:
    await memory.enqueue('a', task_id='a')
    task = await memory.dequeue()
    assert await progress_of(memory, 'a') is None
    await task.progress(1)
    assert (await progress_of(memory, 'a') or ())[:3] == (1.0, None, '')
    await clock.advance(INTERVAL)
    await task.progress(40.5, 100, 'résizing  it')
    progress = await progress_of(memory, 'a')
    assert progress is not None
    assert progress[:3] == (40.5, 100.0, 'résizing  it')
    assert progress.time == pytest.approx(await memory.get_server_time())
    assert (await memory.get_task('a')).state.progress is not None
    for end in (memory.giveback, memory.requeue):
        await end(task)
        assert await progress_of(memory, 'a') is None
        task = await memory.dequeue()
        assert await progress_of(memory, 'a') is None
        await task.progress(2)
    await memory.release(task, result=1)
    assert await progress_of(memory, 'a') is None


async def test_of_a_lost_claim_is_refused(memory: Torrelque, clock: VirtualClock) -> None:
    await memory.enqueue('a', task_id='a')
    lost = await memory.dequeue()
    await memory.requeue('a')
    task = await memory.dequeue()
    for _ in range(2):
        with pytest.raises(TorrelqueLeaseLostError, match="'a'"):
            await lost.progress(1)
    assert await progress_of(memory, 'a') is None
    await task.progress(1)
    await memory.requeue('a')
    await task.progress(2)  # waits for its turn
    await clock.advance(INTERVAL)
    with pytest.raises(TorrelqueLeaseLostError):
        await task.progress(3)


async def test_ten_thousand_reports_are_few_writes_and_the_last_one_wins(
    memory: Torrelque, transport: Counting, clock: VirtualClock
) -> None:
    await memory.enqueue_many(['a', 'b'])
    tasks = await memory.dequeue_many(2)
    await tasks[0].progress(0)
    before = transport.writes
    for number in range(1, 10_001):
        await tasks[number % 2].progress(number)
        if number % 1000 == 0:
            await clock.advance(INTERVAL)
    assert transport.writes - before <= 2 * 11
    for task, last in zip(tasks, (10_000, 9_999), strict=True):
        assert (await progress_of(memory, task.id) or ())[:1] == (last,)
    before = transport.writes
    await clock.advance(60)
    assert transport.writes == before
    assert not memory._report.__self__._writing  # type: ignore[attr-defined]  # it is the reporter's


async def test_nothing_is_kept_of_those_that_have_reported(memory: Torrelque, clock: VirtualClock) -> None:
    reporter: Any = memory._report.__self__  # type: ignore[attr-defined]  # as above
    for _ in range(3 * KEPT):
        await memory.enqueue('a')
        task = await memory.dequeue()
        await task.progress(1)
        await memory.release(task)
        await clock.advance(INTERVAL)
    assert len(reporter._claims) <= KEPT


@pytest.mark.parametrize('trouble', [TorrelqueConnectionError('away'), TorrelqueReplyError('LOADING', 'LOADING')])
async def test_no_handler_fails_because_the_server_is_away(
    memory: Torrelque, transport: Counting, trouble: Exception, clock: VirtualClock
) -> None:
    await memory.enqueue('a', task_id='a')
    task = await memory.dequeue()
    await task.progress(1)
    transport.trouble = trouble
    await task.progress(2)
    await clock.advance(2 * INTERVAL)
    await task.progress(3)
    await clock.advance(20)
    transport.trouble = None
    assert (await progress_of(memory, 'a') or ())[:1] == (1.0,)
    await task.progress(4)
    assert (await progress_of(memory, 'a') or ())[:1] == (4.0,)


@pytest.mark.parametrize('bad', ['5', None, True, float('nan'), float('inf'), -1, [1]])
async def test_bad_values_are_refused_at_once(memory: Torrelque, bad: Any) -> None:  # noqa: ANN401 - on purpose
    await memory.enqueue('a')
    task = await memory.dequeue()
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='value') as refused:
        task.progress(bad)
    assert repr(bad) in str(refused.value)
    if bad is not None:
        with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='total'):
            task.progress(1, bad)
    with pytest.raises(TorrelqueValueError, match='total must be a finite number above 0, got 0'):
        task.progress(1, 0)
    for note in (5, b'x', '\ud800', 'x' * 501):
        with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='note'):
            task.progress(1, 2, note)  # type: ignore[arg-type]  # on purpose


async def test_copies_know_no_queue(memory: Torrelque) -> None:
    await memory.enqueue('a')
    task = await memory.dequeue()
    await task.with_data('b').progress(1)
    for other in (copy.copy(task), pickle.loads(pickle.dumps(task))):  # noqa: S301 - its own
        with pytest.raises(TorrelqueUsageError, match=task.id):
            other.progress(1)
