"""What becomes of a task: returned, raised, retried, rejected; and what the hook gets."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import pytest
from anyio.lowlevel import checkpoint

from tests.worker.support import SOON, Bench, LiveBench
from torrelque import Reject, Retry, Task, Torrelque, TorrelqueLookupError, TorrelqueTaskStatus, events, retry
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


async def test_a_task_is_handed_to_the_handler_and_released(bench: Bench) -> None:
    got: list[Task] = []

    async def handler(task: Task) -> None:
        got.append(task)

    task_id = await bench.queue.enqueue({'n': 1}, headers={'trace': 'x'})
    async with bench.working(handler):
        pass
    (task,) = got
    assert (task.id, task.data, dict(task.headers), task.dequeue_count) == (task_id, {'n': 1}, {'trace': 'x'}, 1)
    assert await bench.peek() == (0, 0, 0, 0)
    assert (await bench.queue.get_task_state(task_id)).result is None  # the state is kept for a minute
    assert bench.events == [events.Started(task), events.Finished(task, None)]


async def test_what_the_handler_returns_is_the_result(bench: Bench) -> None:
    async def handler(task: Task) -> list[int]:
        return [task.data, task.data * 2]

    task_id = await bench.queue.enqueue(21)
    async with bench.working(handler, result_ttl=60):
        state = await bench.queue.wait(task_id)
        assert (state.status, state.result) == (TorrelqueTaskStatus.COMPLETED, [21, 42])
        await bench.clock.advance(59)
        assert (await bench.queue.get_task_state(task_id)).result == [21, 42]
        await bench.clock.advance(2)
        with pytest.raises(TorrelqueLookupError):
            await bench.queue.get_task_state(task_id)


async def test_the_policy_is_asked_and_the_task_requeued_until_it_gives_up(bench: Bench) -> None:
    asked: list[tuple[int, str]] = []
    started: list[float] = []

    async def handler(task: Task) -> None:
        started.append(bench.clock.time())
        raise ValueError(f'no {task.data}')

    def policy(attempt: int, error: Exception) -> float | None:
        asked.append((attempt, str(error)))
        return retry.linear(10, attempts=3)(attempt, error)

    task_id = await bench.queue.enqueue('x')
    begun = bench.clock.time()
    async with bench.working(handler, retry=policy):
        assert await bench.peek() == (0, 0, 1, 0)
        await bench.clock.advance(100)
    assert asked == [(1, 'no x'), (2, 'no x'), (3, 'no x')]
    assert [round(moment - begun) for moment in started] == [0, 10, 30]
    state = await bench.queue.get_task_state(task_id)
    assert (state.status, state.reason) == (TorrelqueTaskStatus.REJECTED, 'ValueError: no x')
    assert await bench.peek() == (0, 0, 0, 1)
    kinds = [type(event) for event in bench.events]
    assert kinds == [events.Started, events.Retried] * 2 + [events.Started, events.Rejected]
    assert [event.delay for event in bench.told(events.Retried)] == [10, 20]


async def test_without_a_policy_failures_are_retried_a_bounded_number_of_times(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        raise RuntimeError

    await bench.queue.enqueue(1)
    async with bench.working(handler):
        await bench.clock.advance(3600)
    assert len(bench.told(events.Started)) == 10
    assert await bench.peek() == (0, 0, 0, 1)


async def test_a_handler_asks_for_another_try(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        raise Retry(30)

    await bench.queue.enqueue(1)
    async with bench.working(handler, retry=retry.never()):
        await bench.clock.advance(29)
        assert len(bench.told(events.Started)) == 1
        await bench.clock.advance(2)
        assert len(bench.told(events.Started)) == 2
        assert await bench.peek() == (0, 0, 1, 0)


async def test_retries_count_as_deliveries(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        raise Retry

    task_id = await bench.queue.enqueue(1, max_dequeues=3)
    async with bench.working(handler):
        await bench.clock.advance(60)
    assert len(bench.told(events.Started)) == 3
    assert (await bench.queue.get_task_state(task_id)).status == TorrelqueTaskStatus.REJECTED


async def test_a_retry_as_a_wait_uses_up_no_attempt(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        attempts.append((task.dequeue_count, task.attempt))
        if task.dequeue_count % 2:
            raise Retry(1, count=False)
        raise ValueError('again')

    attempts: list[tuple[int, int]] = []
    await bench.queue.enqueue(1, max_dequeues=3)
    async with bench.working(handler, retry=retry.linear(1, attempts=3)):
        await bench.clock.advance(60)
    assert attempts == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]
    assert [(event.delay, event.count) for event in bench.told(events.Retried)] == [
        (1, False), (1, True), (1, False), (2, True), (1, False),
    ]  # fmt: skip
    assert await bench.peek() == (0, 0, 0, 1)


async def test_a_redriven_task_has_its_attempts_anew(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        attempts.append((task.dequeue_count, task.attempt))
        raise ValueError('again')

    attempts: list[tuple[int, int]] = []
    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, retry=retry.exponential(attempts=3, jitter=0)):
        for round_ in (1, 2):
            await bench.clock.advance(3.5)  # after 1 s and 2 s more
            assert len(bench.told(events.Rejected)) == round_
            assert await bench.queue.redrive(task_id) == 1
            await bench.settle()
    assert attempts == [(1, 1), (2, 2), (3, 3), (4, 1), (5, 2), (6, 3), (7, 1)]
    assert [event.delay for event in bench.told(events.Retried)] == [1, 2, 1, 2, 1]


async def test_a_handler_rejects(bench: Bench) -> None:
    async def handler(task: Task) -> None:
        raise Reject('spoilt')

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, retry=retry.immediately()):
        pass
    assert (await bench.queue.get_task_state(task_id)).reason == 'spoilt'
    (event,) = bench.told(events.Rejected)
    assert (event.task.id, event.reason, type(event.error)) == (task_id, 'spoilt', Reject)


@pytest.mark.parametrize('bad', [float('nan'), -1, '5', True])
async def test_a_policy_that_fails_rejects_the_task(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    bad: Any,  # noqa: ANN401 - no delay, on purpose
) -> None:
    async def handler(task: Task) -> None:
        raise RuntimeError('broken')

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, retry=lambda *_: bad):
        pass
    assert (await bench.queue.get_task_state(task_id)).reason == 'RuntimeError: broken'
    assert 'The retry policy failed' in caplog.text


async def test_a_failure_that_utf8_cannot_encode_is_rejected_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The traceback in the log holds what nobody can encode, and a test runner would want to.
    monkeypatch.setattr(logging.getLogger('torrelque.worker'), 'disabled', True)

    async def handler(task: Task) -> None:
        raise RuntimeError('\ud800' * 2000)

    await bench.queue.enqueue(1)
    async with bench.working(handler, retry=retry.never()):
        assert await bench.peek() == (0, 0, 0, 1)


async def test_failures_are_logged_with_their_traceback_and_without_the_payload(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(task: Task) -> None:
        raise RuntimeError('broken')

    caplog.set_level(logging.INFO, 'torrelque')
    await bench.queue.enqueue('secret')
    async with bench.working(handler, retry=retry.constant(1, attempts=2)):
        await bench.clock.advance(2)
    first, second = [record for record in caplog.records if record.name == 'torrelque.worker']
    assert (first.levelname, second.levelname) == ('WARNING', 'ERROR')
    assert caplog.text.count('RuntimeError: broken') == 2
    assert 'secret' not in caplog.text


async def test_success_makes_no_noise(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(task: Task) -> None: ...

    caplog.set_level(logging.INFO, 'torrelque')
    for number in range(20):
        await bench.queue.enqueue(number)
    async with bench.working(handler, concurrency=3):
        await bench.clock.advance(10)
    assert len(bench.told(events.Finished)) == 20
    assert caplog.records == []


async def test_a_hook_that_raises_is_logged_and_does_no_harm(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(task: Task) -> int:
        return task.data  # type: ignore[no-any-return]  # it is what was enqueued

    def hook(event: events.WorkerEvent) -> None:
        raise RuntimeError('bad hook')

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, on_event=hook):
        assert (await bench.queue.wait(task_id)).result == 1
    assert caplog.text.count('on_event failed for Started') == caplog.text.count('on_event failed for Finished') == 1


class Callable:
    def __init__(self) -> None:
        self.done: list[int] = []

    async def __call__(self, task: Task) -> None:
        self.done.append(threading.get_ident())


async def method_of(done: list[int], task: Task) -> None:
    done.append(threading.get_ident())


async def test_coroutine_functions_of_all_sorts_run_on_the_loop(bench: Bench) -> None:
    obj = Callable()
    done: list[int] = []
    handlers: list[Any] = [obj, obj.__call__, partial(method_of, done)]
    for handler in handlers:
        await bench.queue.enqueue(1)
        async with bench.working(handler):
            pass
    assert obj.done + done == [threading.get_ident()] * 3


async def test_no_more_run_at_once_than_asked_for_and_none_waits_claimed(bench: Bench) -> None:
    running, most = 0, 0
    go = anyio.Event()

    async def handler(task: Task) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    for number in range(10):
        await bench.queue.enqueue(number)
    async with bench.working(handler, concurrency=4):
        assert (running, await bench.peek()) == (4, (6, 4, 0, 0))
        go.set()
        await bench.settle()
        assert (most, await bench.peek()) == (4, (0, 0, 0, 0))


async def test_tasks_are_started_in_order(bench: Bench) -> None:
    got: list[int] = []

    async def handler(task: Task) -> None:
        got.append(task.data)

    for number in range(20):
        await bench.queue.enqueue(number)
    async with bench.working(handler):
        pass
    assert got == list(range(20))


# Plain functions ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def queue() -> Any:  # noqa: ANN401 - an async generator's fixture
    """In real time: threads know no other."""
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        yield queue


async def test_a_plain_function_runs_in_a_thread(queue: Torrelque) -> None:
    threads: set[int] = set()

    def handler(task: Task) -> int:
        threads.add(threading.get_ident())
        return task.data * 2  # type: ignore[no-any-return]  # it is what was enqueued

    ids = [await queue.enqueue(number) for number in range(5)]
    with anyio.fail_after(SOON):
        async with LiveBench(queue).working(handler, concurrency=2):
            results = [(await queue.wait(task_id)).result for task_id in ids]
    assert results == [0, 2, 4, 6, 8]
    assert threading.get_ident() not in threads


async def test_more_threads_than_the_default_limit(queue: Torrelque) -> None:
    together = threading.Barrier(60)

    def handler(task: Task) -> None:
        together.wait(SOON)

    for number in range(60):
        await queue.enqueue(number)
    bench = LiveBench(queue)
    with anyio.fail_after(SOON):
        async with bench.working(handler, concurrency=60, retry=retry.never()):
            await bench.until(events.Finished, 60)


async def test_what_a_plain_function_raises_counts(queue: Torrelque) -> None:
    def handler(task: Task) -> None:
        raise Reject('spoilt') if task.data else RuntimeError('broken')

    first, second = await queue.enqueue(0), await queue.enqueue(1)
    with anyio.fail_after(SOON):
        async with LiveBench(queue).working(handler, retry=retry.never()):
            assert (await queue.wait(first)).reason == 'RuntimeError: broken'
            assert (await queue.wait(second)).reason == 'spoilt'


async def test_a_plain_function_that_returns_a_coroutine(queue: Torrelque) -> None:
    async def double(number: int) -> int:
        await checkpoint()
        return number * 2

    task_id = await queue.enqueue(4)
    with anyio.fail_after(SOON):
        async with LiveBench(queue).working(lambda task: double(task.data)):
            assert (await queue.wait(task_id)).result == 8


async def test_a_thread_stops_its_worker(queue: Torrelque) -> None:
    def handler(task: Task) -> None:
        anyio.from_thread.run_sync(worker.stop)

    await queue.enqueue(1)
    await queue.enqueue(2)
    worker = LiveBench(queue).worker(handler)
    with anyio.fail_after(SOON):
        await worker.run()
    assert (await queue.get_queue_stats()).pending == 1
