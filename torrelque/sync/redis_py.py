"""The blocking transport over the user's ``redis.Redis``, also one of a Sentinel.

It opens separate connections with the settings of the client's pool. Each call uses a connection alone, so any number
of threads may call at the same time.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, Protocol

import anyio
from redis import Redis, exceptions
from redis.backoff import AbstractBackoff, NoBackoff
from redis.client import Pipeline
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueTypeError, TorrelqueUsageError
from torrelque.sync.suspending import OutOfTime, Pause, abandoned_late, perform, seconds_left, suspend, wait_for
from torrelque.transports import base
from torrelque.transports.connections import CONNECT_TIMEOUT, MARGIN, RESPONSE_TIMEOUT, SLOWEST
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error
from torrelque.transports.naming import class_name, named
from torrelque.transports.redis_py_connections import address_of, made, own_settings
from torrelque.transports.redis_py_errors import as_failure, as_reply_error, handshake_failure, late_answer
from torrelque.transports.repeating import Policy, demoted, mark_cut, refused_as_too_large, repeat
from torrelque.transports.resp import encoded, plain
from torrelque.transports.spares import Spares
from torrelque.transports.tls import EXPECTED, failed_handshake

__all__ = ('BlockingTransport', 'Dialer', 'Listener', 'RedisPyBlockingTransport', 'policy_of', 'rest', 'words_of')

ONCE = 1.0
"""Maximum time that the server may take to answer a call that is not repeated, in seconds."""


class Source(Protocol):
    """Knows how to create connections: a pool, or a node of a cluster."""

    connection_class: Any
    connection_kwargs: Any


class Dialer:
    """Opens connections with the settings of a pool, but outside it. One thread at a time uses each connection."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._spares: Spares[Any] = Spares()

    def open(self) -> Any:  # noqa: ANN401 - connections have no common public type
        """Connect, without retries. Raises TorrelqueConnectionError."""
        settings = own_settings(self._source.connection_kwargs, retry=Retry(NoBackoff(), 0))
        seconds = seconds_left(settings['socket_connect_timeout'])
        settings['socket_timeout'] = settings['socket_connect_timeout'] = seconds  # each call has its own afterwards
        connection = made(partial(self._source.connection_class, **settings))
        try:
            if isinstance(self._source, SentinelConnectionPool):  # it asks the sentinels, with their own time-outs
                abandoned_late(connection.connect)
            else:
                connection.connect()
        except BaseException as error:
            self.close(connection)
            if isinstance(error, exceptions.RedisError):
                seconds_left(0.0)
                raise _explained(error, connection) from error
            raise
        return connection

    def take(self) -> Any:  # noqa: ANN401 - connections have no common public type
        """Return an idle connection, or a new one. Raises TorrelqueConnectionError."""
        while (connection := self._take_spare()) is not None:
            if _is_fresh(connection):
                return connection
            self.close(connection)
        return self.open()

    def _take_spare(self) -> Any:  # noqa: ANN401 - connections have no common public type
        try:
            return self._spares.take()
        except IndexError:  # another thread was faster
            return None

    def keep(self, connection: Any) -> None:  # noqa: ANN401 - connections have no common public type
        """Take back a connection that is in step."""
        self._spares.put(connection)
        with suppress(IndexError):  # another thread was faster
            for unused in self._spares.take_unused():
                self.close(unused)

    def ask(self, commands: Sequence[Sequence[Any]], seconds: float | None, late: str = '') -> list[Reply]:
        """Send commands once, on a dedicated connection, and return their replies.

        Args:
            commands: The words of each command.
            seconds: How long the server may take to answer; None for the client's time-out.
            late: The error message if it takes longer; empty for a default.

        Raises:
            TorrelqueConnectionError: The connection failed.
        """
        connection = self.take()
        try:
            limit = _limit_of(commands, self._source.connection_kwargs) if seconds is None else seconds
            replies = converse(connection, commands, seconds_left(limit))
        except BaseException as error:
            self.close(connection)
            if isinstance(error, exceptions.TimeoutError):
                seconds_left(0.0)
                raise late_answer(late or f'no answer from {address_of(connection)} in time') from error
            if isinstance(error, exceptions.RedisError):
                self.close_idle()  # they are probably broken as well
                failure = as_failure(error, address_of(connection))
                mark_cut(failure)
                raise failure from error
            raise
        self.put_back(connection, replies)
        return replies

    def put_back(self, connection: Any, replies: Sequence[Reply]) -> None:  # noqa: ANN401 - connections have no common public type
        """Keep a connection, unless the server answered that it is a replica or that a call is too large."""
        if demoted(replies):
            self.close(connection)
            self.close_idle()
        elif refused_as_too_large(replies):
            self.close(connection)
        else:
            self.keep(connection)

    def close(self, connection: Any) -> None:  # noqa: ANN401 - connections have no common public type
        with suppress(exceptions.RedisError, OSError):
            connection.disconnect()

    def close_idle(self) -> None:
        while (connection := self._take_spare()) is not None:
            self.close(connection)


