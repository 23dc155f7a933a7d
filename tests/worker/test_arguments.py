"""Bad arguments are refused at once, and named; a worker is run once."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.worker.support import Bench
from torrelque import Task, TorrelqueTypeError, TorrelqueUsageError, TorrelqueValueError, Worker
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


async def handler(task: Task) -> None: ...


async def coroutine_function(*_: object) -> None: ...


def generator_function(*_: object) -> Iterator[None]:
    yield


async def async_generator_function(*_: object) -> AsyncIterator[None]:
    yield


BAD: dict[str, list[Any]] = {
    'handler': [None, 'handler', 5, generator_function, async_generator_function],
    'concurrency': [0, -1, 1.5, '3', None, True, math.nan],
    'retry': ['never', 5, coroutine_function],
    'result_ttl': [-1, math.nan, math.inf, '5', True],
    'grace': [-1, math.nan, math.inf, '5', None, True],
    'handle_signals': [None, 1, 'yes'],
    'burst': [None, 1, 'yes'],
    'on_event': [5, 'print', coroutine_function, generator_function],
    'lifespan': [5, coroutine_function, async_generator_function],
}


@pytest.mark.parametrize(('name', 'bad'), [(name, bad) for name, values in BAD.items() for bad in values])
async def test_bad_arguments_are_named(bench: Bench, name: str, bad: Any) -> None:  # noqa: ANN401 - wrong on purpose
    arguments = {'handler': handler, 'concurrency': 1, name: bad}
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError)) as raised:
        Worker(bench.queue, arguments.pop('handler'), **arguments)
    assert name in str(raised.value)
    assert repr(bad) in str(raised.value)
    assert bench.transport.batches == []


@pytest.mark.parametrize('bad', [None, 'trq', MemoryTransport()])
def test_a_worker_needs_a_queue(bad: Any) -> None:  # noqa: ANN401 - wrong on purpose
    with pytest.raises(TorrelqueTypeError, match='queue must be a Torrelque'):
        Worker(bad, handler, concurrency=1)


async def test_bad_arguments_of_stop(bench: Bench) -> None:
    async with bench.working(handler) as worker:
        with pytest.raises(TorrelqueValueError, match='grace'):
            worker.stop(-1)
        await bench.queue.enqueue(1)
        await bench.settle()
        assert await bench.peek() == (0, 0, 0, 0)  # it goes on


async def test_a_worker_is_run_once(bench: Bench) -> None:
    async with bench.working(handler) as worker:
        with pytest.raises(TorrelqueUsageError, match='a new one'):
            await worker.run()


async def test_signals_are_for_the_main_thread(bench: Bench) -> None:
    def elsewhere() -> None:
        anyio.run(bench.worker(handler, handle_signals=True).run)

    with pytest.raises(TorrelqueUsageError, match='main thread'):
        await anyio.to_thread.run_sync(elsewhere)
