"""Calls while a server fails over: in virtual time, and with real servers that change places."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.servers import Server
from tests.transient import EACH
from torrelque import (
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueValueError,
    connect,
)
from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueHandshakeError, TorrelqueRefusedError
from torrelque.testing import MemoryTransport, VirtualClock
from torrelque.transports.failover import FailoverTransport

pytestmark = pytest.mark.anyio

Fault = Callable[[], Exception]


class Failing(MemoryTransport):
    """Fails everything until a moment of its virtual time."""

    def __init__(self, fault: Fault | None = None, until: float = 0.0) -> None:
        self.clock = VirtualClock()
        super().__init__(clock=self.clock)
        self.fault = fault
        self.until = self.now() + until
        self.tries = 0
        self.failures = 0

    def failure(self) -> Exception | None:
        if self.fault is None or self.now() >= self.until:
            return None
        self.failures += 1
        return self.fault()

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        self.tries += 1
        match self.failure():
            case None:
                return await super().execute(batch)
            case TorrelqueReplyError() as error if not isinstance(error, TorrelqueConnectionError):
                return [error] * len(batch)
            case error:
                raise error

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        match self.failure():
            case None:
                return await super().block(call, timeout)
            case TorrelqueReplyError() as error if not isinstance(error, TorrelqueConnectionError):
                return error
            case error:
                raise error


FAULTS = [
    *[pytest.param(lambda text=text: TorrelqueReplyError(text), id=text) for text in EACH],
    pytest.param(lambda: TorrelqueConnectionError('cut'), id='cut'),
]


@asynccontextmanager
async def time_passing(clock: VirtualClock) -> AsyncIterator[None]:
    async def pass_time() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            await clock.advance(0.1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pass_time)
        yield
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize('fault', FAULTS)
async def test_calls_outlast_a_fail_over(fault: Fault) -> None:
    transport = Failing(fault, until=5)
    async with time_passing(transport.clock), Torrelque(transport, failover_timeout=10) as queue:
        task_id = await queue.enqueue('tea')
        assert transport.now() >= transport.until
        assert (await queue.dequeue()).id == task_id
        assert (await queue.get_queue_stats()).tasks == 1


@pytest.mark.parametrize('fault', FAULTS)
async def test_an_idle_consumer_outlasts_a_fail_over(fault: Fault) -> None:
    transport = Failing(fault)
    transport.block_limit = 1.0  # so that the waits that begin meanwhile fail
    producer_side = MemoryTransport(clock=transport.clock, server=transport.server)
    got: list[str] = []

    async def consume(queue: Torrelque) -> None:
        got.append((await queue.dequeue()).id)

    async with (
        Torrelque(transport, failover_timeout=10) as queue,
        Torrelque(producer_side) as producer,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(consume, queue)
        await transport.clock.advance(1)
        transport.until = transport.now() + 8
        await transport.clock.advance(20)
        assert transport.failures > 5
        await producer.enqueue('tea', task_id='tea')
    assert got == ['tea']


@pytest.mark.parametrize('fault', FAULTS)
async def test_patience_ends_with_the_last_error_and_how_long_it_took(fault: Fault) -> None:
    transport = Failing(fault, until=1000)
    start = transport.now()
    async with time_passing(transport.clock):
        with pytest.raises((TorrelqueReplyError, TorrelqueConnectionError)) as caught:
            await Torrelque(transport, failover_timeout=3).get_server_time()
    assert 2 < transport.now() - start < 4
    assert transport.tries > 3
    assert 'failover_timeout=3' in caught.value.__notes__[0]


async def enqueue_many(queue: Torrelque) -> None:
    for answer in await queue.enqueue_many(range(200)):
        if isinstance(answer, Exception):
            raise answer


CALLS: dict[str, Callable[[Torrelque, Task], Awaitable[object]]] = {
    'enqueue': lambda queue, _: queue.enqueue('more'),
    'enqueue_many': lambda queue, _: enqueue_many(queue),
    'dequeue': lambda queue, _: queue.dequeue(),
    'dequeue_nowait': lambda queue, _: queue.dequeue_nowait(),
    'extend': lambda queue, task: queue.extend(task),
    'release': lambda queue, task: queue.release(task, result=1),
    'requeue': lambda queue, task: queue.requeue(task, 1),
    'reject': lambda queue, task: queue.reject(task, 'no'),
    'cancel': lambda queue, task: queue.cancel(task.id),
    'get_task_state': lambda queue, task: queue.get_task_state(task.id),
    'sweep': lambda queue, _: queue.sweep(),
    'pause': lambda queue, _: queue.pause(),
    'audit': lambda queue, _: queue.audit(),
}


@pytest.mark.parametrize('fault', [FAULTS[0], FAULTS[-1]])
@pytest.mark.parametrize('name', CALLS)
async def test_a_call_takes_no_longer_than_it_may(name: str, fault: Fault) -> None:
    """However many batches it is made of: a lane, a script, the call, its settling."""
    transport = Failing(fault)
    async with time_passing(transport.clock), Torrelque(transport, failover_timeout=4) as queue:
        await queue.enqueue('tea')
        task = await queue.dequeue()
        start = transport.now()
        transport.until = start + 1000
        with pytest.raises((TorrelqueReplyError, TorrelqueConnectionError)):
            await CALLS[name](queue, task)
        assert 3 < transport.now() - start < 4.2  # time passes in steps of 0.1 s
        transport.until = 0


async def test_an_idle_consumer_is_told_in_the_end() -> None:
    transport = Failing(lambda: TorrelqueConnectionError('cut'), until=1000)
    async with time_passing(transport.clock), Torrelque(transport, failover_timeout=3) as queue:
        with pytest.raises(TorrelqueConnectionError):
            await queue.dequeue()


async def test_a_wait_of_its_own_length_ends_in_time() -> None:
    transport = Failing(lambda: TorrelqueReplyError('READONLY no'), until=1000)
    async with time_passing(transport.clock), Torrelque(transport, failover_timeout=100) as queue:
        start = transport.now()
        with pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(2)
        assert transport.now() - start < 4
        transport.until = 0


@pytest.mark.parametrize(
    'fault',
    [
        lambda: TorrelqueHandshakeError('no trust'),
        lambda: TorrelqueRefusedError('WRONGPASS no'),
        lambda: TorrelqueReplyError('NOPERM no'),
        lambda: TorrelqueReplyError('OOM full'),
    ],
)
async def test_what_does_not_pass_is_told_at_once(fault: Fault) -> None:
    transport = Failing(fault, until=1000)
    with pytest.raises((TorrelqueReplyError, TorrelqueConnectionError)):
        await Torrelque(transport, failover_timeout=3).get_server_time()
    assert transport.tries == 1


async def test_only_what_failed_is_repeated_with_the_scripts_it_needs() -> None:
    """In order; what was answered keeps its answer."""
    sent: list[list[str]] = []

    class Half(Failing):
        async def execute(self, batch: Batch) -> Sequence[Reply]:
            sent.append([str(call.args[0]) for call in batch])
            return [TorrelqueReplyError('READONLY no') if len(sent) == 1 and i == 2 else i for i in range(len(batch))]

    transport = Half()
    batch: list[Call[Reply]] = [
        Call('SCRIPT LOAD', (), (name,)) if name == 'load' else Call('ECHO', (), (name,))
        for name in ('a', 'load', 'b', 'c')
    ]
    async with time_passing(transport.clock):
        replies = await FailoverTransport(transport, 5).execute(batch)
    assert sent == [['a', 'load', 'b', 'c'], ['load', 'b']]
    assert replies == [0, 0, 1, 3]


async def test_who_is_patient_by_default() -> None:
    class OfSentinel(MemoryTransport):
        fails_over = True

    class OfCluster(MemoryTransport):
        on_cluster = True

    assert isinstance(Torrelque(OfSentinel())._transport, FailoverTransport)
    assert isinstance(Torrelque(OfCluster())._transport, FailoverTransport)
    assert not isinstance(Torrelque(MemoryTransport())._transport, FailoverTransport)
    assert not isinstance(Torrelque(OfSentinel(), failover_timeout=0)._transport, FailoverTransport)


@pytest.mark.parametrize('bad', [-1, float('nan'), float('inf'), 300.5])
def test_a_bad_value_is_refused(bad: float) -> None:
    with pytest.raises(TorrelqueValueError, match='failover_timeout'):
        Torrelque(MemoryTransport(), failover_timeout=bad)


def test_a_bad_type_is_refused() -> None:
    with pytest.raises(TorrelqueTypeError, match='failover_timeout'):
        Torrelque(MemoryTransport(), failover_timeout='long')  # type: ignore[arg-type]


async def test_the_users_transport_stays_open() -> None:
    class Closing(MemoryTransport):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    transport = Closing()
    async with Torrelque(transport, failover_timeout=5) as queue:
        await queue.enqueue('tea')
    assert not transport.closed


async def test_a_primary_that_is_read_only_for_a_while(fresh_server: Callable[..., Server]) -> None:
    """Under load: nobody sees an error, nothing is lost, nothing is done twice."""
    server, other = fresh_server(), fresh_server()
    done: list[int] = []
    async with (
        connect(server.url) as client,
        Torrelque(client, queue='q', failover_timeout=30) as queue,
        anyio.create_task_group() as tasks,
    ):
        middle = anyio.Event()

        async def consume() -> None:
            while len(done) < 400:
                task = await queue.dequeue()
                await queue.release(task)
                done.append(task.data)
                if len(done) >= 100:
                    middle.set()
            tasks.cancel_scope.cancel()

        async def produce(first: int) -> None:
            for number in range(first, first + 100):
                await queue.enqueue(number)

        for index in range(4):
            tasks.start_soon(consume)
            tasks.start_soon(produce, index * 100)
        await middle.wait()
        # A replica refuses to be written to; its own replica, promoted, holds all that it was given.
        server.command('CONFIG', 'SET', 'replica-read-only', 'yes')
        other.command('REPLICAOF', '127.0.0.1', server.port)
        await until(lambda: 'state=online' in server.info('replication').get('slave0', ''))
        server.command('REPLICAOF', '127.0.0.1', other.port)
        await until(lambda: server.info('replication')['role'] == 'slave')
        await anyio.sleep(0.3)
        server.command('REPLICAOF', 'NO', 'ONE')
    assert sorted(done) == list(range(400))


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - of a server there is no event
            await anyio.sleep(0.01)
