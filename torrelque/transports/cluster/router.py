"""What the adapters of clients of a cluster share: to follow redirections, and to listen where a channel belongs."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar

import anyio

from torrelque.core.backoff import Backoff
from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError
from torrelque.transports import base
from torrelque.transports.cluster.slots import SLOTS, slot_of

__all__ = ('UNKNOWN', 'ClusterListener', 'Redirection', 'Router', 'Subscriber', 'redirected')

N = TypeVar('N')

BACKOFF = Backoff(0.04, 0.5)
"""Pauses between attempts."""

MOST_AT_ONCE = 3
"""So many redirections in a row are followed without a pause."""

PATIENCE = 10.0
"""Seconds that a call is tried again for while the cluster cannot serve it. What was redirected was not done."""

ASKING: Call[Reply] = Call('ASKING')
"""Says that the next call may be for a slot that is only just arriving."""

UNKNOWN = 'unknown command'
LOAD = 'SCRIPT LOAD'


class Redirection(NamedTuple):
    """``code`` is MOVED, ASK, TRYAGAIN or CLUSTERDOWN; the first two name the node to go to."""

    code: str
    host: str = ''
    port: int = 0


def redirected(reply: Reply) -> Redirection | None:
    """How a reply sends a call elsewhere, or to later; None if it is an answer."""
    if not isinstance(reply, TorrelqueReplyError):
        return None
    if reply.code in ('MOVED', 'ASK'):
        # Clients take the first word off the message, or do not.
        host, _, port = str(reply).split()[-1].rpartition(':')
        return Redirection(reply.code, host, int(port))
    return Redirection(reply.code) if reply.code in ('TRYAGAIN', 'CLUSTERDOWN') else None


class Router(ABC, Generic[N]):
    """Sends calls to the primary that they belong to. ``N`` is what a client knows a node by."""

    def __init__(self) -> None:
        self._stale = False
        self._turn = self.make_lock()
        self.failed: set[N] = set()
        """Nodes that a call has failed at since what they serve was read: to be asked last."""

    @staticmethod
    def make_lock() -> AbstractAsyncContextManager[None, bool | None]:
        """A lock for those who read anew which node serves what."""
        return anyio.Lock()

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await anyio.sleep(seconds)

    @abstractmethod
    async def begin(self) -> None:
        """See to it that the nodes are known, from now on. Raises TorrelqueConnectionError."""

    @abstractmethod
    async def read(self) -> None:
        """Read anew which node serves what. Raises TorrelqueConnectionError."""

    @abstractmethod
    def owner_of(self, slot: int | None) -> N | None:
        """The primary that serves a slot, or any if that is None. None if nobody is known to."""

    @abstractmethod
    def node_at(self, host: str, port: int, asked: N) -> N:
        """The node that ``asked`` has named. Without a host it is at the same one."""

    @abstractmethod
    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        """What to raise where no node serves a slot."""

    def mark_stale(self, failed: N | None = None) -> None:
        """What is known of the nodes may be wrong, ``failed`` be gone: who wants to know next reads it anew."""
        self._stale = True
        if failed is not None:
            self.failed.add(failed)

    async def node_of(self, key: Arg | None) -> N:
        """The primary that serves a key; None: any. Raises TorrelqueConnectionError."""
        await self.begin()
        if self._stale:
            async with self._turn:
                if self._stale:  # otherwise somebody else has just done it
                    await self.read()
                    self._stale = False
                    self.failed.clear()
        slot = None if key is None else slot_of(key)
        node = self.owner_of(slot)
        if node is None:
            self.mark_stale()
            raise self.unowned(slot)
        return node

    async def nodes(self) -> list[Arg]:
        """The name of a key for each primary that serves slots."""
        await self.node_of(None)
        owners = {owner for owner in map(self.owner_of, range(SLOTS)) if owner is not None}
        names: dict[N, Arg] = {}
        for number in count():
            owner = self.owner_of(slot_of(number))
            if owner is not None:
                names.setdefault(owner, str(number))
            if len(names) == len(owners):
                break
        return list(names.values())

    async def route(
        self, batch: Batch, send: Callable[[N, Batch], Awaitable[Sequence[Reply]]], *, together: bool = False
    ) -> Sequence[Reply]:
        """The replies to calls of one slot; those that are redirected follow, and wait while the slot is on its way.

        If they belong ``together`` all are sent again where one is redirected. A
        redirection that leads nowhere in time is the reply.
        """
        key = _routing_key_of(batch)
        replies: list[Reply] = [None] * len(batch)
        ways: dict[int, _Way[N]] = dict.fromkeys(range(len(batch)), _Way())
        deadline = self.now() + PATIENCE
        for rounds in count(1):
            way = next(iter(ways.values()))
            chosen = _with_scripts(batch, [index for index in ways if ways[index] == way])
            node = await self.node_of(key) if way.node is None else way.node
            answers = await self._sent(node, [batch[index] for index in chosen], send, asking=way.asking)
            at_once = rounds <= MOST_AT_ONCE
            for index, answer in zip(chosen, answers, strict=True):
                ways.pop(index, None)
                replies[index] = answer
                redirection = redirected(answer)
                if redirection is not None:
                    ways[index] = self._way(redirection, node, together=together)
                    at_once = at_once and ways[index].node is not None
            if not ways:
                return replies
            if not at_once:
                delay = BACKOFF.pause(rounds, random.random)
                if self.now() + delay > deadline:
                    return replies
                await self.sleep(delay)
            if together:
                ways = dict.fromkeys(range(len(batch)), next(iter(ways.values())))
        raise AssertionError  # counting has no end

    async def block(self, call: Call[Reply], timeout: float, send: Callable[[N], Awaitable[Reply]]) -> Reply:
        """The reply to a call that waits. While its slot is on its way, the time passes as if nothing came."""
        deadline = self.now() + timeout
        for rounds in count(1):
            node = await self.node_of(call.routing_key)
            try:
                # The call says itself how long it may take: begun late, it is left to end late.
                reply = await send(node)
            except TorrelqueConnectionError:
                self.mark_stale(node)
                raise
            redirection = redirected(reply)
            if redirection is None:
                return reply
            self._way(redirection, node)
            delay = BACKOFF.pause(rounds, random.random)
            if self.now() + delay > deadline:
                return None
            await self.sleep(delay)
        raise AssertionError  # as above

    async def _sent(
        self, node: N, calls: Batch, send: Callable[[N, Batch], Awaitable[Sequence[Reply]]], *, asking: bool
    ) -> Sequence[Reply]:
        try:
            if not asking:
                return await send(node, calls)
            replies = await send(node, [each for call in calls for each in (ASKING, call)])
        except TorrelqueConnectionError:
            self.mark_stale(node)
            raise
        return replies[1::2]

    def _way(self, redirection: Redirection, asked: N, *, together: bool = False) -> _Way[N]:
        """Where a call goes that was redirected."""
        if redirection.code in ('MOVED', 'CLUSTERDOWN'):
            self.mark_stale()
        asking = redirection.code == 'ASK'
        if not redirection.port or (asking and together):  # asked for apart from the others, one would see half
            return _Way()
        return _Way(self.node_at(redirection.host, redirection.port, asked), asking)


@dataclass(frozen=True, slots=True)
class _Way(Generic[N]):
    """Where to send a call; without a node: to the owner of its slot."""

    node: N | None = None
    asking: bool = False


def _routing_key_of(batch: Batch) -> Arg | None:
    """A key of the slot that the batch's calls are of; None if they may go anywhere."""
    return next((call.routing_key for call in batch if call.routing_key is not None), None)


