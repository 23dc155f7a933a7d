"""Over a ``redis.RedisCluster`` that the user holds: which node a call belongs to, the client knows."""

from __future__ import annotations

import random
import time
from collections.abc import Hashable, Sequence
from typing import Any

from redis import exceptions
from redis.cluster import ClusterNode, ClusterPipeline, RedisCluster

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueTypeError, TorrelqueUsageError
from torrelque.sync.redis_py import ONCE, BlockingTransport, Dialer, Listener, policy_of, words_of
from torrelque.sync.suspending import ForkLock, Pause, perform, sit_out, suspend
from torrelque.transports.base import Message
from torrelque.transports.cluster.redis_py import unreachable
from torrelque.transports.cluster.router import UNKNOWN, Router
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.errors import dual_error
from torrelque.transports.naming import class_name, named
from torrelque.transports.redis_py_connections import RESPONSE_TIMEOUT, as_failure
from torrelque.transports.repeating import Policy, demoted, repeat
from torrelque.transports.resp import encoded

__all__ = ('RedisPyBlockingClusterTransport',)


class _Nodes(Router[str]):
    """The nodes as the client knows them, by their names, and connections of our own to each."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - redis-py annotates little of it
        super().__init__()
        self._client = client
        self._dialers: dict[str, Dialer] = {}

    @staticmethod
    def make_lock() -> ForkLock:
        return ForkLock()

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await suspend(Pause(time.monotonic() + seconds))

    async def begin(self) -> None:
        """The client has begun when it was made."""

    async def read(self) -> None:
        self.close_idle()
        try:
            self._client.nodes_manager.initialize()
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise unreachable(error) from error
        for name in self._dialers.keys() - self._client.nodes_manager.nodes_cache.keys():
            del self._dialers[name]

    def owner_of(self, slot: int | None) -> str | None:
        if slot is None:
            primaries = self._client.get_primaries()
            return str(random.choice(primaries).name) if primaries else None  # noqa: S311 - no secret
        nodes = self._client.nodes_manager.slots_cache.get(slot)
        return str(nodes[0].name) if nodes else None

    def node_at(self, host: str, port: int, asked: str) -> str:
        manager = self._client.nodes_manager
        host, port = manager.remap_host_port(host or asked.rpartition(':')[0], port)
        node = self._client.get_node(host=host, port=port)
        if node is None:  # it serves no slot yet
            node = ClusterNode(host, port, 'primary')  # type: ignore[no-untyped-call]  # redis-py's
            manager.create_redis_connections([node])
            manager.nodes_cache[node.name] = node
        return str(node.name)

    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        told = exceptions.SlotNotCoveredError(f'no node of the cluster serves slot {slot}')
        return dual_error(TorrelqueConnectionError, told)

    def dialer_to(self, name: str) -> Dialer:
        dialer = self._dialers.get(name)
        if dialer is None:
            node = self._client.get_node(node_name=name)
            if node is None:  # what is known was read just now
                raise dual_error(TorrelqueConnectionError, exceptions.ConnectionError(f'{name} has left the cluster'))
            dialer = self._dialers.setdefault(name, Dialer(self._client.get_redis_connection(node).connection_pool))
        return dialer

    def close_idle(self) -> None:
        for dialer in list(self._dialers.values()):
            dialer.close_idle()


class RedisPyBlockingClusterTransport(BlockingTransport):
    """See :class:`torrelque.transports.base.Transport`."""

    on_cluster = True

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._nodes = _Nodes(client)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls to the primary of their slot, as often as the client's retries say."""
        return await self._execute(batch, None) if batch else []

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        return await self._execute(batch, ONCE, repeats=False)

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        return await self._execute(batch, timeout + RESPONSE_TIMEOUT, together=True)

    async def _execute(
        self, batch: Batch, seconds: float | None, *, together: bool = False, repeats: bool = True
    ) -> Sequence[Reply]:
        async def send(name: str, calls: Batch) -> Sequence[Reply]:
            replies = self._nodes.dialer_to(name).ask([words_of(call) for call in calls], seconds)
            if demoted(replies):
                self._nodes.mark_stale()
            return replies

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await self._nodes.route(calls, send, together=together)

        if not repeats:
            return await attempt(batch)
        return await repeat(batch, attempt, self._policy(), together=together)

    def _policy(self) -> Policy:
        return policy_of(self._client.retry)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        async def send(name: str) -> Reply:
            return await self.block_on(self._nodes.dialer_to(name), call, timeout)

        return await self._nodes.block(call, timeout, send)

    def listener(self, channel: bytes) -> Listener:
        return _ClusterListener(self._nodes.dialer_to(perform(self._nodes.node_of(channel), sit_out)), channel)

    def node_of(self, key: bytes) -> Hashable:
        return self._nodes.owner_of(slot_of(key))

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
        strategy = getattr(pipeline, '_execution_strategy', None)  # redis-py has no other way to tell
        if getattr(strategy, '_watching', False) and not getattr(strategy, '_explicit_transaction', False):
            raise TorrelqueUsageError(
                'pipeline: it watches keys and would run the call at once: call its multi() first'
            )
        name, *rest = call.words_with_source()
        pipeline.execute_command(name, *encoded(rest))  # type: ignore[no-untyped-call]  # redis-py's


class _ClusterListener(Listener):
    """Subscribes with SSUBSCRIBE, or SUBSCRIBE where the server is too old to know it."""

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
