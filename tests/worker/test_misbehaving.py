"""Handlers that raise anything: the worker survives it, and the delivery counts as failed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from tests.worker.support import SOON, Bench, LiveBench
from torrelque import Reject, Retry, Task, Torrelque, events, retry
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


class CustomError(BaseException):
    pass


class NoTextError(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # noqa: PLE0307 - on purpose

    __repr__ = __str__


class RaisingTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit(5)

    __repr__ = __str__


class NoTruthError(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError

    __len__ = __bool__


class NoAttributesError(Exception):
    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)


class NoReasonReject(Reject):
    @property
    def reason(self) -> str:
        raise RuntimeError

    @reason.setter
    def reason(self, value: str) -> None: ...  # pyright: ignore[reportIncompatibleVariableOverride]


def _raise(error: BaseException) -> NoReturn:
    raise error


async def await_cancelled_task() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


async def await_cancelled_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    await future


async def gather_cancelled() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    await asyncio.gather(cancelled(), asyncio.sleep(0))


async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def cancel_itself_later() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.sleep(60)


async def raise_cancelled() -> None:
    raise asyncio.CancelledError('by hand')


ON_ASYNCIO: dict[str, Callable[[], Awaitable[None]]] = {
    function.__name__: function
    for function in (
        await_cancelled_task,
        await_cancelled_future,
        gather_cancelled,
        cancel_itself,
        cancel_itself_later,
        raise_cancelled,
    )
}

ERRORS: dict[str, Callable[[], BaseException]] = {
    'custom': lambda: CustomError('odd'),
    'GeneratorExit': GeneratorExit,
    'CancelledError': asyncio.CancelledError,
    'StopIteration': StopIteration,
    'StopAsyncIteration': StopAsyncIteration,
    'no text': NoTextError,
    'raising text': RaisingTextError,
    'no truth': NoTruthError,
    'no attributes': NoAttributesError,
    'group': lambda: BaseExceptionGroup('several', [CustomError('odd'), ValueError('bad')]),
    'MemoryError': MemoryError,
    'RecursionError': RecursionError,
}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures have tracebacks, which nobody wants to read."""
    monkeypatch.setattr(logging.getLogger('torrelque.worker'), 'disabled', True)


# Cancellations of the handler's own -----------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ON_ASYNCIO)
async def test_a_cancellation_of_the_handlers_own_is_a_failure(
    bench: Bench, kind: str, anyio_backend_name: str
) -> None:
    if anyio_backend_name == 'trio':
        return

    beside: list[str] = []

    async def handler(task: Task) -> str:
        if task.data == 'bad':
            await ON_ASYNCIO[kind]()
        try:
            await bench.clock.sleep(5)
        finally:
            beside.append(task.data)
        return 'done'

    good = await bench.queue.enqueue('good')
    bad = await bench.queue.enqueue('bad')
    async with bench.working(handler, concurrency=2, retry=retry.constant(1, attempts=3)):
        await bench.clock.advance(4)
        assert beside == []
        state = await bench.queue.get_task_state(bad)
        assert state.reason is not None
        assert (state.dequeue_count, state.reason[:14]) == (3, 'CancelledError')
        await bench.clock.advance(2)
        assert (await bench.queue.get_task_state(good)).result == 'done'
        later = [await bench.queue.enqueue(str(number)) for number in range(4)]  # both places are still there
        await bench.settle()
        assert (await bench.peek())[:2] == (2, 2)
        await bench.clock.advance(11)
        assert [(await bench.queue.get_task_state(each)).result for each in later] == ['done'] * 4
    assert [type(event.error) for event in bench.told(events.Retried)] == [retry.Aborted] * 2
    assert bench.told(events.GivenBack) == []


async def test_a_timer_that_a_handler_left_behind_cancels_nothing_else(bench: Bench, anyio_backend_name: str) -> None:
    if anyio_backend_name == 'trio':
        return

    async def handler(task: Task) -> str:
        current = asyncio.current_task()
        assert current is not None
        if task.data == 'timer':
            asyncio.get_running_loop().call_later(0.01, current.cancel)
        return 'done'

    await bench.queue.enqueue('timer')
    async with bench.working(handler):
        await anyio.sleep(0.1)
        later = await bench.queue.enqueue('later')
        await bench.settle()
        assert (await bench.queue.get_task_state(later)).result == 'done'


