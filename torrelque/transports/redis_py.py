"""Over a ``redis.asyncio.Redis`` that the user holds.

Calls go through the user's client, its pool and its retries. What waits long,
blocking calls and subscriptions, goes over connections of its own, made from
the pool's settings: it would use the pool up, and must not be repeated.
"""

from __future__ import annotations

import asyncio
import copy
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTypeError,
    TorrelqueUsageError,
    parse_code,
)
from torrelque.transports import base, spares
from torrelque.transports.naming import class_name, named
from torrelque.transports.pairs import TorrelqueAnsweredConnectionError, pair
from torrelque.transports.resp import encoded, plain

__all__ = ('Dialer', 'RedisPyListener', 'RedisPyTransport')

MARGIN = 2.0
"""How much later than asked a blocking call may be answered, in seconds: idle servers notice up to 0.1 s late."""

QUIET = 8.0
"""After so many silent seconds a listener asks the server whether it is there, which has as long to answer."""

CONNECT_TIMEOUT = 10.0
"""The longest that a connection of one's own may take, where the client's settings allow more."""

SEND_TIMEOUT = 5.0

RESPONSE_TIMEOUT = 10.0
"""How long an answer may take, where the client's settings do not limit it."""

LAST_CALL = 1.0
"""Seconds that a call may take as the event loop ends."""

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
    return pair(TorrelqueReplyError, error, code=_code(error))


def as_failure(error: exceptions.RedisError) -> TorrelqueError:
    """An error that leaves the outcome of what was sent unknown."""
    if isinstance(error, (exceptions.ResponseError, *ANSWERS_THAT_END_A_CONNECTION)):
        return pair(TorrelqueAnsweredConnectionError, error, code=_code(error))
    if isinstance(error, exceptions.TimeoutError) and 'connecting' not in str(error):
        return pair(TorrelqueResponseTimeout, error)
    return pair(TorrelqueConnectionError, error)


def _code(error: Exception) -> str:
    told: str | None = getattr(error, 'status_code', None)
    return parse_code(f'{told} {error}') if told else CODES.get(type(error)) or parse_code(str(error))


def _late(message: str) -> TorrelqueResponseTimeout:
    return pair(TorrelqueResponseTimeout, exceptions.TimeoutError(message))


async def do_nothing(_: Exception) -> None:
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
                raise as_failure(error) from error
            if isinstance(error, TimeoutError):
                late = exceptions.TimeoutError(f'no connection within {CONNECT_TIMEOUT:g} s')
                raise pair(TorrelqueConnectionError, late) from None
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
        replies: list[Any] = []
        try:
            with anyio.move_on_after(seconds):
                await connection.send_packed_command(connection.pack_commands(commands))
                while len(replies) < len(commands):
                    try:
                        replies.append(await connection.read_response(disable_decoding=True))
                    except exceptions.ResponseError as error:
                        replies.append(error)
        except exceptions.RedisError as error:
            await self.close(connection)
            await self.close_idle()  # what broke one has probably broken the others
            raise as_failure(error) from error
        except BaseException:
            await self.close(connection)
            raise
        if len(replies) < len(commands):
            await self.close(connection)
            raise _late(late)
        await self.keep(connection)
        return [plain(reply, as_reply_error) for reply in replies]

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

    def _make(self) -> Any:  # noqa: ANN401 - as above
        # As the pool makes its own: credentials, TLS, Sentinel's discovery and the user's hooks come along.
        settings = dict(self._source.connection_kwargs)
        for name in (
            'retry_on_timeout',
            'maint_notifications_config',  # these would steer the pool
            'maint_notifications_pool_handler',
            'oss_cluster_maint_notifications_handler',
        ):
            settings.pop(name, None)
        given = settings.get('socket_connect_timeout') or settings.get('socket_timeout') or math.inf
        settings.update(
            socket_connect_timeout=min(given, CONNECT_TIMEOUT),
            # With a time-out of ours around each call, block_limit does not depend on the client's.
            socket_timeout=None,
            health_check_interval=0,
            protocol=2,  # replies and messages of a blocking call or subscription need no more
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
        )
        return self._source.connection_class(**settings)


async def _is_fresh(connection: Any) -> bool:  # noqa: ANN401 - as above
    """Whether it is open and nothing has arrived on it."""
    has_data = getattr(connection, 'can_read', None) or connection.can_read_destructive  # the name before redis 8
    try:
        return connection.is_connected and not await has_data()
    except (exceptions.RedisError, OSError):
        return False


