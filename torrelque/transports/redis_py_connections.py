"""Connections that redis-py opens with the settings of a client, and then hands over."""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol, cast

import anyio
from redis import exceptions
from redis.asyncio.connection import DefaultParser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from torrelque.core.protocol import Batch, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
)
from torrelque.transports import connections
from torrelque.transports.base import Then
from torrelque.transports.connections import Connections, Packed, StreamListener
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error
from torrelque.transports.native.connection import pack_words
from torrelque.transports.pipelined import PipelinedConnection, Request
from torrelque.transports.redis_py_errors import (
    ANSWERS_THAT_END_A_CONNECTION,
    as_failure,
    as_reply_error,
    handshake_failure,
    late_answer,
    late_connection,
)
from torrelque.transports.redis_py_loops import call_later, keep_cancelled
from torrelque.transports.repeating import Policy
from torrelque.transports.resp import encoded, plain
from torrelque.transports.tls import diagnose, failed_handshake, is_refused

__all__ = ('Dialer', 'OpenedConnection', 'RedisPyListener')

MADE_BY_REDIS_PY = ('connect', '_connect', 'send_packed_command', 'read_response', 'disconnect')

LAST_CALL = 1.0
"""Maximum duration of a call while the event loop ends, in seconds."""

CLOSING_TIMEOUT = 0.5
"""Maximum time to close idle connections, in seconds. With TLS, closing waits for the server."""


def policy_of(retry: Retry | None) -> Policy:
    """Return a policy that follows a client's ``retry``; without one, it calls a function once."""

    async def policy(function: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - what the function returns
        return await function() if retry is None else await copy.deepcopy(retry).call_with_retry(function, _do_nothing)

    return policy


async def _do_nothing(_: Exception) -> None:
    """Called before another attempt."""


class OpenedConnection(PipelinedConnection):
    """A connection that redis-py has opened.

    redis-py's own classes allow only one caller at a time to send and read.
    """

    def __init__(self, raw: Any) -> None:  # noqa: ANN401 - connections have no common public type
        self._raw = raw  # kept, because its streams would close the connection when they are collected
        super().__init__(address_of(raw), raw._writer.transport, ended=raw._reader.at_eof())  # noqa: SLF001 - redis-py has no public way

    @staticmethod
    def reply_error(message: str) -> TorrelqueReplyError:
        return as_reply_error(DefaultParser.parse_error(message))  # type: ignore[no-untyped-call]

    def lost(self, why: str, cause: Exception | None = None) -> TorrelqueConnectionError:
        gone = exceptions.ConnectionError(f'{self.address}: {why}')
        gone.__cause__ = cause
        return cast('TorrelqueConnectionError', as_failure(gone, self.address))

    def late(self, why: str) -> TorrelqueResponseTimeout:
        return late_answer(f'{self.address}: {why}')

    def release(self) -> None:
        self._raw._reader = self._raw._writer = None  # noqa: SLF001 - otherwise it would warn about them


class ExclusiveConnection:
    """A connection of a class that is not redis-py's own. It serves one caller, for one batch."""

    usable = False
    served = False

    def __init__(self, raw: Any) -> None:  # noqa: ANN401 - connections have no common public type
        self.address: str = address_of(raw)
        self._raw = raw

    async def execute(self, data: bytes, count: int, seconds: float, *, blocks: bool = False) -> list[Reply]:
        """Send packed calls and return their replies, all within ``seconds``. Raises TorrelqueConnectionError."""
        with anyio.move_on_after(seconds):
            try:
                return await converse(self._raw, data, count)
            except exceptions.RedisError as error:
                raise as_failure(error, self.address) from error
        raise late_answer(f'{self.address}: no answer for {seconds:g} s')

    def listen(self) -> None:
        """Do nothing: messages are read as they are."""

    async def send(self, data: bytes) -> None:
        """Send a command whose answer is a message. Raises TorrelqueConnectionError."""
        self._check_connected()
        # Shielded, because a command that is sent in part would put the connection out of step for its other users.
        with anyio.move_on_after(connections.SEND_TIMEOUT, shield=True) as scope:
            try:
                await self._raw.send_packed_command([data])
            except exceptions.RedisError as error:
                raise as_failure(error, self.address) from error
        if scope.cancelled_caught:
            raise late_answer(f'{self.address}: the server does not read what is sent to it')

    async def arrive(self) -> Reply:
        """Wait for the next message. Raises TorrelqueConnectionError."""
        self._check_connected()
        try:
            return plain(
                await self._raw.read_response(disable_decoding=True, disconnect_on_error=False), as_reply_error
            )
        except exceptions.ResponseError as error:
            return as_reply_error(error)
        except exceptions.RedisError as error:
            raise as_failure(error, self.address) from error

    def _check_connected(self) -> None:
        # Otherwise redis-py would reconnect, and messages published in the meantime would be lost silently.
        if not self._raw.is_connected:
            closed = exceptions.ConnectionError('the connection of the listener was closed')
            raise dual_error(TorrelqueConnectionError, closed)

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True), suppress(exceptions.RedisError, OSError):
            await self._raw.disconnect(nowait=True)


