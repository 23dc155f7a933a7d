"""A queue object's life: with and without its context, on one event loop after another, over forks, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import pytest

from tests.queue.transports import RecordingTransport
from tests.servers import Server
from torrelque import (
    Task,
    Torrelque,
    TorrelqueError,
    TorrelqueUsageError,
    connect,
)
from torrelque.core.protocol import Call
from torrelque.testing import MemoryTransport
from torrelque.transports.native import NativeTransport

on_each_loop = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


def run_quietly(main: Coroutine[Any, Any, object], capsys: pytest.CaptureFixture[str]) -> None:
    """``asyncio.run``; whatever it or its end complains about fails the test."""
    complaints: list[dict[str, Any]] = []

    async def listen() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await main

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        asyncio.run(listen(), debug=True)
        gc.collect()
    assert complaints == []
    assert capsys.readouterr().err == ''


# asyncio, without the context ----------------------------------------------------------------------------------------


def test_the_quickstart_of_0_9(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with connect(server.url) as client:
            queue = Torrelque(client)
            await queue.enqueue({'foo': 'bar'})
            task_id, task_data = await queue.dequeue()
            assert task_data == {'foo': 'bar'}
            await queue.release(task_id)
            assert (await queue.get_queue_stats()).tasks == 0

    run_quietly(main(), capsys)


def test_an_end_without_closing_anything(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[str] = []

    async def main() -> None:
        queue = Torrelque(MemoryTransport())
        queue.schedule_sweep()
        watched = await queue.enqueue('a', delay=60)

        async def dequeue() -> None:
            try:
                await queue.dequeue()
            finally:
                ended.append('dequeue')

        async def watch() -> None:
            try:
                async for _ in queue.watch(watched):
                    pass
            finally:
                ended.append('watch')

        background = [asyncio.create_task(dequeue()), asyncio.create_task(watch())]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in background)

    run_quietly(main(), capsys)
    assert sorted(ended) == ['dequeue', 'watch']


def test_an_end_of_run_until_complete(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that runs the loop by hand cancels nothing at the end: then nothing may be left to cancel."""

    async def main() -> None:
        queue = Torrelque(MemoryTransport())
        await queue.enqueue('a', delay=60)
        task_id = await queue.enqueue('b')
        task = await queue.dequeue()
        await queue.release(task, result=1)
        await queue.wait(task_id)
        with pytest.raises(TorrelqueError):
            await queue.dequeue(0.01)
        await asyncio.sleep(0.02)

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        assert asyncio.all_tasks(loop) == set()
        loop.close()
        gc.collect()
    assert capsys.readouterr().err == ''


def test_one_event_loop_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    queue = Torrelque(MemoryTransport())

    async def main(number: int) -> None:
        task_id = await queue.enqueue(number)
        task = await queue.dequeue(ENOUGH)
        assert task.data == number
        await queue.release(task, result=number)
        assert (await queue.wait(task_id)).result == number
        background = asyncio.create_task(queue.dequeue())
        await asyncio.sleep(0.01)
        assert not background.done()

    for number in range(3):
        run_quietly(main(number), capsys)
    assert asyncio.run(queue.get_queue_stats()).tasks == 0


def test_two_event_loops_at_once_are_refused() -> None:
    queue = Torrelque(MemoryTransport())

    async def main() -> None:
        waiting = asyncio.create_task(queue.dequeue())
        await asyncio.sleep(0.01)
        with pytest.raises(TorrelqueUsageError, match='another event loop'):
            await asyncio.to_thread(asyncio.run, queue.enqueue('a'))
        await queue.enqueue('a')
        await waiting

    asyncio.run(main())