async def test_a_scope_that_the_handler_cancels_is_its_own(bench: Bench) -> None:
    async def handler(task: Task) -> str:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.cancel_scope.cancel()
        return 'done'

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler):
        assert (await bench.queue.get_task_state(task_id)).result == 'done'


@pytest.mark.parametrize('how', ['stop', 'cancel'])
async def test_a_cancellation_by_the_worker_still_gives_back(bench: Bench, how: str) -> None:
    async def handler(task: Task) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.sleep_forever()

    await bench.queue.enqueue(1)
    worker = bench.worker(handler)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await bench.settle()
        if how == 'stop':
            worker.stop(0)
        else:
            group.cancel_scope.cancel()
    assert await bench.peek() == (1, 0, 0, 0)
    assert len(bench.told(events.GivenBack)) == 1


# Whatever is raised ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ERRORS)
@pytest.mark.usefixtures('quiet')
async def test_whatever_a_handler_raises_is_a_failure(bench: Bench, kind: str) -> None:
    async def handler(task: Task) -> str:
        if task.data == 'bad':
            await checkpoint()
            _raise(ERRORS[kind]())
        return 'done'

    bad, good = await bench.queue.enqueue('bad'), await bench.queue.enqueue('good')
    async with bench.working(handler, retry=retry.constant(1, attempts=2)):
        await bench.clock.advance(2)
        assert (await bench.queue.get_task_state(good)).result == 'done'
        state = await bench.queue.get_task_state(bad)
        assert (state.status.name, state.dequeue_count) == ('REJECTED', 2)
        assert state.reason
    assert len(bench.told(events.Retried)) == len(bench.told(events.Rejected)) == 1


@pytest.mark.parametrize('kind', ERRORS)
@pytest.mark.usefixtures('quiet')
async def test_whatever_a_thread_raises_is_a_failure(kind: str) -> None:
    def handler(task: Task) -> str:
        if task.data == 'bad':
            _raise(ERRORS[kind]())
        return 'done'

    async with Torrelque(MemoryTransport(), queue='q') as queue:
        bench = LiveBench(queue)
        bad, good = await queue.enqueue('bad'), await queue.enqueue('good')
        with anyio.fail_after(SOON):
            async with bench.working(handler, retry=retry.never()):
                assert (await queue.wait(good)).result == 'done'
                assert (await queue.wait(bad)).reason
    assert len(bench.told(events.Rejected)) == 1


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (NoTextError(), 'NoTextError: <str() raised TypeError>'),
        (RaisingTextError(), 'RaisingTextError: <str() raised SystemExit>'),
        (ValueError(), 'ValueError'),
        (
            ExceptionGroup('two', [ValueError('a'), ExceptionGroup('in', [KeyError('b')])]),
            "ValueError: a; KeyError: 'b'",
        ),
        (CustomError('odd'), 'CustomError: odd'),
        (NoTruthError(), 'NoTruthError'),
        (NoAttributesError(), 'Aborted: NoAttributesError'),
        (NoReasonReject('spoilt'), 'NoReasonReject: spoilt'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else '',
)
@pytest.mark.usefixtures('quiet')
async def test_reasons(bench: Bench, error: BaseException, reason: str) -> None:
    async def handler(task: Task) -> None:
        raise error

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, retry=retry.never()):
        assert (await bench.queue.get_task_state(task_id)).reason == reason