class RedisPyListener(base.Listener):
    """See :class:`torrelque.transports.base.Listener`."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - as above
        self._connection = connection

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
                case _:  # of UNSUBSCRIBE and PING
                    pass

    async def next(self) -> Reply:
        """The next thing that arrives. A connection that is open at this end only is found out by its silence."""
        reply = await self._read_for(QUIET)
        if reply is None:
            await self.ask('PING')
            reply = await self._read_for(QUIET)
        if reply is None:
            raise _late('the server is silent to a listener, also when asked')
        return reply

    async def _read_for(self, seconds: float) -> Reply:
        self._check_connected()
        try:
            return await self._connection.read_response(
                disable_decoding=True, timeout=seconds, disconnect_on_error=False
            )
        except exceptions.ResponseError as error:
            refused = as_reply_error(error)
            if refused.code == 'NOPERM' and "'ping'" in str(refused):
                return b''  # an answer all the same
            raise refused from error
        except exceptions.RedisError as error:
            raise as_failure(error) from error

    async def ask(self, *words: str | bytes) -> None:
        """Send a command, whose answer is among what arrives."""
        self._check_connected()
        # Shielded, since half a command would put the connection out of step for the others that use it.
        with anyio.move_on_after(SEND_TIMEOUT, shield=True) as scope:
            try:
                await self._connection.send_command(*words)
            except exceptions.RedisError as error:
                raise as_failure(error) from error
        if scope.cancelled_caught:
            raise _late('the server does not read what is sent to it')

    def _check_connected(self) -> None:
        # Otherwise redis-py would connect anew, and what was published meanwhile would be missed in silence.
        if not self._connection.is_connected:
            raise pair(
                TorrelqueConnectionError, exceptions.ConnectionError('the connection of the listener was closed')
            )


# The transport --------------------------------------------------------------------------------------------------------


class RedisPyTransport(base.Transport):
    """See :class:`torrelque.transports.base.Transport`. Needs asyncio."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._dialer = Dialer(client.connection_pool)
        self.fails_over: bool = isinstance(client.connection_pool, SentinelConnectionPool)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls as one pipeline, as often as the client's retries say, and return their replies.

        When cancelled, the connection that was in use is closed.
        """
        task = this_task()
        cancellations = task.cancelling()
        commands = [self._command(call) for call in batch]
        try:
            if len(commands) == 1:
                replies = [await self._send_one(commands[0])]
            elif commands:
                replies = await self._send_many(commands)
            else:
                await checkpoint()
                replies = []
        except exceptions.RedisError as error:
            if isinstance(error, exceptions.ConnectionError):
                # What broke one connection has probably broken the others, which would fail a call each.
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise as_failure(error) from error
        if task.cancelling() > cancellations:
            await cancel_again(task)
        return [plain(reply, as_reply_error) for reply in replies]

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        # A client that is closed would open a connection once more, and leave it open.
        return [await self.block(call, LAST_CALL) for call in batch]

    async def reconnect(self) -> None:
        if self.fails_over:
            await self._client.connection_pool.disconnect(inuse_connections=False)
            await self._dialer.close_idle()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        this_task()
        late = f'no answer to a call that blocks for {timeout:g} s at most'
        (reply,) = await self._dialer.ask([self._command(call)], timeout + MARGIN, late)
        return reply

    async def execute_apart(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a connection that is not the pool's, as often as the client's retries say."""
        this_task()
        commands = [self._command(call) for call in batch]
        settings = self._client.connection_pool.connection_kwargs
        seconds = timeout + (settings.get('socket_timeout') or RESPONSE_TIMEOUT)
        retry = copy.deepcopy(settings.get('retry')) or Retry(NoBackoff(), 0)
        replies: list[Reply] = await retry.call_with_retry(
            lambda: self._dialer.ask(commands, seconds, f'no answer within {seconds:g} s'), do_nothing
        )
        return replies

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        this_task()
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[base.Listener]:
        connection = await self._dialer.open()
        try:
            yield RedisPyListener(connection)
        finally:
            await self._dialer.close(connection)

    async def aclose(self) -> None:
        this_task()
        await self._dialer.aclose()

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``redis.asyncio.Redis``, which is a transaction unless it is told not to be.

        Raises TorrelqueTypeError for anything else, and TorrelqueUsageError
        where the pipeline would run it at once: between its ``watch()`` and its
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

    async def _send_one(self, words: Sequence[Any]) -> Reply:
        try:
            return await self._client.execute_command(*words, NEVER_DECODE=True)  # type: ignore[no-untyped-call]
        except exceptions.ResponseError as error:
            return error

    async def _send_many(self, commands: Sequence[Sequence[Any]]) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words, NEVER_DECODE=True)
        return await pipeline.execute(raise_on_error=False)

    def _command(self, call: Call[Any]) -> list[Any]:
        name, *rest = call.words()
        # Under its name as text redis-py would find a callback that remakes the reply.
        first = str(name).encode() if name in self._client.response_callbacks else str(name)
        return [first, *encoded(rest)]
