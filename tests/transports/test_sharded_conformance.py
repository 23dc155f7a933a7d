"""What holds of a queue holds of one over several shards, but for the order of tasks of different shards."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests import clusters, servers
from tests.transports.settings import CLIENTS, CLUSTER_CLIENTS, LOOPS, Setting, memory_client, memory_settings
from torrelque.testing import MemoryServer
from torrelque.testing.conformance import ClientFactory, QueueConformance

SETTINGS = (
    *memory_settings(),
    Setting('native', 'asyncio+uvloop', 'valkey-9.1'),
    Setting('native', 'trio', 'redis-6.2'),
    Setting('native-cluster', 'asyncio', 'redis-7.0'),
    Setting('native-cluster', 'asyncio+uvloop', 'redis-8.2'),
    Setting('native-cluster', 'trio', 'valkey-9.1'),
    Setting('native-cluster', 'asyncio', 'redis-6.2'),
    Setting('redis_py-cluster', 'asyncio', 'valkey-9.1'),
    Setting('coredis-cluster', 'trio', 'redis-7.0'),
)
"""The transports' own conformance shows that they carry calls: here each kind of server and loop takes its turn."""


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


class TestShards(QueueConformance):
    shards = 3

    # Tasks of different shards have no order, which these are about or count on.
    test_first_in_first_out: Any = None
    test_groups_take_turns: Any = None
    test_priorities: Any = None
    test_giveback_undoes_the_claim: Any = None
    test_many_at_once: Any = None
    test_requeue_to_the_back: Any = None
    test_requeueing_many: Any = None
    test_several_at_once: Any = None
    test_what_is_there: Any = None

    test_limits_hold_until_a_task_ends: Any = None  # each shard has its share: tests/queue/sharding/test_limits.py
    test_sweep: Any = None  # its lease of a millisecond is over before all shards were claimed from
    test_keys_with_other_names: Any = None  # goes on to use the plain queue of the same name, which is refused

    @pytest.fixture(params=SETTINGS, ids=str)
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        chosen: Setting = request.param
        return chosen

    @pytest.fixture
    def client_factory(self, setting: Setting) -> ClientFactory:
        if setting.client == 'memory':
            return partial(memory_client, MemoryServer())
        try:
            if setting.client in CLUSTER_CLIENTS:
                return partial(CLUSTER_CLIENTS[setting.client].make, clusters.shared(setting.server))
            return partial(CLIENTS[setting.client].make, servers.shared(setting.server))
        except servers.MissingServerError as error:
            pytest.skip(str(error))
