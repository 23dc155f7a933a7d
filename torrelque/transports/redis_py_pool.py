"""Calls over the pool of a redis-py client, for connection classes other than redis-py's own, such as fakes."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
from redis import exceptions

from torrelque.core.protocol import Batch, Reply
from torrelque.transports import connections
from torrelque.transports.connections import Connections
from torrelque.transports.errors import dual_error
from torrelque.transports.redis_py_connections import (
    Dialer,
    ExclusiveConnection,
    OpenedConnection,
    address_of,
    converse,
    disconnect_idle,
    response_timeout_of,
)
from torrelque.transports.redis_py_errors import as_failure, late_connection
from torrelque.transports.redis_py_loops import call_later, keep_cancelled, on_this_loop
from torrelque.transports.repeating import PoolFullError, demoted, refused_as_too_large

__all__ = ('PooledConnections',)

POOL_TIMEOUT = 10.0
"""Maximum time to wait for a connection while all of the pool are in use, in seconds."""

LOOK_AGAIN = 0.02
"""Interval at which to check for a free connection, in seconds. Nothing reports when the user's code returns one."""


class PooledConnections(Connections[OpenedConnection | ExclusiveConnection]):
    """Sends each batch on a connection of the client's pool, and waits for one if all are in use."""

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 - a pool of any kind
        super().__init__(Dialer(pool), response_timeout_of(pool.connection_kwargs), call_later, shares=False)
        self._pool = pool
        self._waiters = _Waiters(pool.can_get_connection, lambda: int(pool.max_connections))
        self._turn = anyio.Lock()
        self._stale = True
        parameter = inspect.signature(pool.get_connection).parameters.get('command_name')
        needs_name = parameter is not None and parameter.default is parameter.empty  # in versions before 5.3
        self._named = ('EVALSHA',) if needs_name else ()

    async def ask(self, batch: Batch) -> Sequence[Reply]:
        """Send calls once. Safe to cancel; the connection is then closed. Raises TorrelqueConnectionError."""
        return await on_this_loop(lambda: keep_cancelled(self._ask(batch)), self.drop)

    async def _ask(self, batch: Batch) -> Sequence[Reply]:
        packed = self._dialer.pack(batch)
        if self._stale:
            await self._look()
        raw = await self._lend()
        try:
            with anyio.fail_after(self.response_timeout + packed.size / connections.SLOWEST):
                replies = await converse(raw, packed.data, packed.calls)
        except BaseException as error:
            await self._give_back(raw, broken=True)
            if isinstance(error, TimeoutError) and not isinstance(error, exceptions.RedisError):
                error = exceptions.TimeoutError(f'no answer from {address_of(raw)}')
            if isinstance(error, exceptions.RedisError):
                if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
                    await self.drop()
                raise as_failure(error, address_of(raw)) from error
            raise
        await self._give_back(raw, broken=refused_as_too_large(replies))
        if demoted(replies):
            await self.drop()
        return replies

    async def drop(self) -> None:
        """Close the idle connections, because they are probably broken as well."""
        self._stale = True
        await disconnect_idle(self._pool)
        await super().drop()

    async def _look(self) -> None:
        """Connect once without the pool, because its retries would delay a permanent error."""
        async with self._turn:
            if self._stale:
                await self._dialer.close(await self._dialer.open())
                self._stale = False

    async def _lend(self) -> Any:  # noqa: ANN401 - connections have no common public type
        """Wait for a connection, and return it. Raises PoolFullError."""
        deadline = anyio.current_time() + POOL_TIMEOUT
        while True:
            await self._waiters.wait(deadline - anyio.current_time())
            try:
                with anyio.fail_after(connections.CONNECT_TIMEOUT):
                    return await self._pool.get_connection(*self._named)
            except exceptions.RedisError as error:
                if not _says_full(error):  # otherwise another caller took it
                    await self.drop()
                    raise as_failure(error, connected=False) from error
            except TimeoutError:
                await self.drop()
                raise late_connection() from None

    async def _give_back(self, raw: Any, *, broken: bool) -> None:  # noqa: ANN401 - connections have no common public type
        with anyio.CancelScope(shield=True):
            if broken:
                with suppress(exceptions.RedisError, OSError, RuntimeError):
                    await raw.disconnect(nowait=True)
            await self._pool.release(raw)
        self._waiters.returned()


class _Waiters:
    """A queue of callers that wait for a connection, first come, first served.

    Args:
        free: Returns whether a connection is available.
        most: Returns the maximum number of connections.
    """

    def __init__(self, free: Callable[[], object], most: Callable[[], int]) -> None:
        self._free = free
        self._most = most
        self._turns: deque[anyio.Event] = deque()
        self._returned = anyio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait until a connection is available. Raises PoolFullError if none is within ``seconds``."""
        if not self._turns and self._free():
            return
        turn = anyio.Event()
        self._turns.append(turn)
        try:
            with anyio.fail_after(seconds):
                if self._turns[0] is not turn:
                    await turn.wait()
                while not self._free():
                    self._returned = anyio.Event()
                    with anyio.move_on_after(LOOK_AGAIN):
                        await self._returned.wait()
        except TimeoutError:
            most = f'{self._most():,} in all'
            message = f'the pool had no connection free for {POOL_TIMEOUT:g} s, of {most}: raise max_connections'
            raise dual_error(PoolFullError, exceptions.MaxConnectionsError(message)) from None
        finally:
            self._turns.remove(turn)
            if self._turns:
                self._turns[0].set()

    def returned(self) -> None:
        """Report that a connection was returned."""
        self._returned.set()


def _says_full(error: Exception) -> bool:
    """Return whether the error is redis-py's own for a full pool, and not a server's."""
    return str(error) in ('Too many connections', 'No connection available.')
