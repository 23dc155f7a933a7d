"""Over a ``coredis.Redis`` that the user holds, on asyncio or Trio.

The client's settings and its retries are used, but not its pool: calls share
one connection, each blocking call and subscription has one of its own. So
neither can use up the other's connections. They live in the task group of the
client's pool, and end with it.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeAlias, cast

import anyio
import coredis
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled, current_token
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis import exceptions
from coredis.connection import BaseConnection, TCPLocation, UnixDomainSocketLocation
from coredis.patterns.pipeline import Pipeline
from coredis.pool import BaseConnectionPool, SentinelConnectionPool

from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTypeError,
    TorrelqueUsageError,
    parse_code,
    renew,
)
from torrelque.transports import base, spares
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error, leaf
from torrelque.transports.naming import class_name, named
from torrelque.transports.repeating import LARGE, demoted, refused_as_too_large, repeat
from torrelque.transports.resp import encoded, plain
from torrelque.transports.tls import diagnose, failed_handshake, is_refused, reason_of

__all__ = ('Connections', 'CoredisListener', 'CoredisTransport', 'Dialer')

MARGIN = 1.5
"""How much later than asked a blocking call may be answered, in seconds: idle servers notice up to 0.1 s late."""

QUIET = 4.0
"""After so many silent seconds a listener asks the server whether it is there, which has as long to answer."""

CONNECT_TIMEOUT = 8.0
RESPONSE_TIMEOUT = 8.0
"""How long connecting and an answer may take, where the client's settings do not limit them further."""

CODES: dict[type[Exception], str] = {
    exceptions.AskError: 'ASK',
    exceptions.AuthenticationFailureError: 'WRONGPASS',
    exceptions.AuthenticationRequiredError: 'NOAUTH',
    exceptions.AuthorizationError: 'NOPERM',
    exceptions.BusyLoadingError: 'LOADING',
    exceptions.ClusterCrossSlotError: 'CROSSSLOT',
    exceptions.ClusterDownError: 'CLUSTERDOWN',
    exceptions.ExecAbortError: 'EXECABORT',
    exceptions.MovedError: 'MOVED',
    exceptions.NoScriptError: 'NOSCRIPT',
    exceptions.ProtocolError: 'NOPROTO',
    exceptions.ReadOnlyError: 'READONLY',
    exceptions.TryAgainError: 'TRYAGAIN',
    exceptions.UnblockedError: 'UNBLOCKED',
    exceptions.WrongTypeError: 'WRONGTYPE',
}
"""The words that coredis takes off the message."""

CLOSED = (exceptions.ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError)

SLOWEST = 1 << 20
"""Bytes a second at which a large batch may be sent before it counts as unanswered."""

Command: TypeAlias = 'list[bytes | int]'

# Errors ---------------------------------------------------------------------------------------------------------------


def as_reply_error(error: Exception) -> TorrelqueReplyError:
    """An error that a server answered with, as a value."""
    return dual_error(TorrelqueReplyError, error, code=_code(error))


def as_failure(error: Exception, address: str = 'the server', *, connected: bool = True) -> TorrelqueConnectionError:
    """An error that leaves the outcome of what was sent unknown.

    Args:
        error: What coredis or anyio raised. One of ours is returned unchanged.
        address: Of the server, for messages.
        connected: False while connecting, when more errors of TLS are for good.

    """
    error = leaf(error)
    if isinstance(error, TorrelqueConnectionError):
        return error
    reason = reason_of(error, connected=connected)
    if reason is not None:
        return _handshake_failure(address, reason)
    if isinstance(error, TimeoutError):
        return dual_error(TorrelqueResponseTimeout, error)
    if isinstance(error, (exceptions.ResponseError, exceptions.BusyLoadingError, exceptions.ProtocolError)):
        refused = isinstance(error, exceptions.AuthenticationError)
        return dual_error(
            TorrelqueRefusedError if refused else TorrelqueAnsweredConnectionError, error, code=_code(error)
        )
    if not isinstance(error, exceptions.RedisError):
        error = exceptions.ConnectionError(str(error) or type(error).__name__)
    return dual_error(TorrelqueConnectionError, error)


def _handshake_failure(address: str, reason: str) -> TorrelqueHandshakeError:
    return dual_error(TorrelqueHandshakeError, exceptions.ConnectionError(failed_handshake(address, reason)))


def _code(error: Exception) -> str:
    return CODES.get(type(error)) or parse_code(str(error))


def _value(reply: Any) -> Reply:  # noqa: ANN401 - as coredis has it
    """What a request was answered with. Raises TorrelqueConnectionError if it was not."""
    if isinstance(reply, Exception):
        answered = isinstance(reply, exceptions.RedisError)
        if not answered or isinstance(reply, (exceptions.ConnectionError, exceptions.InvalidResponse)):
            raise as_failure(reply) from reply
    return plain(reply, as_reply_error)


