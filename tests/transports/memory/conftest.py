"""A clock, and a transport in memory on it."""

from __future__ import annotations

import pytest

from torrelque.testing import MemoryTransport, VirtualClock

START = 1_700_000_000.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
def transport(clock: VirtualClock) -> MemoryTransport:
    return MemoryTransport(clock=clock)