async def converse(raw: Any, data: bytes, count: int) -> list[Reply]:  # noqa: ANN401 - connections have no common public type
    """Send packed calls over redis-py's connection and read their replies. Raises redis-py's errors."""
    await raw.send_packed_command([data])
    replies: list[Any] = []
    while len(replies) < count:
        try:
            replies.append(await raw.read_response(disable_decoding=True))
        except exceptions.ResponseError as error:
            replies.append(error)
    return [plain(reply, as_reply_error) for reply in replies]


class RedisPyListener(StreamListener):
    """See :class:`torrelque.transports.base.Listener`."""

    def __init__(self, connection: OpenedConnection | ExclusiveConnection) -> None:
        self._connection = connection
        connection.listen()

    async def arrive(self) -> Reply:
        return await self._connection.arrive()

    async def ask(self, *words: str | bytes) -> None:
        await self._connection.send(pack_words(words))

    def silent(self) -> TorrelqueResponseTimeout:
        return late_answer(
            f'{self._connection.address}: the server sent a listener nothing, not even an answer to PING'
        )


class Source(Protocol):
    """Knows how to create connections: a pool, or a node of a cluster."""

    connection_class: Any
    connection_kwargs: Any


class Dialer:
    """Opens connections with the settings of a pool, but outside the pool."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._is_plain = is_plain(source.connection_class)
        self._open: set[OpenedConnection | ExclusiveConnection] = set()

    def connections(self) -> Connections[OpenedConnection | ExclusiveConnection]:
        """Return connections to the server. None is open yet."""
        timeout = response_timeout_of(self._source.connection_kwargs)
        return Connections(self, timeout, call_later, shares=self._is_plain)

    async def open(self) -> OpenedConnection | ExclusiveConnection:
        raw = made(self._make)
        try:
            with anyio.fail_after(connections.CONNECT_TIMEOUT):
                await keep_cancelled(raw.connect())
            connection = (OpenedConnection if self._is_plain else ExclusiveConnection)(raw)
        except BaseException as error:
            with anyio.CancelScope(shield=True), suppress(exceptions.RedisError, OSError):
                await raw.disconnect(nowait=True)
            if isinstance(error, exceptions.RedisError):
                raise await _explain(error, raw) from error
            if isinstance(error, TimeoutError):
                raise late_connection() from None
            raise
        self._open = {other for other in self._open if not isinstance(other, OpenedConnection) or other.usable}
        self._open.add(connection)
        return connection

    async def close(self, connection: OpenedConnection | ExclusiveConnection) -> None:
        self._open.discard(connection)
        await connection.aclose()

    async def aclose(self) -> None:
        while self._open:
            await self._open.pop().aclose()

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[RedisPyListener]:
        connection = await self.open()
        try:
            yield RedisPyListener(connection)
        finally:
            await self.close(connection)

    async def converse(
        self, connection: OpenedConnection | ExclusiveConnection, packed: Packed, seconds: float
    ) -> list[Reply]:
        return await self._checked(
            connection, await connection.execute(packed.data, packed.calls, seconds, blocks=packed.blocks)
        )

    def start(
        self, connection: OpenedConnection | ExclusiveConnection, packed: Packed, seconds: float, then: Then
    ) -> Callable[[], None] | None:
        if not isinstance(connection, OpenedConnection):
            return None

        def receive(request: Request) -> None:
            if request.error is None and not request.refused:
                then(request.replies)
            else:
                then(partial(self._concluded, connection, request))

        return connection.start(packed.data, packed.calls, seconds, receive, blocks=packed.blocks).abandon

    async def _concluded(self, connection: OpenedConnection, request: Request) -> list[Reply]:
        if request.error is not None:
            raise request.error
        return await self._checked(connection, request.replies)

    async def _checked(self, connection: OpenedConnection | ExclusiveConnection, replies: list[Reply]) -> list[Reply]:
        for reply in replies:
            if isinstance(reply, ANSWERS_THAT_END_A_CONNECTION):
                await self.close(connection)
                # On a connection that worked before, the credentials may have expired. A new connection has new ones.
                refused = not (isinstance(reply, exceptions.BusyLoadingError) or connection.served)
                raise dual_error(TorrelqueRefusedError if refused else TorrelqueAnsweredConnectionError, reply)
        return replies

    def pack(self, batch: Batch) -> Packed:
        data = b''.join([pack_words(tuple(encoded(call.words()))) for call in batch])
        return Packed(data, len(batch), len(data))

    def _make(self) -> Any:  # noqa: ANN401 - connections have no common public type
        # Each exchange has its own time-out.
        settings = own_settings(self._source.connection_kwargs, socket_timeout=None, retry=Retry(NoBackoff(), 0))
        return self._source.connection_class(**settings)


def made(make: Callable[[], Any]) -> Any:  # noqa: ANN401 - connections have no common public type
    """Return what a function creates. Raises TorrelqueConnectionError if redis-py cannot open a file to read."""
    try:
        return make()
    except OSError as error:
        raise as_failure(exceptions.ConnectionError(str(error)), connected=False) from error


def own_settings(given: Mapping[str, Any], **others: object) -> dict[str, Any]:
    """Return a pool's settings, adapted for separate connections.

    Credentials, TLS, the discovery by Sentinel and the user's hooks are kept.
    """
    settings = dict(given)
    for name in (
        'retry_on_timeout',
        'maint_notifications_config',  # these affect the pool
        'maint_notifications_pool_handler',
        'oss_cluster_maint_notifications_handler',
    ):
        settings.pop(name, None)
    limit = settings.get('socket_connect_timeout') or settings.get('socket_timeout') or math.inf
    settings.update(
        socket_connect_timeout=min(limit, connections.CONNECT_TIMEOUT),
        health_check_interval=0,
        protocol=2,  # replies and messages need no more
        retry_on_error=[],
        **others,
    )
    return settings


def is_plain(connection_class: type) -> bool:
    """Return whether connections are redis-py's own. Others, such as fakes, may not be streams at all."""
    methods = (getattr(connection_class, name, None) for name in MADE_BY_REDIS_PY)
    return all(getattr(method, '__module__', '').startswith('redis.') for method in methods)


