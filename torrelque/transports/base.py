"""The interface between the engine and a server. To support another client, subclass :class:`Transport`."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import anyio

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueUsageError

if TYPE_CHECKING:  # coredis is optional
    import coredis
    import redis.asyncio

__all__ = ('Client', 'Listener', 'Message', 'Rest', 'Then', 'Transport', 'after')

Rest: TypeAlias = Callable[[], Awaitable[Sequence[Reply]]]
"""Finishes a batch that was started. Returns or raises as `Transport.execute` does."""

Then: TypeAlias = Callable[[Sequence[Reply] | Rest], None]
"""Called with the replies to a batch, or with a function that gets them if that takes a task."""


def after(finish: Callable[[Rest], Awaitable[Sequence[Reply]]], then: Then) -> Then:
    """Return a function that passes on an outcome. If a task has to get the replies, it does so with ``finish``."""
    return lambda outcome: then(partial(finish, outcome) if callable(outcome) else outcome)


class Message(NamedTuple):
    """A message from a subscribed channel.

    Attributes:
        channel: The channel.
        data: What was published; None if the server confirms the subscription. Messages that are published after
            the confirmation arrive.
    """

    channel: bytes
    data: bytes | None


class Listener(ABC):
    """One connection that receives published messages. One task receives; any task may subscribe and unsubscribe."""

    @abstractmethod
    async def subscribe(self, channel: bytes) -> None:
        """Subscribe to a channel. A :class:`Message` without data confirms the subscription. Safe to repeat.

        Args:
            channel: The channel.

        Raises:
            TorrelqueConnectionError: The connection was lost.
            TorrelqueReplyError: The user has no permission. :meth:`receive` may raise this instead.
        """

    @abstractmethod
    async def unsubscribe(self, channel: bytes) -> None:
        """Unsubscribe from a channel. Unknown channels are ignored. Safe to repeat.

        Args:
            channel: The channel.

        Raises:
            TorrelqueConnectionError: The connection was lost.
        """

    @abstractmethod
    async def receive(self) -> Message:
        """Wait for the next message. After a cancellation the listener may be unusable; close it.

        A listener never reconnects, because messages would be lost silently.

        Returns:
            The message.

        Raises:
            TorrelqueConnectionError: The connection was lost.
        """


class Transport(ABC):
    """Runs the core's calls on a server.

    Many tasks may call all methods at the same time. Errors of the server are values in
    the replies (:class:`~torrelque.errors.TorrelqueReplyError`). If the outcome of a call
    is unknown, the method raises TorrelqueConnectionError. The core's calls are safe to
    repeat, so a transport may send a batch again after it has reconnected. Strings in
    replies are ``bytes``, whether or not the client decodes.
    """

    block_limit: float = 8.0
    """The longest time that one :meth:`block` may ask the server to wait, in seconds."""

    on_cluster: bool = False
    """Whether keys are spread over the nodes of a cluster by hash slot.

    All calls of a batch then belong to one slot: that of their keys, or of the key that
    they are ``near``.
    """

    database: int = 0
    """The number of the database that the client uses: the server's own events about keys name it."""

    fails_over: bool = False
    """Whether the client finds another server when the one in use fails, as with Sentinel."""

    in_order: bool = False
    """Whether batches arrive at the server, and are answered, in the order of the calls of :meth:`execute`.

    This is so if they all share a connection. If it is not, only one claim is in flight
    at a time for waiting consumers, because the later of two claims could get the tasks
    at the front of the queue.
    """

    queues_behind: bool = False
    """Whether :meth:`block_then` sends a call behind one that blocks. If not, a separate claim follows each wait."""

    gathering: float = 0.005
    """How long a wait for several queues is put off for queues that are about to wait as well, in seconds.

    It should be a few times as long as a call takes.
    """

    def __init_subclass__(cls) -> None:
        """Ignore an inherited `start` if the class overrides `execute`, and `block_then` if it overrides `block`."""
        super().__init_subclass__()
        if 'block' in vars(cls) and 'block_then' not in vars(cls):
            cls.queues_behind = False
        if 'block_then' in vars(cls) and 'start_block' not in vars(cls):
            cls.start_block = Transport.start_block  # type: ignore[method-assign]  # the default, which needs a task
        if 'execute' in vars(cls) and 'start' not in vars(cls):
            cls.start = Transport.start  # type: ignore[method-assign]  # the default, which uses `execute`

    def start(self, _batch: Batch, _then: Then) -> Callable[[], None] | None:
        """Send a batch as `execute` does, without a waiting task. Optional; the default uses `execute`.

        Args:
            _batch: At least one call.
            _then: Called once with the outcome, on the event loop, after this method has returned. It does not raise.

        Returns:
            A function that abandons the batch, so that ``_then`` is not called any more. Safe to repeat, and to call
            after ``_then`` was called. None if nothing was sent because that needs a task.
        """
        return None

    @abstractmethod
    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send calls in order on one connection. A cancellation must not leave a connection out of step.

        Args:
            batch: The calls.

        Returns:
            A reply for each call.

        Raises:
            TorrelqueConnectionError: The outcome of the calls is unknown.
        """

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        """Like :meth:`execute`, without repeats, because the caller has no time left for them.

        It settles calls whose outcome is unknown. The default uses :meth:`execute`.

        Args:
            batch: The calls.

        Returns:
            A reply for each call.

        Raises:
            TorrelqueConnectionError: The outcome of the calls is unknown.
        """
        return await self.execute(batch)

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        """Like :meth:`execute`, for the last calls before the event loop ends. The client may already be closed.

        Args:
            batch: The calls.

        Returns:
            A reply for each call.

        Raises:
            TorrelqueConnectionError: The outcome of the calls is unknown.
        """
        return await self.execute(batch)

    async def nodes(self) -> Sequence[Arg | None]:
        """Return a key for each server that holds keys, for calls to run ``near``. The keys need not exist.

        Raises:
            TorrelqueConnectionError: The servers cannot be read.
        """
        return (None,)

    def node_of(self, _key: bytes) -> Hashable:
        """Return what identifies the server that has a key, as far as is known now."""
        return None

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Like :meth:`execute`, on a connection without other calls. A cancellation closes the connection.

        The default uses :meth:`execute`. That is right if it uses a connection for each batch and waits long
        enough; otherwise it delays other calls.

        Args:
            batch: The calls.
            timeout: How much longer the server may take to answer the last call, a WAIT or WAITAOF, in seconds.

        Returns:
            A reply for each call.

        Raises:
            TorrelqueConnectionError: The outcome of the calls is unknown.
        """
        return await self.execute(batch)

    @abstractmethod
    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        """Run a call that the server answers late, on a separate connection. A cancellation closes the connection.

        The transport does not repeat the call, and :meth:`execute` does not wait for it.

        Args:
            call: The call.
            timeout: How long the server may take to answer, in seconds.

        Returns:
            The reply, which may be an error.

        Raises:
            TorrelqueConnectionError: The connection broke.
        """

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        """Like :meth:`block`, with another call behind it in the same write. The server runs it when the block ends.

        Optional, see :attr:`queues_behind`. KeyDB does not run the second call before more bytes arrive: if the first
        reply comes alone, send a PING.

        Args:
            call: The call that blocks.
            then: The call behind it. It is safe to repeat: after an error, or without a reply, the core sends it again.
            timeout: How long the server may take to answer the first call, in seconds.

        Returns:
            Both replies. The second may be None if the call was not sent.

        Raises:
            TorrelqueConnectionError: The connection broke before both had arrived.
        """
        raise NotImplementedError

    def start_block(self, _batch: Batch, _timeout: float, _then: Then) -> Callable[[], Awaitable[object]] | None:
        """Send calls as `block_then` does, without a waiting task. Optional; the default uses `block_then`.

        Args:
            _batch: The call that blocks, and the one behind it.
            _timeout: How long the server may take to answer the first call, in seconds.
            _then: Called once, on the event loop, after this method has returned: with both replies, neither of them
                an error, or with a function that a task calls to go on. It does not raise.

        Returns:
            A function that closes the connection, so that ``_then`` is not called any more. None if nothing was sent
            because that needs a task.
        """
        return None

    @abstractmethod
    def listen(self) -> AbstractAsyncContextManager[Listener]:
        """Open a connection for subscriptions. It is closed when the context is left.

        Returns:
            A context manager whose value is the listener.

        Raises:
            TorrelqueConnectionError: On entering: the server cannot be reached.
        """

    async def reconnect(self) -> None:
        """Use new connections for further calls. Called after a server answered that it does not accept writes."""

    async def aclose(self) -> None:
        """Close what the transport itself has opened, but not a client that was passed to it. Safe to repeat."""

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of the user's client, without loading scripts.

        Args:
            pipeline: The pipeline.
            call: The call.

        Raises:
            TorrelqueUsageError: The transport has no pipelines, or this one cannot be used.
            TorrelqueTypeError: It is not a pipeline of this client.
        """
        raise TorrelqueUsageError(
            f'{type(self).__name__} has no pipelines: pipeline={pipeline!r} works with a client of redis-py or coredis'
        )

    def now(self) -> float:
        """Return the time on the clock of the engine's timers, in seconds. It never goes back."""
        try:
            return asyncio.get_running_loop().time()  # anyio's function does not work in asyncio's callbacks
        except RuntimeError:
            return anyio.current_time()

    async def pause(self, event: anyio.Event, until: float) -> None:
        """Wait for an event until a time. Safe to cancel.

        Args:
            event: Ends the pause when it is set.
            until: The time on the clock of :meth:`now`, in seconds. It may be infinite.
        """
        if until == math.inf:
            await event.wait()
            return
        with anyio.move_on_after(until - self.now()):
            await event.wait()


if TYPE_CHECKING:
    Client: TypeAlias = (
        redis.asyncio.Redis
        | redis.asyncio.RedisCluster
        | coredis.Redis[str]
        | coredis.Redis[bytes]
        | coredis.RedisCluster[str]
        | coredis.RedisCluster[bytes]
        | Transport
    )
    """The clients that a queue accepts."""
else:
    Client = Any
