"""The transport over the user's ``coredis.Redis``, on asyncio or Trio.

It uses the client's settings and retries, but not its connections: calls share
one connection, and each blocking call and each subscription has a dedicated one.
So they cannot exhaust the client's pool, nor it theirs. The connections live in
the task group of the client's pool, and end with it.

coredis opens the connections. On asyncio, those for calls without TLS over TCP are
then handed over, because coredis takes two turns of its own tasks for each call.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import anyio
import coredis
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled, current_token
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis import exceptions
from coredis.connection import BaseConnection, TCPLocation, UnixDomainSocketLocation
from coredis.parser import Parser
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
)
from torrelque.transports import connections
from torrelque.transports.base import Then, after
from torrelque.transports.client import ClientTransport, check_primary, finish_block
from torrelque.transports.connections import Connections, Packed, PushListener, is_refused_ping, later_by
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error, leaf
from torrelque.transports.naming import named
from torrelque.transports.native.connection import pack_words
from torrelque.transports.pipelined import PipelinedConnection, Request
from torrelque.transports.repeating import Policy
from torrelque.transports.resp import encoded, plain
from torrelque.transports.streams import transport_of
from torrelque.transports.tls import diagnose, failed_handshake, is_refused, reason_of

__all__ = ('CoredisListener', 'CoredisTransport', 'Dialer')

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
"""The error codes that coredis removes from the message."""

PARSER = Parser()

CLOSED = (exceptions.ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError)

# Errors ---------------------------------------------------------------------------------------------------------------


def as_reply_error(error: Exception) -> TorrelqueReplyError:
    """Return an error reply as a value."""
    return dual_error(TorrelqueReplyError, error, code=_code(error))


def as_failure(error: Exception, address: str = 'the server', *, connected: bool = True) -> TorrelqueConnectionError:
    """Return the error to raise when the outcome of a call is unknown.

    Args:
        error: What coredis or anyio raised. One of ours is returned unchanged.
        address: The server's address, for messages.
        connected: False while connecting, when more TLS errors are permanent.
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


def _value(reply: Any) -> Reply:  # noqa: ANN401 - as in coredis
    """Return the reply to a request. Raises TorrelqueConnectionError if there is none."""
    if isinstance(reply, Exception):
        answered = isinstance(reply, exceptions.RedisError)
        if not answered or isinstance(reply, (exceptions.ConnectionError, exceptions.InvalidResponse)):
            raise as_failure(reply) from reply
    return plain(reply, as_reply_error)


def response_timeout_of(pool: BaseConnectionPool[Any]) -> float:
    settings: dict[str, Any] = dict(pool.connection_kwargs)
    return settings.get('stream_timeout') or connections.RESPONSE_TIMEOUT


# Connections ----------------------------------------------------------------------------------------------------------


def _is_answered(request: Any) -> bool:  # noqa: ANN401 - coredis's
    complete = getattr(request, 'complete', None)  # older versions have no public attribute
    return bool(request._event.is_set() if complete is None else complete)  # noqa: SLF001


def _send(connection: BaseConnection, commands: Sequence[Any], seconds: float) -> list[Any]:
    """Send commands, and return an awaitable for each reply. The connection stays in step if one is cancelled."""
    try:
        return [
            connection.create_request(
                cast('bytes', command[0]), *command[1:], decode=False, raise_exceptions=False, timeout=seconds
            )
            for command in commands
        ]
    except CLOSED as error:
        raise as_failure(error) from error


class TakenConnection(PipelinedConnection):
    """A connection that coredis has opened, and for which it only waits from then on."""

    def __init__(self, raw: BaseConnection, transport: asyncio.Transport) -> None:
        self.raw: BaseConnection = raw
        super().__init__(address_of(raw), transport, ended=False)

    @staticmethod
    def reply_error(message: str) -> Exception:
        error = PARSER.parse_error(message)
        if isinstance(error, (exceptions.ConnectionError, exceptions.InvalidResponse)):
            return as_failure(error)
        return as_reply_error(error)

    def lost(self, why: str, cause: Exception | None = None) -> TorrelqueConnectionError:
        gone = exceptions.ConnectionError(f'{self.address}: {why}')
        gone.__cause__ = cause
        return as_failure(gone, self.address)

    def late(self, why: str) -> TorrelqueResponseTimeout:
        return dual_error(TorrelqueResponseTimeout, TimeoutError(f'{self.address}: {why}'))

    def release(self) -> None:
        self.raw.invalidate()


def taken(raw: BaseConnection) -> TakenConnection | BaseConnection:
    """Take over a connection, if it is on asyncio, over TCP, and without TLS. Otherwise return it unchanged."""
    transport = transport_of(raw.stream)
    return raw if transport is None else TakenConnection(raw, transport)


