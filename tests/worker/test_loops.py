"""Tasks, clocks and cancellations, on each event loop."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from torrelque.worker.loops import LoopClock, count_cancellations, open_tasks, start_dedicated

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar('variable', default='unset')


async def test_tasks_are_waited_for_and_take_no_step_at_once() -> None:
    steps: list[str] = []

    async def step(name: str) -> None:
        steps.append(name)
        await anyio.lowlevel.checkpoint()
        steps.append(name)

    async with open_tasks() as tasks:
        tasks.start(step, 'a', 'task a')
        tasks.start(step, 'b', 'task b')
        assert steps == []
    assert sorted(steps) == ['a', 'a', 'b', 'b']


async def test_each_has_a_copy_of_the_context() -> None:
    seen: list[str] = []

    async def look(name: str) -> None:
        seen.append(variable.get())
        variable.set(name)

    variable.set('outer')
    async with open_tasks() as tasks:
        tasks.start(look, 'a', '')
        tasks.start(look, 'b', '')
    assert (seen, variable.get()) == (['outer', 'outer'], 'outer')


async def test_which_code_is_a_step_of_them() -> None:
    seen: list[bool] = []

    async with open_tasks() as tasks, open_tasks() as others:

        async def look(_: None) -> None:
            seen.extend([tasks.is_running(), others.is_running()])

        tasks.start(look, None, '')
        assert not tasks.is_running()
    assert seen == [True, False]


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_cancelling_the_caller_does_not_cancel_them() -> None:
    """A nursery of Trio's is shielded by the worker."""
    ended: list[str] = []
    go_on = asyncio.Event()

    async def work(_: None) -> None:
        await go_on.wait()
        ended.append('worked')

    async def caller() -> None:
        async with open_tasks() as tasks:
            tasks.start(work, None, '')
        ended.append('waited')

    task = asyncio.create_task(caller())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    go_on.set()
    await task
    assert ended == ['worked', 'waited']


async def test_a_task_without_a_parent() -> None:
    done = anyio.Event()
    variable.set('outer')
    seen: list[str] = []

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(variable.get())
        done.set()

    async with anyio.create_task_group() as group:
        start_dedicated(work)
        group.cancel_scope.cancel()
    with anyio.fail_after(20):
        await done.wait()
    assert seen == ['outer']


async def test_the_clock_is_the_event_loops() -> None:
    clock = LoopClock()
    begun = anyio.current_time()
    assert begun <= clock.now() <= anyio.current_time()
    await clock.pause(anyio.Event(), clock.now() + 0.01)
    assert clock.now() >= begun + 0.01
    event = anyio.Event()
    event.set()
    with anyio.fail_after(20):
        await clock.pause(event, clock.now() + 1000)
    await clock.pause(anyio.Event(), clock.now() - 1)


async def test_cancellations_are_counted_on_asyncio(anyio_backend_name: str) -> None:
    counts = [count_cancellations()]
    if anyio_backend_name == 'asyncio':

        async def wait() -> None:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                counts.append(count_cancellations())

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await task
        assert counts == [0, 1]
    assert counts[0] == 0


def test_outside_of_any_event_loop_there_are_none() -> None:
    assert count_cancellations() == 0
