"""Spans and counts of what is enqueued, and the context that goes along."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import anyio
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan

from tests.otel.support import (
    FailingTransport,
    Telescope,
    attributes,
    failed,
    identity,
    links,
    operation,
    parent,
    seconds,
)
from torrelque import EnqueueItem, Torrelque, TorrelqueConnectionError, TorrelqueReplyError, TorrelqueTypeError
from torrelque.otel import InstrumentedTorrelque
from torrelque.otel.queue import SHARED_OPTIONS

pytestmark = pytest.mark.anyio

CHOSEN = {'traceparent': '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'mine': 'too'}
CHOSEN_IDENTITY = (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f'00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}'


async def test_a_task(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    with telescope.tracer.start_as_current_span('request') as request:
        task_id = await queue.enqueue({'a': 1}, headers={'mine': 'stays'}, delay=5)
    span = telescope.one('enqueue q')
    assert operation(span) == ('enqueue', 'send', 'PRODUCER')
    assert attributes(span) == {'messaging.message.id': task_id, 'messaging.torrelque.message.delay': 5}
    assert parent(span) == identity(request.get_span_context())
    assert (failed(span), links(span)) == (None, [])
    task = await queue.get_task(task_id)
    assert task.data == {'a': 1}
    assert task.headers == {'mine': 'stays', 'traceparent': traceparent(span)}


async def test_a_group_and_a_priority(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    await queue.enqueue(1, group='acme')
    assert attributes(telescope.one('enqueue q'))['messaging.torrelque.message.group'] == 'acme'
    await queue.dequeue()
    assert attributes(telescope.one('dequeue q'))['messaging.torrelque.message.group'] == 'acme'
    await queue.enqueue(1, priority='low')
    assert attributes(telescope.all('enqueue q')[-1])['messaging.torrelque.message.priority'] == 'low'


async def test_what_is_counted(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    await queue.enqueue(1)
    await queue.enqueue_many([2, 3])
    assert telescope.counted('messaging.client.sent.messages') == {('enqueue', None): 3}
    spans = telescope.all('enqueue q')
    assert telescope.timed('messaging.client.operation.duration') == {('enqueue', None): (2, seconds(*spans))}
    (point,) = telescope.points('messaging.client.operation.duration')
    assert (point.explicit_bounds[0], point.explicit_bounds[-1]) == (0.005, 10)
    scope = spans[0].instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.schema_url) == ('torrelque.otel', 'https://opentelemetry.io/schemas/1.44.0')


async def test_a_context_of_ones_own_stays(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    token = context.attach(baggage.set_baggage('tenant', 'joe'))
    try:
        task_id = await queue.enqueue(1, headers=CHOSEN)
    finally:
        context.detach(token)
    span = telescope.one('enqueue q')
    assert operation(span) == ('enqueue', 'send', 'CLIENT')
    assert links(span) == [CHOSEN_IDENTITY]
    assert (await queue.get_task(task_id)).headers == CHOSEN


async def test_many_tasks(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    item = EnqueueItem('two', headers={'mine': 'stays'})
    told = list[tuple[int, int]]()
    ids = await queue.enqueue_many(
        iter(['one', item, EnqueueItem('three', headers=CHOSEN)]),
        max_dequeues=3,
        on_progress=lambda *progress: told.append(progress),
    )
    assert told == [(3, 3)]
    span = telescope.one('enqueue q')
    assert operation(span) == ('enqueue', 'send', 'PRODUCER')
    assert attributes(span) == {'messaging.batch.message_count': 3}
    assert links(span) == [CHOSEN_IDENTITY]
    tasks = [await queue.get_task(str(task_id)) for task_id in ids]
    added = {'traceparent': traceparent(span)}
    assert [task.headers for task in tasks] == [added, {'mine': 'stays', **added}, CHOSEN]
    assert (tasks[0].data, tasks[0].state.max_dequeues) == ('one', 3)
    assert item.headers == {'mine': 'stays'}, "the caller's own is not changed"


async def test_many_tasks_share_their_options(queue: InstrumentedTorrelque) -> None:
    shared = {field.name for field in fields(EnqueueItem)} & {*signature(Torrelque.enqueue_many).parameters}
    assert shared - {'if_exists', 'replace'} == {*SHARED_OPTIONS}, 'those two hold for items with ids of their own'
    options = {'task_timeout': 7, 'delay': 5, 'expires_in': 60}
    (task_id,) = await queue.enqueue_many([1], on_expiry='reject', group='acme', **options)  # type: ignore[arg-type]
    state = (await queue.get_task(str(task_id))).state
    assert state.timeout == 7
    assert state.expires is not None
    assert (state.on_expiry, state.group) == ('reject', 'acme')


async def test_what_is_refused_was_not_sent(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    for headers in ('no headers', {'a': 1}, {'traceparent': 5}):
        with pytest.raises(TorrelqueTypeError):
            await queue.enqueue(1, headers=headers)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await queue.enqueue_many([object()])
    kinds = [failed(span) for span in telescope.all('enqueue q')]
    assert [kind and kind[0] for kind in kinds] == ['torrelque.errors.TorrelqueTypeError'] * 3 + ['TypeError']
    assert telescope.counted('messaging.client.sent.messages') == {}


async def test_what_failed(telescope: Telescope, transport: FailingTransport, queue: InstrumentedTorrelque) -> None:
    transport.error = TorrelqueConnectionError('gone')
    with pytest.raises(TorrelqueConnectionError):
        await queue.enqueue(1)
    transport.error, transport.reply = None, TorrelqueReplyError('OOM it is full')
    answers = await queue.enqueue_many([1, 2])
    assert [type(answer) for answer in answers] == [TorrelqueReplyError] * 2
    lost, refused = telescope.all('enqueue q')
    assert failed(lost) == ('torrelque.errors.TorrelqueConnectionError', 'gone')
    assert failed(refused) == ('torrelque.errors.TorrelqueReplyError', '2 of 2: OOM it is full')
    errors = {('enqueue', f'torrelque.errors.{name}') for name in ('TorrelqueConnectionError', 'TorrelqueReplyError')}
    assert telescope.counted('messaging.client.sent.messages') == dict(zip(sorted(errors), (1, 2), strict=True))
    assert set(telescope.timed('messaging.client.operation.duration')) == errors


async def test_what_was_cancelled(telescope: Telescope, queue: InstrumentedTorrelque) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await queue.enqueue(1)
    span = telescope.one('enqueue q')
    kind = failed(span)
    assert kind is not None
    assert kind[0] == 'cancelled'
    assert telescope.counted('messaging.client.sent.messages') == {('enqueue', 'cancelled'): 1}


async def test_without_a_provider_nothing_is_told(transport: FailingTransport) -> None:
    async with InstrumentedTorrelque(transport) as queue:
        await queue.enqueue(1)
        task = await queue.dequeue()
        with queue.processing(task) as span:
            assert not span.is_recording()
        await queue.release(task)
        assert task.headers == {}


async def test_a_context_that_is_not_sampled_travels_too(transport: FailingTransport) -> None:
    ambient = trace.SpanContext(1, 2, is_remote=False)
    async with InstrumentedTorrelque(transport) as queue:
        with trace.use_span(trace.NonRecordingSpan(ambient)):
            await queue.enqueue(1)
        assert (await queue.dequeue()).headers['traceparent'] == f'00-{1:032x}-{2:016x}-00'


def test_it_is_the_queue_with_nothing_of_it_shadowed() -> None:
    own = {name for name in vars(InstrumentedTorrelque) if name.startswith('_') and not name.startswith('__')}
    assert own
    assert not [name for name in own if hasattr(Torrelque, name)]
