"""Background tasks: restarted if they fail, ended if they are cancelled."""

from __future__ import annotations

import logging

import anyio
import pytest

from tests.engine.support import ENOUGH
from torrelque import Torrelque
from torrelque.engine.background import Background
from torrelque.testing import MemoryTransport

on_each_loop = pytest.mark.anyio


@on_each_loop
async def test_a_background_task_that_fails_is_logged_once_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    failures = 3
    worked = anyio.Event()

    async def work() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise KeyError('credentials')
        worked.set()

    caplog.set_level(logging.INFO, 'torrelque')
    async with Torrelque(MemoryTransport()) as queue:
        queue._engine.spawn(work)
        with anyio.fail_after(ENOUGH):
            await worked.wait()
        await queue.enqueue('still here')
    assert [record.message for record in caplog.records] == ['A background task has failed, trying again']


@on_each_loop
async def test_one_that_is_cancelled_before_it_starts_does_nothing() -> None:
    background, calls = Background(MemoryTransport()), list[str]()

    async def work() -> None:
        calls.append('called')

    background.cancel()
    await background.run(work)
    assert not calls


@on_each_loop
async def test_a_cancelled_one_ends() -> None:
    background, started = Background(MemoryTransport()), anyio.Event()

    async def work() -> None:
        started.set()
        await anyio.sleep_forever()

    with anyio.fail_after(ENOUGH):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(background.run, work)
            await started.wait()
            background.cancel()
