"""Every transport passes the public suite, on each event loop, over each server. `python -m tests.matrix` counts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests import servers
from tests.transports.settings import CLIENTS, LOOPS, Setting, settings
from torrelque.testing.conformance import ClientFactory, QueueConformance, ServerConformance


@pytest.fixture(params=settings(), ids=str)
def setting(request: pytest.FixtureRequest) -> Setting:
    chosen: Setting = request.param
    return chosen


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


@pytest.fixture
def client_factory(setting: Setting) -> ClientFactory:
    try:
        server = servers.shared(setting.server)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    return partial(CLIENTS[setting.client].make, server)


class TestConformance(ServerConformance, QueueConformance):
    @pytest.fixture
    def client_factory(self, client_factory: ClientFactory) -> ClientFactory:
        return client_factory