def _is_fresh(connection: Any) -> bool:  # noqa: ANN401 - connections have no common public type
    """Return whether a connection is open, belongs to this process, and has received nothing."""
    try:
        return bool(
            connection.pid == os.getpid() and socket_of(connection) is not None and not connection.can_read(timeout=0)
        )
    except (exceptions.RedisError, OSError):
        return False


def socket_of(connection: Any) -> Any:  # noqa: ANN401 - connections have no common public type
    return connection._sock  # noqa: SLF001 - no public way


def _explained(error: exceptions.RedisError, connection: Any) -> Exception:  # noqa: ANN401 - connections have no common public type
    """Return why connecting failed. If the server closed the connection or was silent, it may expect TLS."""
    address = address_of(connection)
    failure = as_failure(error, address, connected=False)
    if 'Connection reset' in str(error) and not hasattr(connection, 'ssl_context'):
        return handshake_failure(failed_handshake(address, EXPECTED))
    return failure


def _limit_of(commands: Sequence[Sequence[Any]], settings: Any) -> float:  # noqa: ANN401 - as in redis-py
    """Return how long an answer may take, in seconds: the client's time-out, or a default that grows with the size."""
    given = settings.get('socket_timeout')
    if given:
        return float(given)
    return RESPONSE_TIMEOUT + sum([len(word) for words in commands for word in words if type(word) is bytes]) / SLOWEST


def send(connection: Any, commands: Sequence[Sequence[Any]], seconds: float) -> None:  # noqa: ANN401 - connections have no common public type
    socket_of(connection).settimeout(seconds)
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)


def receive(connection: Any, count: int) -> list[Reply]:  # noqa: ANN401 - connections have no common public type
    """Read replies. Error replies are values."""
    replies: list[Any] = []
    while len(replies) < count:
        try:
            replies.append(connection.read_response(disable_decoding=True))
        except exceptions.ResponseError as error:
            replies.append(error)
    return [plain(reply, as_reply_error) for reply in replies]


def converse(connection: Any, commands: Sequence[Sequence[Any]], seconds: float) -> list[Reply]:  # noqa: ANN401 - connections have no common public type
    """Send commands and read their replies. Raises redis-py's errors."""
    send(connection, commands, seconds)
    return receive(connection, len(commands))


def words_of(call: Call[Any]) -> list[Any]:
    name, *rest = call.words()
    return [str(name), *encoded(rest)]


