"""docs/features.md: what is said of clients and event loops is what the suite runs over, and what the code refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping

import coredis
import pytest
import redis.asyncio

from tests.test_docs import read
from tests.transports.settings import CLIENTS, CLUSTER_CLIENTS, memory_settings
from torrelque import TorrelqueUsageError, connect
from torrelque.core.protocol import Call
from torrelque.testing import MemoryTransport
from torrelque.transports import adapt
from torrelque.transports.base import Transport
from torrelque.transports.native.url import parse_url

LINES = [line.strip('| ').split(' | ') for line in read('features').splitlines() if line.startswith('| ')]
HEADS = re.findall(r'[\w-]+', read('features').split('\n| |')[1].splitlines()[0])
ROWS: Mapping[str, dict[str, str]] = {
    row[0]: dict(zip(HEADS, (cell.strip() for cell in row[1:]), strict=False)) for row in LINES[1:]
}
KINDS = {'redis-py': 'redis_py', 'coredis': 'coredis', 'native': 'native'}


def yes(row: str) -> set[str]:
    return {client for client, cell in ROWS[row].items() if cell == 'yes'}


def test_the_clients_are_all_there_are() -> None:
    assert [*KINDS, 'memory'] == HEADS
    assert {name.partition('-')[0] for name in CLIENTS} == set(KINDS.values())


@pytest.mark.parametrize(('row', 'loop'), [('asyncio', 'asyncio'), ('uvloop', 'asyncio+uvloop'), ('Trio', 'trio')])
def test_each_event_loop_is_one_that_the_suite_runs_on(row: str, loop: str) -> None:
    over = {client for client, kind in KINDS.items() if loop in CLIENTS[kind].loops}
    if loop in {setting.loop for setting in memory_settings()}:
        over.add('memory')
    assert yes(row) == over


def test_pipelines() -> None:
    transports: dict[str, Transport] = {
        'redis-py': adapt(redis.asyncio.Redis()),
        'coredis': adapt(coredis.Redis()),
        'native': connect('redis://localhost'),
        'memory': MemoryTransport(),
    }
    for client, transport in transports.items():
        with pytest.raises((TypeError, TorrelqueUsageError)) as refused:
            transport.append(object(), Call('PING'))
        assert ('has no pipelines' not in str(refused.value)) == (client in yes('`pipeline=`'))


def test_urls() -> None:
    assert ROWS['TLS']['native'] == '`rediss://`'
    assert parse_url('rediss://host').addresses[0].tls
    assert ROWS['Unix socket']['native'] == '`unix://`'
    assert parse_url('unix:///socket').addresses[0].path == '/socket'


def test_clusters() -> None:
    assert ROWS['Redis Cluster']['native'] == '`redis+cluster://`'
    assert connect('redis+cluster://host').on_cluster
    assert ROWS['Redis Cluster']['redis-py'] == '`RedisCluster`'
    assert adapt(redis.asyncio.RedisCluster(host='localhost')).on_cluster
    assert ROWS['Redis Cluster']['coredis'] == '`RedisCluster`'
    assert {name.partition('-')[0] for name in CLUSTER_CLIENTS} == {
        KINDS[client] for client, cell in ROWS['Redis Cluster'].items() if client in KINDS and cell != 'no'
    }


def test_decoding_clients_are_among_those_that_the_suite_runs_over() -> None:
    decoding = {client for client, kind in KINDS.items() if f'{kind}-decode' in CLIENTS}
    assert yes('`decode_responses=True`') == decoding
