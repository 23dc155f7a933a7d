"""Workers over a server in memory, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.worker.support import Bench, WatchedTransport
from torrelque import Torrelque
from torrelque.testing import VirtualClock


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock = VirtualClock()
    transport = WatchedTransport(clock)
    async with Torrelque(transport, queue='q') as queue:
        yield Bench(queue, transport, clock)
