"""Several workers and child processes under one set of signal handlers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import anyio
import pytest

from tests.worker.test_signals import PATIENCE, output
from torrelque import Task, Torrelque, Worker
from torrelque.testing import MemoryTransport
from torrelque.worker.signals import STOPPING

LOOPS = {'asyncio': ('asyncio', '{}'), 'uvloop': ('asyncio', '{"use_uvloop": True}'), 'trio': ('trio', '{}')}

HEAD = """
import anyio, multiprocessing, os, signal, sys, time
from torrelque import Torrelque, Worker
from torrelque.testing import MemoryTransport

context = multiprocessing.get_context('fork')

def run(main):
    anyio.run(main, backend=sys.argv[1], backend_options=eval(sys.argv[2]))
"""

TWO_WORKERS = (
    HEAD
    + """
async def handler(task):
    print('started', flush=True)
    try:
        await anyio.sleep(60 if task.data == 'long' else 0.7)
    except BaseException:
        print('cancelled', flush=True)
        raise
    print('finished', flush=True)

async def work(queue, started):
    await Worker(queue, handler, concurrency=1, grace=30, handle_signals=True).run(task_status=started)

async def main():
    async with Torrelque(MemoryTransport(), queue='a') as first, Torrelque(MemoryTransport(), queue='b') as second:
        async with anyio.create_task_group() as group:
            for queue in (first, second):
                await queue.enqueue(sys.argv[3])
                await queue.enqueue('another')
                group.start_soon(work, queue, anyio.TASK_STATUS_IGNORED)
        for queue in (first, second):
            stats = await queue.get_queue_stats()
            print('pending', stats.pending, 'working', stats.working, flush=True)

run(main)
"""
)

ONE_WORKER = (
    HEAD
    + """
async def handler(task):
    print('started', flush=True)
    try:
        await anyio.sleep(60)
    except BaseException as error:
        print(type(error).__name__, flush=True)
        raise

def tell(event):
    if type(event).__name__ not in ('Started', 'Disconnected', 'Reconnected'):
        print(type(event).__name__, flush=True)

async def main():
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        await queue.enqueue(1)
        await Worker(queue, handler, concurrency=2, on_event=tell).run()

try:
    run(main)
except BaseException as error:
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    print(type(error).__name__, flush=True)
"""
)

CHILDREN = (
    HEAD
    + """
def sleep():
    print('child', flush=True)
    time.sleep(60)

def square(number):
    return number * number

def show_wakeup():
    print('wakes', signal.set_wakeup_fd(-1), flush=True)

def use_children(kind):
    if kind == 'wakeup':
        child = context.Process(target=show_wakeup)
        child.start()
        child.join(15)
        return child.exitcode
    if kind == 'terminate':
        child = context.Process(target=sleep)
        child.start()
        time.sleep(0.3)
        child.terminate()
        child.join(15)
        return child.exitcode
    with context.Pool(2) as pool:
        return pool.map(square, [1, 2, 3])

async def handler(task):
    return use_children(task.data)

def handle_plainly(task):
    return use_children(task.data)

async def main():
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        async with anyio.create_task_group() as group:
            chosen = handle_plainly if sys.argv[4] == 'thread' else handler
            worker = Worker(queue, chosen, concurrency=1, handle_signals=True)
            await group.start(worker.run)
            for kind in (sys.argv[3], sys.argv[3]):
                state = await queue.wait(await queue.enqueue(kind))
                print(state.result, flush=True)
            worker.stop()

