"""Fixtures for pytest: a queue in memory, and its clock.

Import them in ``conftest.py``::

    from torrelque.testing.fixtures import clock, queue

They work with anyio's plugin, on asyncio and Trio, and with pytest-asyncio in
its ``auto`` mode. For other arguments, write your own fixture like `queue`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from torrelque.queue import Torrelque
from torrelque.testing import MemoryTransport, VirtualClock

__all__ = ('clock', 'queue')


@pytest.fixture
def clock() -> VirtualClock:
    """Return a clock that stands still until the test moves it."""
    return VirtualClock()


@pytest.fixture
async def queue(clock: VirtualClock) -> AsyncIterator[Torrelque]:
    """Yield an empty queue in memory that runs on `clock`."""
    opened = Torrelque(MemoryTransport(clock=clock))
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # on Trio the queue needs its context
        async with opened:
            yield opened
    else:  # pytest-asyncio ends fixtures in a different task
        try:
            yield opened
        finally:
            await opened.aclose()