def policy_of(retry: Any) -> Policy:  # noqa: ANN401 - of redis-py
    """Return a policy that follows a client's ``retry``; without one, it calls a function once."""

    async def policy(function: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - what the function returns
        if retry is None:
            return await function()
        own = copy.deepcopy(retry)
        own._backoff = _BackoffWithinTime(own._backoff)  # noqa: SLF001 - no public way
        return own.call_with_retry(
            lambda: perform(function(), wait_for),  # type: ignore[arg-type]  # it is a coroutine
            _do_nothing,
        )

    return policy


class _BackoffWithinTime(AbstractBackoff):
    """Ends the time limit of the running call during a pause, rather than after it."""

    def __init__(self, backoff: AbstractBackoff) -> None:
        self._backoff = backoff

    def reset(self) -> None:
        self._backoff.reset()  # type: ignore[no-untyped-call]  # redis-py's

    def compute(self, failures: int) -> float:
        pause = self._backoff.compute(failures)
        seconds = seconds_left(pause)
        if seconds < pause:
            time.sleep(seconds)
            raise OutOfTime
        return pause


async def rest(seconds: float) -> None:
    """Sleep for some seconds."""
    await suspend(Pause(time.monotonic() + seconds))


def _do_nothing(_: Exception) -> None:
    """Called before another attempt."""


class Listener:
    """A connection that receives the messages of one channel."""

    def __init__(self, dialer: Dialer, channel: bytes, command: str = 'SUBSCRIBE') -> None:
        self._dialer = dialer
        self._connection = dialer.open()
        try:
            send(self._connection, [[command, channel]], CONNECT_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def next(self, until: float) -> base.Message | None:
        """Return the next message, or the confirmation of the subscription; None if nothing arrives in time.

        Raises redis-py's errors and TorrelqueConnectionError.
        """
        while self._connection.can_read(timeout=max(0.0, until - time.monotonic())):
            match self._connection.read_response(disable_decoding=True):
                case [b'message' | b'smessage', bytes(channel), bytes(data)]:
                    return base.Message(channel, data)
                case [b'subscribe' | b'ssubscribe', bytes(channel), _]:
                    return base.Message(channel, None)
                case [b'sunsubscribe', *_]:
                    raise TorrelqueConnectionError('the slot of the channel has moved to another node')
        return None

    def close(self) -> None:
        """Stop listening. Safe to repeat."""
        self._dialer.close(self._connection)


class BlockingTransport(base.Transport):
    """The common part of the transports over blocking clients. Its methods suspend only for a `Pause`."""

    def listener(self, channel: bytes) -> Listener:
        """Subscribe to a channel. Raises redis-py's errors and TorrelqueConnectionError."""
        raise NotImplementedError

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        raise NotImplementedError  # each channel has its own listener instead

    async def block_on(self, dialer: Dialer, call: Call[Reply], timeout: float) -> Reply:
        """Run a call that blocks, on a dedicated connection. Closing the coroutine closes the connection."""
        connection = dialer.take()
        try:
            send(connection, [words_of(call)], timeout + MARGIN)
            if not await suspend(Pause(self.now() + timeout + MARGIN, connection)):
                raise late_answer(f'no answer to a call that blocks for {timeout:g} s at most')  # noqa: TRY301 - handled below
            (reply,) = receive(connection, 1)
        except BaseException as error:
            dialer.close(connection)
            if isinstance(error, exceptions.RedisError):
                dialer.close_idle()  # so that the claim that follows does not use a broken one
                raise as_failure(error, address_of(connection)) from error
            raise
        dialer.put_back(connection, [reply])
        return reply

    def now(self) -> float:
        return time.monotonic()

    async def pause(self, event: anyio.Event, until: float) -> None:
        await suspend(Pause(until, receive=getattr(event, 'receive', None)))


class RedisPyBlockingTransport(BlockingTransport):
    """See :class:`torrelque.transports.base.Transport`."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._dialer = Dialer(client.connection_pool)
        self.fails_over: bool = isinstance(client.connection_pool, SentinelConnectionPool)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls. If the connection breaks, repeat them once, then as often as the client's retries allow."""
        return await repeat(batch, self._attempt, self._policy(), pause=rest) if batch else []

    async def _attempt(self, batch: Batch) -> Sequence[Reply]:
        return self._dialer.ask([words_of(call) for call in batch], None)

    def _policy(self) -> Policy:
        return policy_of(self._client.connection_pool.connection_kwargs.get('retry'))

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        return self._dialer.ask([words_of(call) for call in batch], ONCE)

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        settings = self._client.connection_pool.connection_kwargs
        seconds = timeout + (settings.get('socket_timeout') or RESPONSE_TIMEOUT)

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return self._dialer.ask([words_of(call) for call in calls], seconds)

        return await repeat(batch, attempt, self._policy(), together=True, pause=rest)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        reply = await self.block_on(self._dialer, call, timeout)
        if demoted([reply]):
            raise dual_error(TorrelqueAnsweredConnectionError, reply)
        return reply

    def listener(self, channel: bytes) -> Listener:
        return Listener(self._dialer, channel)

    async def reconnect(self) -> None:
        self._dialer.close_idle()

    async def aclose(self) -> None:
        self._dialer.close_idle()

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``redis.Redis``.

        Raises TorrelqueTypeError for anything else, and TorrelqueUsageError
        if the pipeline would run the call at once.
        """
        if not isinstance(pipeline, Pipeline):
            raise TorrelqueTypeError(f'pipeline: expected a pipeline of a redis.Redis, not {named(pipeline)}')
        if pipeline.watching and not pipeline.explicit_transaction:
            raise TorrelqueUsageError(
                'pipeline: it watches keys and would run the call at once: call its multi() first'
            )
        name, *rest = call.words_with_source()
        pipeline.execute_command(name, *encoded(rest))  # type: ignore[no-untyped-call]  # redis-py's
