"""Claims are kept alive; when one is lost all the same, the handler ends at once and nothing is written."""

from __future__ import annotations

import threading

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.worker.support import SOON, Bench, LiveBench
from torrelque import (
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueTaskStatus,
    events,
)
from torrelque.testing import MemoryServer, MemoryTransport

pytestmark = pytest.mark.anyio


class Sleeper:
    """A handler that sleeps in virtual time, and tells how it ended."""

    def __init__(self, bench: Bench, seconds: float) -> None:
        self.bench = bench
        self.seconds = seconds
        self.ended: list[tuple[float, str]] = []

    async def __call__(self, task: Task) -> str:
        how = 'cancelled'
        try:
            await self.bench.clock.sleep(self.seconds)
            how = 'returned'
        finally:
            self.ended.append((self.bench.clock.time(), how))
        return 'result'


async def test_a_handler_may_take_longer_than_its_lease(bench: Bench) -> None:
    sleeper = Sleeper(bench, 95)
    task_id = await bench.queue.enqueue(1, task_timeout=10)
    async with (
        Torrelque(bench.transport, queue='q') as other,
        bench.working(sleeper),
        anyio.create_task_group() as group,
    ):
        group.start_soon(other.dequeue)  # would take it over
        await bench.clock.advance(100)
        assert [how for _, how in sleeper.ended] == ['returned']
        assert (await bench.queue.get_task_state(task_id)).result == 'result'
        group.cancel_scope.cancel()
    assert 18 <= bench.transport.count('extend') <= 20  # one because it began to listen to cancellations


@pytest.mark.parametrize('part', [0.5, 0.25])
async def test_a_handler_may_extend_its_lease_itself_at_the_very_moment(bench: Bench, part: float) -> None:
    async def handle(task: Task) -> str:
        for _ in range(20):
            await bench.clock.sleep(60 * part)
            await bench.queue.extend(task)
        return 'result'

    ids = [await bench.queue.enqueue(number, task_timeout=60) for number in range(10)]
    async with bench.working(handle, concurrency=10):
        await bench.clock.advance(20 * 60 * part + 1)
    assert [(await bench.queue.get_task_state(task_id)).result for task_id in ids] == ['result'] * 10
    assert bench.told(events.LeaseLost) == []


async def test_the_leases_of_all_tasks_are_renewed_by_one_call(bench: Bench) -> None:
    sleeper = Sleeper(bench, 1000)
    async with bench.working(sleeper, concurrency=50):
        for number in range(50):
            await bench.queue.enqueue(number, task_timeout=60)
            await bench.clock.advance(0.5)
        await bench.clock.advance(120)
        before = bench.transport.count('extend')
        await bench.clock.advance(300)
        assert bench.transport.count('extend') - before == 10
        assert await bench.peek() == (0, 50, 0, 0)
        assert sleeper.ended == []


@pytest.mark.parametrize('verb', ['release', 'requeue', 'reject'])
async def test_the_handler_is_cancelled_when_its_claim_is_lost(bench: Bench, verb: str) -> None:
    sleeper = Sleeper(bench, 1000)
    task_id = str(await bench.queue.enqueue(1, task_timeout=10))
    async with bench.working(sleeper):
        await bench.clock.advance(1)
        match verb:
            case 'release':
                await bench.queue.release(task_id, result='theirs')
            case 'requeue':
                await bench.queue.requeue(task_id, 3600)
            case _:
                await bench.queue.reject(task_id, 'by an operator')
        begun = bench.clock.time()
        await bench.clock.advance(60)
        ((moment, how),) = sleeper.ended
        assert how == 'cancelled'
        assert moment - begun <= 5  # with the next renewal
        assert [type(event) for event in bench.events] == [events.Started, events.LeaseLost]
        state = await bench.queue.get_task_state(task_id)
        assert (state.status, state.result, state.reason) == {
            'release': (TorrelqueTaskStatus.COMPLETED, 'theirs', None),
            'requeue': (TorrelqueTaskStatus.DELAYED, None, None),
            'reject': (TorrelqueTaskStatus.REJECTED, None, 'by an operator'),
        }[verb]
        await bench.queue.enqueue(2)  # the slot is free again
        await bench.settle()
        assert len(bench.told(events.Started)) == 2


async def test_a_task_taken_over_by_another_client_is_left_to_it(bench: Bench) -> None:
    """The worker cannot reach the server until its lease is over; the other's claim and result stand."""
    sleeper = Sleeper(bench, 1000)
    task_id = await bench.queue.enqueue(1, task_timeout=10)
    healthy = MemoryTransport(clock=bench.clock, server=bench.transport.server)
    async with Torrelque(healthy, queue='q') as other, bench.working(sleeper):
        begun = bench.clock.time()
        bench.transport.away = TorrelqueConnectionError('cut off')
        await bench.clock.advance(9.9)
        assert sleeper.ended == []
        await bench.clock.advance(0.2)
        ((moment, how),) = sleeper.ended
        assert how == 'cancelled'
        assert moment - begun == pytest.approx(10, abs=0.01)
        (taken,) = await other.dequeue_nowait()
        assert (taken.id, taken.dequeue_count) == (task_id, 2)
        bench.transport.away = None
        await bench.clock.advance(5)
        await other.release(taken, result='theirs')
        await bench.clock.advance(60)
        assert (await other.get_task_state(task_id)).result == 'theirs'
    assert len(bench.told(events.LeaseLost)) == 1
    assert bench.told(events.Finished) == []
    assert bench.told(events.Unsettled) == []


