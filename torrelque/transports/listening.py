"""One subscription connection for all the watchers of a queue object."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

from torrelque.core.backoff import Backoff
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError
from torrelque.transports.base import Listener, Transport

__all__ = ('Hub', 'Inbox')

BACKOFF = Backoff(0.05, 4.0)
"""Pauses between attempts to get a subscription connection back."""


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


class Inbox:
    """What one watcher has not looked at yet.

    ``news`` is set when there are messages, or when the subscription (again)
    stands: what happened before that may have been missed, so read anew;
    ``may_have_missed`` says so until the messages are taken.
    """

    def __init__(self, hub: Hub, channel: bytes) -> None:
        self._hub = hub
        self.channel = channel
        self.news: anyio.Event = anyio.Event()
        self.messages: deque[bytes] = deque()
        self.may_have_missed: bool = False

    def tell(self, data: bytes | None) -> None:
        if data is None:
            self.may_have_missed = True
        else:
            self.messages.append(data)
        self.news.set()

    def take(self) -> list[bytes]:
        """The messages since the last time."""
        self.news = anyio.Event()
        self.may_have_missed = False
        messages = list(self.messages)
        self.messages.clear()
        return messages

    def close(self) -> None:
        """Stop listening. May be repeated."""
        self._hub.close(self)


class Hub:
    """Keeps a listener open while there are inboxes, and hands its messages out."""

    def __init__(self, transport: Transport, spawn: Callable[[Callable[[], Awaitable[None]]], _Cancellable]) -> None:
        self._transport = transport
        self._spawn = spawn
        self._inboxes: dict[bytes, set[Inbox]] = {}
        self._standing: set[bytes] = set()  # channels whose subscription the server has confirmed
        self._changed = anyio.Event()
        self._listening: _Cancellable | None = None

    def open(self, channel: bytes) -> Inbox:
        inbox = Inbox(self, channel)
        self._inboxes.setdefault(channel, set()).add(inbox)
        if channel in self._standing:
            inbox.tell(None)
        self._changed.set()
        if self._listening is None:
            self._listening = self._spawn(self._listen)
        return inbox

    def close(self, inbox: Inbox) -> None:
        inboxes = self._inboxes.get(inbox.channel, set())
        inboxes.discard(inbox)
        if not inboxes:
            self._inboxes.pop(inbox.channel, None)
        if self._inboxes:
            self._changed.set()
        elif self._listening is not None:
            self._listening.cancel()
            self._listening = None

    async def _listen(self) -> None:
        failures = 0
        while True:
            self._standing.clear()
            try:
                async with self._transport.listen() as listener, anyio.create_task_group() as tasks:
                    tasks.start_soon(self._subscribe, listener)
                    while True:
                        message = await listener.receive()
                        failures = 0
                        if message.data is None:
                            self._standing.add(message.channel)
                        for inbox in self._inboxes.get(message.channel, ()):
                            inbox.tell(message.data)
            except* (TorrelqueConnectionError, TorrelqueReplyError):
                # Watchers go on by reading now and then; a user without channel rights stays with that.
                pass
            failures += 1
            pause = BACKOFF.pause(failures, random.random)
            await self._transport.pause(anyio.Event(), self._transport.now() + pause)

    async def _subscribe(self, listener: Listener) -> None:
        """Keep the listener's channels those of the inboxes."""
        asked: set[bytes] = set()
        while True:
            self._changed = anyio.Event()
            wanted = set(self._inboxes)
            for channel in wanted - asked:
                await listener.subscribe(channel)
            for channel in asked - wanted:
                self._standing.discard(channel)
                await listener.unsubscribe(channel)
            asked = wanted
            await self._transport.pause(self._changed, math.inf)
