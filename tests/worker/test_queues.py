"""One worker on several queues: who gets the slots, and that the queues do not harm each other."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests import clusters, servers
from tests.worker.support import SOON, WatchedTransport
from torrelque import (
    Burst,
    Reject,
    Retry,
    Router,
    Source,
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueReplyError,
    Worker,
    connect,
    events,
)
from torrelque.core.protocol import Call
from torrelque.testing import VirtualClock

pytestmark = pytest.mark.anyio

NAMES = ('critical', 'default', 'low')
WEIGHTS = dict(zip(NAMES, (6, 3, 1), strict=True))


class Plant:
    """Queues over one server in memory, in virtual time, and what a worker does with them."""

    def __init__(self, queues: dict[str, Torrelque], transport: WatchedTransport, clock: VirtualClock) -> None:
        self.queues = queues
        self.transport = transport
        self.clock = clock
        self.started: list[str] = []
        self.events: list[events.WorkerEvent] = []
        self.gates: dict[str, anyio.Event] = {}

    async def handle(self, task: Task) -> None:
        """Ends when its gate is opened, if it has one."""
        self.started.append(task.queue)
        gate = self.gates.get(task.data)
        if gate is not None:
            await gate.wait()

    def worker(self, queues: Any = None, handler: Any = None, **options: Any) -> Worker:  # noqa: ANN401 - the Worker's
        if queues is None:
            queues = {self.queues[name]: weight for name, weight in WEIGHTS.items()}
        options = {'concurrency': 1, 'clock': self.clock, 'on_event': self.events.append, **options}
        return Worker(queues, handler or self.handle, **options)

    @asynccontextmanager
    async def working(self, *args: Any, **options: Any) -> AsyncIterator[Worker]:  # noqa: ANN401 - the Worker's
        worker = self.worker(*args, **options)
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            await self.clock.advance(0)
            yield worker
            group.cancel_scope.cancel()

    async def fill(self, **counts: int) -> None:
        for name, count in counts.items():
            await self.queues[name].enqueue_many(range(count))

    async def left(self) -> dict[str, int]:
        return {name: (await queue.get_queue_stats()).tasks for name, queue in self.queues.items()}


@asynccontextmanager
async def entered(
    make: Callable[[str], Torrelque], names: Sequence[str] = NAMES
) -> AsyncIterator[dict[str, Torrelque]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(make(name)) for name in names}


@pytest.fixture
async def plant() -> AsyncIterator[Plant]:
    clock = VirtualClock()
    transport = WatchedTransport(clock)
    async with entered(lambda name: Torrelque(transport, queue=name)) as queues:
        yield Plant(queues, transport, clock)


# Shares ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('concurrency', [1, 4, 20])
async def test_weights_hold_while_all_have_tasks(plant: Plant, concurrency: int) -> None:
    await plant.fill(critical=320, default=200, low=100)
    async with plant.working(concurrency=concurrency, burst=True):
        pass
    await plant.worker(concurrency=concurrency, burst=True).run()
    assert await plant.left() == dict.fromkeys(NAMES, 0)
    for total in (50, 100, 300, 500):
        counts = Counter(plant.started[:total])
        for name, weight in WEIGHTS.items():
            assert abs(counts[name] - total * weight / 10) <= concurrency + 2


async def test_a_queue_that_was_empty_gets_its_share_at_once_and_no_burst(plant: Plant) -> None:
    await plant.fill(low=200)
    gate = plant.gates['last'] = anyio.Event()
    queues = {plant.queues['critical']: 1, plant.queues['low']: 1}
    async with plant.working(queues):
        assert plant.started == ['low'] * 200
        await plant.queues['low'].enqueue('last')
        await plant.clock.advance(1)
        await plant.fill(critical=50, low=50)
        plant.started.clear()
        gate.set()
        await plant.clock.advance(1)
        assert abs(Counter(plant.started[:40])['critical'] - 20) <= 2
        assert len(plant.started) == 100


async def test_in_strict_order_a_lower_queue_waits_for_the_higher_ones(plant: Plant) -> None:
    plant.gates = {str(number): anyio.Event() for number in range(30)}
    async with plant.working(list(plant.queues.values()), strict=True):
        for number in range(10):
            await plant.queues['low'].enqueue(str(number))
        await plant.clock.advance(1)
        assert plant.started == ['low']
        await plant.queues['default'].enqueue('10')
        await plant.queues['critical'].enqueue_many(['11', '12'])
        for number, data in enumerate(['0', '11', '12', '10', '1', '2'], 1):
            plant.gates[data].set()
            await plant.clock.advance(0)
            assert len(plant.started) == number + 1
        assert plant.started == ['low', 'critical', 'critical', 'default', 'low', 'low', 'low']


async def test_reserved_slots_are_for_their_queue_only(plant: Plant) -> None:
    plant.gates['long'] = anyio.Event()
    async with plant.working(concurrency=5, reserve={plant.queues['critical']: 2}):
        await plant.queues['low'].enqueue_many(['long'] * 10)
        await plant.clock.advance(1)
        assert plant.started == ['low'] * 3
        await plant.queues['critical'].enqueue_many(['long'] * 3)
        await plant.clock.advance(0)
        assert Counter(plant.started) == {'low': 3, 'critical': 2}
        plant.gates['long'].set()
        await plant.clock.advance(1)
        assert Counter(plant.started) == {'low': 10, 'critical': 3}


@pytest.mark.parametrize('strict', [False, True])
async def test_never_more_than_the_concurrency_and_nothing_is_lost(plant: Plant, strict: bool) -> None:
    running = most = 0

    async def handle(task: Task) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await plant.clock.sleep(task.data / 100)
        running -= 1

    queues = list(plant.queues.values())
    worker = plant.worker(queues, handle, concurrency=3, strict=strict)
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        for count in range(20):
            for name, data in (('critical', 5), ('default', count % 3), ('low', 1), ('low', 7)):
                await plant.queues[name].enqueue(data)
            await plant.clock.advance(0.03)
        await plant.clock.advance(60)
        worker.stop()
    assert most == 3
    assert await plant.left() == dict.fromkeys(NAMES, 0)
    assert sum(isinstance(event, events.Finished) for event in plant.events) == 80


async def test_paused_and_limited_queues_are_like_empty_ones(plant: Plant) -> None:
    await plant.queues['critical'].pause()
    await plant.queues['default'].limit(concurrency=1)
    plant.gates['long'] = anyio.Event()
    await plant.queues['default'].enqueue_many(['long'] * 2)
    await plant.fill(critical=5, low=5)
    async with plant.working(concurrency=2):
        await plant.clock.advance(1)
        assert plant.started == ['default'] + ['low'] * 5
        await plant.queues['critical'].resume()
        await plant.clock.advance(0)
        assert plant.started[6:] == ['critical'] * 5
        plant.gates['long'].set()
        await plant.clock.advance(0)
        assert plant.started[11:] == ['default']


async def test_delayed_tasks_of_all_queues_start_on_time(plant: Plant) -> None:
    async with plant.working(concurrency=5):
        for delay, queue in enumerate(plant.queues.values(), 100):
            await queue.enqueue(1, delay=delay)
        for number in range(3):
            await plant.clock.advance(100 - 0.001 if not number else 1 - 0.001)
            assert len(plant.started) == number
            await plant.clock.advance(0.001)
            assert len(plant.started) == number + 1


async def test_idle_queues_cost_one_wait_and_one_claim_each_a_slice(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = 0
    block = plant.transport.block

    async def counting(*args: Any) -> Any:  # noqa: ANN401 - the transport's
        nonlocal blocks
        blocks += 1
        return await block(*args)

    monkeypatch.setattr(plant.transport, 'block', counting)
    async with plant.working(concurrency=5):
        await plant.clock.advance(10)
        claims, waits = plant.transport.count('claim'), blocks
        await plant.clock.advance(800)
        assert plant.transport.count('claim') - claims <= 3 * 800 / 6.8 + 3
        assert blocks - waits <= 800 / 6.8 + 3


# Handlers -------------------------------------------------------------------------------------------------------------


async def test_each_queue_may_have_its_own_handler(plant: Plant) -> None:
    router = Router()
    calls: list[Any] = []

    @router.task('add')
    async def add(number: int) -> None:
        calls.append(('add', number))

    def plainly(task: Task) -> None:
        calls.append(('plain', task.queue))

    queues = {
        plant.queues['critical']: Source(router, weight=6),
        plant.queues['default']: Source(plainly),
        plant.queues['low']: Source(),
    }
    await add.enqueue(plant.queues['critical'], 5)
    await plant.queues['critical'].enqueue(6, task_id='odd')
    await plant.queues['default'].enqueue(7)
    await plant.queues['low'].enqueue(8)
    await plant.worker(queues, burst=True).run()
    assert sorted(calls) == [('add', 5), ('plain', 'default')]
    assert plant.started == ['low']
    assert (await plant.queues['critical'].get_queue_stats()).rejected == 1, 'it had no kind'


class Odd(BaseException):
    pass


async def test_handlers_may_raise_anything(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    raised = [ValueError('bad'), Odd(), Retry(5), Reject('no'), asyncio.CancelledError(), GeneratorExit()]

    async def handle(task: Task) -> None:
        if task.attempt == 1:
            raise raised[task.data]

    await plant.fill(critical=6, low=6)
    async with plant.working(None, handle, concurrency=4):
        await plant.clock.advance(100)
    assert await plant.left() == dict.fromkeys(NAMES, 0)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 8
    assert sum("of queue 'low' failed, the next is due in" in line for line in lines) == 4


async def test_events_and_tasks_name_their_queue(plant: Plant) -> None:
    await plant.fill(critical=1, low=1)
    async with plant.working():
        pass
    told = {
        (type(event).__name__, event.task.queue)
        for event in plant.events
        if not isinstance(event, events.Reconnected | events.Disconnected)
    }
    assert told == {(kind, queue) for kind in ('Started', 'Finished') for queue in ('critical', 'low')}


async def test_it_is_listed_on_each_queue(plant: Plant) -> None:
    plant.gates['long'] = anyio.Event()
    async with plant.working(concurrency=5, reserve={plant.queues['critical']: 2}, name='me'):
        await plant.queues['low'].enqueue_many(['long'] * 2)
        await plant.clock.advance(30)
        for name, slots, running in (('critical', 5, 0), ('default', 3, 0), ('low', 3, 2)):
            (listed,) = [worker async for worker in plant.queues[name].workers()]
            assert (listed.name, listed.concurrency, listed.running) == ('me', slots, running)


# Stopping -------------------------------------------------------------------------------------------------------------


async def test_one_stop_drains_all(plant: Plant) -> None:
    plant.gates['long'] = anyio.Event()
    worker = plant.worker(concurrency=6)
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        for queue in plant.queues.values():
            await queue.enqueue_many(['long', 'long', 'quick'])
        await plant.clock.advance(1)
        plant.events.clear()
        worker.stop(10)
        await plant.clock.advance(11)
    assert sum(isinstance(event, events.GivenBack) for event in plant.events) == 6
    for queue in plant.queues.values():
        stats = await queue.get_queue_stats()
        assert stats.working == 0
        for task in await queue.dequeue_nowait(max_tasks=3):
            assert task.dequeue_count == 1


async def test_a_cancelled_run_gives_everything_back(plant: Plant) -> None:
    plant.gates['long'] = anyio.Event()
    for queue in plant.queues.values():
        await queue.enqueue_many(['long'] * 3)
    async with plant.working(concurrency=6):
        assert len(plant.started) == 6
    assert await plant.left() == dict.fromkeys(NAMES, 3)
    for queue in plant.queues.values():
        assert (await queue.get_queue_stats()).working == 0


async def test_a_burst_empties_all_queues(plant: Plant) -> None:
    async def handle(task: Task) -> None:
        if task.queue == 'low':
            await plant.queues['critical'].enqueue('more')

    await plant.fill(low=5)
    burst = Burst()
    await plant.worker(None, handle, concurrency=2, burst=burst).run()
    assert await plant.left() == dict.fromkeys(NAMES, 0)


# Outages --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('error', [TorrelqueConnectionError('gone'), TorrelqueReplyError('LOADING wait')])
async def test_a_queue_whose_server_is_away_does_not_harm_the_others(plant: Plant, error: Exception) -> None:
    elsewhere = WatchedTransport(plant.clock)
    async with Torrelque(elsewhere, queue='far') as far, plant.working([far, plant.queues['low']], concurrency=2):
        elsewhere.away = error
        await plant.clock.advance(20)
        for _ in range(10):
            await plant.fill(low=3)
            await plant.clock.advance(0)
        assert plant.started == ['low'] * 30
        assert [event.queue for event in plant.events if isinstance(event, events.Disconnected)] == ['far']
        elsewhere.away = None
        await far.enqueue(1)
        await plant.clock.advance(5)
        assert plant.started[30:] == ['far']
        assert [event.queue for event in plant.events if isinstance(event, events.Reconnected)] == ['far']


@pytest.mark.parametrize('strict', [False, True])
async def test_a_server_that_does_not_answer_holds_slots_for_a_second_only(plant: Plant, strict: bool) -> None:
    elsewhere = WatchedTransport(plant.clock)

    async def hang(_batch: object) -> Sequence[object]:
        await plant.clock.sleep(30)
        raise TorrelqueConnectionError('silence')

    async with Torrelque(elsewhere, queue='far') as far:
        elsewhere.execute = hang  # type: ignore[method-assign,assignment]  # on purpose
        await plant.fill(low=3)
        async with plant.working([far, plant.queues['low']], concurrency=1, strict=strict):
            await plant.clock.advance(1.1)
            assert plant.started == ['low'] * 3
            await plant.fill(low=3)
            await plant.clock.advance(0)
            assert plant.started == ['low'] * 6
            del elsewhere.execute
            await plant.clock.advance(40)
            await far.enqueue(1)
            await plant.clock.advance(0)
            assert plant.started == [*['low'] * 6, 'far']


async def test_all_queues_come_back(plant: Plant) -> None:
    async with plant.working(concurrency=5):
        plant.transport.away = TorrelqueConnectionError('gone')
        await plant.clock.advance(60)
        plant.transport.away = None
        await plant.fill(critical=1, default=1, low=1)
        await plant.clock.advance(8)
        assert sorted(plant.started) == sorted(NAMES)


async def test_an_error_that_waiting_cannot_fix_ends_the_worker(plant: Plant) -> None:
    worker = plant.worker(concurrency=5)
    plant.transport.away = TorrelqueReplyError('NOPERM no')
    with pytest.raises(TorrelqueReplyError, match='NOPERM'):
        await worker.run()


# Other servers and shards ---------------------------------------------------------------------------------------------


async def test_queues_with_shards_and_of_other_servers(plant: Plant) -> None:
    async with (
        Torrelque(plant.transport, queue='wide', shards=3) as wide,
        Torrelque(WatchedTransport(plant.clock), queue='low') as other,
    ):
        queues = {wide: 1, other: 1, plant.queues['low']: 1}
        async with plant.working(queues, concurrency=5):
            for _ in range(3):
                await wide.enqueue_many(range(10))
                await other.enqueue_many(range(10))
                await plant.fill(low=10)
                await plant.clock.advance(1)
        assert Counter(plant.started) == {'wide': 30, 'low': 60}


async def test_one_queue_of_several_is_like_a_queue_alone(plant: Plant) -> None:
    await plant.fill(low=3)
    async with plant.working([plant.queues['low']]):
        assert plant.started == ['low'] * 3
    assert plant.events[0] == events.Started(plant.events[0].task)  # type: ignore[union-attr]


# Real servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('where', ['valkey-9.1', 'redis-6.2'])
async def test_one_blocked_client_for_three_queues(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torrelque.core.consumers.SLICE', 0.5)
    try:
        server = servers.shared(where)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    server.flush()
    handled: list[str] = []

    async def handle(task: Task) -> None:
        handled.append(task.queue)

    async def until(condition: Callable[[], Any]) -> None:
        with anyio.fail_after(2 * SOON):
            while not await condition():  # noqa: ASYNC110 - the server is asked
                await anyio.sleep(0.01)

    async with connect(server.url) as client, entered(lambda name: Torrelque(client, queue=name)) as queues:

        async def waits() -> list[bytes]:
            lines: Any = (await client.execute([Call('CLIENT LIST')]))[0]
            return [line for line in lines.splitlines() if b' flags=b ' in line]

        async def is_one() -> bool:
            return len(await waits()) == 1

        worker = Worker({queues[name]: weight for name, weight in WEIGHTS.items()}, handle, concurrency=10)
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            await until(is_one)
            for number in range(20):
                for queue in queues.values():
                    await queue.enqueue(number)

                    async def is_handled(count: int = len(handled)) -> bool:
                        return len(handled) > count

                    await until(is_handled)
            await until(is_one)
            assert Counter(handled) == dict.fromkeys(NAMES, 20)
            lines: Any = (await client.execute([Call('CLIENT LIST')]))[0]
            (listener,) = [line for line in lines.splitlines() if b' flags=P ' in line]
            assert b' sub=3 ' in listener
            worker.stop()


async def test_one_listener_for_each_node_of_a_cluster() -> None:
    try:
        cluster = clusters.shared('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    cluster.flush()
    async with (
        connect(f'redis+cluster://{cluster.hosts}') as client,
        entered(lambda name: Torrelque(client, queue=name)) as queues,
        Torrelque(client, queue='wide', shards=8) as wide,
    ):
        handled = anyio.Semaphore(0)

        async def handle(_task: Task) -> None:
            handled.release()

        def listeners() -> int:
            lists: list[Any] = [node.command('CLIENT', 'LIST') for node in cluster.primaries]
            return sum(text.count(b' flags=P ') for text in lists)

        before = listeners()
        every = [*queues.values(), wide]
        worker = Worker(every, handle, concurrency=10)
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            for queue in every:
                await queue.enqueue(1)
            with anyio.fail_after(2 * SOON):
                for _ in every:
                    await handled.acquire()
                while listeners() - before < len(cluster.primaries):  # noqa: ASYNC110 - the servers are asked
                    await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            assert listeners() - before == len(cluster.primaries)
            worker.stop()
