"""The ready fixtures, as a test module uses them."""

from __future__ import annotations

from typing import Any

import pytest

from torrelque import Torrelque
from torrelque.testing import VirtualClock
from torrelque.testing.fixtures import clock, queue

__all__ = ('clock', 'queue')

pytestmark = pytest.mark.anyio


async def test_a_queue_on_its_clock(queue: Torrelque[Any], clock: VirtualClock) -> None:
    await queue.enqueue('later', delay=3600)
    assert await queue.dequeue_nowait() == []
    await clock.advance(3600)
    (task,) = await queue.dequeue_nowait()
    assert task.data == 'later'


async def test_each_test_has_its_own(queue: Torrelque[Any]) -> None:
    assert (await queue.get_queue_stats()).tasks == 0
