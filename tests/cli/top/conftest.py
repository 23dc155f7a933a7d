"""The event loop, the server and the pace of the tests of `torrelque top`."""

from __future__ import annotations

import anyio
import pytest

from tests import servers


@pytest.fixture(scope='module')
def anyio_backend() -> str:
    """Textual runs on asyncio only."""
    return 'asyncio'


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """New queues are found soon, and a key does not wait until the process idles: what comes of it is waited for."""
    monkeypatch.setattr('torrelque.cli.top.monitor.SEARCH_PAUSE', 0.05)
    monkeypatch.setattr('textual.app.wait_for_idle', anyio.sleep)


@pytest.fixture
def server() -> servers.Server:
    """One kind of server is enough: what differs between them is below what is used here."""
    shared = servers.shared('valkey-9.1')
    shared.start()
    shared.flush()
    return shared