def test_closing_without_the_context(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        queue = Torrelque(MemoryTransport())
        await queue.aclose()
        queue.schedule_sweep()
        waiting = asyncio.create_task(queue.dequeue())
        await asyncio.sleep(0.01)
        await queue.aclose()
        await queue.aclose()
        with pytest.raises(TorrelqueError, match='closed'):
            await waiting
        await queue.enqueue('and again')
        assert (await queue.dequeue(ENOUGH)).data == 'and again'

    run_quietly(main(), capsys)


def test_scheduled_sweeps(caplog: pytest.LogCaptureFixture) -> None:
    """They log as 0.9 did, go on after an error of the server's, and end with any other."""
    caplog.set_level('DEBUG', 'torrelque')

    async def logged(text: str) -> None:
        async with asyncio.timeout(ENOUGH):
            while text not in caplog.messages:  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(0.001)

    async def main() -> None:
        transport = MemoryTransport()
        queue = Torrelque(transport, queue='q')
        queue.sweep_interval = 0.005
        await queue.enqueue('a', delay=0.001)
        await asyncio.sleep(0.002)
        queue.schedule_sweep()
        await logged('Sweep has requeued: stale=0, delayed=1, undequeued=0')
        assert 'Sweep has failed with Redis error, continuing' not in caplog.messages
        transport.server.execute([_call('SET', 'q:working', 'not a sorted set')])
        await logged('Sweep has failed with Redis error, continuing')
        transport.server.execute([_call('DEL', 'q:working')])
        caplog.clear()
        await logged('Sweep has requeued: stale=0, delayed=0, undequeued=0')
        queue.sweep = _fail  # type: ignore[method-assign]  # as a subclass might
        await logged('Sweep has failed with unexpected error, stopping')
        caplog.clear()
        await asyncio.sleep(0.02)
        assert caplog.messages == []
        queue.unschedule_sweep()

    asyncio.run(main())
    assert {record.name for record in caplog.records} <= {'torrelque', 'asyncio'}


def _call(*words: str) -> Any:  # noqa: ANN401 - a call of whatever parser
    return Call(words[0], args=words[1:])


async def _fail() -> tuple[int, int, int]:
    raise ZeroDivisionError


def test_a_context_variable_of_the_first_caller_is_not_kept() -> None:
    """What runs in the background is nobody's in particular."""
    seen: list[object] = []
    variable = contextvars.ContextVar[str]('variable', default='nobody')

    class Curious(MemoryTransport):
        async def execute(self, batch: Any) -> Any:  # noqa: ANN401 - as the base
            seen.append(variable.get())
            return await super().execute(batch)

    async def main() -> None:
        variable.set('somebody')
        await Torrelque(Curious()).enqueue('a')

    asyncio.run(main())
    assert set(seen) == {'nobody'}


# The context ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('anyio_backend', ['trio'])
@on_each_loop
async def test_trio_needs_the_context(anyio_backend: str) -> None:
    transport = RecordingTransport()
    queue = Torrelque(transport)
    attempts: list[Coroutine[Any, Any, object]] = [
        queue.enqueue('a'), queue.dequeue(1), queue.dequeue_nowait(), queue.release('a'), queue.extend('a'),
        queue.cancel('a'), queue.wait('a'),
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(TorrelqueUsageError, match='`async with Torrelque'):
            await attempt
    with pytest.raises(TorrelqueUsageError, match='`async with Torrelque'):
        queue.schedule_sweep()
    assert transport.calls == []
    async with queue:
        await queue.enqueue('a')


@on_each_loop
async def test_entered_twice_at_once(queue: Torrelque) -> None:
    with pytest.raises(TorrelqueUsageError, match='already entered'):
        async with queue:
            pass
    await queue.enqueue('a')


@on_each_loop
async def test_an_error_within_comes_as_it_is(client: NativeTransport) -> None:
    async def fail() -> None:
        async with Torrelque(client, queue='q') as queue:
            await queue.enqueue('a')
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


@on_each_loop
async def test_a_cancellation_of_ones_own_within(client: NativeTransport) -> None:
    with anyio.move_on_after(0.02) as scope:
        async with Torrelque(client, queue='q') as queue:
            with anyio.move_on_after(0.001) as inner:
                await queue.dequeue()
            assert inner.cancelled_caught
            await queue.dequeue()
    assert scope.cancelled_caught
    async with Torrelque(client, queue='q') as queue:
        await queue.enqueue('still works')
        assert (await queue.dequeue(ENOUGH)).data == 'still works'


@on_each_loop
async def test_cleaning_up_within_a_cancelled_scope(client: NativeTransport) -> None:
    """The queue is there for the clean-up of cancelled callers."""
    async with Torrelque(client, queue='q') as other:
        await other.enqueue('a')
        with anyio.CancelScope() as scope:
            async with Torrelque(client, queue='q') as queue:
                task = await queue.dequeue(ENOUGH)
                try:
                    scope.cancel()
                    await anyio.sleep(ENOUGH)
                finally:
                    with anyio.CancelScope(shield=True), anyio.fail_after(ENOUGH):
                        await queue.giveback(task)
        assert (await other.get_queue_stats())[:4] == (1, 1, 0, 0)


@on_each_loop
async def test_those_who_wait_as_the_context_is_left(client: NativeTransport) -> None:
    errors: list[BaseException] = []

    async def wait(queue: Torrelque) -> None:
        try:
            await queue.dequeue()
        except TorrelqueError as error:
            errors.append(error)

    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks, Torrelque(client, queue='q') as queue:
            for _ in range(3):
                tasks.start_soon(wait, queue)
            await anyio.sleep(0.02)
    assert ['closed' in str(error) for error in errors] == [True] * 3


@on_each_loop
async def test_a_transport_that_was_given_stays_open(client: NativeTransport) -> None:
    for _ in range(2):
        async with Torrelque(client, queue='q') as queue:
            await queue.enqueue('a')
    queue = Torrelque(client, queue='q')
    await queue.aclose()
    assert (await queue.get_queue_stats()).tasks == 2


@on_each_loop
async def test_two_tasks_of_which_one_fails(client: NativeTransport) -> None:
    """The user's own task group inside the context: cancelled siblings, one group, nothing of the library's in it."""

    async def fail() -> None:
        await anyio.sleep(0.01)
        raise ZeroDivisionError

    async def use() -> None:
        async with Torrelque(client, queue='q') as queue, anyio.create_task_group() as tasks:
            tasks.start_soon(queue.dequeue)
            tasks.start_soon(fail)

    with pytest.raises(BaseExceptionGroup) as caught:
        await use()
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


# Forks ---------------------------------------------------------------------------------------------------------------


def in_a_fork(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run it in a forked child; returns the child's id. The child never comes back."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # about the threads that mind the servers
        child = os.fork()
    if child:
        return child
    try:
        asyncio.run(main())
    except BaseException as error:  # noqa: BLE001 - whatever it is
        sys.stderr.write(f'{error!r}\n')
        os._exit(1)
    os._exit(0)


def test_a_fork_has_lanes_and_connections_of_its_own(server: Server) -> None:
    """A process forks in the middle of using a queue; both go on."""

    async def in_child(before: Task) -> None:
        async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
            await queue.release(before, result='by the child')
            for _ in range(20):
                task = await queue.dequeue(ENOUGH)
                assert nonce(task) != nonce(before)
                await queue.release(task)

    async def main() -> None:
        async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
            await queue.enqueue_many(range(41))
            before = await queue.dequeue(ENOUGH)
            child = in_a_fork(partial(in_child, before))
            for _ in range(20):
                task = await queue.dequeue(ENOUGH)
                assert nonce(task) == nonce(before)
                await queue.release(task)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert (await queue.get_task_state(before.id)).result == 'by the child'
            stats = await queue.get_queue_stats()
            assert (stats.tasks, stats.total_claimed, stats.total_completed) == (0, 41, 41)

    asyncio.run(main())


def test_an_object_that_went_through_a_fork(server: Server) -> None:
    """One and the same object, used before the fork and on both sides after it."""
    queue = Torrelque(MemoryTransport(), queue='q')

    async def use() -> str:
        await queue.enqueue('a')
        return nonce(await queue.dequeue(ENOUGH))

    async def in_child(before: str) -> None:
        assert await use() != before

    async def main() -> None:
        before = await use()
        child = in_a_fork(partial(in_child, before))
        assert await use() == before
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    asyncio.run(main())


def nonce(task: Task) -> str:
    """Of the client that claimed it."""
    return task.receipt.token.split(':')[1].rpartition('.')[0]
