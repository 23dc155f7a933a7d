"""What all screens share: keys, and the lines at the top and the foot."""

from __future__ import annotations

import pytest

from tests import servers
from tests.cli.top.support import reject, staged
from torrelque.cli.top.screens.dialogs import Confirm
from torrelque.cli.top.screens.task import TaskScreen

pytestmark = pytest.mark.anyio


async def test_the_foot_of_the_screen_does_not_flicker(server: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(server.url) as stage:
        await reject(stage.queue('mail'), 'one')
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks(4)
        await stage.until(lambda: stage.names() == ['one'])
        await stage.press('enter')
        await stage.until_on(TaskScreen)
        await stage.until(lambda: 'd' in stage.offered() and 'rejected' in stage.text('#state'))
        redrawn: list[None] = []
        monkeypatch.setattr(stage.app.screen, 'refresh_bindings', lambda: redrawn.append(None))
        first = stage.app.monitor.server_time or 0
        await stage.until(lambda: (stage.app.monitor.server_time or 0) > first + 0.5)  # some looks later
        assert redrawn == []


async def test_what_cannot_be_done_is_told(server: servers.Server) -> None:
    async with staged(server.url) as stage:
        queue = stage.queue('mail')
        await queue.enqueue(1, task_id='one')
        task = await queue.dequeue()
        await stage.until(lambda: stage.names() == ['mail'])
        await stage.open_tasks(2)
        await stage.until(lambda: stage.names() == ['one'])
        await stage.press('r')
        await stage.until_on(Confirm)
        await queue.release(task)  # just before the answer
        await stage.press('y')
        await stage.until(lambda: len(stage.said()) == 1)
        assert stage.said() != ['requeued: one']
        assert 'one' in stage.said()[0]
