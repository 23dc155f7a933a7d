"""The blocking transport over the user's ``redis.RedisCluster``. It uses the client's table of slots."""

from __future__ import annotations

import random
import time
from collections.abc import Hashable, Sequence
from typing import Any

from redis import exceptions
from redis.cluster import ClusterNode, ClusterPipeline, RedisCluster

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueTypeError, TorrelqueUsageError
from torrelque.sync.redis_py import ONCE, BlockingTransport, Dialer, Listener, policy_of, rest, words_of
from torrelque.sync.suspending import ForkLock, Pause, abandoned_late, perform, suspend, wait_for
from torrelque.transports.base import Message
from torrelque.transports.cluster.listener import UNKNOWN
from torrelque.transports.cluster.redis_py import unreachable
from torrelque.transports.cluster.router import Router
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.cluster.topology import Endpoint, Topology
from torrelque.transports.connections import RESPONSE_TIMEOUT
from torrelque.transports.errors import dual_error
from torrelque.transports.naming import class_name, named
from torrelque.transports.redis_py_errors import as_failure
from torrelque.transports.repeating import Policy, repeat
from torrelque.transports.resp import encoded

__all__ = ('RedisPyBlockingClusterTransport',)


class _Topology(Topology):
    """The nodes that the client knows, with separate connections to each."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - redis-py annotates little of it
        super().__init__()
        self._client = client
        self._dialers: dict[Endpoint, Dialer] = {}

    @staticmethod
    def make_lock() -> ForkLock:
        return ForkLock()

    async def read(self) -> frozenset[Endpoint]:
        if self.version:  # the client read them when it was created
            self.close_idle()
            try:
                abandoned_late(self._client.nodes_manager.initialize)
            except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
                raise unreachable(error) from error
        for node in self._dialers.keys() - {_endpoint(node) for node in self._client.get_nodes()}:
            del self._dialers[node]
        return frozenset(_endpoint(node) for node in self._client.get_primaries())

    def known_owner(self, slot: int | None) -> Endpoint | None:
        if slot is None:
            primaries = self._client.get_primaries()
            return _endpoint(random.choice(primaries)) if primaries else None  # noqa: S311 - no secret
        nodes = self._client.nodes_manager.slots_cache.get(slot)
        return _endpoint(nodes[0]) if nodes else None

    def resolve(self, host: str, port: int, asked: Endpoint) -> Endpoint:
        manager = self._client.nodes_manager
        host, port = manager.remap_host_port(host or asked.host, port)
        node = self._client.get_node(host=host, port=port)
        if node is None:  # it serves no slot yet
            node = ClusterNode(host, port, 'primary')  # type: ignore[no-untyped-call]  # redis-py's
            manager.create_redis_connections([node])
            manager.nodes_cache[node.name] = node
        return _endpoint(node)

    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        said = exceptions.SlotNotCoveredError(f'no node of the cluster serves slot {slot}')
        return dual_error(TorrelqueConnectionError, said)

    def dialer_to(self, endpoint: Endpoint) -> Dialer:
        dialer = self._dialers.get(endpoint)
        if dialer is None:
            node = self._client.get_node(host=endpoint.host, port=endpoint.port)
            if node is None:  # the nodes have just been read
                said = exceptions.ConnectionError(f'{endpoint} has left the cluster')
                raise dual_error(TorrelqueConnectionError, said)
            made = Dialer(self._client.get_redis_connection(node).connection_pool)
            dialer = self._dialers.setdefault(endpoint, made)
        return dialer

    def close_idle(self) -> None:
        for dialer in list(self._dialers.values()):
            dialer.close_idle()


def _endpoint(node: Any) -> Endpoint:  # noqa: ANN401 - redis-py annotates little of it
    return Endpoint(str(node.host), int(node.port))


class _Router(Router):
    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await suspend(Pause(time.monotonic() + seconds))


class RedisPyBlockingClusterTransport(BlockingTransport):
    """See :class:`torrelque.transports.base.Transport`."""

    on_cluster = True

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._nodes = _Topology(client)
        self._router = _Router(self._nodes)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls to the primary of their slot. Repeated as often as the client's retries allow."""
        return await self._execute(batch, None) if batch else []

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        return await self._execute(batch, ONCE, repeats=False)

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        return await self._execute(batch, timeout + RESPONSE_TIMEOUT, together=True)

    async def _execute(
        self, batch: Batch, seconds: float | None, *, together: bool = False, repeats: bool = True
    ) -> Sequence[Reply]:
        async def send(node: Endpoint, calls: Batch) -> Sequence[Reply]:
            return self._nodes.dialer_to(node).ask([words_of(call) for call in calls], seconds)

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await self._router.route(calls, send, together=together)

        if not repeats:
            return await attempt(batch)
        return await repeat(batch, attempt, self._policy(), together=together, pause=rest)

    def _policy(self) -> Policy:
        return policy_of(getattr(self._client, 'retry', None))  # older versions have none

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        async def send(node: Endpoint) -> Reply:
            return await self.block_on(self._nodes.dialer_to(node), call, timeout)

        return await self._router.block(call, timeout, send)

    def listener(self, channel: bytes) -> Listener:
        return _ClusterListener(self._nodes.dialer_to(perform(self._nodes.owner(slot_of(channel)), wait_for)), channel)

    def node_of(self, key: bytes) -> Hashable:
        return self._nodes.known_owner(slot_of(key))

    async def nodes(self) -> Sequence[Arg | None]:
        return await self._nodes.nodes()

    async def reconnect(self) -> None:
        self._nodes.mark_stale()
        self._nodes.close_idle()

    async def aclose(self) -> None:
        self._nodes.close_idle()

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``redis.RedisCluster``. Raises TorrelqueTypeError for anything else."""
        if not isinstance(pipeline, ClusterPipeline):
            raise TorrelqueTypeError(f'pipeline: expected a pipeline of a redis.RedisCluster, not {named(pipeline)}')
        strategy = getattr(pipeline, '_execution_strategy', None)  # redis-py has no public attribute
        if getattr(strategy, '_watching', False) and not getattr(strategy, '_explicit_transaction', False):
            raise TorrelqueUsageError(
                'pipeline: it watches keys and would run the call at once: call its multi() first'
            )
        name, *rest = call.words_with_source()
        pipeline.execute_command(name, *encoded(rest))  # type: ignore[no-untyped-call]  # redis-py's


class _ClusterListener(Listener):
    """Subscribes with SSUBSCRIBE, or with SUBSCRIBE if the server is too old."""

    def __init__(self, dialer: Dialer, channel: bytes) -> None:
        super().__init__(dialer, channel, 'SSUBSCRIBE')
        self._retry = (dialer, channel)
        self._is_plain = False

    def next(self, until: float) -> Message | None:
        try:
            return super().next(until)
        except exceptions.ResponseError as error:
            if UNKNOWN not in str(error).lower() or self._is_plain:
                raise as_failure(error) from error
            self._is_plain = True
            self.close()
            Listener.__init__(self, *self._retry)
            return super().next(until)
