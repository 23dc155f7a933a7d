"""What the adapters over redis-py's clients share: its errors, connections of one's own, and those lent by a pool."""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from torrelque.core.protocol import Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueUsageError,
    parse_code,
    renew,
)
from torrelque.transports import spares
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error
from torrelque.transports.repeating import Policy, PoolFullError, demoted, refused_as_too_large
from torrelque.transports.resp import plain
from torrelque.transports.tls import diagnose, failed_handshake, is_refused, reason_of

__all__ = ('Dialer', 'Pool')

R = TypeVar('R')

CONNECT_TIMEOUT = 8.0
"""The longest that connecting may take, in seconds, where the client's settings allow more."""

RESPONSE_TIMEOUT = 8.0
"""How long an answer may take, in seconds, where the client's settings do not limit it."""

SLOWEST = 1 << 20
"""Bytes a second at which a large batch may be sent before it counts as unanswered."""

POOL_TIMEOUT = 10.0
"""How long to wait for one of the pool's connections while all are in use, in seconds."""

LOOK_AGAIN = 0.02
"""Seconds after which to look whether one was returned, as others than we return theirs in silence."""

CLOSING_TIMEOUT = 0.5
"""Seconds that closing idle connections may take: with TLS it waits for the server."""

CODES: dict[type[Exception], str] = {
    exceptions.AskError: 'ASK',
    exceptions.AuthenticationError: 'NOAUTH',
    exceptions.BusyLoadingError: 'LOADING',
    exceptions.ClusterCrossSlotError: 'CROSSSLOT',
    exceptions.ClusterDownError: 'CLUSTERDOWN',
    exceptions.ExecAbortError: 'EXECABORT',
    exceptions.MasterDownError: 'MASTERDOWN',
    exceptions.MovedError: 'MOVED',
    exceptions.NoPermissionError: 'NOPERM',
    exceptions.NoScriptError: 'NOSCRIPT',
    exceptions.OutOfMemoryError: 'OOM',
    exceptions.ReadOnlyError: 'READONLY',
    exceptions.TryAgainError: 'TRYAGAIN',
}
"""The words that redis-py takes off the message, for its versions that do not keep them as ``status_code``."""

ANSWERS_THAT_END_A_CONNECTION = (
    exceptions.BusyLoadingError,
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
)

# Errors ---------------------------------------------------------------------------------------------------------------


def as_reply_error(error: Exception) -> TorrelqueReplyError:
    """An error that a server answered with, as a value."""
    return dual_error(TorrelqueReplyError, error, code=_code(error))


def as_failure(error: Exception, address: str = 'the server', *, connected: bool = True) -> TorrelqueError:
    """An error that leaves the outcome of what was sent unknown.

    Args:
        error: What redis-py raised. One of ours is returned unchanged.
        address: Of the server, for messages.
        connected: False while connecting, when more errors of TLS are for good.

    """
    if isinstance(error, TorrelqueError):
        return error
    reason = reason_of(error, connected=connected)
    if reason is not None:
        return handshake_failure(failed_handshake(address, reason))
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        return dual_error(TorrelqueRefusedError, error, code=_code(error))
    if isinstance(error, (exceptions.ResponseError, exceptions.BusyLoadingError)):
        return dual_error(TorrelqueAnsweredConnectionError, error, code=_code(error))
    if isinstance(error, exceptions.TimeoutError) and 'connecting' not in str(error):
        return dual_error(TorrelqueResponseTimeout, error)
    return dual_error(TorrelqueConnectionError, error)


def handshake_failure(message: str) -> TorrelqueHandshakeError:
    return dual_error(TorrelqueHandshakeError, exceptions.ConnectionError(message))


def _code(error: Exception) -> str:
    told: str | None = getattr(error, 'status_code', None)
    return parse_code(f'{told} {error}') if told else CODES.get(type(error)) or parse_code(str(error))


def late_connection() -> TorrelqueConnectionError:
    return dual_error(TorrelqueConnectionError, exceptions.TimeoutError(f'no connection within {CONNECT_TIMEOUT:g} s'))


def late_answer(message: str) -> TorrelqueResponseTimeout:
    return dual_error(TorrelqueResponseTimeout, exceptions.TimeoutError(message))


