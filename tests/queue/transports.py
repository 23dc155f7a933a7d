"""Transports that remember, lose, or repeat what they are given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio

from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.errors import TorrelqueConnectionError
from torrelque.testing import MemoryTransport
from torrelque.transports.base import Listener, Message


class RecordingTransport(MemoryTransport):
    """Remembers the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call[Reply]] = []

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        self.calls += batch
        return await super().execute(batch)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self.calls.append(call)
        return await super().block(call, timeout)


class LosingTransport(MemoryTransport):
    """Loses the replies, or before that the requests, of the next batches with a certain script."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: str = ''
        self.before = False
        self.lost = 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        losing = runs(batch, self.lose)
        if not (losing and self.before):
            replies = await super().execute(batch)
            if not losing or isinstance(replies[0], Exception):  # a script that has yet to be loaded did nothing
                return replies
        self.lost += 1
        raise TorrelqueConnectionError('the reply was lost')


class LaggingTransport(MemoryTransport):
    """Messages take their time. ``heard`` is set once one was delivered."""

    LAG = 0.02

    def __init__(self) -> None:
        super().__init__()
        self.heard: anyio.Event = anyio.Event()

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self._listen_later(super().listen())

    @asynccontextmanager
    async def _listen_later(self, listening: AbstractAsyncContextManager[Listener]) -> AsyncIterator[Listener]:
        async with listening as listener:
            yield _LaggingListener(listener, self.heard)


class _LaggingListener(Listener):
    def __init__(self, listener: Listener, heard: anyio.Event) -> None:
        self._listener = listener
        self._heard = heard
        self._has_received = False

    async def subscribe(self, channel: bytes) -> None:
        await self._listener.subscribe(channel)

    async def unsubscribe(self, channel: bytes) -> None:
        await self._listener.unsubscribe(channel)

    async def receive(self) -> Message:
        if self._has_received:
            self._heard.set()
        message = await self._listener.receive()
        await anyio.sleep(LaggingTransport.LAG)
        self._has_received = True
        return message


class RepeatingTransport(MemoryTransport):
    """Sends everything again, as a client does that did not hear the answer; ``times`` says how often in all.

    Only every other claim: the answer to the repeat of an empty one is to claim again.
    """

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        self.times = times
        self._claims = 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        replies = await super().execute(batch)
        if runs(batch, 'claim'):
            self._claims += 1
        if self._claims % 2 or not runs(batch, 'claim'):
            for _ in range(self.times - 1):
                replies = await super().execute(batch)
        return replies


def runs(batch: Batch, script: str) -> bool:
    return any(isinstance(call.command, Script) and call.command.name == script for call in batch)
