"""Real clusters for tests: servers of one kind that share the slots, in good order when they are handed out."""

from __future__ import annotations

import atexit
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Self

from tests import servers
from tests.servers import Server

SLOTS = 16384

KINDS: tuple[str, ...] = tuple(servers.SERVERS)
"""Kinds of servers that clusters are made of."""

WITHOUT_SHARDED_CHANNELS: tuple[str, ...] = ('redis-6.2',)
"""Those that know no SPUBLISH, as KeyDB. Their cluster bus has a port that cannot be chosen."""

BUS_OFFSET = 10_000

PATIENCE = 30.0
"""Seconds until a cluster must be ready."""


class Cluster:
    """``primaries`` that share the slots evenly, and ``replicas`` of each. ``arguments`` go to every server.

    ``primaries`` come first in ``nodes``, then the first replica of each, and so on: the replicas of the primary at
    ``i`` are at ``i + n``, ``i + 2 * n``... of n primaries.
    """

    def __init__(self, name: str, *arguments: str, primaries: int = 3, replicas: int = 0) -> None:
        self.name = name
        self._size = primaries
        self.nodes: list[Server] = []
        try:
            for _ in range(primaries * (1 + replicas)):
                self.nodes.append(servers.start(name, *_options(name), *arguments))
            self._introduce()
            self._replicate()
            self._until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def primaries(self) -> list[Server]:
        """Those that were primaries when the cluster was made."""
        return self.nodes[: self._size]

    @property
    def leaders(self) -> list[Server]:
        """Those that are primaries now."""
        return [node for node in self.nodes if node.alive and node.info('replication')['role'] == 'master']

    @property
    def hosts(self) -> str:
        """The addresses of all, as URLs of a cluster list them."""
        return ','.join(f'127.0.0.1:{node.port}' for node in self.nodes)

    def slot_of(self, key: str | bytes) -> int:
        slot: int = self._alive().command('CLUSTER', 'KEYSLOT', key)
        return slot

    def owner_of(self, key: str | bytes) -> Server:
        """The primary that now serves a key, as the nodes that are alive see it."""
        slot = self.slot_of(key)
        for first, last, primary, *_ in self._alive().command('CLUSTER', 'SLOTS'):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == primary[1])
        raise LookupError(f'nobody serves slot {slot}')

    def flush(self) -> None:
        """Remove all keys."""
        for node in self.primaries:
            node.flush()

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def _alive(self) -> Server:
        return next(node for node in self.nodes if node.alive)

    def _introduce(self) -> None:
        for index, node in enumerate(self.nodes):
            node.command('CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
            self.nodes[0].command('CLUSTER', 'MEET', '127.0.0.1', node.port, _bus_port(node))
        for index, node in enumerate(self.primaries):
            slots = range(SLOTS * index // self._size, SLOTS * (index + 1) // self._size)
            node.command('CLUSTER', 'ADDSLOTS', *slots)  # that of ranges came with Redis 7.0

    def _replicate(self) -> None:
        _until(lambda: all(_known(node) == len(self.nodes) for node in self.nodes))
        for index, node in enumerate(self.nodes[self._size :]):
            node.command('CLUSTER', 'REPLICATE', self.nodes[index % self._size].command('CLUSTER', 'MYID'))

    def _until_ready(self) -> None:
        _until(lambda: all(self._is_ready(node) for node in self.nodes))
        followers = self.nodes[self._size :]
        _until(lambda: all(node.info('replication').get('master_link_status') == 'up' for node in followers))

    def _is_ready(self, node: Server) -> bool:
        served = sum(last - first + 1 for first, last, *_ in node.command('CLUSTER', 'SLOTS'))
        replicas = sum(len(told) - 3 for told in node.command('CLUSTER', 'SLOTS'))
        ok = b'cluster_state:ok' in node.command('CLUSTER', 'INFO')
        return ok and served == SLOTS and replicas == len(self.nodes) - self._size


class Move:
    """A slot on its way from one node to another, as ``redis-cli --cluster reshard`` does it, step by step."""

    def __init__(self, cluster: Cluster, key: str, target: Server | None = None) -> None:
        self.slot = cluster.slot_of(key)
        self.cluster = cluster
        self.source = cluster.owner_of(key)
        self.target = target or next(node for node in cluster.primaries if node is not self.source)
        self.target.command('CLUSTER', 'SETSLOT', self.slot, 'IMPORTING', self._id(self.source))
        self.source.command('CLUSTER', 'SETSLOT', self.slot, 'MIGRATING', self._id(self.target))

    def carry(self, *keys: str | bytes) -> None:
        """Move these keys, or all that there are."""
        there = keys or self.source.command('CLUSTER', 'GETKEYSINSLOT', self.slot, 1000)
        if there:
            self.source.command('MIGRATE', '127.0.0.1', self.target.port, '', 0, 5000, 'KEYS', *there)

    def step(self, most: int) -> int:
        """Move up to this number of keys; return how many there were."""
        keys = self.source.command('CLUSTER', 'GETKEYSINSLOT', self.slot, most)
        if keys:
            self.carry(*keys)
        return len(keys)

    def keys(self) -> list[bytes]:
        """All that there are, wherever."""
        both = (node.command('CLUSTER', 'GETKEYSINSLOT', self.slot, 1000) for node in (self.source, self.target))
        return sorted(key for keys in both for key in keys if b':lane:' not in key)

    def finish(self) -> None:
        self.carry()
        for node in (self.target, self.source, *self.cluster.leaders):
            node.command('CLUSTER', 'SETSLOT', self.slot, 'NODE', self._id(self.target))

    def _id(self, node: Server) -> str:
        told: bytes = node.command('CLUSTER', 'MYID')
        return told.decode()


@contextmanager
def calls_of(server: Server, command: str, *, failed: bool = False) -> Iterator[Callable[[], int]]:
    """How often the server was asked for a command meanwhile, also in vain; or how often it ``failed`` as it ran."""
    kind = 'failed_' if failed else '(?:^|rejected_)'
    if server.version.startswith('6.'):  # it counts no subcommands apart
        command = command.partition('|')[0]

    def count() -> int:
        line = server.info('commandstats').get(f'cmdstat_{command}', '')
        return sum(int(number) for number in re.findall(rf'{kind}calls=(\d+)', line))

    before = count()
    yield lambda: count() - before


def _options(name: str) -> tuple[str, ...]:
    options = (
        *('--cluster-enabled', 'yes', '--cluster-node-timeout', '1000'),
        *('--cluster-replica-validity-factor', '0', '--repl-ping-replica-period', '1'),
    )
    if name in WITHOUT_SHARDED_CHANNELS:
        return options
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        bus = probe.getsockname()[1]
    return (*options, '--cluster-port', str(bus))


def _bus_port(node: Server) -> str:
    if node.name in WITHOUT_SHARDED_CHANNELS:
        return str(node.port + BUS_OFFSET)
    return node.arguments[node.arguments.index('--cluster-port') + 1]


def _known(node: Server) -> int:
    told: bytes = node.command('CLUSTER', 'NODES')
    return sum(b'handshake' not in line and b' connected' in line for line in told.splitlines())


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError('the cluster did not become ready')
        time.sleep(0.02)


@cache
def shared(name: str) -> Cluster:
    """The one cluster of this kind in this test process: three primaries."""
    cluster = Cluster(name)
    atexit.register(cluster.close)
    return cluster
