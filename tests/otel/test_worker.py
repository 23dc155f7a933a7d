"""Spans of a worker's deliveries."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import trace

from tests.otel.support import (
    FailingTransport,
    Telescope,
    attributes,
    events,
    failed,
    identity,
    links,
    operation,
    parent,
)
from torrelque import Reject, Retry, Task, Torrelque, TorrelqueConnectionError, TorrelqueTypeError, Worker, retry
from torrelque import events as worker_events
from torrelque.core.models import Running
from torrelque.otel import InstrumentedTorrelque, InstrumentedWorker
from torrelque.testing import VirtualClock

pytestmark = pytest.mark.anyio

Told = list[worker_events.WorkerEvent]


@asynccontextmanager
async def working(
    queue: InstrumentedTorrelque,
    handler: Any,  # noqa: ANN401 - a handler of any kind
    clock: VirtualClock,
    **settings: Any,  # noqa: ANN401 - the worker's
) -> AsyncIterator[InstrumentedWorker]:
    """Stopped without grace at the end; all spans have ended then."""
    worker = InstrumentedWorker(queue, handler, **{'concurrency': 1, 'clock': clock, **settings})
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        await clock.advance(0)
        yield worker
        worker.stop(0)


async def test_a_delivery(telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock) -> None:
    async def handler(task: Task) -> str:
        with telescope.tracer.start_as_current_span('work'):
            return f'done {task.data}'

    task_id = await queue.enqueue(1)
    async with working(queue, handler, clock):
        await clock.advance(0)
        assert (await queue.get_task_state(task_id)).result == 'done 1'
    assert telescope.names() == ['enqueue q', 'work', 'process q', 'release q'], 'a task that is pushed is not received'
    sent, work, process, release = telescope.spans.get_finished_spans()
    assert operation(process) == ('process', 'process', 'CONSUMER')
    assert attributes(process) == {'messaging.message.id': task_id, 'messaging.torrelque.message.delivery_attempt': 1}
    assert (parent(process), links(process), failed(process)) == (identity(sent), [identity(sent)], None)
    assert parent(work) == identity(process)
    assert parent(release) == identity(sent)
    assert telescope.counted('messaging.client.consumed.messages') == {('dequeue', None): 1}
    assert [key for key in telescope.timed('messaging.client.operation.duration') if key[0] == 'dequeue'] == []
    assert telescope.timed('messaging.process.duration')['process', None][0] == 1


async def test_several_queues(
    telescope: Telescope, queue: InstrumentedTorrelque, transport: FailingTransport, clock: VirtualClock
) -> None:
    async def handler(task: Task) -> object:
        return object() if task.queue == 'q' else None  # cannot be serialised

    async with telescope.queue(transport, 'r') as other:
        await queue.enqueue(1)
        await other.enqueue(1)
        worker = InstrumentedWorker({queue: 2, other: 1}, handler, concurrency=2, clock=clock, burst=True)
        await worker.run()
    assert {'process q', 'process r'} <= set(telescope.names())
    (dropped,) = telescope.points('torrelque.worker.results.dropped')
    assert dropped.attributes['messaging.destination.name'] == 'q'
    with pytest.raises(TorrelqueTypeError, match='InstrumentedTorrelque'):
        InstrumentedWorker([queue, Torrelque(transport)], handler, concurrency=1)


async def test_failures_and_orders(telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock) -> None:
    errors = {'fails': OSError('broken'), 'waits': Retry(9), 'ends': Reject('no good')}

    async def handler(task: Task) -> None:
        raise errors[task.data]

    for data in errors:
        await queue.enqueue(data)
    async with working(queue, handler, clock, retry=retry.constant(7)):
        await clock.advance(0)
    failing, waiting, ending = telescope.all('process q')
    assert failed(failing) == ('OSError', 'broken')
    assert [name for name, _ in events(failing)] == ['exception']
    assert failed(waiting) is None
    assert events(waiting) == [('torrelque.retry', {'messaging.torrelque.message.delay': 9.0})]
    assert failed(ending) == ('torrelque.retry.Reject', 'no good')
    requeues = telescope.all('requeue q')
    assert [attributes(span)['messaging.torrelque.message.delay'] for span in requeues] == [7, 9]
    assert attributes(telescope.one('reject q'))['messaging.torrelque.message.reject_reason'] == 'no good'
    traces = [{span.name for span in telescope.spans.get_finished_spans() if trace_of(span) == number}
              for number in map(trace_of, telescope.all('enqueue q'))]  # fmt: skip
    assert traces == [
        {'enqueue q', 'process q', 'requeue q'},
        {'enqueue q', 'process q', 'requeue q'},
        {'enqueue q', 'process q', 'reject q'},
    ]


def trace_of(span: Any) -> int:  # noqa: ANN401 - a span that has ended
    return int(span.context.trace_id)


async def test_each_attempt_is_in_the_trace(
    telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock
) -> None:
    async def handler(task: Task) -> None:
        if task.attempt == 1:
            raise Retry(5)

    await queue.enqueue(1)
    async with working(queue, handler, clock):
        await clock.advance(5)
    assert telescope.names() == ['enqueue q', 'process q', 'requeue q', 'process q', 'release q']
    assert len({trace_of(span) for span in telescope.spans.get_finished_spans()}) == 1
    attempts = [attributes(span)['messaging.torrelque.message.delivery_attempt'] for span in telescope.all('process q')]
    assert attempts == [1, 2]


@pytest.mark.parametrize('running', ['end', 'ask'])
async def test_a_cancelled_task(
    telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock, running: Running
) -> None:
    async def handler(_task: Task) -> None:
        await clock.sleep(3600)

    task_id = await queue.enqueue(1, task_timeout=600)
    async with working(queue, handler, clock):
        await queue.cancel(task_id, running=running)
        await clock.advance(1)
    process = telescope.one('process q')
    kind = failed(process)
    assert kind is not None
    assert kind[0] == 'cancelled'
    assert events(process) == ([('torrelque.cancelled', {})] if running == 'end' else [])


async def test_a_lost_claim(telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock) -> None:
    told = Told()

    async def handler(task: Task) -> None:
        await clock.sleep(3600)

    task_id = await queue.enqueue(1, task_timeout=10)
    async with working(queue, handler, clock, on_event=told.append):
        await queue.release(task_id)
        await clock.advance(10)
    process = telescope.one('process q')
    kind = failed(process)
    assert kind is not None
    assert kind[0] == 'torrelque.errors.TorrelqueLeaseLostError'
    assert events(process) == [('torrelque.lease_lost', {})]
    assert [type(event) for event in told] == [worker_events.Started, worker_events.LeaseLost], (
        'the hook hears of it, too'
    )


async def test_a_stop(telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock) -> None:
    async def handler(task: Task) -> None:
        await clock.sleep(3600)

    await queue.enqueue(1)
    async with working(queue, handler, clock):
        pass
    assert telescope.names() == ['enqueue q', 'process q', 'giveback q']
    assert (failed(telescope.one('process q')) or ('',))[0] == 'cancelled'
    assert failed(telescope.one('giveback q')) is None


@pytest.mark.parametrize('awaits', [False, True])
async def test_a_plain_function(telescope: Telescope, awaits: bool) -> None:
    seen = list[trace.SpanContext]()
    threads = list[int]()

    def look(task: Task) -> str:
        seen.append(trace.get_current_span().get_span_context())
        threads.append(threading.get_ident())
        return str(task.data)

    async def rest(task: Task) -> str:
        await anyio.lowlevel.checkpoint()
        return look(task)

    def handler(task: Task) -> str | Awaitable[str]:
        look(task)
        return rest(task) if awaits else look(task)

    async with telescope.queue(FailingTransport()) as queue, anyio.create_task_group() as group:
        await group.start(InstrumentedWorker(queue, handler, concurrency=1).run)
        state = await queue.wait(await queue.enqueue(5))
        assert state.result == '5'
        group.cancel_scope.cancel()
    process = telescope.one('process q')
    assert [identity(context) for context in seen] == [identity(process)] * 2
    assert threads[0] != threading.get_ident()
    assert (threads[1] == threading.get_ident()) is awaits
    assert failed(process) is None


async def test_a_plain_function_that_fails(telescope: Telescope) -> None:
    def handler(task: Task) -> None:
        raise OSError('broken')

    async with telescope.queue(FailingTransport()) as queue, anyio.create_task_group() as group:
        task_id = await queue.enqueue(1)
        await group.start(InstrumentedWorker(queue, handler, concurrency=1, retry=retry.never()).run)
        assert (await queue.wait(task_id)).reason == 'OSError: broken'
        group.cancel_scope.cancel()
    assert failed(telescope.one('process q')) == ('OSError', 'broken')


async def test_an_object_that_is_called(
    telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock
) -> None:
    class Handler:
        async def __call__(self, task: Task) -> str:
            return 'called'

    task_id = await queue.enqueue(1)
    async with working(queue, Handler(), clock):
        await clock.advance(0)
        assert (await queue.get_task_state(task_id)).result == 'called'


async def test_what_a_handler_receives_itself_is_received(
    telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock, transport: FailingTransport
) -> None:
    other = telescope.queue(transport, 'other')

    async def handler(task: Task) -> None:
        await other.release(await other.dequeue())

    async with other:
        await other.enqueue('material')
        await queue.enqueue(1)
        async with working(queue, handler, clock):
            await clock.advance(0)
    received = telescope.one('dequeue other')
    assert parent(received) == identity(telescope.one('process q'))
    assert links(received) == [identity(telescope.one('enqueue other'))]


async def test_an_outage_is_not_told_as_long_as_it_lasts(
    telescope: Telescope, transport: FailingTransport, queue: InstrumentedTorrelque, clock: VirtualClock
) -> None:
    async def handler(task: Task) -> None:
        pass

    transport.error = TorrelqueConnectionError('gone')
    async with working(queue, handler, clock):
        await clock.advance(60)
        transport.error = None
        await clock.advance(1)
    assert telescope.names() == []


class NoTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (NoTextError(), 'tests.otel.test_worker.NoTextError'),
        (ExceptionGroup('', [OSError('broken')]), 'OSError'),
        (ExceptionGroup('', [Reject('spoilt')]), 'torrelque.retry.Reject'),
        (ExceptionGroup('', [Retry(5)]), None),
        (SystemExit(3), 'SystemExit'),
        (asyncio.CancelledError(), 'cancelled'),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_whatever_a_handler_raises(
    telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock, error: BaseException, kind: str | None
) -> None:
    async def handler(task: Task) -> None:
        raise error

    await queue.enqueue(1)
    worker = InstrumentedWorker(queue, handler, concurrency=1, clock=clock, retry=retry.constant(60))
    with suppress(SystemExit):
        async with anyio.create_task_group() as group:
            group.start_soon(run_until_exit, worker)
            await clock.advance(0)
            worker.stop()
    process = telescope.one('process q')
    assert (failed(process) or (None,))[0] == kind
    assert len(telescope.all('requeue q')) + len(telescope.all('reject q')) == 1


async def run_until_exit(worker: InstrumentedWorker) -> None:
    with suppress(SystemExit):
        await worker.run()


async def test_results_that_are_dropped_are_counted(
    telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock
) -> None:
    async def handler(task: Task) -> object:
        return object()

    await queue.enqueue(1)
    async with working(queue, handler, clock):
        await clock.advance(0)
    assert telescope.counted('torrelque.worker.results.dropped') == {('process', 'TypeError'): 1}


# Arguments -----------------------------------------------------------------------------------------------------------


async def test_what_a_worker_refuses_is_refused(queue: InstrumentedTorrelque) -> None:
    async def handler(task: Task) -> None:
        pass

    async def hook(event: object) -> None:
        pass

    with pytest.raises(TorrelqueTypeError, match='handler must be a function, got 42'):
        InstrumentedWorker(queue, 42, concurrency=1)  # type: ignore[arg-type]
    with pytest.raises(TorrelqueTypeError, match='on_event must be a function, got 42'):
        InstrumentedWorker(queue, handler, concurrency=1, on_event=42)  # type: ignore[arg-type]
    with pytest.raises(TorrelqueTypeError, match='on_event must be a plain function'):
        InstrumentedWorker(queue, handler, concurrency=1, on_event=hook)
    with pytest.raises(TorrelqueTypeError, match='must be an InstrumentedTorrelque'):
        InstrumentedWorker('queue', handler, concurrency=1)  # type: ignore[arg-type]


def test_it_takes_what_a_worker_takes() -> None:
    own = inspect.signature(InstrumentedWorker).parameters
    plain = inspect.signature(Worker).parameters
    assert [(name, each.kind, each.default) for name, each in own.items()] == [
        (name, each.kind, each.default) for name, each in plain.items()
    ]
    assert {name for name in own if own[name].annotation != plain[name].annotation} <= {'queue', 'retry', 'handler'}
