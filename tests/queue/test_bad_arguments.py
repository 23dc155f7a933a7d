"""Bad arguments raise before anything is sent, and the message names the value."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from tests.queue.transports import RecordingTransport
from torrelque import (
    EnqueueItem,
    ReleaseItem,
    RequeueItem,
    Torrelque,
    TorrelqueError,
    TorrelqueTaskSerialiser,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)

pytestmark = pytest.mark.anyio

Bad: TypeAlias = Any
"""Of a wrong type, on purpose."""

Try = Callable[[Torrelque, Bad], Awaitable[object]]

NO_WAITS: list[Bad] = [math.nan, -math.inf, 1e300, 10**400, Decimal('sNaN'), 'abc', '5', b'5', [], ..., 1j, float]
NO_TIMES = [math.inf, *NO_WAITS]
NO_WAITS = [*NO_WAITS, -1]
NO_COUNTS: list[Bad] = [0, -1, 1.5, math.nan, '3', True, [], ...]
NO_FLAGS: list[Bad] = [0, 1, 'no', None]
NO_AMOUNTS: list[Bad] = [*NO_TIMES, True, -1]
NO_MOMENTS: list[Bad] = [datetime(2030, 1, 1), datetime.max.replace(tzinfo=UTC), -1, 1e12, 10**400, math.nan, True, '5']  # noqa: DTZ001
NO_IDS: list[Bad] = [5, True, b'a', b'', ..., 1.5, float]
NO_TEXTS: list[Bad] = ['', '\ud800', 5, None, b'a', ['a'], ...]
NO_HEADERS: list[Bad] = [[('a', 'b')], 'a', 5, {'a': 1}, {1: 'a'}, {'a': None}, {'a': b'b'}, {'a': '\ud800'}]


async def iterate(states: AsyncIterator[object]) -> None:
    async for _ in states:
        pass


CALLS: dict[str, tuple[list[Bad], Try]] = {
    'enqueue task_timeout': ([*NO_TIMES, -1], lambda queue, bad: queue.enqueue('a', task_timeout=bad)),
    'enqueue delay': (NO_TIMES, lambda queue, bad: queue.enqueue('a', delay=bad)),
    'enqueue max_dequeues': (NO_COUNTS, lambda queue, bad: queue.enqueue('a', max_dequeues=bad)),
    'enqueue task_id': ([bad for bad in NO_TEXTS if bad is not None], lambda queue, bad: queue.enqueue(1, task_id=bad)),
    'enqueue headers': (NO_HEADERS, lambda queue, bad: queue.enqueue('a', headers=bad)),
    'enqueue_many task_timeout': ([*NO_TIMES, -1], lambda queue, bad: queue.enqueue_many(['a'], task_timeout=bad)),
    'enqueue_many delay': (NO_TIMES, lambda queue, bad: queue.enqueue_many(['a', 'b'], delay=bad)),
    'enqueue_many max_dequeues': (NO_COUNTS, lambda queue, bad: queue.enqueue_many(['a'], max_dequeues=bad)),
    'enqueue_many item': (
        NO_TIMES,
        lambda queue, bad: queue.enqueue_many([*range(2_000), EnqueueItem('a', delay=bad)]),
    ),
    'dequeue timeout': (NO_WAITS, lambda queue, bad: queue.dequeue(bad)),
    'dequeue max_tasks': ([*NO_COUNTS, None], lambda queue, bad: queue.dequeue(1, max_tasks=bad)),
    'dequeue_nowait max_tasks': ([*NO_COUNTS, None], lambda queue, bad: queue.dequeue_nowait(max_tasks=bad)),
    'requeue id': (NO_TEXTS, lambda queue, bad: queue.requeue(bad)),
    'requeue delay': (NO_TIMES, lambda queue, bad: queue.requeue('a', bad)),
    'requeue task_timeout': ([*NO_TIMES, -1], lambda queue, bad: queue.requeue('a', task_timeout=bad)),
    'requeue count': (NO_FLAGS, lambda queue, bad: queue.requeue('a', count=bad)),
    'requeue_many count': (NO_FLAGS, lambda queue, bad: queue.requeue_many(['a'], count=bad)),
    'requeue_many item count': (NO_FLAGS, lambda queue, bad: queue.requeue_many([RequeueItem('a', count=bad)])),
    'requeue_many delay': (NO_TIMES, lambda queue, bad: queue.requeue_many(['a'], delay=bad)),
    'requeue_many task_timeout': ([*NO_TIMES, -1], lambda queue, bad: queue.requeue_many(['a'], task_timeout=bad)),
    'requeue_many item': (NO_TEXTS, lambda queue, bad: queue.requeue_many(['a', RequeueItem(bad)])),
    'release id': (NO_TEXTS, lambda queue, bad: queue.release(bad)),
    'release result_ttl': ([*NO_TIMES, -1], lambda queue, bad: queue.release('a', result=1, result_ttl=bad)),
    'release_many item': (NO_TEXTS, lambda queue, bad: queue.release_many(['a', ReleaseItem(bad)])),
    'reject id': (NO_TEXTS, lambda queue, bad: queue.reject(bad, 'why')),
    'reject reason': (NO_TEXTS, lambda queue, bad: queue.reject('a', bad)),
    'giveback id': (NO_TEXTS, lambda queue, bad: queue.giveback(bad)),
    'extend id': (NO_TEXTS, lambda queue, bad: queue.extend(bad)),
    'extend timeout': ([*NO_TIMES, -1], lambda queue, bad: queue.extend('a', bad)),
    'limit rate': (NO_AMOUNTS, lambda queue, bad: queue.limit(rate=(1, bad))),
    'pause until': (NO_MOMENTS, lambda queue, bad: queue.pause(until=bad)),
    'enqueue expires_in': ([*NO_AMOUNTS, 0], lambda queue, bad: queue.enqueue(1, expires_in=bad)),
    'enqueue expires_at': (NO_MOMENTS, lambda queue, bad: queue.enqueue(1, expires_at=bad)),
    'enqueue time_limit': ([*NO_AMOUNTS, 0], lambda queue, bad: queue.enqueue(1, time_limit=bad)),
    'enqueue_many time_limit': ([*NO_AMOUNTS, 0], lambda queue, bad: queue.enqueue_many([1], time_limit=bad)),
    'schedule every': ([*NO_AMOUNTS, 0], lambda queue, bad: queue.schedule('s', 1, every=bad)),
    'schedule cron': ([5, b'', '* * *', '9' * 5000 + ' * * * *'], lambda queue, bad: queue.schedule('s', 1, cron=bad)),
    'redrive ids': (NO_IDS, lambda queue, bad: queue.redrive(bad)),
    'purge ids': (NO_IDS, lambda queue, bad: queue.purge(bad)),
    'audit repair': (NO_FLAGS, lambda queue, bad: queue.audit(repair=bad)),
    'cancel id': (NO_TEXTS, lambda queue, bad: queue.cancel(bad)),
    'get_task_state id': (NO_TEXTS, lambda queue, bad: queue.get_task_state(bad)),
    'get_task id': (NO_TEXTS, lambda queue, bad: queue.get_task(bad)),
    'wait id': (NO_TEXTS, lambda queue, bad: queue.wait(bad)),
    'wait timeout': (NO_WAITS, lambda queue, bad: queue.wait('a', bad)),
    'watch id': (NO_TEXTS, lambda queue, bad: iterate(queue.watch(bad))),
    'watch timeout': (NO_WAITS, lambda queue, bad: iterate(queue.watch('a', timeout=bad))),
}
CASES = [pytest.param(call, bad, id=f'{name} {bad!r:.20}') for name, (values, call) in CALLS.items() for bad in values]


@pytest.fixture(scope='module')
def anyio_backend() -> str:
    """What is checked before anything is sent is no matter of the event loop."""
    return 'asyncio'


@pytest.fixture
def transport() -> RecordingTransport:
    return RecordingTransport()


@pytest.fixture
def queue(transport: RecordingTransport) -> Torrelque:
    return Torrelque(transport, queue='q')


def names(error: BaseException, bad: object) -> bool:
    if isinstance(bad, dict):  # the entry that is wrong is enough
        return any(repr(word) in str(error) for word in bad.values())
    return repr(bad) in str(error) or (bad == '' and 'must not be empty' in str(error))


@pytest.mark.parametrize(('attempt', 'bad'), CASES)
async def test_is_refused(queue: Torrelque, transport: RecordingTransport, attempt: Try, bad: object) -> None:
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError)) as caught:
        await attempt(queue, bad)
    assert names(caught.value, bad), caught.value
    assert transport.calls == []


@pytest.mark.parametrize('bad', [*NO_TIMES, -1], ids=repr)
async def test_a_bad_sweep_interval(queue: Torrelque, transport: RecordingTransport, bad: Bad) -> None:
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError)) as caught:
        queue.schedule_sweep(bad)
    assert names(caught.value, bad)
    queue.sweep_interval = bad
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='sweep_interval'):
        queue.schedule_sweep()
    assert transport.calls == []


@pytest.mark.parametrize('bad', [*NO_TIMES, -1, 0], ids=repr)
async def test_a_bad_default_timeout(queue: Torrelque, transport: RecordingTransport, bad: Bad) -> None:
    queue.task_timeout = bad
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='task_timeout') as caught:
        await queue.enqueue('a')
    assert names(caught.value, bad)
    assert transport.calls == []


@pytest.mark.parametrize('bad', [*NO_TIMES, -1], ids=repr)
async def test_a_bad_default_ttl(queue: Torrelque, transport: RecordingTransport, bad: Bad) -> None:
    queue.result_ttl = bad
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='result_ttl') as caught:
        await queue.release('a', result=1)
    assert names(caught.value, bad)
    assert transport.calls == []


@pytest.mark.parametrize('status', [*list(TorrelqueTaskStatus)[:3], 17, 'done'])
@pytest.mark.parametrize('result', [None, 1])
async def test_a_release_that_is_not_final(
    queue: Torrelque,
    transport: RecordingTransport,
    status: Bad,
    result: object,
) -> None:
    with pytest.raises(TorrelqueError) as caught:
        await queue.release('a', status=status, result=result)
    assert str(caught.value) == f'Invalid status for released task: {status}'
    assert transport.calls == []


async def test_what_cannot_be_serialised(queue: Torrelque, transport: RecordingTransport) -> None:
    unserialisable: list[Awaitable[object]] = [
        queue.enqueue(object()),
        queue.enqueue_many(['a', object()]),
        queue.release('a', result=object()),
        queue.release_many(['a', ReleaseItem('b', result=object())]),
    ]
    for attempt in unserialisable:
        with pytest.raises(TypeError, match='object is not JSON serializable'):
            await attempt
    assert transport.calls == []


async def test_a_serialiser_that_gives_no_bytes(transport: RecordingTransport) -> None:
    queue = Torrelque(transport, serialiser=TorrelqueTaskSerialiser(lambda value: value, lambda data: data))
    with pytest.raises(TorrelqueTypeError, match='returned int'):
        await queue.enqueue(5)
    assert transport.calls == []


async def test_a_status_to_list_that_there_is_not(queue: Torrelque, transport: RecordingTransport) -> None:
    with pytest.raises(ValueError, match='17'):
        await iterate(queue.tasks(17))  # type: ignore[arg-type]
    assert transport.calls == []


async def test_a_pipeline_that_is_none(queue: Torrelque, transport: RecordingTransport) -> None:
    attempts: list[Awaitable[object]] = [
        queue.enqueue('a', pipeline='no pipeline'),
        queue.release('a', pipeline='no pipeline'),
        queue.requeue('a', pipeline='no pipeline'),
    ]
    for attempt in attempts:
        with pytest.raises(TorrelqueUsageError, match='no pipeline'):
            await attempt
    assert transport.calls == []


@pytest.mark.parametrize('client', [None, 'redis://localhost', ..., dict], ids=repr)
def test_an_unknown_client(client: object) -> None:
    with pytest.raises(TorrelqueError, match=r'(?s)client.*redis\.asyncio\.Redis.*coredis\.Redis.*connect\(url\)'):
        Torrelque(client)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize('queue', NO_TEXTS, ids=repr)
def test_a_bad_queue_name(transport: RecordingTransport, queue: Bad) -> None:
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError)) as caught:
        Torrelque(transport, queue=queue)
    assert names(caught.value, queue)


@pytest.mark.parametrize('limit', NO_COUNTS, ids=repr)
def test_a_bad_default_limit(transport: RecordingTransport, limit: Bad) -> None:
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError)) as caught:
        Torrelque(transport, max_dequeues=limit)
    assert names(caught.value, limit)


@pytest.mark.parametrize('cap', NO_COUNTS, ids=repr)
def test_a_bad_cap(transport: RecordingTransport, cap: Bad) -> None:
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError)) as caught:
        Torrelque(transport, max_rejected=cap)
    assert names(caught.value, cap)


@pytest.mark.parametrize('serialiser', [None, ..., SimpleNamespace(dumps=str), SimpleNamespace(dumps=1, loads=2)])
def test_a_bad_serialiser(transport: RecordingTransport, serialiser: Bad) -> None:
    with pytest.raises(TorrelqueTypeError) as caught:
        Torrelque(transport, serialiser=serialiser)
    assert repr(serialiser) in str(caught.value)
