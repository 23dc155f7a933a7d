"""Transports connect the engine to a server, through the client that the user passes in."""

from __future__ import annotations

import sys

from torrelque.errors import TorrelqueUsageError
from torrelque.transports.base import Transport
from torrelque.transports.naming import class_name

__all__ = ('Transport', 'adapt')

USABLE = (
    'a redis.asyncio.Redis or RedisCluster, a coredis.Redis or RedisCluster, '
    'the client of `async with torrelque.connect(url) as client:`, or any torrelque Transport'
)


PIPELINES = (
    ('redis.asyncio.client', 'Pipeline'),
    ('redis.asyncio.cluster', 'ClusterPipeline'),
    ('coredis.patterns.pipeline', 'Pipeline'),
    ('coredis.patterns.pipeline', 'ClusterPipeline'),
)


def adapt(client: object) -> Transport:
    """Return the transport for a client. Opens no connection.

    Args:
        client: A client of redis.asyncio, coredis or `torrelque.connect`, or any other transport. Transports are
            returned unchanged.

    Returns:
        The transport.

    Raises:
        TorrelqueUsageError: It is anything else.
    """
    if isinstance(client, Transport):
        return client
    if _is(client, 'redis.asyncio', 'Redis') and not _is(client, 'redis.asyncio.client', 'Pipeline'):
        from torrelque.transports.redis_py import RedisPyTransport  # noqa: PLC0415 - only the client in use is imported

        return RedisPyTransport(client)  # type: ignore[arg-type]  # told by name above
    if _is(client, 'redis.asyncio', 'RedisCluster') and not _is(client, 'redis.asyncio.cluster', 'ClusterPipeline'):
        from torrelque.transports.cluster.redis_py import RedisPyClusterTransport  # noqa: PLC0415

        return RedisPyClusterTransport(client)  # type: ignore[arg-type]  # told by name above
    if _is(client, 'coredis', 'Redis'):
        from torrelque.transports.coredis import CoredisTransport  # noqa: PLC0415 - it is optional

        return CoredisTransport(client)  # type: ignore[arg-type]  # told by name above
    if _is(client, 'coredis', 'RedisCluster'):
        from torrelque.transports.cluster.coredis import CoredisClusterTransport  # noqa: PLC0415

        return CoredisClusterTransport(client)  # type: ignore[arg-type]  # told by name above
    raise TorrelqueUsageError(f'{_hint(client)}; pass {USABLE}')


def _is(client: object, module: str, name: str) -> bool:
    """Return whether it is an instance of a class. The class's module need not be installed."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(client, kind)


def _hint(client: object) -> str:
    """Return what is wrong with it. The message leaves out its repr, which may contain a password."""
    if isinstance(client, str | bytes):
        return 'a URL is not a client: `async with torrelque.connect(url) as client:` makes one'
    if isinstance(client, type):
        return f'{client.__module__}.{client.__qualname__} is a class, not a client: pass an instance of it'
    name = class_name(client)
    if any(_is(client, *kind) for kind in PIPELINES):
        return f'{name} is a pipeline: pass its client here, and the pipeline as pipeline= to the calls that take one'
    for kind in ('Redis', 'RedisCluster'):
        if _is(client, 'redis', kind):
            return f'{name} is the blocking client: use torrelque.sync, or the {kind} of redis.asyncio'
    return f'{name} is not a supported client'
