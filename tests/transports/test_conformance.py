"""Every transport passes the public suite, on each event loop, over each server. `python -m tests.matrix` counts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests import clusters, servers
from tests.transports.settings import (
    CLIENTS,
    CLUSTER_CLIENTS,
    LOOPS,
    Setting,
    blocked_on,
    cluster_settings,
    memory_client,
    memory_settings,
    settings,
)
from torrelque.testing import MemoryServer
from torrelque.testing.conformance import ClientFactory, QueueConformance, ServerConformance, TransportConformance
from torrelque.testing.conformance.support import CountBlocked


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


class TestConformance(ServerConformance, QueueConformance):
    @pytest.fixture(params=settings(), ids=str)
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        chosen: Setting = request.param
        return chosen

    @pytest.fixture
    def client_factory(self, setting: Setting) -> ClientFactory:
        try:
            server = servers.shared(setting.server)
        except servers.MissingServerError as error:
            pytest.skip(str(error))
        return partial(CLIENTS[setting.client].make, server)

    @pytest.fixture
    def count_blocked(self, setting: Setting, client_factory: ClientFactory) -> CountBlocked:
        del client_factory  # which finds out whether there is a server
        return blocked_on(servers.shared(setting.server))


class TestClusterConformance(ServerConformance, QueueConformance):
    """The same, on clusters."""

    @pytest.fixture(params=cluster_settings(), ids=str)
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        chosen: Setting = request.param
        return chosen

    @pytest.fixture
    def client_factory(self, setting: Setting) -> ClientFactory:
        try:
            cluster = clusters.shared(setting.server)
        except servers.MissingServerError as error:
            pytest.skip(str(error))
        return partial(CLUSTER_CLIENTS[setting.client].make, cluster)

    @pytest.fixture
    def count_blocked(self, setting: Setting, client_factory: ClientFactory) -> CountBlocked:
        del client_factory  # as above
        return blocked_on(*clusters.shared(setting.server).nodes)


class TestMemoryConformance(TransportConformance, QueueConformance):
    """Without the tests of scripts of one's own, which it cannot run, and of connections, which it does not have."""

    @pytest.fixture(params=memory_settings(), ids=str)
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        chosen: Setting = request.param
        return chosen

    @pytest.fixture
    def client_factory(self) -> ClientFactory:
        return partial(memory_client, MemoryServer())
