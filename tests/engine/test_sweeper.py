"""The scheduled sweep goes on through what may pass, and stops with what may not."""

from __future__ import annotations

import logging

import pytest

from tests.engine.support import opened
from torrelque import TorrelqueConnectionError, TorrelqueReplyError

pytestmark = pytest.mark.anyio


async def test_it_sweeps_now_and_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (queue, clock):
        swept: list[float] = []

        async def sweep() -> tuple[int, int, int]:
            swept.append(clock.now())
            return 0, 0, 0

        monkeypatch.setattr(queue, 'sweep', sweep)
        begun = clock.now()
        queue.schedule_sweep(10)
        await clock.advance(0)
        await clock.advance(25)
        assert [time - begun for time in swept] == [0, 10, 20]
        queue.schedule_sweep(100)  # in place of the first
        await clock.advance(0)
        await clock.advance(99)
        assert len(swept) == 4
        queue.unschedule_sweep()
        queue.unschedule_sweep()
        await clock.advance(1000)
        assert len(swept) == 4


@pytest.mark.parametrize('error', [TorrelqueConnectionError('away'), TorrelqueReplyError('OOM')])
async def test_it_outlasts_the_server(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as (queue, clock):
        tries = 0

        async def sweep() -> tuple[int, int, int]:
            nonlocal tries
            tries += 1
            raise error

        monkeypatch.setattr(queue, 'sweep', sweep)
        queue.schedule_sweep(10)
        await clock.advance(0)
        await clock.advance(20)
        assert tries == 3
        queue.unschedule_sweep()
    assert {record.message for record in caplog.records} == {'Sweep has failed with Redis error, continuing'}


async def test_anything_else_stops_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as (queue, clock):
        tries = 0

        async def sweep() -> tuple[int, int, int]:
            nonlocal tries
            tries += 1
            raise KeyError

        monkeypatch.setattr(queue, 'sweep', sweep)
        queue.schedule_sweep(10)
        await clock.advance(0)
        await clock.advance(100)
        assert tries == 1
    assert [record.message for record in caplog.records] == ['Sweep has failed with unexpected error, stopping']


async def test_what_is_done_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as (queue, clock):
        await queue.enqueue(1, task_timeout=5)
        await queue.dequeue()
        await clock.advance(6)
        with caplog.at_level(logging.DEBUG, 'torrelque'):
            queue.schedule_sweep(10)
            await clock.advance(0)
            queue.unschedule_sweep()
        assert 'Sweep has requeued: stale=1, delayed=0, undequeued=0' in caplog.messages
        assert (await queue.get_queue_stats()).pending == 1
