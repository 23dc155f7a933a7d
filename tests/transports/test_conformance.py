"""Every transport passes the public suite, on each event loop and over each server.

By default each pair of the three is covered; ``--full`` runs every combination, and ``make conformance`` counts them.
"""

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
    memory_client,
    memory_settings,
    settings,
)
from torrelque.testing import MemoryServer
from torrelque.testing.conformance import ClientFactory, QueueConformance, ServerConformance, TransportConformance
from torrelque.testing.conformance.support import CountBlocked


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = bool(metafunc.config.getoption('--full'))
    chosen = {
        TestConformance: settings(CLIENTS, full=full),
        TestClusterConformance: settings(CLUSTER_CLIENTS, full=full),
        TestMemoryConformance: memory_settings(),
    }
    if metafunc.cls is not None:
        metafunc.parametrize('setting', list(chosen[metafunc.cls]), ids=str)


def test_the_default_settings_cover_all_pairs() -> None:
    kinds = (CLIENTS, CLUSTER_CLIENTS)
    chosen, everything = ({one for kind in kinds for one in settings(kind, full=full)} for full in (False, True))
    assert chosen < everything
    assert {(client, loop) for client, loop, _ in chosen} == {(client, loop) for client, loop, _ in everything}
    assert {(loop, server) for _, loop, server in chosen} == {(loop, server) for _, loop, server in everything}
    for client in ('native', 'redis_py', 'coredis', 'native-cluster', 'redis_py-cluster', 'coredis-cluster'):
        assert {server for name, _, server in chosen if name == client} == set(servers.SERVERS)


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


class TestConformance(ServerConformance, QueueConformance):
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

    @pytest.fixture
    def client_factory(self) -> ClientFactory:
        return partial(memory_client, MemoryServer())