run(main)
"""
)


@contextmanager
def program(source: str, loop: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, '-c', source, *LOOPS[loop], *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
        process.communicate()


@pytest.mark.parametrize('number', STOPPING, ids=lambda number: number.name)
@pytest.mark.parametrize('loop', LOOPS)
def test_one_signal_stops_all_workers(loop: str, number: signal.Signals) -> None:
    with program(TWO_WORKERS, loop, 'short') as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ['started\n'] * 2
        process.send_signal(number)
        assert output(process) == ['finished'] * 2 + ['pending 1 working 0'] * 2
        assert process.returncode == 0


@pytest.mark.parametrize('loop', LOOPS)
def test_the_second_signal_allows_no_grace_to_any(loop: str) -> None:
    with program(TWO_WORKERS, loop, 'long') as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ['started\n'] * 2
        for number in (signal.SIGTERM, signal.SIGHUP):  # as service managers send them together
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert output(process) == ['cancelled'] * 2 + ['pending 2 working 0'] * 2
        assert process.returncode == 0


@pytest.mark.parametrize('loop', LOOPS)
def test_ctrl_c_gives_back_though_nobody_handles_signals(loop: str) -> None:
    with program(ONE_WORKER, loop) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'started\n'
        with pytest.raises(subprocess.TimeoutExpired):  # until the handler sleeps: Trio would interrupt its code
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        cancelled = 'Cancelled' if loop == 'trio' else 'CancelledError'
        assert output(process) == [cancelled, 'GivenBack', 'KeyboardInterrupt']


@pytest.mark.parametrize('where', ['coroutine', 'thread'])
@pytest.mark.parametrize('kind', ['terminate', 'pool'])
@pytest.mark.parametrize('loop', LOOPS)
def test_children_of_a_handler_have_no_part_in_it(loop: str, kind: str, where: str) -> None:
    with program(CHILDREN, loop, kind, where) as process:
        expected = ['child', '-15'] * 2 if kind == 'terminate' else ['[1, 4, 9]'] * 2
        assert output(process) == expected
        assert process.returncode == 0


@pytest.mark.parametrize('loop', ['uvloop', 'trio'])
def test_children_of_a_handler_wake_no_event_loop(loop: str) -> None:
    with program(CHILDREN, loop, 'wakeup', 'coroutine') as process:
        assert output(process) == ['wakes -1', '0'] * 2


# What was there before ------------------------------------------------------------------------------------------------


def _nothing(_number: int, _frame: FrameType | None) -> None: ...


@pytest.fixture
def handlers() -> Iterator[None]:
    """Handlers of all kinds."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    signal.signal(signal.SIGTERM, _nothing)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def handle(task: Task) -> None: ...


@pytest.mark.anyio
@pytest.mark.usefixtures('handlers')
async def test_former_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in STOPPING}
    async with Torrelque(MemoryTransport(), queue='q') as queue, anyio.create_task_group() as group:
        first, second = [Worker(queue, handle, concurrency=1, handle_signals=True) for _ in range(2)]
        await group.start(first.run)
        await group.start(second.run)
        during = {number: signal.getsignal(number) for number in STOPPING}
        assert during[signal.SIGHUP] is signal.SIG_IGN, 'as under nohup'
        assert during[signal.SIGTERM] is not _nothing
        assert during[signal.SIGQUIT] is not signal.SIG_DFL
        first.stop()
        await anyio.sleep(0.05)
        assert {number: signal.getsignal(number) for number in STOPPING} == during, 'the other still needs them'
        second.stop()
    assert {number: signal.getsignal(number) for number in STOPPING} == before


@pytest.mark.anyio
async def test_handlers_of_the_event_loop_work_again_after_the_run(anyio_backend_name: str) -> None:
    if anyio_backend_name == 'trio':
        return  # it has none
    import asyncio  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    try:
        async with Torrelque(MemoryTransport(), queue='q') as queue:
            worker = Worker(queue, handle, concurrency=1, handle_signals=True)
            async with anyio.create_task_group() as group:
                await group.start(worker.run)
                os.kill(os.getpid(), signal.SIGTERM)
            heard.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), PATIENCE)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@pytest.mark.anyio
async def test_a_handler_that_the_program_sets_meanwhile_stays() -> None:
    before: Any = signal.getsignal(signal.SIGTERM)
    try:
        async with Torrelque(MemoryTransport(), queue='q') as queue, anyio.create_task_group() as group:
            worker = Worker(queue, handle, concurrency=1, handle_signals=True)
            await group.start(worker.run)
            signal.signal(signal.SIGTERM, _nothing)
            worker.stop()
        assert signal.getsignal(signal.SIGTERM) is _nothing
    finally:
        signal.signal(signal.SIGTERM, before)