@pytest.mark.parametrize(
    'error',
    [NoTextError(), RaisingTextError(), asyncio.CancelledError(), SystemExit(3)],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.usefixtures('quiet')
async def test_whatever_the_hook_or_the_policy_raises(bench: Bench, error: BaseException) -> None:
    async def handler(task: Task) -> str:
        if task.data == 'bad':
            raise ValueError
        return 'done'

    def fail(*_: object) -> NoReturn:
        raise error

    bad, good = await bench.queue.enqueue('bad'), await bench.queue.enqueue('good')
    async with bench.working(handler, on_event=fail, retry=fail):
        assert (await bench.queue.get_task_state(good)).result == 'done'
        assert (await bench.queue.get_task_state(bad)).reason == 'ValueError'


# Ends of the process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('in_thread', [False, True], ids=['coroutine', 'thread'])
@pytest.mark.parametrize('error', [SystemExit(3), SystemExit('text'), KeyboardInterrupt()], ids=repr)
async def test_an_exit_counts_and_stops_the_worker(
    error: BaseException, caplog: pytest.LogCaptureFixture, in_thread: bool
) -> None:
    caplog.set_level(logging.INFO, 'torrelque')
    begun, plainly_begun = anyio.Event(), threading.Event()

    async def handler(task: Task) -> str:
        if task.data == 'bad':
            await begun.wait()
            raise error
        begun.set()
        await anyio.sleep(0.2)
        return 'done'

    def handle_plainly(task: Task) -> str:
        if task.data == 'bad':
            plainly_begun.wait(SOON)
            raise error
        plainly_begun.set()
        time.sleep(0.2)
        return 'done'

    async with Torrelque(MemoryTransport(), queue='q') as queue:
        bench = LiveBench(queue)
        good, bad = await queue.enqueue('good'), await queue.enqueue('bad')
        worker = bench.worker(handle_plainly if in_thread else handler, concurrency=2, retry=retry.constant(60))
        with anyio.fail_after(SOON), pytest.raises(type(error)) as raised:
            await worker.run()
        assert raised.value is error
        assert (await queue.get_task_state(good)).result == 'done', 'it had its grace time'
        state = await queue.get_task_state(bad)
        assert (state.status.name, state.dequeue_count) == ('DELAYED', 1)
    assert [record.exc_info for record in caplog.records if record.exc_info] == []
    assert caplog.text.count('ends the worker') == 1


async def test_an_exit_within_a_group(bench: Bench, anyio_backend_name: str) -> None:
    if anyio_backend_name != 'trio':
        return  # asyncio raises an exit of any task out of its event loop: tests/cli has that

    async def leave() -> None:
        raise SystemExit(3)

    async def handler(task: Task) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(leave)

    task_id = await bench.queue.enqueue(1)
    with pytest.raises(SystemExit) as raised:
        await bench.worker(handler, retry=retry.constant(60)).run()
    assert raised.value.code == 3
    assert (await bench.queue.get_task_state(task_id)).dequeue_count == 1


# Orders within groups -------------------------------------------------------------------------------------------------

BAD = ValueError('bad')


@pytest.mark.parametrize(
    ('error', 'becomes', 'told'),
    [
        (ExceptionGroup('', [Reject('spoilt')]), 'spoilt', Reject),
        (ExceptionGroup('', [ExceptionGroup('', [Reject('spoilt')])]), 'spoilt', Reject),
        (ExceptionGroup('', [Reject('a'), Retry(5), Reject('b')]), 'a; b', Reject),
        (ExceptionGroup('', [BAD, Reject('spoilt')]), 'spoilt', Reject),
        (ExceptionGroup('', [Retry(5)]), 5.0, Retry),
        (ExceptionGroup('', [Retry(5), ExceptionGroup('', [Retry(9)])]), 9.0, Retry),
        (BaseExceptionGroup('', [asyncio.CancelledError(), Retry(5)]), 5.0, Retry),
        (ExceptionGroup('', [Retry(5), BAD]), 60.0, ExceptionGroup),
        (ExceptionGroup('', [BAD]), 60.0, ValueError),
        (BaseExceptionGroup('', [asyncio.CancelledError(), BAD]), 60.0, ValueError),
        (BaseExceptionGroup('', [CustomError(), BAD]), 60.0, retry.Aborted),
    ],
)
async def test_orders_in_groups(bench: Bench, error: BaseException, becomes: str | float, told: type) -> None:
    async def handler(task: Task) -> None:
        raise error

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, retry=retry.constant(60)):
        pass
    (event,) = bench.told(events.Retried) + bench.told(events.Rejected)
    assert type(event.error) is told
    assert becomes == (event.delay if isinstance(event, events.Retried) else event.reason)
    state = await bench.queue.get_task_state(task_id)
    assert (state.reason or 0) == (becomes if isinstance(becomes, str) else 0)


