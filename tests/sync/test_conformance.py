"""The queue for synchronous code passes the public suite, called from threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests import clusters, servers
from tests.sync.threaded import Threaded, client_of, client_of_cluster
from tests.transports.settings import blocked_on
from torrelque import Torrelque
from torrelque.testing.conformance import ClientFactory, QueueConformance
from torrelque.testing.conformance.support import CountBlocked


@pytest.fixture
def anyio_backend() -> str:
    return 'asyncio'


class Conformance(QueueConformance):
    # A thread cannot be cancelled from outside. test_interruption.py interrupts callers in other ways.
    test_a_cancelled_consumer_takes_nothing: Any = None
    test_consumers_cancelled_as_a_task_arrives: Any = None
    test_leaving_gives_back_what_nobody_took: Any = None
    test_producers_cancelled_at_any_moment: Any = None
    test_releases_cancelled_at_any_moment: Any = None
    # These count on a call being under way once it was begun; test_queue.py waits with threads.
    test_waiting_consumers_are_served_in_turn: Any = None
    test_waiting_for_a_task_that_is_cancelled: Any = None
    test_waiting_tells_the_status_without_a_result: Any = None
    # They make an asynchronous queue of the client.
    test_finding_queues: Any = None
    test_keys_with_other_names: Any = None
    # Nothing runs in the background, and nobody listens.
    test_cancellations_of_running_tasks_are_announced: Any = None
    test_a_scheduled_sweep: Any = None

    def make_queue(self, client: object, queue: str, **options: Any) -> Torrelque:  # noqa: ANN401 - of any type
        return Threaded(client, queue=queue, shards=self.shards, **options)  # type: ignore[return-value]  # alike


class OnServer(Conformance):
    @pytest.fixture(params=['valkey-9.1', 'redis-6.2'])
    def shared(self, request: pytest.FixtureRequest) -> servers.Server:
        try:
            return servers.shared(request.param)
        except servers.MissingServerError as error:
            pytest.skip(str(error))

    @pytest.fixture
    def client_factory(self, shared: servers.Server) -> ClientFactory:
        return partial(client_of, shared)  # type: ignore[return-value]  # it is not for the suite, but for `make_queue`

    @pytest.fixture
    def count_blocked(self, shared: servers.Server) -> CountBlocked:
        return blocked_on(shared)


class OnCluster(Conformance):
    @pytest.fixture(params=['valkey-9.1'])
    def shared(self, request: pytest.FixtureRequest) -> clusters.Cluster:
        return clusters.shared(request.param)

    @pytest.fixture
    def client_factory(self, shared: clusters.Cluster) -> ClientFactory:
        return partial(client_of_cluster, shared)  # type: ignore[return-value]

    @pytest.fixture
    def count_blocked(self, shared: clusters.Cluster) -> CountBlocked:
        return blocked_on(*shared.nodes)


class TestConformance(OnServer):
    pass


class TestClusterConformance(OnCluster):
    pass


class Sharded(Conformance):
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
    test_sweep: Any = None  # its lease of a millisecond is over before all shards were claimed from
    test_limits_hold_until_a_task_ends: Any = None  # each shard has its share: tests/queue/sharding/test_limits.py


class TestShardedConformance(Sharded, OnServer):
    shards = 3


class TestShardedClusterConformance(Sharded, OnCluster):
    shards = 5
