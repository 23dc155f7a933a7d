"""Chooses the transport for a blocking client."""

from __future__ import annotations

from redis import Redis, RedisCluster
from redis.client import Pipeline
from redis.cluster import ClusterPipeline

from torrelque.errors import TorrelqueUsageError
from torrelque.sync.cluster import RedisPyBlockingClusterTransport
from torrelque.sync.redis_py import RedisPyBlockingTransport
from torrelque.transports.base import Transport
from torrelque.transports.naming import class_name

__all__ = ('adapt',)

USABLE = "a redis.Redis (also a Sentinel's master_for) or a redis.RedisCluster"


def adapt(client: object) -> Transport:
    """Return the transport for a client. Opens no connection. Raises TorrelqueUsageError for an unsupported client."""
    if isinstance(client, Pipeline | ClusterPipeline):
        raise TorrelqueUsageError(
            f'{class_name(client)} is a pipeline: pass its client here, and the pipeline as pipeline= to the calls '
            'that take one'
        )
    if isinstance(client, Redis):
        return RedisPyBlockingTransport(client)
    if isinstance(client, RedisCluster):
        return RedisPyBlockingClusterTransport(client)
    # The message leaves out its repr, which may contain a password.
    if isinstance(client, str | bytes):
        raise TorrelqueUsageError(f'a URL is not a client: create one with redis.Redis.from_url(url), or pass {USABLE}')
    name = class_name(client)
    if isinstance(client, Transport) or name.startswith(('redis.asyncio', 'coredis')):
        raise TorrelqueUsageError(f'{name} needs an event loop: use torrelque.Torrelque, or pass {USABLE}')
    raise TorrelqueUsageError(f'{name} is not a supported client; pass {USABLE}')
