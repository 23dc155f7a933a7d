"""What the engine needs of a connection to a server. To add a client, subclass :class:`Transport`."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import anyio

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueUsageError

if TYPE_CHECKING:  # coredis is optional
    import coredis
    import redis.asyncio

__all__ = ('Client', 'Listener', 'Message', 'Rest', 'Then', 'Transport')

Rest: TypeAlias = Callable[[], Awaitable[Sequence[Reply]]]
"""Goes on with a batch that was begun: gives its replies, or raises, as `Transport.execute` does."""

Then: TypeAlias = Callable[[Sequence[Reply] | Rest], None]
"""Takes the replies to a batch, or, if they take more than waiting, what gives them."""


class Message(NamedTuple):
    """Something that arrived on a subscribed channel.

    ``data`` is None for the server's confirmation that the subscription to
    ``channel`` stands: what is published from then on arrives.
    """

    channel: bytes
    data: bytes | None


class Listener(ABC):
    """One connection that receives what is published. One task receives; any task may (un)subscribe."""

    @abstractmethod
    async def subscribe(self, channel: bytes) -> None:
        """Ask for a channel. A :class:`Message` without data confirms the subscription.

        Raises TorrelqueConnectionError if the connection is gone, and
        TorrelqueReplyError (here or from :meth:`receive`) if the user may not.
        """

    @abstractmethod
    async def unsubscribe(self, channel: bytes) -> None:
        """Stop receiving from a channel; unknown ones are ignored."""

    @abstractmethod
    async def receive(self) -> Message:
        """The next message. Raises TorrelqueConnectionError when the connection is gone for good.

        A listener never reconnects: messages would be missed in
        silence. Cancelling ends the listener's usefulness; close it.
        """


class Transport(ABC):
    """Runs the core's calls on a server.

    All methods may be called by many tasks at once. Server errors are values in
    the replies (:class:`~torrelque.errors.TorrelqueReplyError`); a call whose
    outcome cannot be known raises TorrelqueConnectionError. The core's calls are
    safe to repeat, so a transport may send a batch again after it reconnected.
    Strings in replies are ``bytes``, whatever the client is set to decode.
    """

    block_limit: float = 8.0
    """The longest time, in seconds, that one :meth:`block` may ask the server to wait."""

    on_cluster: bool = False
    """Whether keys lie on the servers of a cluster by their hash slot.

    A batch's calls are of one slot then, that of their keys or of the key that
    they are to be run ``near``.
    """

    fails_over: bool = False
    """Whether the client finds another server when the one in use fails, as with Sentinel."""

    in_order: bool = False
    """Whether batches arrive at the server, and are answered, in the order in which :meth:`execute` was called.

    So it is where all of them share a connection. Otherwise only one claim is
    under way at a time for the consumers that wait: of two the later one could
    bring the tasks that are first in the queue.
    """

    queues_behind: bool = False
    """Whether :meth:`block_then` sends a call behind one that blocks. If not, a separate claim follows each wait."""

    def __init_subclass__(cls) -> None:
        """Let no inherited `start` go past a class's own `execute`, and no `block_then` past its `block`."""
        super().__init_subclass__()
        if 'block' in vars(cls) and 'block_then' not in vars(cls):
            cls.queues_behind = False
        if 'execute' in vars(cls) and 'start' not in vars(cls):
            cls.start = Transport.start  # type: ignore[method-assign]  # what is inherited from here

    def start(self, _batch: Batch, _then: Then) -> Callable[[], None] | None:
        """Do what `execute` does without a task that waits. Optional; what is inherited leaves it to `execute`.

        Args:
            _batch: At least one call.
            _then: Is called once, in the event loop and after this has returned, and does not raise.

        Returns:
            A function to call when nobody waits any more: ``then`` is not called after that. It may be called
            again, and afterwards. None if nothing was sent because it takes a task to do so.
        """
        return None

    @abstractmethod
    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls in order on one connection and return a reply for each.

        When cancelled, no connection may be left out of step.
        """

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        """Like :meth:`execute`, without repeats: the caller's time for those is over.

        It settles calls whose outcome is unknown. What is inherited repeats like :meth:`execute`.
        """
        return await self.execute(batch)

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        """Like :meth:`execute`, for the last calls as the event loop ends, when the client may be closed already."""
        return await self.execute(batch)

    async def nodes(self) -> Sequence[Arg | None]:
        """A key (there need be none of that name) for each server that holds keys, for calls to run ``near``."""
        return (None,)

    def node_of(self, _key: bytes) -> Hashable:
        """Which server has a key, as far as is known now, by something that is the same for all keys of that server."""
        return None

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Like :meth:`execute`, on a connection that nobody else uses meanwhile.

        The server may take ``timeout`` seconds longer over the last call, a WAIT
        or WAITAOF, than over any other. When cancelled, the connection is closed.
        What is inherited calls :meth:`execute`: right where that takes a connection
        for each batch and waits long enough, otherwise it holds up the others.
        """
        return await self.execute(batch)

    @abstractmethod
    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        """Run a call that the server answers after at most ``timeout`` seconds, on a connection of its own.

        It is not repeated by the transport, and does not hold up :meth:`execute`.
        An error reply is returned as a value; a broken connection raises
        TorrelqueConnectionError. When cancelled, its connection is closed.
        """

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        """Like :meth:`block`, with another call behind it in the same write: the server runs it when the block ends.

        Optional, see :attr:`queues_behind`. KeyDB does not run the second call before more bytes arrive: if the first
        reply comes alone, send a PING.

        Args:
            call: The call that blocks.
            then: The call behind it. It is safe to repeat: after an error, or without a reply, the core sends it again.
            timeout: After how many seconds, at most, the server answers the first call.

        Returns:
            Both replies; the second may be None, for a call that was not sent.

        Raises:
            TorrelqueConnectionError: If the connection broke before both had arrived.
        """
        raise NotImplementedError

    @abstractmethod
    def listen(self) -> AbstractAsyncContextManager[Listener]:
        """Open a connection for subscriptions; closed when the context is left."""

    async def reconnect(self) -> None:
        """A server answered that it is not to be written to: let further calls go over new connections."""

    async def aclose(self) -> None:
        """Close what the transport itself opened, not a client that it was given. May be repeated."""

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call, without loading scripts, on a pipeline of the client that the user holds."""
        raise TorrelqueUsageError(
            f'{type(self).__name__} has no pipelines: pipeline={pipeline!r} works with a client of redis-py or coredis'
        )

    def now(self) -> float:
        """Seconds on the clock that the engine's timers count on; it never goes back."""
        try:
            return asyncio.get_running_loop().time()  # in a callback of asyncio, anyio does not know where it is
        except RuntimeError:
            return anyio.current_time()

    async def pause(self, event: anyio.Event, until: float) -> None:
        """Return when ``event`` is set or :meth:`now` has reached ``until`` (maybe infinite)."""
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
