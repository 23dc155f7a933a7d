"""Blocking clients for the URLs that `torrelque.connect` accepts."""

from __future__ import annotations

from typing import Any

from redis import Redis, RedisCluster, RedisError
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException
from redis.sentinel import Sentinel

from torrelque.errors import TorrelqueConnectionError
from torrelque.transports.native.url import Address, Target, parse_url

__all__ = ('client_of',)


def client_of(url: str) -> Redis | RedisCluster:
    """Return a client of redis-py. Only a client of a cluster connects at once.

    Raises TorrelqueValueError for a bad URL, and TorrelqueConnectionError for a cluster that cannot be reached.
    """
    target = parse_url(url)
    first = target.addresses[0]
    if target.kind == 'cluster':
        nodes = [ClusterNode(each.host, each.port) for each in target.addresses]  # type: ignore[no-untyped-call]
        try:
            return RedisCluster(startup_nodes=nodes, **_options(target, first))
        except (RedisError, RedisClusterException) as error:
            raise TorrelqueConnectionError(str(error)) from error
    if target.kind == 'sentinel':
        places = [(each.host, each.port) for each in target.addresses]
        own = {'username': target.sentinel_user, 'password': target.sentinel_password}
        sentinel = Sentinel(places, sentinel_kwargs={**_tls(target, first), **own}, **_options(target, first))  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(target.service, db=first.db)  # type: ignore[no-untyped-call]
        return master
    if first.path:
        return Redis(unix_socket_path=first.path, db=first.db, username=first.user, password=first.password)
    return Redis(host=first.host, port=first.port, db=first.db, **_options(target, first))


def _options(target: Target, address: Address) -> dict[str, Any]:
    return {'username': address.user, 'password': address.password, **_tls(target, address)}


def _tls(target: Target, address: Address) -> dict[str, Any]:
    if not address.tls:
        return {}
    files = target.files
    return {
        'ssl': True,
        'ssl_ca_certs': files.ca_certs,
        'ssl_certfile': files.certfile,
        'ssl_keyfile': files.keyfile,
    }
