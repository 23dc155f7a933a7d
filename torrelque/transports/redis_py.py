"""Over a ``redis.asyncio.Redis`` that the user holds.

Calls go through the user's client, its pool and its retries. What waits long,
blocking calls and subscriptions, goes over connections of its own, made from
the pool's settings: it would use the pool up, and must not be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.sentinel import SentinelConnectionPool

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueTypeError, TorrelqueUsageError
from torrelque.transports import base
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error
from torrelque.transports.naming import class_name, named
from torrelque.transports.redis_py_connections import (
    RESPONSE_TIMEOUT,
    Dialer,
    Pool,
    as_failure,
    as_reply_error,
    cancel_again,
    late_answer,
    policy_of,
    this_task,
)
from torrelque.transports.repeating import Policy, demoted, repeat
from torrelque.transports.resp import encoded

__all__ = ('RedisPyListener', 'RedisPyTransport')

MARGIN = 1.5
"""How much later than asked a blocking call may be answered, in seconds: idle servers notice up to 0.1 s late."""

QUIET = 4.0
"""After so many silent seconds a listener asks the server whether it is there, which has as long to answer."""

SEND_TIMEOUT = 4.0

LAST_CALL = 1.0
"""Seconds that a call may take as the event loop ends."""


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
            raise late_answer('the server is silent to a listener, also when asked')
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
            raise late_answer('the server does not read what is sent to it')

    def _check_connected(self) -> None:
        # Otherwise redis-py would connect anew, and what was published meanwhile would be missed in silence.
        if not self._connection.is_connected:
            raise dual_error(
                TorrelqueConnectionError, exceptions.ConnectionError('the connection of the listener was closed')
            )


# The transport --------------------------------------------------------------------------------------------------------


class RedisPyTransport(base.Transport):
    """See :class:`torrelque.transports.base.Transport`. Needs asyncio."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._dialer = Dialer(client.connection_pool)
        self._pool = Pool(client.connection_pool, self._dialer)
        self.fails_over: bool = isinstance(client.connection_pool, SentinelConnectionPool)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls on a connection of the pool, and return their replies.

        When the connection breaks they are sent again, once and then as often
        as the client's retries say. While all of the pool's connections are in
        use it waits for one. When cancelled, the connection that was in use is
        closed.
        """
        task = this_task()
        cancellations = task.cancelling()
        if not batch:
            await checkpoint()
            return []
        replies = await repeat(batch, self._attempt, self._policy())
        if task.cancelling() > cancellations:
            await cancel_again(task)
        return replies

    async def _attempt(self, batch: Batch) -> Sequence[Reply]:
        return await self._pool.ask([_words(call) for call in batch])

    def _policy(self) -> Policy:
        return policy_of(self._client.connection_pool.connection_kwargs.get('retry'))

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        # A client that is closed would open a connection once more, and leave it open.
        return [await self.block(call, LAST_CALL) for call in batch]

    async def reconnect(self) -> None:
        await self._pool.drop()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        this_task()
        late = f'no answer to a call that blocks for {timeout:g} s at most'
        try:
            (reply,) = await self._dialer.ask([_words(call)], timeout + MARGIN, late)
        except TorrelqueConnectionError:
            await self._pool.drop()  # the claim that follows would have to find out as well
            raise
        if demoted([reply]):
            await self._pool.drop()
            raise dual_error(TorrelqueAnsweredConnectionError, reply)
        return reply

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """The same on a connection that is not the pool's, and has ``timeout`` seconds longer to answer."""
        this_task()
        settings = self._client.connection_pool.connection_kwargs
        seconds = timeout + (settings.get('socket_timeout') or RESPONSE_TIMEOUT)

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await self._dialer.ask([_words(call) for call in calls], seconds, f'no answer within {seconds:g} s')

        return await repeat(batch, attempt, self._policy(), together=True)

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


def _words(call: Call[Any]) -> list[Any]:
    name, *rest = call.words()
    return [str(name), *encoded(rest)]