async def test_a_handler_that_will_not_be_cancelled_writes_nothing_either(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        with anyio.CancelScope(shield=True):
            await bench.clock.sleep(100)
        return 'stale'

    task_id = str(await bench.queue.enqueue(1, task_timeout=10))
    async with bench.working(handler):
        await bench.queue.requeue(task_id, 3600)
        await bench.clock.advance(200)
        assert (await bench.queue.get_task_state(task_id)).status == TorrelqueTaskStatus.DELAYED
    assert [type(event) for event in bench.events] == [events.Started, events.LeaseLost]


async def test_a_failure_of_a_handler_whose_claim_is_lost_writes_nothing(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        try:
            await bench.clock.sleep(100)
        except anyio.get_cancelled_exc_class():
            raise RuntimeError('failed of being cancelled') from None

    task_id = str(await bench.queue.enqueue(1, task_timeout=10))
    async with bench.working(handler):
        await bench.queue.requeue(task_id, 3600)
        await bench.clock.advance(60)
        assert (await bench.queue.get_task_state(task_id)).revision == 3  # enqueued, claimed, requeued by us
    assert [type(event) for event in bench.events] == [events.Started, events.LeaseLost]


async def test_a_claim_lost_just_before_the_handler_returned(bench: Bench) -> None:
    """The server's fence is the last word: no renewal told of it."""
    task_id = str(await bench.queue.enqueue(1))

    async def handler(task: Task) -> str:
        await bench.queue.requeue(task_id, 3600)
        return 'stale'

    async with bench.working(handler):
        assert (await bench.queue.get_task_state(task_id)).status == TorrelqueTaskStatus.DELAYED
    assert [type(event) for event in bench.events] == [events.Started, events.LeaseLost]


async def test_renewals_go_on_after_a_short_outage(bench: Bench) -> None:
    sleeper = Sleeper(bench, 100)
    await bench.queue.enqueue(1, task_timeout=10)
    async with bench.working(sleeper):
        for _ in range(5):
            bench.transport.away = TorrelqueConnectionError('cut off')
            await bench.clock.advance(3)
            bench.transport.away = None
            await bench.clock.advance(20)
        assert [how for _, how in sleeper.ended] == ['returned']
    assert bench.told(events.LeaseLost) == []


async def test_a_renewal_that_comes_after_the_release_is_no_loss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    extend = bench.queue.extend
    late: list[Task] = []

    async def extend_late(task: Task) -> float:
        await bench.clock.sleep(2)
        late.append(task)
        return await extend(task)

    monkeypatch.setattr(bench.queue, 'extend', extend_late)
    await bench.queue.enqueue(1, task_timeout=10)
    async with bench.working(Sleeper(bench, 6)):
        await bench.clock.advance(10)
    assert len(late) == 2  # the first because it began to listen to cancellations
    assert [type(event) for event in bench.events] == [events.Started, events.Finished]


async def test_a_handler_extends_its_lease_itself(bench: Bench) -> None:
    deadlines: list[float] = []

    async def handler(task: Task) -> None:
        deadlines.append(await bench.queue.extend(task, 500))
        await bench.clock.sleep(100)

    await bench.queue.enqueue(1, task_timeout=10)
    async with bench.working(handler):
        begun = bench.clock.time()
        await bench.clock.advance(50)
        assert deadlines[0] - begun == pytest.approx(500, abs=1)
        assert await bench.peek() == (0, 1, 0, 0)
        await bench.clock.advance(60)
    assert len(bench.told(events.Finished)) == 1


async def test_a_claim_that_came_too_late_is_not_begun(bench: Bench) -> None:
    """As after the process was stopped for longer than the lease, and continued."""
    sleeper = Sleeper(bench, 5)
    await bench.queue.enqueue(1, task_timeout=10)
    clock = bench.clock

    class Late:
        def now(self) -> float:
            return clock.now() + 11

        async def pause(self, event: anyio.Event, until: float) -> None:
            await clock.pause(event, until - 11)

    async with bench.working(sleeper, clock=Late()):
        pass
    assert bench.told(events.Started) == []
    assert bench.told(events.LeaseLost) != []


# A thread cannot be cancelled -----------------------------------------------------------------------------------------


async def test_what_a_thread_returns_after_its_claim_was_lost_is_dropped() -> None:
    go = threading.Event()

    def handler(task: Task) -> str:
        if task.data == 1:
            go.wait(SOON)
        return 'result'

    server = MemoryServer()
    async with Torrelque(MemoryTransport(server=server), queue='q') as queue:
        bench = LiveBench(queue)
        task_id = str(await queue.enqueue(1, task_timeout=0.4))
        async with bench.working(handler):
            await bench.until(events.Started)
            await queue.requeue(task_id, 3600)
            second = await queue.enqueue(2)
            await bench.until(events.LeaseLost)
            for _ in range(100):
                await checkpoint()
            assert len(bench.told(events.Started)) == 1  # its slot is taken until the thread ends
            go.set()
            with anyio.fail_after(SOON):
                assert (await queue.wait(second)).result == 'result'
            assert (await queue.get_task_state(task_id)).status == TorrelqueTaskStatus.DELAYED
    assert [event.task.data for event in bench.told(events.Finished)] == [2]
