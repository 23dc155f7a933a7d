"""An event for one task that waits for it once."""

from __future__ import annotations

import anyio
import pytest

from torrelque.transports.oneshot import OneShot, oneshot_maker

pytestmark = pytest.mark.anyio


async def wait(event: OneShot) -> None:
    await event.wait()


async def test_set_before_and_after_the_wait() -> None:
    make = oneshot_maker()
    early, late = make(), make()
    early.set()
    early.set()
    with anyio.fail_after(20):
        await early.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(wait, late)
            await anyio.wait_all_tasks_blocked()
            late.set()


async def test_setting_what_nobody_waits_for_any_more() -> None:
    event = oneshot_maker()()
    with anyio.move_on_after(0) as scope:
        await event.wait()
    assert scope.cancelled_caught
    event.set()
