from __future__ import annotations

import pytest

from tests import servers
from tests.cli.support import Command


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, with an empty server."""
    server = servers.shared('valkey-9.1')
    server.start()
    server.flush()
    return Command(server.url, capfd, monkeypatch)