def response_timeout_of(pool: BaseConnectionPool[Any]) -> float:
    settings: dict[str, Any] = dict(pool.connection_kwargs)
    return settings.get('stream_timeout') or RESPONSE_TIMEOUT


def _is_of_sentinel(pool: object) -> bool:
    return isinstance(pool, SentinelConnectionPool)


# Connections ----------------------------------------------------------------------------------------------------------


class Dialer:
    """Connections made from the settings of a client's pool, but not counted in it."""

    def __init__(self, pool: BaseConnectionPool[Any]) -> None:
        self._pool = pool
        self._open: set[BaseConnection] = set()
        self._finalizer: weakref.finalize[Any, Any] | None = None

    async def open(self) -> BaseConnection:
        """Connect, once. Raises TorrelqueConnectionError."""
        group = self._task_group()
        connection: BaseConnection | None = None
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                connection = await self.make()
                try:
                    await group.start(connection.run)
                except BaseException:
                    _clear_away(connection)
                    await checkpoint_if_cancelled()  # coredis tells a cancelled handshake as a failed one
                    raise
        except TimeoutError:
            late = exceptions.ConnectionError(f'no connection within {CONNECT_TIMEOUT:g} s')
            raise dual_error(TorrelqueConnectionError, late) from None
        except (exceptions.RedisError, ExceptionGroup) as error:
            raise await _explain(error, connection) from error
        self._open.difference_update([other for other in self._open if not other.usable])
        self._open.add(connection)
        if self._finalizer is None:
            # The connections' tasks hold them: nobody else would close those of a queue object that is forgotten.
            self._finalizer = weakref.finalize(self, _close_soon, self._open, current_token().native_token)
            self._finalizer.atexit = False
        return connection

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[CoredisListener]:
        """On a connection of its own."""
        connection = await self.open()
        listener = CoredisListener(connection)
        try:
            yield listener
        finally:
            self.close(connection)
            await listener.aclose()

    def close(self, connection: BaseConnection) -> None:
        self._open.discard(connection)
        connection.invalidate()

    def close_all(self) -> None:
        while self._open:
            self._open.pop().invalidate()

    def start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something in the background, as long as the client is open."""
        self._task_group().start_soon(function)

    def _task_group(self) -> TaskGroup:
        try:
            return self._pool.task_group
        except RuntimeError as error:
            raise TorrelqueUsageError(
                'the coredis client is not entered: use the queue within `async with client:`; '
                'in synchronous code, use torrelque.sync'
            ) from error

    async def make(self) -> BaseConnection:
        """One that is not connected yet."""
        # A copy of the pool makes them as the pool makes its own, Sentinel's discovery included.
        pool: Any = copy.copy(self._pool)
        pool.connection_kwargs = self.settings()
        return cast('BaseConnection', await pool._construct_connection())  # noqa: SLF001 - there is no public way

    def settings(self) -> dict[str, Any]:
        return {
            **self._pool.connection_kwargs,
            'decode_responses': False,
            'max_idle_time': None,  # waiting is what a blocking call and a listener are for
            'stream_timeout': None,  # each request has its own
        }


def _close_soon(connections: set[BaseConnection], loop: Any) -> None:  # noqa: ANN401 - an event loop of any kind
    """Close connections in their event loop, from whatever thread collects garbage."""
    schedule = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon
    with suppress(RuntimeError):  # the loop has ended, and they with it
        schedule(_invalidate, tuple(connections))


def _invalidate(connections: Sequence[BaseConnection]) -> None:
    for connection in connections:
        connection.invalidate()


def address_of(connection: BaseConnection | None) -> str:
    # Not str(location): older versions of coredis write <host=127.0.0.1,port=6379> and <path=/run/redis.sock>.
    match connection and connection.location:
        case TCPLocation(host=host, port=port):
            return f'{host}:{port}'
        case UnixDomainSocketLocation(path=path):
            return path
    return 'the server'


async def _explain(error: Exception, connection: BaseConnection | None) -> TorrelqueConnectionError:
    """Why connecting failed. A server that closes the connection may want TLS, or another certificate."""
    failure = as_failure(error, address_of(connection), connected=False)
    location = connection and connection.location
    decided = isinstance(failure, TorrelqueHandshakeError | TorrelqueReplyError | TorrelqueResponseTimeout)
    if decided or not isinstance(location, TCPLocation) or is_refused(error):
        return failure
    reason = await diagnose(location.host, location.port, vars(connection).get('_ssl_context'))
    return failure if reason is None else _handshake_failure(address_of(connection), reason)


def _clear_away(connection: BaseConnection) -> None:
    """Close what coredis leaves open of a connection that was never established; anyio would warn of it."""
    for value in vars(connection).values():
        if isinstance(value, (MemoryObjectReceiveStream, MemoryObjectSendStream)):
            value.close()


class _SharedConnection:
    """The one connection that all calls go over, made anew when it is lost."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._connection: BaseConnection | None = None
        self._turn = anyio.Lock()
        self._failures = 0
        self._failure: TorrelqueConnectionError | None = None

    async def get(self) -> BaseConnection:
        if self._connection is not None and self._connection.usable:
            return self._connection
        failures = self._failures
        async with self._turn:
            if self._connection is not None and self._connection.usable:
                return self._connection
            if self._failure is not None and self._failures > failures:
                raise renew(self._failure)  # the attempt that this caller has waited for
            try:
                self._connection = await self._dialer.open()
            except TorrelqueConnectionError as error:
                self._failures += 1
                self._failure = error
                raise
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._dialer.close(self._connection)