class Dialer:
    """Opens connections with the settings of a client's pool, but outside the pool."""

    def __init__(self, pool: BaseConnectionPool[Any]) -> None:
        self._pool = pool
        self._open: set[BaseConnection] = set()  # which coredis's tasks keep alive
        self._finalizer: weakref.finalize[Any, Any] | None = None

    async def open(self) -> TakenConnection | BaseConnection:
        """Connect, without retries. Safe to cancel. Raises TorrelqueConnectionError."""
        return taken(await self._dial())

    async def _dial(self) -> BaseConnection:
        group = self._task_group()
        connection: BaseConnection | None = None
        try:
            with anyio.fail_after(connections.CONNECT_TIMEOUT):
                connection = await self.make()
                try:
                    await group.start(connection.run)
                except BaseException:
                    _close_streams(connection)
                    await checkpoint_if_cancelled()  # coredis reports a cancelled handshake as failed
                    raise
        except TimeoutError:
            late = exceptions.ConnectionError(f'no connection within {connections.CONNECT_TIMEOUT:g} s')
            raise dual_error(TorrelqueConnectionError, late) from None
        except (exceptions.RedisError, ExceptionGroup, OSError) as error:
            raise await _explain(error, connection) from error
        self._open.difference_update([other for other in self._open if not other.usable])
        self._open.add(connection)
        if self._finalizer is None:
            # The connections' tasks keep references to them, so they would outlive a queue object that is not closed.
            self._finalizer = weakref.finalize(self, _close_soon, self._open, current_token().native_token)
            self._finalizer.atexit = False
        return connection

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[CoredisListener]:
        """Open a connection for subscriptions."""
        connection = await self._dial()
        listener = CoredisListener(connection)
        try:
            yield listener
        finally:
            await self.close(connection)
            await listener.aclose()

    async def close(self, connection: TakenConnection | BaseConnection) -> None:
        if isinstance(connection, TakenConnection):
            await connection.aclose()
            connection = connection.raw
        self._open.discard(connection)
        connection.invalidate()

    async def aclose(self) -> None:
        while self._open:
            self._open.pop().invalidate()

    def pack(self, batch: Batch) -> Packed:
        commands = [encoded(call.words()) for call in batch]
        size = sum([len(word) for command in commands for word in command if type(word) is bytes])
        return Packed(commands, len(commands), size)

    def start(
        self, connection: TakenConnection | BaseConnection, packed: Packed, seconds: float, then: Then
    ) -> Callable[[], None] | None:
        """Return None if coredis sends, because it has no callbacks."""
        if not isinstance(connection, TakenConnection):
            return None

        def receive(request: Request) -> None:
            if request.error is None and not request.refused:
                then([plain(reply, as_is) for reply in request.replies])
            else:
                then(partial(_concluded, request))

        return connection.start(_joined(packed), packed.calls, seconds, receive, blocks=packed.blocks).abandon

    async def converse(
        self, connection: TakenConnection | BaseConnection, packed: Packed, seconds: float
    ) -> list[Reply]:
        if isinstance(connection, TakenConnection):
            replies = await connection.execute(_joined(packed), packed.calls, seconds, blocks=packed.blocks)
            return _values(replies)
        requests = _send(connection, packed.data, seconds)
        replies = [_value(await requests[0])]
        nudges: list[Any] = []
        if packed.blocks and not _is_answered(requests[-1]):
            nudges = _send(connection, [[b'PING']], seconds)
        replies += [_value(await request) for request in requests[1:]]
        for nudge in nudges:
            await nudge
        return replies

    def connections(self) -> Connections[TakenConnection | BaseConnection]:
        """Return connections to the server. None is open yet."""
        return Connections(self, response_timeout_of(self._pool), later_by(self._start_soon))

    def _start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function in the background while the client is open."""
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
        """Return a connection that is not connected yet."""
        # A copy of the pool creates them as the pool would, including the discovery by Sentinel.
        pool: Any = copy.copy(self._pool)
        pool.connection_kwargs = self.settings()
        return cast('BaseConnection', await pool._construct_connection())  # noqa: SLF001 - there is no public way

    def settings(self) -> dict[str, Any]:
        return {
            **self._pool.connection_kwargs,
            'decode_responses': False,
            'max_idle_time': None,  # blocking calls and listeners are idle for long
            'stream_timeout': None,  # each request has its own time-out
        }


def _joined(packed: Packed) -> bytes:
    return b''.join([pack_words(tuple(command)) for command in packed.data])


async def _concluded(request: Request) -> list[Reply]:
    if request.error is not None:
        raise request.error
    return _values(request.replies)


def _values(replies: Sequence[Reply]) -> list[Reply]:
    """Return replies in our types. Raises TorrelqueConnectionError if one says that the connection is of no use."""
    for reply in replies:
        if isinstance(reply, TorrelqueConnectionError):
            raise reply
    return [plain(reply, as_is) for reply in replies]


def _close_soon(connections: set[BaseConnection], loop: Any) -> None:  # noqa: ANN401 - an event loop of any kind
    """Close connections on their event loop, from any thread that collects garbage."""
    schedule = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon
    with suppress(RuntimeError):  # the loop has ended, and closed them
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
    """Return why connecting failed. If the server closed the connection, it may expect TLS or another certificate."""
    failure = as_failure(error, address_of(connection), connected=False)
    location = connection and connection.location
    decided = isinstance(failure, TorrelqueHandshakeError | TorrelqueReplyError | TorrelqueResponseTimeout)
    if decided or not isinstance(location, TCPLocation) or is_refused(error):
        return failure
    reason = await diagnose(location.host, location.port, vars(connection).get('_ssl_context'))
    return failure if reason is None else _handshake_failure(address_of(connection), reason)


def _close_streams(connection: BaseConnection) -> None:
    """Close the streams that coredis leaves open when a connection fails, because anyio would warn about them."""
    for value in vars(connection).values():
        if isinstance(value, (MemoryObjectReceiveStream, MemoryObjectSendStream)):
            value.close()


class CoredisListener(PushListener):
    """See :class:`torrelque.transports.base.Listener`."""

    def __init__(self, connection: BaseConnection) -> None:
        self._connection = connection
        self._messages = connection.push_messages
        self._turn = anyio.Lock()

    async def aclose(self) -> None:
        # This fails while another task waits for a message. That task ends when the connection is lost.
        with anyio.CancelScope(shield=True), suppress(RuntimeError):
            await self._messages.aclose()

    async def knows(self, command: str) -> bool:
        """Return whether the server knows a command that takes arguments.

        The command is sent without arguments. With them, an old server's error would quote them, and coredis closes
        the connection if they are not UTF-8.
        """
        try:
            await self.ask(command)
        except TorrelqueReplyError as error:
            return 'unknown command' not in str(error)
        return True

    async def next(self) -> Reply:
        while True:
            with anyio.move_on_after(connections.QUIET):
                try:
                    return await anext(self._messages)
                except StopAsyncIteration:  # an earlier call failed or was cancelled
                    gone = exceptions.ConnectionError('the connection of the listener was lost')
                    raise as_failure(gone) from None
                except CLOSED as error:
                    raise as_failure(error) from error
            await self.ask()
            self._messages = self._connection.push_messages  # the time-out has ended the generator

    async def ask(self, *words: str | bytes) -> None:
        """Send a command and a PING. The answer to the PING shows whether the command was answered by an error."""
        async with self._turn:
            try:
                if words:
                    self._connection.send_command(*(word.encode() if isinstance(word, str) else word for word in words))
                ping = self._connection.create_request(
                    b'PING', timeout=connections.QUIET, decode=False, raise_exceptions=False
                )
            except CLOSED as error:
                raise as_failure(error) from error
            answer = _value(await ping)
            if isinstance(answer, TorrelqueReplyError) and not is_refused_ping(answer):
                await self._skip_pong()
                raise answer

    async def _skip_pong(self) -> None:
        """Discard the answer to a PING that comes after an error. Otherwise the next PING would take it for its own."""
        with anyio.move_on_after(connections.QUIET):
            stray = self._connection.streamed_messages
            await anext(stray)
            await stray.aclose()


# The transport --------------------------------------------------------------------------------------------------------


class CoredisTransport(ClientTransport):
    """See :class:`torrelque.transports.base.Transport`. Works while the client's context is entered."""

    queues_behind: bool = True

    def __init__(self, client: coredis.Redis[Any]) -> None:
        super().__init__(client)
        if client.noreply:
            raise TorrelqueUsageError('the coredis client was created with noreply=True, but a queue needs the replies')
        self._client = client
        self.database: int = client.connection_pool.connection_kwargs.get('db') or 0
        self.fails_over: bool = isinstance(client.connection_pool, SentinelConnectionPool)
        self._connections = Dialer(client.connection_pool).connections()

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        return check_primary(
            await self._servers().ask_dedicated((call, then), timeout + connections.MARGIN, blocks=True)
        )

    def start_block(self, batch: Batch, timeout: float, then: Then) -> Callable[[], Awaitable[object]] | None:
        return self._servers().start_block(batch, timeout + connections.MARGIN, after(finish_block, then))

    def _servers(self) -> Connections[TakenConnection | BaseConnection]:
        return self._connections

    def _policy(self) -> Policy:
        return self._client.retry_policy.call_with_retries

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``coredis.Redis``. Raises TorrelqueTypeError for anything else."""
        if not isinstance(pipeline, Pipeline):
            raise TorrelqueTypeError(f'pipeline: expected a pipeline of a coredis.Redis, not {named(pipeline)}')
        name = 'EVAL' if isinstance(call.command, Script) else call.command
        words = call.words_with_source()[len(name.split()) :]
        pipeline.create_request(name.encode(), *encoded(words), callback=as_is)


def as_is(reply: Reply, **_: object) -> Reply:
    return reply
