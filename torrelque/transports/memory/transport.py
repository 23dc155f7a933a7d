"""The transport over a server in memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import checkpoint, current_token

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError, TorrelqueTypeError
from torrelque.transports.base import Listener, Message, Then, Transport
from torrelque.transports.memory.clock import VirtualClock
from torrelque.transports.memory.server import MemoryServer

__all__ = ('MemoryTransport',)


class MemoryTransport(Transport):
    """A server in memory, for tests: pass it to ``Torrelque`` in place of a client.

    It behaves like a real server (model tests compare it with four), on asyncio
    and Trio, and keeps everything in this process:

    >>> import asyncio
    >>> from torrelque import Torrelque
    >>> async def main():
    ...     queue = Torrelque(MemoryTransport())
    ...     await queue.enqueue('tea')
    ...     return (await queue.dequeue()).data
    >>> asyncio.run(main())
    'tea'

    Queue objects share their tasks if they share a transport, or if their
    transports share a server. ``transport.server.snapshot()`` returns all keys.

    Args:
        clock: A :class:`VirtualClock`, which stands still until the test advances
            it. None is real time.
        server: The server. None makes a new one.
    """

    in_order = True
    queues_behind = True
    gathering: float = 0.0

    def __init__(self, *, clock: VirtualClock | None = None, server: MemoryServer | None = None) -> None:
        for name, value, kind in (('clock', clock, VirtualClock), ('server', server, MemoryServer)):
            if value is not None and not isinstance(value, kind):
                raise TorrelqueTypeError(f'{name} must be a {kind.__name__}, got {value!r}')
        self._clock = clock
        self.server: MemoryServer = server or MemoryServer(clock.time if clock else time.time)

    def start(self, batch: Batch, then: Then) -> Callable[[], None] | None:
        awaited = True

        def arrive() -> None:
            if awaited:
                self._stir()
                then(self.server.execute(batch))

        def abandon() -> None:
            nonlocal awaited
            awaited = False

        self._stir()
        try:
            asyncio.get_running_loop().call_soon(arrive)
        except RuntimeError:
            trio: Any = current_token().native_token
            trio.run_sync_soon(arrive)
        return abandon

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        await self._travel()
        replies = self.server.execute(batch)
        await self._travel()
        return replies

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        await self._travel()
        if call.command != 'BZPOPMIN':
            return TorrelqueReplyError(f'ERR only BZPOPMIN can block, got {call.command!r}')
        keys = [key if isinstance(key, bytes) else str(key).encode() for key in call.keys]
        arrived, replies = anyio.Event(), list[Reply]()

        def receive(reply: Reply) -> None:
            replies.append(reply)
            arrived.set()

        end = self.server.wait(keys, receive)
        try:
            await self.pause(arrived, self.now() + round(timeout, 3))  # servers count milliseconds
        finally:
            end()
        return replies[0] if replies else None

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        reply = await self.block(call, timeout)
        self._stir()
        return [reply, self.server.call(then)]

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self._listen()

    def now(self) -> float:
        return self._clock.now() if self._clock else super().now()

    async def pause(self, event: anyio.Event, until: float) -> None:
        if self._clock is None:
            await super().pause(event, until)
        else:
            await self._clock.pause(event, until)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Listener]:
        await self._travel()
        listener = _Listener(self.server, self._clock)
        try:
            yield listener
        finally:
            listener.close()

    async def _travel(self) -> None:
        """What takes time on a network takes a turn of the event loop here, and can be cancelled."""
        self._stir()
        await checkpoint()

    def _stir(self) -> None:
        if self._clock is not None:
            self._clock.stir()


class _Listener(Listener):
    def __init__(self, server: MemoryServer, clock: VirtualClock | None) -> None:
        self._server = server
        self._clock = clock
        self._ends: dict[bytes, Callable[[], None]] = {}
        self._messages: deque[Message] = deque()
        self._news = anyio.Event()
        self._closed = False

    async def subscribe(self, channel: bytes) -> None:
        await checkpoint()
        if self._closed:
            raise TorrelqueConnectionError('the listener is closed')
        if channel not in self._ends:
            self._ends[channel] = self._server.subscribe(channel, partial(self._tell, channel))
        self._tell(channel, None)

    async def unsubscribe(self, channel: bytes) -> None:
        await checkpoint()
        self._ends.pop(channel, _nothing)()

    async def receive(self) -> Message:
        await checkpoint()
        while not self._messages:
            if self._closed:
                raise TorrelqueConnectionError('the listener is closed')
            await self._news.wait()
        return self._messages.popleft()

    def close(self) -> None:
        self._closed = True
        for end in self._ends.values():
            end()
        self._ends.clear()
        self._news.set()

    def _tell(self, channel: bytes, data: bytes | None) -> None:
        if self._clock is not None:
            self._clock.stir()
        self._messages.append(Message(channel, data))
        self._news.set()
        self._news = anyio.Event()


def _nothing() -> None:
    """Ends a subscription that there is not."""
