"""Which transport is chosen for which client."""

from __future__ import annotations

import subprocess
import sys

import coredis
import pytest
import redis
import redis.asyncio
from redis.exceptions import RedisClusterException

from tests.transports.settings import tidy
from torrelque.errors import TorrelqueUsageError
from torrelque.testing import MemoryTransport
from torrelque.transports import adapt
from torrelque.transports.cluster.coredis import CoredisClusterTransport
from torrelque.transports.cluster.redis_py import RedisPyClusterTransport
from torrelque.transports.coredis import CoredisTransport
from torrelque.transports.redis_py import RedisPyTransport


def test_a_transport_is_used_as_it_is() -> None:
    transport = MemoryTransport()
    assert adapt(transport) is transport


def test_redis_py() -> None:
    class Mine(redis.asyncio.Redis):
        pass

    for client in (redis.asyncio.Redis(), Mine(), redis.asyncio.StrictRedis(), redis.asyncio.from_url('redis://a')):
        assert isinstance(adapt(client), RedisPyTransport)
    sentinel = redis.asyncio.Sentinel([('127.0.0.1', 1)])  # type: ignore[no-untyped-call]
    assert isinstance(adapt(sentinel.master_for('mine')), RedisPyTransport)


def test_redis_pys_cluster() -> None:
    class Mine(redis.asyncio.RedisCluster):
        pass

    for client in (redis.asyncio.RedisCluster('a'), Mine('a'), redis.asyncio.RedisCluster.from_url('redis://a')):
        assert isinstance(adapt(client), RedisPyClusterTransport)


def test_coredis() -> None:
    class Mine(coredis.Redis[bytes]):
        pass

    for client in (coredis.Redis(), Mine(), coredis.Redis.from_url('redis://a', decode_responses=True)):
        assert isinstance(adapt(client), CoredisTransport)


def test_coredis_cluster() -> None:
    client: coredis.RedisCluster[bytes] = coredis.RedisCluster('a', 1)
    assert isinstance(adapt(client), CoredisClusterTransport)
    tidy(client)


def test_coredis_without_replies() -> None:
    with pytest.raises(TorrelqueUsageError, match='noreply=True'):
        adapt(coredis.Redis(noreply=True))
    client: coredis.RedisCluster[bytes] = coredis.RedisCluster('a', 1, noreply=True)
    with pytest.raises(TorrelqueUsageError, match='noreply=True'):
        adapt(client)
    tidy(client)


@pytest.mark.filterwarnings('ignore:Use coredis.connection.TCPLocation')  # as coredis does not itself
def test_another_database_of_a_cluster() -> None:
    client = coredis.RedisCluster.from_url('redis://:secret@a/2')
    with pytest.raises(TorrelqueUsageError, match='db=2'):
        adapt(client)
    tidy(client)
    with pytest.raises(RedisClusterException, match="'db' must be 0"):
        redis.asyncio.RedisCluster.from_url('redis://a/2')


def test_a_pipeline_of_coredis_cluster() -> None:
    client: coredis.RedisCluster[bytes] = coredis.RedisCluster('a', 1)
    with pytest.raises(TorrelqueUsageError, match='is a pipeline'):
        adapt(client.pipeline())
    tidy(client)


class Valkey:
    """Not ours."""


@pytest.mark.parametrize(
    ('client', 'hint'),
    [
        (None, 'builtins.NoneType is not a supported client'),
        (Valkey(), 'Valkey is not a supported client'),
        (redis.asyncio.Redis, 'is a class, not a client: pass an instance'),
        (redis.Redis(password='secret'), 'is the blocking client: use torrelque.sync, or the Redis of redis.asyncio'),
        ('redis://:secret@localhost', 'a URL is not a client'),
        (b'redis://:secret@localhost', 'a URL is not a client'),
        (
            redis.RedisCluster.__new__(redis.RedisCluster),
            'is the blocking client: use torrelque.sync, or the RedisCluster of redis.asyncio',
        ),
        (redis.asyncio.Redis(password='secret').pipeline(), 'is a pipeline'),
        (redis.asyncio.RedisCluster(host='127.0.0.1', port=1, password='secret').pipeline(), 'is a pipeline'),
        (coredis.Redis(password='secret').pipeline(), 'is a pipeline'),
    ],
)
def test_others_are_told_what_to_use(client: object, hint: str) -> None:
    with pytest.raises(TorrelqueUsageError) as caught:
        adapt(client)
    assert hint in str(caught.value)
    assert 'secret' not in str(caught.value)
    for usable in (
        'redis.asyncio.Redis or RedisCluster',
        'coredis.Redis or RedisCluster',
        'async with torrelque.connect(url)',
        'Transport',
    ):
        assert usable in str(caught.value)


LAZY = """
import sys
sys.modules['coredis'] = None  # as where it is not installed
import redis.asyncio
from torrelque.transports import adapt
assert 'torrelque.transports.redis_py' not in sys.modules
print(type(adapt(redis.asyncio.Redis())).__name__)
"""


def test_only_the_client_in_use_is_imported() -> None:
    said = subprocess.run([sys.executable, '-c', LAZY], capture_output=True, text=True, check=True).stdout
    assert said == 'RedisPyTransport\n'
