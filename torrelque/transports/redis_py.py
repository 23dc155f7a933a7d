"""The transport over the user's ``redis.asyncio.Redis``.

It lets redis-py open separate connections with the settings of the client's pool,
so credentials, TLS, Sentinel and Unix sockets work as they do for the client. All
calls share one connection, and are repeated as the client's ``retry`` says. A
connection class other than redis-py's own cannot be shared; with one, calls use the
pool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.sentinel import SentinelConnectionPool

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueTypeError, TorrelqueUsageError
from torrelque.transports import connections
from torrelque.transports.base import Then, after
from torrelque.transports.client import ClientTransport, check_primary, finish_block
from torrelque.transports.connections import Connections
from torrelque.transports.naming import named
from torrelque.transports.redis_py_connections import LAST_CALL, Dialer, disconnect_idle, is_plain, policy_of
from torrelque.transports.redis_py_loops import PerLoop
from torrelque.transports.redis_py_pool import PooledConnections
from torrelque.transports.repeating import Policy
from torrelque.transports.resp import encoded

__all__ = ('RedisPyTransport',)


class RedisPyTransport(ClientTransport):
    """See :class:`torrelque.transports.base.Transport`. Needs asyncio."""

    def __init__(self, client: Redis) -> None:
        super().__init__(client)
        self._client = client
        pool = client.connection_pool
        self.database: int = pool.connection_kwargs.get('db') or 0
        self.fails_over: bool = isinstance(pool, SentinelConnectionPool)
        shares = is_plain(pool.connection_class)
        self.in_order: bool = shares
        self.queues_behind: bool = shares
        self._here: PerLoop[Connections[Any]] = PerLoop(
            lambda: Dialer(pool).connections() if shares else PooledConnections(pool),
            lambda: disconnect_idle(pool),  # another event loop could neither use nor close them
        )

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        return check_primary(
            await self._servers().ask_dedicated((call, then), timeout + connections.MARGIN, blocks=True)
        )

    def start_block(self, batch: Batch, timeout: float, then: Then) -> Callable[[], Awaitable[object]] | None:
        return self._servers().start_block(batch, timeout + connections.MARGIN, after(finish_block, then))

    def _servers(self) -> Connections[Any]:
        return self._here.get()

    def _policy(self) -> Policy:
        return policy_of(self._client.connection_pool.connection_kwargs.get('retry'))

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        # A closed client would open a connection again, and leave it open.
        return [
            reply for call in batch for reply in await self._servers().ask_dedicated((call,), LAST_CALL, keep=False)
        ]

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``redis.asyncio.Redis``.

        The pipeline is a transaction unless it was created with ``transaction=False``.

        Raises:
            TorrelqueTypeError: ``pipeline`` is anything else.
            TorrelqueUsageError: The pipeline would run the call at once, because it is between ``watch()`` and
                ``multi()``.
        """
        if not isinstance(pipeline, Pipeline):
            raise TorrelqueTypeError(f'pipeline: expected a pipeline of a redis.asyncio.Redis, not {named(pipeline)}')
        if pipeline.watching and not pipeline.explicit_transaction:
            raise TorrelqueUsageError(
                'pipeline: it watches keys and would run the call at once: call its multi() first'
            )
        name, *rest = call.words_with_source()
        pipeline.execute_command(name, *encoded(rest))
