"""A result that cannot be written never has the handler called again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.worker.support import Bench
from torrelque import (
    Task,
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueTaskSerialiser,
    TorrelqueTooLargeError,
    events,
)

pytestmark = pytest.mark.anyio

ABOUT_RESULT = [TorrelqueTooLargeError('the call has 2,000 bytes'), TorrelqueReplyError('ERR string exceeds maximum')]
"""What tells at once that it will be no better later."""

MAYBE = [TorrelqueConnectionError('reset'), TorrelqueReplyError('OOM command not allowed')]
"""What may pass."""


class Unspeakable:
    def __reduce__(self) -> str:
        raise SystemExit

    def __repr__(self) -> str:
        raise ValueError


CYCLE: list[object] = []
CYCLE.append(CYCLE)

RESULTS = {'object': object(), 'unspeakable': Unspeakable(), 'cycle': CYCLE, 'keys': {(1, 2): 3}, 'set': {1}}


@pytest.mark.parametrize('kind', RESULTS)
async def test_a_result_that_cannot_be_serialised(bench: Bench, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    async def handler(task: Task) -> object:
        return RESULTS[kind] if task.data == 'bad' else task.data

    bad = await bench.queue.enqueue('bad')
    others = [await bench.queue.enqueue(number) for number in range(1, 4)]
    async with bench.working(handler, concurrency=4):
        assert await bench.peek() == (0, 0, 0, 0)
        assert [(await bench.queue.get_task_state(task_id)).result for task_id in others] == [1, 2, 3]
        assert (await bench.queue.get_task_state(bad)).result is None  # as of a handler that returns None
        await bench.clock.advance(3600)
    (dropped,) = bench.told(events.ResultDropped)
    assert dropped.task.id == bad
    assert sorted((event.task.id == bad, event.result is None) for event in bench.told(events.Finished)) == [
        (False, False),
        (False, False),
        (False, False),
        (True, True),
    ]
    assert len(bench.told(events.Started)) == 4
    assert f'Task:{bad} is completed without its result: ' in caplog.text


@pytest.mark.parametrize('error', [SystemExit(3), asyncio.CancelledError(), BaseException('odd')], ids=repr)
@pytest.mark.parametrize('others', [0, 2])
async def test_whatever_a_serialiser_raises_of_a_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: BaseException, others: int
) -> None:
    def dumps(value: object) -> bytes:
        if value == 'bad':
            raise error
        return json.dumps(value).encode()

    monkeypatch.setattr(bench.queue, '_result_serialiser', TorrelqueTaskSerialiser(dumps, json.loads))

    async def handler(task: Task) -> object:
        return task.data

    ids = [await bench.queue.enqueue(data) for data in [*['fine'] * others, 'bad']]
    async with bench.working(handler, concurrency=3):
        await bench.clock.advance(3600)
    assert [event.task.id for event in bench.told(events.ResultDropped)] == ids[-1:]
    assert len(bench.told(events.Started)) == len(bench.told(events.Finished)) == others + 1
    assert await bench.peek() == (0, 0, 0, 0)


@pytest.mark.parametrize('error', ABOUT_RESULT, ids=str)
async def test_a_result_that_the_server_refuses(bench: Bench, error: Exception) -> None:
    async def handler(task: Task) -> str:
        bench.transport.too_large = error
        return task.data * 2000 if task.data == 'x' else 'small'

    bad = await bench.queue.enqueue('x')
    good = await bench.queue.enqueue('y')
    async with bench.working(handler):
        await bench.clock.advance(1)
        assert await bench.peek() == (0, 0, 0, 0)
        assert (await bench.queue.get_task_state(good)).result == 'small'
        await bench.clock.advance(3600)
    (dropped,) = bench.told(events.ResultDropped)
    assert (dropped.task.id, type(dropped.error), str(dropped.error)) == (bad, type(error), str(error))
    assert len(bench.told(events.Started)) == len(bench.told(events.Finished)) == 2


@pytest.mark.parametrize('error', MAYBE, ids=str)
async def test_a_result_that_is_refused_for_as_long_as_the_lease_lasts(bench: Bench, error: Exception) -> None:
    async def handler(task: Task) -> str:
        bench.transport.too_large = error
        return 'x' * 2000

    await bench.queue.enqueue(1, task_timeout=30)
    async with bench.working(handler):
        await bench.clock.advance(20)
        assert bench.told(events.ResultDropped) == [], 'it may be a server that is away'
        await bench.clock.advance(20)
        bench.transport.too_large = None
        assert await bench.peek() == (0, 0, 0, 0)
        await bench.clock.advance(3600)
    assert len(bench.told(events.Started)) == len(bench.told(events.ResultDropped)) == 1
    assert bench.told(events.Unsettled) == []


@pytest.mark.parametrize('error', MAYBE, ids=str)
async def test_a_result_is_kept_when_the_server_takes_it_later(bench: Bench, error: Exception) -> None:
    async def handler(task: Task) -> str:
        bench.transport.too_large = error
        return 'x' * 2000

    task_id = await bench.queue.enqueue(1, task_timeout=30)
    async with bench.working(handler):
        await bench.clock.advance(20)
        bench.transport.too_large = None
        await bench.clock.advance(1)
        assert (await bench.queue.get_task_state(task_id)).result == 'x' * 2000
    assert bench.told(events.ResultDropped) == []


async def test_an_error_that_nobody_expects_is_logged_once_and_tried_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, broken = bench.queue.release, True

    async def release_or_fail(task: Task, **options: Any) -> None:  # noqa: ANN401 - the queue's
        if broken:
            raise OSError(24, 'Too many open files')
        await release(task, **options)

    async def handler(task: Task) -> str:
        return 'done'

    monkeypatch.setattr(bench.queue, 'release', release_or_fail)
    task_id = await bench.queue.enqueue(1, task_timeout=30)
    async with bench.working(handler):
        await bench.clock.advance(20)
        broken = False
        await bench.clock.advance(1)
        assert (await bench.queue.get_task_state(task_id)).result == 'done'
    assert caplog.text.count('Too many open files') == 1