def response_timeout_of(settings: Mapping[str, Any]) -> float:
    return settings.get('socket_timeout') or connections.RESPONSE_TIMEOUT


async def disconnect_idle(pool: Any) -> None:  # noqa: ANN401 - a pool of any kind
    """Close the idle connections of a client's pool, even those of an event loop that has ended."""
    with anyio.move_on_after(CLOSING_TIMEOUT), suppress(exceptions.RedisError, OSError, RuntimeError):
        await pool.disconnect(inuse_connections=False)


def address_of(raw: Any) -> str:  # noqa: ANN401 - connections have no common public type
    path = getattr(raw, 'path', '')
    return path or f'{getattr(raw, "host", "?")}:{getattr(raw, "port", "?")}'


async def _explain(error: exceptions.RedisError, raw: Any) -> TorrelqueError:  # noqa: ANN401 - connections have no common public type
    """Return why connecting failed. If the server closed the connection, it may expect TLS or another certificate."""
    address = address_of(raw)
    failure = as_failure(error, address, connected=False)
    host, port = getattr(raw, 'host', None), getattr(raw, 'port', None)
    decided = isinstance(failure, TorrelqueHandshakeError | TorrelqueReplyError | TorrelqueResponseTimeout)
    if decided or not host or not port or is_refused(error):
        return failure
    tls = getattr(raw, 'ssl_context', None)
    reason = await diagnose(host, int(port), tls and tls.get())
    return failure if reason is None else handshake_failure(failed_handshake(address, reason))