async def test_an_order_of_a_task_group_in_the_handler(bench: Bench) -> None:
    async def reject() -> None:
        raise Reject('spoilt')

    async def handler(task: Task) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.start_soon(reject)

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler):
        assert (await bench.queue.get_task_state(task_id)).reason == 'spoilt'


async def test_orders_that_were_tampered_with(bench: Bench) -> None:
    class NoDelay(Retry):
        def __init__(self) -> None: ...

    class NoReason(Reject):
        def __init__(self) -> None: ...

    async def handler(task: Task) -> None:
        raise NoDelay if task.data else NoReason

    ids = [await bench.queue.enqueue(data) for data in (0, 1)]
    async with bench.working(handler, retry=retry.never()):
        reasons = [(await bench.queue.get_task_state(task_id)).reason for task_id in ids]
    assert reasons == ['NoReason', 'NoDelay']


# Handlers that do not end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('how', ['stop', 'cancel'])
@pytest.mark.parametrize('kind', ['shields', 'swallows'])
async def test_a_handler_that_ignores_its_cancellation_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, how: str
) -> None:
    monkeypatch.setattr('torrelque.worker.worker.CLOSING_TIME', 0.2)
    release, ended = anyio.Event(), anyio.Event()

    async def handler(task: Task) -> str:
        if kind == 'shields':
            with anyio.CancelScope(shield=True):
                await release.wait()
        while not release.is_set():
            try:
                await anyio.sleep(0.01)
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
        ended.set()
        return 'too late'

    async with Torrelque(MemoryTransport(), queue='q') as queue:
        bench = LiveBench(queue)
        task_id = await queue.enqueue(1)
        worker = bench.worker(handler)
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                await bench.until(events.Started)
                if how == 'stop':
                    worker.stop(0)
                else:
                    group.cancel_scope.cancel()
        assert await bench.peek() == (1, 0, 0, 0)
        assert [event.task.id for event in bench.told(events.Abandoned)] == [task_id]
        assert f'The handler of task:{task_id} ignores' in caplog.text
        release.set()
        with anyio.fail_after(SOON):
            await ended.wait()
        for _ in range(20):
            await checkpoint()
        assert await bench.peek() == (1, 0, 0, 0), 'what it returned is dropped'


async def test_a_thread_that_is_left_behind_is_named(caplog: pytest.LogCaptureFixture) -> None:
    begun, go = anyio.Event(), threading.Event()

    def handler(task: Task) -> None:
        anyio.from_thread.run_sync(begun.set)
        go.wait(SOON)

    async with Torrelque(MemoryTransport(), queue='q') as queue:
        task_id = await queue.enqueue(1)
        worker = LiveBench(queue).worker(handler)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                await begun.wait()
                worker.stop(0)
        finally:
            go.set()
    assert f'The thread of task:{task_id} is still running' in caplog.text


class Loads:
    """A serialiser that fails of what it reads."""

    dumps = staticmethod(str.encode)

    @staticmethod
    def loads(data: bytes) -> str:
        if data == b'bad':
            raise RaisingTextError
        if data == b'exit':
            raise SystemExit(3)
        if data == b'surrogate':
            raise ValueError('\ud800')
        if data == b'cancelled':
            raise asyncio.CancelledError
        return data.decode()


@pytest.mark.usefixtures('quiet')
async def test_payloads_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger('torrelque'), 'disabled', True)

    async def handler(task: Task) -> str:
        return 'done'

    async with Torrelque(MemoryTransport(), queue='q', serialiser=Loads()) as queue:
        bench = LiveBench(queue)
        ids = [await queue.enqueue(data) for data in ('bad', 'exit', 'surrogate', 'cancelled', 'good')]
        with anyio.fail_after(SOON):
            async with bench.working(handler):
                await bench.until(events.Finished)
                reasons = [(await queue.wait(task_id)).reason for task_id in ids[:-1]]
    assert reasons == [
        f'cannot be deserialised: {said}'
        for said in (
            'RaisingTextError: <str() raised SystemExit>',
            'SystemExit: 3',
            'ValueError: \\ud800',
            'CancelledError',
        )
    ]