def policy_of(retry: Retry | None) -> Policy:
    """To call something as often as a client's ``retry`` says; once without one."""

    async def policy(function: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - what the function returns
        return await function() if retry is None else await copy.deepcopy(retry).call_with_retry(function, _do_nothing)

    return policy


async def _do_nothing(_: Exception) -> None:
    """Nothing is to be done before another attempt."""


# asyncio --------------------------------------------------------------------------------------------------------------


def this_task() -> asyncio.Task[Any]:
    with suppress(RuntimeError):
        task = asyncio.current_task()
        if task is not None:
            return task
    raise TorrelqueUsageError(
        'redis-py runs on asyncio only: under Trio use a coredis.Redis or the client of torrelque.connect(url)'
    )


async def cancel_again(task: asyncio.Task[Any]) -> None:
    """Be cancelled after all: Python 3.11's wait_for loses a cancellation that coincides with the end of a send."""
    await checkpoint_if_cancelled()
    task.uncancel()
    task.cancel()
    await asyncio.sleep(0)


async def on_this_loop(send: Callable[[], Awaitable[R]], drop: Callable[[], Awaitable[object]]) -> R:
    """Send something, once more if the client had kept a connection of an event loop that has ended.

    Args:
        send: Safe to repeat.
        drop: Drops connections that nobody uses.

    Raises:
        TorrelqueUsageError: The client cannot be used on another event loop.

    """
    try:
        return await send()
    except RuntimeError as error:
        if not _is_of_another_loop(error):
            raise
    await drop()
    try:
        return await send()
    except RuntimeError as error:
        if not _is_of_another_loop(error):
            raise
        raise TorrelqueUsageError(
            'the client was used on another event loop: make a client for each, or, in synchronous code, '
            f'use torrelque.sync ({error})'
        ) from error


def _is_of_another_loop(error: RuntimeError) -> bool:
    said = str(error)
    return any(
        words in said for words in ('loop is closed', 'different loop', 'different event loop', 'handler is closed')
    )


# Connections of one's own ---------------------------------------------------------------------------------------------


class Source(Protocol):
    """What knows how connections are made: a pool, or a node of a cluster."""

    connection_class: Any
    connection_kwargs: Any


class Dialer:
    """Connections made from the settings of a pool, but not counted in it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._home: tuple[int, object] | None = None
        self._open: set[Any] = set()
        self._spares: spares.Spares[Any] = spares.Spares()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._end: AsyncGenerator[None] | None = None
        self.at_end: Callable[[], Awaitable[None]] | None = None
        """Called as the event loop ends, where a connection was opened on it."""

    async def open(self) -> Any:  # noqa: ANN401 - connections have no common public type
        """Connect, once. Raises TorrelqueConnectionError."""
        self._settle_in()
        if self._end is None:
            self._end = self._close_with_the_loop()
            await anext(self._end)
        connection = self._make()
        self._open.add(connection)
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                await connection.connect()
        except BaseException as error:
            await self.close(connection)
            if isinstance(error, exceptions.RedisError):
                raise await _explain(error, connection) from error
            if isinstance(error, TimeoutError):
                raise late_connection() from None
            raise
        return connection

    async def take(self) -> Any:  # noqa: ANN401 - as above
        """One that was kept, or a new one."""
        self._settle_in()
        while connection := self._spares.take():
            if await _is_fresh(connection):
                return connection
            await self.close(connection)
        return await self.open()

    async def keep(self, connection: Any) -> None:  # noqa: ANN401 - as above
        """Take back one that is in step."""
        if connection in self._open and connection.is_connected:
            self._spares.put(connection)
            self._close_unused_later()
        else:
            await self.close(connection)

    def _close_unused_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(spares.KEEP / 4, self._close_unused)

    def _close_unused(self) -> None:
        self._timer = None
        for connection in self._spares.take_unused():
            task = asyncio.get_running_loop().create_task(self.close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if self._spares:
            self._close_unused_later()

    async def ask(self, commands: Sequence[Sequence[Any]], seconds: float, late: str) -> list[Reply]:
        """Send commands on a connection that nobody else uses meanwhile, once. Raises TorrelqueConnectionError.

        ``late`` is what to say if they are not answered within ``seconds``. When
        cancelled, the connection is closed.
        """
        connection = await self.take()
        replies: list[Reply] = []
        try:
            with anyio.move_on_after(seconds) as limit:
                replies = await converse(connection, commands)
            if limit.cancelled_caught:
                raise late_answer(late)  # noqa: TRY301 - as other failures
        except BaseException as error:
            await self.close(connection)
            if isinstance(error, exceptions.RedisError):
                await self.close_idle()  # what broke one has probably broken the others
                raise as_failure(error, address_of(connection)) from error
            raise
        if demoted(replies):
            await self.close(connection)
            await self.close_idle()
        elif refused_as_too_large(replies):
            await self.close(connection)
        else:
            await self.keep(connection)
        return replies

    async def close(self, connection: Any) -> None:  # noqa: ANN401 - as above
        self._open.discard(connection)
        with anyio.CancelScope(shield=True), suppress(exceptions.RedisError, OSError):
            await connection.disconnect(nowait=True)

    async def close_idle(self) -> None:
        while connection := self._spares.take():
            await self.close(connection)

    async def aclose(self) -> None:
        self._settle_in()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._spares = spares.Spares()
        while self._open:
            await self.close(self._open.pop())

    def _settle_in(self) -> None:
        """Forget what another event loop, or the process this one was forked from, had opened."""
        home = os.getpid(), asyncio.get_running_loop()
        if self._home != home:
            self._home = home
            self._open = set()
            self._spares = spares.Spares()
            self._timer = None
            self._closing = set()
            self._end = None

    async def _close_with_the_loop(self) -> AsyncGenerator[None]:
        """0.9's users have nothing to close but their client: `asyncio.run` ends the generators that are left."""
        try:
            yield
        finally:
            await self.aclose()
            if self.at_end is not None:
                await self.at_end()

    def _make(self) -> Any:  # noqa: ANN401 - as above
        # With a time-out of ours around each call, block_limit does not depend on the client's.
        settings = own_settings(self._source.connection_kwargs, socket_timeout=None, retry=Retry(NoBackoff(), 0))
        return self._source.connection_class(**settings)


def own_settings(given: Mapping[str, Any], **others: object) -> dict[str, Any]:
    """Settings for a connection of our own, made as the pool makes its own.

    Credentials, TLS, Sentinel's discovery and the user's hooks come along.
    """
    settings = dict(given)
    for name in (
        'retry_on_timeout',
        'maint_notifications_config',  # these would steer the pool
        'maint_notifications_pool_handler',
        'oss_cluster_maint_notifications_handler',
    ):
        settings.pop(name, None)
    limit = settings.get('socket_connect_timeout') or settings.get('socket_timeout') or math.inf
    settings.update(
        socket_connect_timeout=min(limit, CONNECT_TIMEOUT),
        health_check_interval=0,
        protocol=2,  # replies and messages of a blocking call or subscription need no more
        retry_on_error=[],
        **others,
    )
    return settings


async def _is_fresh(connection: Any) -> bool:  # noqa: ANN401 - as above
    """Whether it is open and nothing has arrived on it."""
    has_data = getattr(connection, 'can_read', None) or connection.can_read_destructive  # the name before redis 8
    try:
        return connection.is_connected and not await has_data()
    except (exceptions.RedisError, OSError):
        return False


def address_of(connection: Any) -> str:  # noqa: ANN401 - as above
    path = getattr(connection, 'path', '')
    return path or f'{getattr(connection, "host", "?")}:{getattr(connection, "port", "?")}'


async def _explain(error: exceptions.RedisError, connection: Any) -> TorrelqueError:  # noqa: ANN401 - as above
    """Why connecting failed. A server that closes the connection may want TLS, or another certificate."""
    address = address_of(connection)
    failure = as_failure(error, address, connected=False)
    host, port = getattr(connection, 'host', None), getattr(connection, 'port', None)
    decided = isinstance(failure, TorrelqueHandshakeError | TorrelqueReplyError | TorrelqueResponseTimeout)
    if decided or not host or not port or is_refused(error):
        return failure
    tls = getattr(connection, 'ssl_context', None)
    reason = await diagnose(host, int(port), tls and tls.get())
    return failure if reason is None else handshake_failure(failed_handshake(address, reason))


async def converse(connection: Any, commands: Sequence[Sequence[Any]]) -> list[Reply]:  # noqa: ANN401 - as above
    """Send commands and read their replies, errors among them as values. Raises redis-py's errors."""
    await connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    while len(replies) < len(commands):
        try:
            replies.append(await connection.read_response(disable_decoding=True))
        except exceptions.ResponseError as error:
            replies.append(error)
    return [plain(reply, as_reply_error) for reply in replies]


# Connections of the pool's --------------------------------------------------------------------------------------------


class Line:
    """Those who wait for a connection while all are in use, first come first served.

    ``free`` says whether there is one now, ``most`` how many there may be.
    """

    def __init__(self, free: Callable[[], object], most: Callable[[], int]) -> None:
        self._free = free
        self._most = most
        self._line: deque[anyio.Event] = deque()
        self._returned = anyio.Event()

    async def stand(self, seconds: float) -> None:
        """Return when there is a connection. Raises PoolFullError if there is none within ``seconds``."""
        if not self._line and self._free():
            return
        turn = anyio.Event()
        self._line.append(turn)
        try:
            with anyio.fail_after(seconds):
                if self._line[0] is not turn:
                    await turn.wait()
                while not self._free():
                    self._returned = anyio.Event()
                    with anyio.move_on_after(LOOK_AGAIN):
                        await self._returned.wait()
        except TimeoutError:
            message = (
                f'all {self._most()} connections of the pool were in use for {POOL_TIMEOUT:g} s: raise max_connections'
            )
            raise dual_error(PoolFullError, exceptions.MaxConnectionsError(message)) from None
        finally:
            self._line.remove(turn)
            if self._line:
                self._line[0].set()

    def returned(self) -> None:
        """One of ours is free again."""
        self._returned.set()


class Pool:
    """Lends connections of the client's pool, one to a batch, and waits for one while all are in use."""

    def __init__(self, pool: Any, dialer: Dialer) -> None:  # noqa: ANN401 - a pool of any kind
        self._pool = pool
        self._dialer = dialer
        self._home: tuple[int, object] | None = None
        self._failure: TorrelqueConnectionError | None = None
        parameter = inspect.signature(pool.get_connection).parameters.get('command_name')
        needs_name = parameter is not None and parameter.default is parameter.empty  # in versions before 5.3
        self._named = ('EVALSHA',) if needs_name else ()
        dialer.at_end = self._disconnect_idle  # they could not be used, or closed, on another event loop

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Reply]:
        """Send commands, once. Raises TorrelqueConnectionError. When cancelled, the connection is closed."""
        return await on_this_loop(lambda: self._ask(commands), self.drop)

    async def _ask(self, commands: Sequence[Sequence[Any]]) -> list[Reply]:
        self._settle_in()
        if self._stale:
            await self._look()
        connection = await self._lend()
        try:
            with limited(connection.socket_timeout, commands, address_of(connection)):
                replies = await converse(connection, commands)
        except BaseException as error:
            await self._give_back(connection, broken=True)
            if isinstance(error, exceptions.RedisError):
                if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
                    await self.drop()
                raise as_failure(error, address_of(connection)) from error
            raise
        await self._give_back(connection, broken=refused_as_too_large(replies))
        if demoted(replies):
            await self.drop()
        return replies

    async def drop(self) -> None:
        """Close the connections that nobody uses: what broke one has probably broken the others."""
        self._settle_in()
        self._stale = True
        await self._disconnect_idle()
        await self._dialer.close_idle()

    async def _disconnect_idle(self) -> None:
        with anyio.move_on_after(CLOSING_TIMEOUT), suppress(exceptions.RedisError, OSError, RuntimeError):
            await self._pool.disconnect(inuse_connections=False)

    async def _look(self) -> None:
        """Connect once, apart from the pool, which would repeat in vain what cannot be."""
        failures = self._failures
        async with self._turn:
            if self._failure is not None and self._failures > failures:
                raise renew(self._failure)  # the attempt that this caller has waited for
            if self._stale:
                try:
                    await self._dialer.close(await self._dialer.open())
                except TorrelqueConnectionError as error:
                    self._failures += 1
                    self._failure = error
                    raise
            self._stale = False

    def _settle_in(self) -> None:
        """Forget what happened on another event loop, or before a fork."""
        home = os.getpid(), asyncio.get_running_loop()
        if self._home != home:
            self._home = home
            self._line = Line(self._pool.can_get_connection, lambda: int(self._pool.max_connections))
            self._turn = anyio.Lock()
            self._stale = True
            self._failures = 0
            self._failure = None

    async def _lend(self) -> Any:  # noqa: ANN401 - as above
        """A connection, once there is one. Raises PoolFullError."""
        deadline = anyio.current_time() + POOL_TIMEOUT
        while True:
            await self._line.stand(deadline - anyio.current_time())
            try:
                with anyio.fail_after(connect_timeout_of(self._pool.connection_kwargs)):
                    return await self._pool.get_connection(*self._named)
            except exceptions.RedisError as error:
                if not _says_full(error):  # otherwise others were quicker
                    await self.drop()
                    raise as_failure(error, connected=False) from error
            except TimeoutError:
                await self.drop()
                raise late_connection() from None

    async def _give_back(self, connection: Any, *, broken: bool) -> None:  # noqa: ANN401 - as above
        with anyio.CancelScope(shield=True):
            if broken:
                with suppress(exceptions.RedisError, OSError, RuntimeError):
                    await connection.disconnect(nowait=True)
            await self._pool.release(connection)
        self._line.returned()


def _says_full(error: Exception) -> bool:
    """Whether it is redis-py's own error for a pool without a free connection, and not a server's."""
    return str(error) in ('Too many connections', 'No connection available.')


def connect_timeout_of(settings: Mapping[str, Any]) -> float | None:
    """Our limit to connecting; None where the client's settings have one."""
    return None if settings.get('socket_connect_timeout') or settings.get('socket_timeout') else CONNECT_TIMEOUT


@contextmanager
def limited(socket_timeout: float | None, commands: Sequence[Sequence[Any]], address: str) -> Iterator[None]:
    """A limit to what the client's settings do not limit. Raises redis-py's TimeoutError."""
    if socket_timeout:
        yield
        return
    size = sum([len(word) for words in commands for word in words if type(word) is bytes])
    seconds = RESPONSE_TIMEOUT + size / SLOWEST
    with anyio.move_on_after(seconds) as limit:
        yield
    if limit.cancelled_caught:
        raise exceptions.TimeoutError(f'no answer from {address} within {seconds:g} s')
