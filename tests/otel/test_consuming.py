"""Spans of what is received, worked on, and settled."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from opentelemetry import baggage, context

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
    seconds,
)
from torrelque import (
    Reject,
    ReleaseItem,
    RequeueItem,
    Retry,
    Task,
    TorrelqueConnectionError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
)
from torrelque.otel import InstrumentedTorrelque
from torrelque.testing import VirtualClock

pytestmark = pytest.mark.anyio

LOST = 'torrelque.errors.TorrelqueLeaseLostError'


# Receiving -----------------------------------------------------------------------------------------------------------


async def test_a_task(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    task_id = await queue.enqueue(1)
    with telescope.tracer.start_as_current_span('ambient') as ambient:
        await queue.dequeue()
    sent, received = telescope.one('enqueue q'), telescope.one('dequeue q')
    assert operation(received) == ('dequeue', 'receive', 'CLIENT')
    assert attributes(received) == {
        'messaging.message.id': task_id,
        'messaging.torrelque.message.delivery_attempt': 1,
    }
    assert parent(received) == identity(ambient.get_span_context())
    assert links(received) == [identity(sent)]
    assert telescope.counted('messaging.client.consumed.messages') == {('dequeue', None): 1}
    assert telescope.timed('messaging.client.operation.duration')['dequeue', None] == (1, seconds(received))


async def test_the_wait_belongs_to_it(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(queue.dequeue)
        await anyio.wait_all_tasks_blocked()
        await queue.enqueue(1)
    sent, received = telescope.one('enqueue q'), telescope.one('dequeue q')
    assert (received.start_time or 0) < (sent.start_time or 0) < (received.end_time or 0)


async def test_many(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    ids = [await queue.enqueue(number) for number in range(3)]
    assert len(await queue.dequeue(max_tasks=2)) == 2
    assert len(await queue.dequeue_nowait(max_tasks=2)) == 1
    assert await queue.dequeue_nowait() == []
    sent, received = telescope.all('enqueue q'), telescope.all('dequeue q')
    assert [attributes(span) for span in received] == [
        {'messaging.batch.message_count': 2},
        {'messaging.batch.message_count': 1},
    ]
    assert [links(span) for span in received] == [[identity(sent[0]), identity(sent[1])], [identity(sent[2])]]
    linked = [(link.attributes or {})['messaging.message.id'] for span in received for link in span.links]
    assert linked == ids
    assert telescope.counted('messaging.client.consumed.messages') == {('dequeue', None): 3}


async def test_a_wait_for_nothing_leaves_no_span(
    telescope: Telescope, queue: InstrumentedTorrelque, clock: VirtualClock
) -> None:
    async def time_out() -> None:
        with pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(5)

    async with anyio.create_task_group() as group:
        group.start_soon(time_out)
        await clock.advance(5)
    with anyio.move_on_after(0):
        await queue.dequeue()
    assert telescope.names() == []
    assert telescope.timed('messaging.client.operation.duration') == {}


async def test_a_failure(telescope: Telescope, transport: FailingTransport, queue: InstrumentedTorrelque) -> None:
    transport.error = TorrelqueConnectionError('gone')
    with pytest.raises(TorrelqueConnectionError):
        await queue.dequeue_nowait()
    kind = 'torrelque.errors.TorrelqueConnectionError'
    assert failed(telescope.one('dequeue q')) == (kind, 'gone')
    assert list(telescope.timed('messaging.client.operation.duration')) == [('dequeue', kind)]
    assert telescope.counted('messaging.client.consumed.messages') == {}


# Working -------------------------------------------------------------------------------------------------------------


async def test_a_loop_of_ones_own(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    task_id = await queue.enqueue(1)
    task = await queue.dequeue()
    with queue.processing(task):
        with telescope.tracer.start_as_current_span('work'):
            await queue.enqueue('follow-up')
        await queue.release(task)
    sent, follow_up = telescope.all('enqueue q')
    process, work, release = (telescope.one(name) for name in ('process q', 'work', 'release q'))
    assert operation(process) == ('process', 'process', 'CONSUMER')
    assert (parent(process), links(process), failed(process)) == (identity(sent), [identity(sent)], None)
    assert attributes(process) == {'messaging.message.id': task_id, 'messaging.torrelque.message.delivery_attempt': 1}
    assert [parent(span) for span in (work, follow_up)] == [identity(process), identity(work)]
    assert operation(release) == ('release', 'settle', 'CLIENT')
    assert (parent(release), links(release)) == (identity(process), [identity(sent)])
    assert telescope.timed('messaging.process.duration') == {('process', None): (1, seconds(process))}
    assert telescope.counted('messaging.client.consumed.messages') == {('dequeue', None): 1}


async def test_within_another_span_work_is_a_part_of_that(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    await queue.enqueue(1)
    task = await queue.dequeue()
    with telescope.tracer.start_as_current_span('batch') as batch, queue.processing(task):
        pass
    process = telescope.one('process q')
    assert parent(process) == identity(batch.get_span_context())
    assert links(process) == [identity(telescope.one('enqueue q'))]


async def test_baggage_comes_along(queue: InstrumentedTorrelque) -> None:
    token = context.attach(baggage.set_baggage('tenant', 'joe'))
    try:
        await queue.enqueue(1)
    finally:
        context.detach(token)
    task = await queue.dequeue()
    assert task.headers['baggage'] == 'tenant=joe'
    assert baggage.get_baggage('tenant') is None
    with queue.processing(task):
        assert baggage.get_baggage('tenant') == 'joe'
    assert baggage.get_baggage('tenant') is None


async def test_a_task_without_a_context(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    await queue.enqueue(1)
    telescope.spans.clear()
    task = await queue.dequeue()
    task.headers = {}
    with queue.processing(task):
        pass
    process = telescope.one('process q')
    assert (parent(process), links(process)) == (None, [])


async def test_how_work_fails(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    await queue.enqueue(1)
    task = await queue.dequeue()
    for error in (OSError('broken'), Retry(2), Reject('no good')):
        with pytest.raises(type(error)), queue.processing(task):
            raise error
    with anyio.CancelScope() as scope, queue.processing(task):
        scope.cancel()
        await anyio.sleep_forever()
    broken, retried, rejected, cancelled = telescope.all('process q')
    assert failed(broken) == ('OSError', 'broken')
    ((name, details),) = events(broken)
    assert (name, details['exception.type'], details['exception.message']) == ('exception', 'OSError', 'broken')
    assert failed(retried) is None
    assert events(retried) == [('torrelque.retry', {'messaging.torrelque.message.delay': 2.0})]
    assert failed(rejected) == ('torrelque.retry.Reject', 'no good')
    assert events(rejected) == [('torrelque.reject', {'messaging.torrelque.message.reject_reason': 'no good'})]
    kind = failed(cancelled)
    assert (kind and kind[0], events(cancelled)) == ('cancelled', [])
    assert {error for _, error in telescope.timed('messaging.process.duration')} == {
        None, 'OSError', 'cancelled', 'torrelque.retry.Reject',
    }  # fmt: skip


async def test_only_a_dequeued_task_is_worked_on(queue: InstrumentedTorrelque) -> None:
    with pytest.raises(TorrelqueTypeError, match='must be a dequeued Task'), queue.processing('id'):  # type: ignore[arg-type]
        pass


# Settling ------------------------------------------------------------------------------------------------------------


async def test_all_that_ends_a_claim(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    await queue.enqueue_many(range(5))
    tasks = await queue.dequeue(max_tasks=5)
    await queue.release(tasks[0], result='done')
    await queue.requeue(tasks[1], 3, task_timeout=7)
    await queue.reject(tasks[2], 'no good')
    await queue.giveback(tasks[3])
    await queue.release(str(tasks[4].id))
    sent = telescope.one('enqueue q')
    release, by_id = telescope.all('release q')
    requeue, reject, giveback = (telescope.one(f'{verb} q') for verb in ('requeue', 'reject', 'giveback'))
    for number, span in enumerate((release, requeue, reject, giveback)):
        assert operation(span)[1:] == ('settle', 'CLIENT')
        assert (parent(span), links(span)) == (identity(sent), [identity(sent)])
        assert attributes(span)['messaging.message.id'] == tasks[number].id
        assert failed(span) is None
    assert attributes(requeue)['messaging.torrelque.message.delay'] == 3
    assert attributes(reject)['messaging.torrelque.message.reject_reason'] == 'no good'
    assert (parent(by_id), links(by_id)) == (None, [])
    assert attributes(by_id) == {'messaging.message.id': tasks[4].id}
    assert (await queue.get_task_state(tasks[0].id)).result == 'done'
    assert (await queue.get_task_state(tasks[1].id)).timeout == 7
    assert set(telescope.timed('messaging.client.operation.duration')) == {
        (verb, None) for verb in ('enqueue', 'dequeue', 'release', 'requeue', 'reject', 'giveback')
    }


async def test_a_lost_claim(
    telescope: Telescope, queue: InstrumentedTorrelque, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.enqueue(1)
    task = await queue.dequeue()
    await queue.release(str(task.id))
    telescope.spans.clear()
    with pytest.raises(TorrelqueLeaseLostError), queue.processing(task):
        await queue.requeue(task)
    with pytest.raises(TorrelqueLookupError):
        await queue.reject(str(task.id), 'no good')
    await queue.release(task.id)
    requeue, process, reject, release = telescope.spans.get_finished_spans()
    for span in (requeue, process):
        kind = failed(span)
        assert kind is not None
        assert kind[0] == LOST
    assert events(requeue) == [], 'an exception is recorded once, where it ends the work'
    assert [name for name, _ in events(process)] == ['exception']
    assert (failed(reject) or ('',))[0] == 'torrelque.errors.TorrelqueLookupError'
    assert failed(release) is None, 'given an id it only logs a warning'
    assert 'Inconsistent release' in caplog.text


async def test_many_at_once(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    await queue.enqueue_many(range(4))
    tasks = await queue.dequeue(max_tasks=4)
    items: Iterator[Task | ReleaseItem] = iter([tasks[0], ReleaseItem(tasks[1], 'done')])
    assert await queue.release_many(items) == [None, None]
    answers = await queue.requeue_many([RequeueItem(tasks[2], 3), tasks[0]], delay=5)
    assert [type(answer) for answer in answers] == [type(None), TorrelqueLeaseLostError]
    sent, release, requeue = (telescope.one(f'{verb} q') for verb in ('enqueue', 'release', 'requeue'))
    for span in (release, requeue):
        assert operation(span)[1:] == ('settle', 'CLIENT')
        assert attributes(span)['messaging.batch.message_count'] == 2
        assert (parent(span), links(span)) == (None, [identity(sent)] * 2)
    assert [(link.attributes or {})['messaging.message.id'] for link in requeue.links] == [tasks[2].id, tasks[0].id]
    assert failed(release) is None
    kind = failed(requeue)
    assert kind is not None
    assert kind[0] == LOST
    assert (kind[1] or '').startswith('1 of 2: ')
    assert (await queue.get_task_state(tasks[1].id)).result == 'done'