class Connections:
    """Those to one server: one that all calls share, and others that are lent to a batch at a time."""

    def __init__(self, dialer: Dialer, response_timeout: float) -> None:
        self.dialer = dialer
        self._response_timeout = response_timeout
        self._shared = _SharedConnection(dialer)
        self._spares: spares.Spares[BaseConnection] = spares.Spares()
        self._tending: anyio.CancelScope | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Reply]:
        """The replies to commands on the shared connection, to which they are sent next to each other.

        Large ones have a connection of their own, as the server may close it over them. It is closed afterwards, as it
        would hold on to them.
        """
        if any(len(word) >= LARGE for command in commands for word in command if type(word) is bytes):
            size = sum([len(word) for command in commands for word in command if type(word) is bytes])
            return await self.ask_apart(commands, self._response_timeout + size / SLOWEST, keep=False)
        connection = await self._shared.get()
        try:
            requests = [_request(connection, command, self._response_timeout) for command in commands]
            replies = [_value(await request) for request in requests]
        except TorrelqueResponseTimeout:
            self.dialer.close(connection)  # it may be open at this end only
            self.close_idle()
            raise
        if demoted(replies):
            self.dialer.close(connection)
            self.close_idle()
        return replies

    async def ask_apart(self, commands: Sequence[Command], seconds: float, *, keep: bool = True) -> list[Reply]:
        """The same on a connection of their own; each may take so long. With ``keep`` others may use it afterwards."""
        connection = await self._take()
        try:
            requests = [_request(connection, command, seconds) for command in commands]
            replies = [_value(await request) for request in requests]
        except BaseException as error:
            self.dialer.close(connection)
            if isinstance(error, TorrelqueConnectionError):
                self.close_idle()  # what broke one has probably broken the others
            if isinstance(error, TorrelqueResponseTimeout):
                self.close_shared()
            raise
        if demoted(replies):
            self.drop()
        if keep and connection.usable and not refused_as_too_large(replies):
            self._keep(connection)
        else:
            self.dialer.close(connection)
        return replies

    def _keep(self, connection: BaseConnection) -> None:
        self._spares.put(connection)
        if self._tending is None:
            self._tending = anyio.CancelScope()
            self.dialer.start_soon(self._close_unused)

    async def _close_unused(self) -> None:
        assert self._tending is not None  # noqa: S101 - set when this was started
        with self._tending:
            while self._spares:
                await anyio.sleep(spares.KEEP / 4)
                for connection in self._spares.take_unused():
                    self.dialer.close(connection)
        self._tending = None

    async def _take(self) -> BaseConnection:
        while connection := self._spares.take():
            if connection.usable:
                return connection
        return await self.dialer.open()

    def drop(self) -> None:
        """Have further calls go over new connections."""
        self.close_shared()
        self.close_idle()

    def close_shared(self) -> None:
        self._shared.close()

    def close_idle(self) -> None:
        while connection := self._spares.take():
            self.dialer.close(connection)

    def close(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
        self._spares = spares.Spares()
        self.dialer.close_all()


class CoredisListener(base.Listener):
    """See :class:`torrelque.transports.base.Listener`."""

    def __init__(self, connection: BaseConnection) -> None:
        self._connection = connection
        self._messages = connection.push_messages
        self._turn = anyio.Lock()

    async def subscribe(self, channel: bytes) -> None:
        await self.ask('SUBSCRIBE', channel)

    async def unsubscribe(self, channel: bytes) -> None:
        await self.ask('UNSUBSCRIBE', channel)

    async def receive(self) -> base.Message:
        while True:
            match await self.next():
                case [b'message', bytes(channel), bytes(data)]:
                    return base.Message(channel, data)
                case [b'subscribe', bytes(channel), _]:
                    return base.Message(channel, None)
                case _:  # of UNSUBSCRIBE
                    pass

    async def aclose(self) -> None:
        # Where another task still waits for it, the loss of the connection ends it.
        with anyio.CancelScope(shield=True), suppress(RuntimeError):
            await self._messages.aclose()

    async def next(self) -> Reply:
        """The next thing that arrives. A connection that is open at this end only is found out by its silence."""
        while True:
            with anyio.move_on_after(QUIET):
                try:
                    return await anext(self._messages)
                except StopAsyncIteration:  # it has failed, or was cancelled, before
                    gone = exceptions.ConnectionError('the connection of the listener was lost')
                    raise as_failure(gone) from None
                except CLOSED as error:
                    raise as_failure(error) from error
            await self.ask()
            self._messages = self._connection.push_messages  # that the wait was given up has ended the generator

    async def ask(self, *words: str | bytes) -> None:
        """Send something that is answered by a message, or by an error; the PING after it tells which."""
        async with self._turn:
            try:
                if words:
                    self._connection.send_command(*(word.encode() if isinstance(word, str) else word for word in words))
                ping = self._connection.create_request(b'PING', timeout=QUIET, decode=False, raise_exceptions=False)
            except CLOSED as error:
                raise as_failure(error) from error
            answer = _value(await ping)
            if isinstance(answer, TorrelqueReplyError) and not (answer.code == 'NOPERM' and "'ping'" in str(answer)):
                await self._skip_pong()
                raise answer

    async def _skip_pong(self) -> None:
        """Take what belongs to the PING whose place an error took, or it would be taken for the next one's."""
        with anyio.move_on_after(QUIET):
            stray = self._connection.streamed_messages
            await anext(stray)
            await stray.aclose()


# The transport --------------------------------------------------------------------------------------------------------


class CoredisTransport(base.Transport):
    """See :class:`torrelque.transports.base.Transport`. Works between the client's entry and its exit."""

    in_order = True

    def __init__(self, client: coredis.Redis[Any]) -> None:
        if client.noreply:
            raise TorrelqueUsageError('the coredis client is made with noreply=True, but a queue needs the replies')
        self._client = client
        self.fails_over: bool = _is_of_sentinel(client.connection_pool)
        self._response_timeout: float = response_timeout_of(client.connection_pool)
        self._connections = Connections(Dialer(client.connection_pool), self._response_timeout)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls on the shared connection. Safe to cancel.

        When the connection breaks they are sent again, once and then as often
        as the client's ``retry_policy`` says.
        """
        if not batch:
            await checkpoint()
            return []
        return await repeat(batch, self._attempt, self._client.retry_policy.call_with_retries)

    async def _attempt(self, batch: Batch) -> Sequence[Reply]:
        return await self._connections.ask([encoded(call.words()) for call in batch])

    async def reconnect(self) -> None:
        await checkpoint()
        self._connections.drop()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        (reply,) = await self._connections.ask_apart([encoded(call.words())], timeout + MARGIN)
        if demoted([reply]):
            raise dual_error(TorrelqueAnsweredConnectionError, reply)
        return reply

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """The same on a connection of their own, which has ``timeout`` seconds longer to answer."""
        seconds = self._response_timeout + timeout

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await self._connections.ask_apart([encoded(call.words()) for call in calls], seconds)

        return await repeat(batch, attempt, self._client.retry_policy.call_with_retries, together=True)

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[base.Listener]:
        async with self._connections.dialer.listener() as listener:
            yield listener

    async def aclose(self) -> None:
        await checkpoint()
        self._connections.close()

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``coredis.Redis``. Raises TorrelqueTypeError for anything else."""
        if not isinstance(pipeline, Pipeline):
            raise TorrelqueTypeError(f'pipeline: expected a pipeline of a coredis.Redis, not {named(pipeline)}')
        name = 'EVAL' if isinstance(call.command, Script) else call.command
        words = call.words_with_source()[len(name.split()) :]
        pipeline.create_request(name.encode(), *encoded(words), callback=as_is)


def _request(connection: BaseConnection, command: Command, timeout: float) -> Any:  # noqa: ANN401 - an awaitable
    """Queue a command. Cancelling the wait for its answer leaves the connection in step."""
    try:
        return connection.create_request(
            cast('bytes', command[0]), *command[1:], decode=False, raise_exceptions=False, timeout=timeout
        )
    except CLOSED as error:
        raise as_failure(error) from error


def as_is(reply: Reply, **_: object) -> Reply:
    return reply