def _with_scripts(batch: Batch, chosen: list[int]) -> list[int]:
    """With the scripts that were loaded for the chosen calls, which have to be where these run."""
    return sorted({*chosen, *(index for index in range(max(chosen)) if batch[index].command == LOAD)})


class Subscriber(Protocol):
    """A connection to one node that receives what is published there."""

    async def ask(self, verb: str, channel: bytes, /) -> None: ...

    async def next(self) -> Reply: ...


class ClusterListener(base.Listener):
    """Connects at the first subscription, to the node of its channel; further ones must be of the same node.

    Subscribes with SSUBSCRIBE, or SUBSCRIBE where the server is too old to know
    it. ``connect`` opens a connection, ``mark_stale`` is called when it turns out to
    be of no use any more.
    """

    def __init__(self, connect: Callable[[bytes], Awaitable[Subscriber]], mark_stale: Callable[[], None]) -> None:
        self._connect = connect
        self._mark_stale = mark_stale
        self._inner: Subscriber | None = None
        self._connected = anyio.Event()
        self._turn = anyio.Lock()
        self._prefix = 'S'
        self._wanted: set[bytes] = set()
        self._leaving: Counter[bytes] = Counter()

    def subscribe_plainly(self) -> None:
        """The server knows no channels of shards."""
        self._prefix = ''
        self._leaving.clear()

    async def subscribe(self, channel: bytes) -> None:
        async with self._turn:
            if self._inner is None:
                self._inner = await self._connect(channel)
                self._connected.set()
        self._wanted.add(channel)
        await self._ask('SUBSCRIBE', channel)

    async def unsubscribe(self, channel: bytes) -> None:
        if channel in self._wanted:
            self._wanted.discard(channel)
            if self._prefix:
                self._leaving[channel] += 1
            await self._ask('UNSUBSCRIBE', channel)

    async def receive(self) -> base.Message:
        await self._connected.wait()
        assert self._inner is not None  # noqa: S101 - set before the event
        while True:
            try:
                reply = await self._inner.next()
            except TorrelqueConnectionError:
                self._mark_stale()
                raise
            except TorrelqueReplyError as error:
                await self._refused(error)
                continue
            message = self._understand(reply)
            if message is not None:
                return message

    def _understand(self, reply: Reply) -> base.Message | None:
        match reply:
            case [b'smessage' | b'message', bytes(channel), bytes(data)]:
                return base.Message(channel, data)
            case [b'ssubscribe' | b'subscribe', bytes(channel), _]:
                return base.Message(channel, None)
            case [b'sunsubscribe', bytes(channel), _]:
                if not self._leaving[channel]:
                    self._mark_stale()
                    raise TorrelqueConnectionError(f'the slot of channel {channel!r} has moved to another node')
                self._leaving -= Counter((channel,))  # which forgets those at 0
            case _:  # of UNSUBSCRIBE and PING
                pass
        return None

    async def _ask(self, verb: str, channel: bytes) -> None:
        assert self._inner is not None  # noqa: S101 - nobody is wanted before
        try:
            await self._inner.ask(self._prefix + verb, channel)
        except TorrelqueConnectionError:
            self._mark_stale()
            raise
        except TorrelqueReplyError as error:
            await self._refused(error)

    async def _refused(self, error: TorrelqueReplyError) -> None:
        """Do something about an error that a subscription was answered with, or raise it."""
        if redirected(error) is not None:
            self._mark_stale()
            raise TorrelqueConnectionError(f'the channel is not to be had at this node: {error}') from error
        if UNKNOWN not in str(error):
            raise error
        if self._prefix:
            self.subscribe_plainly()
            for channel in tuple(self._wanted):
                await self._ask('SUBSCRIBE', channel)
        # otherwise the same, of the other channels
