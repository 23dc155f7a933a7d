"""Each delivery has a context of its own, in which everything works as in any other."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextvars import ContextVar
from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import sniffio
from anyio.lowlevel import checkpoint

from tests.worker.support import SOON, Bench, LiveBench
from torrelque import Task, Torrelque, events, retry
from torrelque.testing import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Generator

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar('variable', default='unset')


async def change() -> None:
    variable.set('changed')


@pytest.mark.parametrize('kind', ['coroutine', 'thread', 'both', 'hook'])
async def test_a_variable_set_by_a_handler_is_not_seen_by_the_next(kind: str) -> None:
    seen: list[str] = []

    async def handler(task: Task) -> None:
        seen.append(variable.get())
        variable.set(f'of {task.data}')
        await checkpoint()
        assert variable.get() == f'of {task.data}'

    def handle_plainly(task: Task) -> Awaitable[None] | None:
        seen.append(variable.get())
        variable.set(f'of {task.data}')
        return handler(task) if kind == 'both' else None

    def hook(event: events.WorkerEvent) -> None:
        if kind == 'hook' and isinstance(event, events.Started):
            assert variable.get() == 'outside'
            variable.set('of the hook')
        bench.hear(event)

    token = variable.set('outside')
    try:
        async with Torrelque(MemoryTransport(), queue='q') as queue:
            bench = LiveBench(queue)
            await queue.enqueue_many(range(5))
            plain = kind in ('thread', 'both')
            async with bench.working(handle_plainly if plain else handler, on_event=hook, retry=retry.never()):
                await bench.until(events.Finished, 5)
        assert variable.get() == 'outside'
    finally:
        variable.reset(token)
    assert set(seen) == {'of the hook' if kind == 'hook' else 'outside'}
    assert len(seen) == (10 if kind == 'both' else 5)


async def test_what_a_handler_starts_sees_its_variables(bench: Bench, anyio_backend_name: str) -> None:
    seen: dict[str, str] = {}

    def look(where: str) -> None:
        seen[where] = variable.get()

    async def look_in_task(where: str) -> None:
        await checkpoint()
        look(where)

    async def generate() -> AsyncIterator[str]:
        yield variable.get()
        await checkpoint()
        yield variable.get()

    async def handler(task: Task) -> None:
        variable.set('mine')
        async with anyio.create_task_group() as group:
            group.start_soon(look_in_task, 'group')
        await anyio.to_thread.run_sync(look, 'thread')
        await anyio.to_thread.run_sync(anyio.from_thread.run, look_in_task, 'back')
        seen['generator'] = '-'.join([each async for each in generate()])
        with anyio.move_on_after(0.001):
            await anyio.sleep_forever()
        look('timeout')
        if anyio_backend_name != 'trio':
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(60)
            await asyncio.create_task(look_in_task('task'))
            await asyncio.wait_for(look_in_task('wait_for'), 5)
            await asyncio.gather(look_in_task('gather'), change())
        assert sniffio.current_async_library() == anyio_backend_name.partition('+')[0]
        look('end')

    await bench.queue.enqueue(1)
    async with bench.working(handler, retry=retry.never()):
        await bench.until(events.Finished)
    assert seen.pop('generator') == 'mine-mine'
    assert set(seen.values()) == {'mine'}
    assert len(seen) >= 5


async def test_awaitables_of_all_sorts(anyio_backend_name: str) -> None:
    class Custom:
        def __await__(self) -> Generator[Any, Any, str]:
            yield from checkpoint().__await__()
            return 'custom'

    @coroutine
    def generator() -> Generator[Any, Any, str]:
        yield from checkpoint().__await__()
        return 'generator'

    def handler(task: Task) -> Any:  # noqa: ANN401 - whatever can be awaited
        match task.data:
            case 'custom':
                return Custom()
            case 'generator':
                return generator()
            case 'future':
                return anyio.from_thread.run_sync(make_future)
        return None

    def make_future() -> Awaitable[str]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.set_result, 'future')
        return future

    kinds = ['custom', 'generator', *(['future'] if anyio_backend_name != 'trio' else [])]
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        ids = [await queue.enqueue(kind) for kind in kinds]
        async with LiveBench(queue).working(handler, retry=retry.never()):
            with anyio.fail_after(SOON):
                assert [(await queue.wait(task_id)).result for task_id in ids] == kinds


class Payload:
    """What can be looked for."""

    alive = 0

    def __init__(self) -> None:
        Payload.alive += 1

    def __del__(self) -> None:
        Payload.alive -= 1


class Payloads:
    """A serialiser whose payloads and results are objects that can be looked for."""

    @staticmethod
    def dumps(value: object) -> bytes:
        return b'P' if isinstance(value, Payload) else repr(value).encode()

    @staticmethod
    def loads(data: bytes) -> object:
        return Payload() if data == b'P' else data.decode()


@pytest.mark.parametrize('how', ['returns', 'raises', 'rejects', 'cancelled'])
@pytest.mark.parametrize('in_thread', [False, True], ids=['coroutine', 'thread'])
async def test_an_idle_worker_keeps_nothing_of_its_last_tasks(
    how: str, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torrelque.worker.worker.logger.disabled', True)  # test runners keep what is logged
    done = threading.Event()
    told = 0

    def handle_plainly(task: Task) -> object:
        local = Payload()
        if how == 'raises':
            raise ValueError('with a traceback to', task.data)
        if how == 'rejects':
            raise ExceptionGroup('', [KeyError(local)])
        return local

    async def handler(task: Task) -> object:
        await checkpoint()
        if how == 'cancelled':
            raise asyncio.CancelledError
        return handle_plainly(task)

    def count(event: events.WorkerEvent) -> None:
        nonlocal told
        told += isinstance(event, (events.Finished, events.Retried, events.Rejected))
        if told == 20:
            done.set()

    gc.collect()
    gc.disable()
    try:
        async with Torrelque(MemoryTransport(), queue='q', serialiser=Payloads()) as queue:
            await queue.enqueue_many([Payload() for _ in range(20)])
            bench = LiveBench(queue)
            policy = retry.never() if how == 'rejects' else retry.constant(3600)
            function = handle_plainly if in_thread else handler
            async with bench.working(function, concurrency=10, on_event=count, retry=policy):
                with anyio.fail_after(SOON):
                    while not done.is_set() or Payload.alive:  # noqa: ASYNC110 - nothing reports either
                        await anyio.sleep(0.01)
    finally:
        gc.enable()
