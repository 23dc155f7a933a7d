"""A telescope, and a queue in memory that it sees."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests import servers
from tests.otel.support import FailingTransport, Telescope
from torrelque.otel import InstrumentedTorrelque
from torrelque.testing import VirtualClock


@pytest.fixture
def telescope() -> Telescope:
    return Telescope()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def transport(clock: VirtualClock) -> FailingTransport:
    return FailingTransport(clock)


@pytest.fixture
async def queue(telescope: Telescope, transport: FailingTransport) -> AsyncIterator[InstrumentedTorrelque]:
    async with telescope.queue(transport) as queue:
        yield queue


@pytest.fixture
def server() -> servers.Server:
    """One kind of server, empty: how the others differ does not matter here."""
    try:
        shared = servers.shared('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    shared.start()
    shared.flush()
    return shared
