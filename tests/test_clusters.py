"""The clusters that tests run on are what they say."""

from __future__ import annotations

import pytest

from tests import servers
from tests.clusters import KINDS, SLOTS, Cluster


@pytest.mark.parametrize('name', KINDS)
def test_a_cluster_serves_all_slots_and_has_its_replicas(name: str) -> None:
    try:
        cluster = Cluster(name, replicas=1)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    try:
        told = cluster.nodes[3].command('CLUSTER', 'SLOTS')
        assert sum(last - first + 1 for first, last, *_ in told) == SLOTS
        assert sorted(primary[1] for _, _, primary, _ in told) == sorted(node.port for node in cluster.primaries)
        owner = cluster.owner_of('{queue}:pending')
        assert owner in cluster.primaries
        assert owner.command('SET', '{queue}:pending', 'x') == b'OK'
        assert owner.info('replication')['connected_slaves'] == '1'
    finally:
        cluster.close()
    assert not any(node.alive for node in cluster.nodes)
