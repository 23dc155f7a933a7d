"""The transport in memory, and time that stands still."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint

from torrelque import (
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLookupError,
    TorrelqueTimeoutError,
    TorrelqueUsageError,
)
from torrelque.core.protocol import Arg, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError, TorrelqueValueError
from torrelque.testing import MemoryServer, MemoryTransport, VirtualClock
from torrelque.transports.base import Message
from torrelque.transports.memory.clock import FEW

pytestmark = pytest.mark.anyio

START = 1_700_000_000.0


def call(command: str, *args: Arg) -> Call[Reply]:
    return Call(command, args=args)


WAIT: Call[Reply] = Call('BZPOPMIN', (b'z',), ('8.000',))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
def transport(clock: VirtualClock) -> MemoryTransport:
    return MemoryTransport(clock=clock)


@pytest.fixture
async def queue(transport: MemoryTransport) -> AsyncIterator[Torrelque]:
    async with Torrelque(transport) as queue:
        yield queue


class TestServer:
    def test_an_error_is_a_value_and_a_fresh_one(self) -> None:
        server = MemoryServer()
        server.call(call('SET', 'k', 'v'))
        errors = [server.call(call('LLEN', 'k')) for _ in range(2)]
        assert [error.code for error in errors] == ['WRONGTYPE', 'WRONGTYPE']
        assert errors[0] is not errors[1]

    def test_knows_no_other_scripts(self) -> None:
        reply = MemoryServer().call(Call(Script('another', 'return 1', ())))
        assert isinstance(reply, TorrelqueReplyError)
        assert reply.code == 'NOSCRIPT'

    def test_keys_expire_on_its_clock(self) -> None:
        now = START
        server = MemoryServer(lambda: now)
        server.call(call('SET', 'k', 'v', 'PX', 1500))
        server.call(call('SET', 'longer', 'v', 'PX', 1501))
        assert server.snapshot()[b'k'] == ('string', b'v', 1_700_000_001_500)
        now += 1.5
        assert server.call(call('PTTL', 'k')) == 0
        now += 0.001
        assert set(server.snapshot()) == {b'longer'}
        assert server.call(call('TIME')) == [b'1700000001', b'501000']

    def test_a_snapshot_is_a_copy(self) -> None:
        server = MemoryServer()
        server.execute([call('RPUSH', 'l', 'a'), call('HSET', 'h', 'f', 'v'), call('SADD', 's', 'm')])
        server.call(call('ZADD', 'z', 1, 'm'))
        before = server.snapshot()
        server.execute([call('RPUSH', 'l', 'b'), call('HSET', 'h', 'g', 'v'), call('SADD', 's', 'n')])
        server.call(call('ZADD', 'z', 2, 'n'))
        assert before == {
            b'l': ('list', [b'a'], None),
            b'h': ('hash', {b'f': b'v'}, None),
            b's': ('set', {b'm'}, None),
            b'z': ('zset', {b'm': 1.0}, None),
        }

    def test_waiters_are_served_first_come_first_served(self) -> None:
        server = MemoryServer()
        served: list[tuple[int, Reply]] = []

        def waiter(number: int) -> Callable[[], None]:
            return server.wait(b'z', lambda reply: served.append((number, reply)))

        ends = [waiter(number) for number in range(4)]
        ends[1]()
        ends[1]()
        server.call(call('ZADD', 'z', 2, 'b', 1, 'a'))
        assert served == [(0, [b'z', b'a', b'1']), (2, [b'z', b'b', b'2'])]
        server.call(call('SET', 'z', 'no sorted set'))
        server.call(call('DEL', 'z'))
        server.call(call('ZADD', 'z', 1, 'c', 2, 'd'))
        assert served[2:] == [(3, [b'z', b'c', b'1'])]
        assert server.call(call('ZRANGE', 'z', 0, -1)) == [b'd']

    def test_a_waiter_may_find_something_there(self) -> None:
        server = MemoryServer()
        replies: list[Reply] = []
        server.call(call('ZADD', 'z', '0.5', 'a'))
        server.wait(b'z', replies.append)()
        assert replies == [[b'z', b'a', b'0.5']]
        server.call(call('SET', 'z', 'no sorted set'))
        server.wait(b'z', replies.append)()
        assert replies[1].code == 'WRONGTYPE'

    def test_subscribers_hear_what_is_published_meanwhile(self) -> None:
        server = MemoryServer()
        heard: list[bytes] = []
        assert server.call(call('PUBLISH', 'c', 'before')) == 0
        ends = [server.subscribe(b'c', heard.append) for _ in range(2)]
        assert server.call(call('PUBLISH', 'c', 'to both')) == 2
        ends[0]()
        ends[0]()
        assert server.call(call('PUBLISH', 'c', 'to one')) == 1
        ends[1]()
        assert server.call(call('PUBLISH', 'c', 'after')) == 0
        assert heard == [b'to both', b'to both', b'to one']


class TestTransport:
    async def test_real_time_by_default(self) -> None:
        transport = MemoryTransport()
        assert await transport.block(Call('BZPOPMIN', (b'z',), ('0.010',)), 0.01) is None
        async with Torrelque(transport) as queue:
            await queue.enqueue('x', delay=0.02)
            with anyio.fail_after(10):
                _, data = await queue.dequeue()
            assert data == 'x'
            with pytest.raises(TorrelqueTimeoutError):
                await queue.dequeue(0.01)

    async def test_can_be_cancelled_and_lets_others_run(self, transport: MemoryTransport) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await transport.execute([call('SET', 'k', 'v')])
        assert scope.cancelled_caught
        assert await transport.execute([call('EXISTS', 'k')]) == [0]

        turns: list[str] = []

        async def other() -> None:
            await checkpoint()
            turns.append('other')

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(2):
                await transport.execute([call('PING')])
            turns.append('caller')
        assert turns == ['other', 'caller']

    async def test_queues_share_tasks_where_they_share_the_server(self, clock: VirtualClock) -> None:
        server = MemoryServer(clock.time)
        one, other = MemoryTransport(clock=clock, server=server), MemoryTransport(clock=clock, server=server)
        async with Torrelque(one) as producer, Torrelque(one) as same, Torrelque(other) as consumer:
            await producer.enqueue(1)
            await producer.enqueue(2)
            assert [(await queue.dequeue()).data for queue in (same, consumer)] == [1, 2]
        async with Torrelque(MemoryTransport(clock=clock)) as stranger:
            assert (await stranger.get_queue_stats()).working == 0

    async def test_a_cancelled_wait_takes_nothing(self, transport: MemoryTransport) -> None:
        with anyio.move_on_after(0):
            await transport.block(WAIT, 8)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.block, WAIT, 8)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await transport.execute([call('ZADD', 'z', 0, 'hint')])
        assert await transport.block(WAIT, 8) == [b'z', b'hint', b'0']

    async def test_only_one_command_blocks(self, transport: MemoryTransport) -> None:
        reply = await transport.block(Call('BLPOP', (b'l',), (1,)), 1)
        assert isinstance(reply, TorrelqueReplyError)

    async def test_a_listener_hears_until_it_is_left(self, transport: MemoryTransport) -> None:
        async with transport.listen() as listener:
            await listener.subscribe(b'c')
            assert await listener.receive() == Message(b'c', None)
            await listener.subscribe(b'c')
            assert await listener.receive() == Message(b'c', None)
            await transport.execute([call('PUBLISH', 'c', 'once')])
            await listener.unsubscribe(b'c')
            await listener.unsubscribe(b'unknown')
            await transport.execute([call('PUBLISH', 'c', 'unheard')])
            await listener.subscribe(b'd')
            assert [await listener.receive() for _ in range(2)] == [Message(b'c', b'once'), Message(b'd', None)]
        with pytest.raises(TorrelqueConnectionError):
            await listener.receive()
        with pytest.raises(TorrelqueConnectionError):
            await listener.subscribe(b'e')
        assert await transport.execute([call('PUBLISH', 'd', 'x')]) == [0]


class TestClock:
    async def test_stands_still(self, clock: VirtualClock, transport: MemoryTransport) -> None:
        await anyio.sleep(0.01)
        assert (clock.time(), transport.now()) == (START, 0)
        await clock.advance(0.25)
        assert (clock.time(), transport.now()) == (START + 0.25, 0.25)
        assert await transport.execute([call('TIME')]) == [[b'1700000000', b'250000']]

    async def test_sleepers_wake_in_order_each_at_its_time(self, clock: VirtualClock) -> None:
        woken: list[tuple[float, float]] = []

        async def sleeper(interval: float) -> None:
            for _ in range(3):
                await clock.sleep(interval)
                woken.append((interval, clock.time() - START))

        async with anyio.create_task_group() as tasks:
            for interval in (2.0, 0.75, math.inf):
                tasks.start_soon(sleeper, interval)
            await clock.advance(4)
            tasks.cancel_scope.cancel()
        assert woken == [(0.75, 0.75), (0.75, 1.5), (2.0, 2.0), (0.75, 2.25), (2.0, 4.0)]

    async def test_cancelled_timers_are_forgotten(self, clock: VirtualClock) -> None:
        rung: list[int] = []
        for number in range(1000):
            clock.call_at(3600 + number, partial(rung.append, -number))()
            if not number % 100:
                clock.call_at(7200 - number, partial(rung.append, number))
        assert len(clock._timers) <= 2 * (10 + FEW)
        await clock.advance(10_000)
        assert rung == list(range(900, -1, -100))
        assert not clock._timers
        assert not clock._live

    async def test_idle_consumers_leave_no_timers_behind(self, clock: VirtualClock, transport: MemoryTransport) -> None:
        async with Torrelque(transport) as queue, anyio.create_task_group() as tasks:
            tasks.start_soon(queue.dequeue)
            await clock.advance(60)
            before = len(clock._timers)
            for _ in range(100):
                with anyio.move_on_after(0):
                    await queue.dequeue(1e6)
            await clock.advance(3600)
            assert len(clock._timers) <= before + 2 * FEW
            tasks.cancel_scope.cancel()

    async def test_a_pause_ends_with_its_event(self, clock: VirtualClock) -> None:
        event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.pause, event, 1)
            await clock.advance(0.5)
            event.set()
        assert clock.time() == START + 0.5
        await clock.pause(anyio.Event(), 0.5)
        await clock.advance(10)  # the timer of the first pause is gone

    async def test_a_block_times_out_by_it(self, clock: VirtualClock, transport: MemoryTransport) -> None:
        replies: list[Reply] = []

        async def block() -> None:
            replies.append(await transport.block(WAIT, 8))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(block)
            await clock.advance(7.999)
            assert replies == []
            await clock.advance(0.001)
            assert replies == [None]

    @pytest.mark.parametrize('seconds', [-1, math.nan, math.inf])
    async def test_only_goes_forward(self, clock: VirtualClock, seconds: float) -> None:
        with pytest.raises(TorrelqueValueError, match=repr(seconds)):
            await clock.advance(seconds)

    @pytest.mark.parametrize('start', [-1, math.nan, math.inf])
    async def test_starts_at_a_time(self, start: float) -> None:
        with pytest.raises(TorrelqueValueError, match=repr(start)):
            VirtualClock(start)

    async def test_one_task_advances_it(self, clock: VirtualClock) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.advance, 1)
            for _ in range(2):
                await checkpoint()
            with pytest.raises(TorrelqueUsageError, match='another task'):
                await clock.advance(1)

    async def test_cancelling_an_advance_leaves_the_time_it_has_come_to(self, clock: VirtualClock) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.sleep, 1)
            with anyio.CancelScope() as scope:
                clock.call_at(2, scope.cancel)
                await clock.advance(3)
        assert clock.time() == START + 2
        await clock.advance(1)
        assert clock.time() == START + 3

    async def test_tasks_that_never_settle_are_told(
        self, clock: VirtualClock, transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr('torrelque.transports.memory.clock.MOST_ROUNDS', 100)

        async def spin() -> None:
            while True:
                await transport.execute([call('PING')])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spin)
            with pytest.raises(TorrelqueUsageError, match='did not settle'):
                await clock.advance(1)
            tasks.cancel_scope.cancel()


class TestQueue:
    """What the clock is for: after an advance, all that was due has been done."""

    async def test_delayed_tasks_are_worked_off_at_their_time(self, clock: VirtualClock, queue: Torrelque) -> None:
        done: list[tuple[float, float]] = []

        async def consumer() -> None:
            while True:
                task = await queue.dequeue()
                done.append((task.data, round(clock.time() - START, 6)))
                await queue.release(task)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(consumer)
            for delay in (3600, 2, 1, 7, 90.000001):
                await queue.enqueue(delay, delay=delay)
            await queue.enqueue(0)
            for moment in (0, 1.5, 90, 90.000001, 3599.999999, 3600):
                await clock.advance(START + moment - clock.time())
                assert done == [(delay, delay) for delay in (0, 1, 2, 7, 90.000001, 3600) if delay <= moment]
            tasks.cancel_scope.cancel()
        assert (await queue.get_queue_stats())[:4] == (0, 0, 0, 0)

    async def test_a_lease_that_runs_out(self, clock: VirtualClock, queue: Torrelque) -> None:
        await queue.enqueue('x', task_timeout=300)
        first = await queue.dequeue()
        await clock.advance(299.9)
        assert await queue.dequeue_nowait() == []
        await clock.advance(0.1)
        (second,) = await queue.dequeue_nowait()
        assert (second.id, second.dequeue_count) == (first.id, 2)

    async def test_a_dequeue_that_times_out(self, clock: VirtualClock, queue: Torrelque) -> None:
        timed_out: list[float] = []

        async def consumer() -> None:
            try:
                await queue.dequeue(timeout=60)
            except TorrelqueTimeoutError:
                timed_out.append(clock.time() - START)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consumer)
            await clock.advance(59)
            assert timed_out == []
            await clock.advance(1)
        assert timed_out == [60]

    async def test_a_result_is_kept_for_its_time(self, clock: VirtualClock, queue: Torrelque) -> None:
        task_id = await queue.enqueue('x')
        states: list[str] = []

        async def watcher() -> None:
            states.extend([state.status.name async for state in queue.watch(task_id)])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher)
            await clock.advance(0)
            task = await queue.dequeue()
            await clock.advance(0)
            await queue.release(task, result='y', result_ttl=100)
        assert states == ['PENDING', 'WORKING', 'COMPLETED']
        await clock.advance(100)
        assert (await queue.get_task_state(task_id)).result == 'y'
        await clock.advance(0.001)
        with pytest.raises(TorrelqueLookupError, match=task_id):
            await queue.get_task_state(task_id)

    async def test_the_scheduled_sweep(self, clock: VirtualClock, queue: Torrelque) -> None:
        await queue.enqueue('x', delay=45)
        queue.schedule_sweep(30)
        await clock.advance(59)
        assert (await queue.get_queue_stats()).pending == 0
        await clock.advance(1)
        assert (await queue.get_queue_stats()).pending == 1
        queue.unschedule_sweep()


def test_needs_no_pytest() -> None:
    code = 'import sys, torrelque.testing; sys.exit("pytest" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)
