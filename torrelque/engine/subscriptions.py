"""The subscriptions of all watchers of a queue object, or of several: one connection for each server."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Protocol

import anyio
from anyio.lowlevel import current_token

from torrelque.core.backoff import Backoff
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError
from torrelque.transports import forks
from torrelque.transports.base import Listener, Message, Transport

__all__ = ('Subscription', 'Subscriptions')

logger: logging.Logger = logging.getLogger('torrelque')

BACKOFF = Backoff(0.05, 4.0)
"""Pauses between attempts to reconnect."""

LINGER = 5.0
"""Seconds for which a connection without subscriptions is kept for the next one."""

REFUSED = 30.0
"""Seconds until the next attempt of a user who may not subscribe."""

STEADY = 5.0
"""Seconds after which a connection has worked: when it breaks, the back-off starts again."""


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, TorrelqueReplyError) and error.code == 'NOPERM'


class Subscription:
    """The unread messages of one watcher.

    Args:
        channel: The channel.
        tell: Called whenever ``news`` is set.

    Attributes:
        channel: The channel.
        news: Set when messages arrive, and when the subscription is confirmed or lost.
        messages: The unread messages.
        stands: Whether the subscription is confirmed.
        may_have_missed: Whether messages before the confirmation may have been missed, so that the state must be
            read again. Reset when the messages are taken.
        events: The subscription to the server's own events about the key, if any; see `Subscriptions.hear_events`.
    """

    def __init__(self, channel: bytes, tell: Callable[[], None] | None = None) -> None:
        self.channel: bytes = channel
        self._tell = tell
        self.news: anyio.Event = anyio.Event()
        self.messages: deque[bytes] = deque()
        self.stands: bool = False
        self.may_have_missed: bool = False
        self.events: Subscription | None = None

    @property
    def is_listener(self) -> bool:
        """Whether it is not a watcher's, so that a user may watch tasks and lack the permission for this channel."""
        return self._tell is not None

    def deliver(self, data: bytes) -> None:
        self.messages.append(data)
        self.wake()

    def confirm(self) -> None:
        self.stands = self.may_have_missed = True
        self.wake()

    def lose(self) -> None:
        self.stands = False
        self.wake()

    def wake(self) -> None:
        self.news.set()
        if self._tell is not None:
            self._tell()

    def take(self) -> list[bytes]:
        """Return the messages since the last call."""
        self.news = anyio.Event()
        self.may_have_missed = False
        if self.events is not None:  # they only say that the state must be read
            self.events.take()
        messages = list(self.messages)
        self.messages.clear()
        return messages


class Subscriptions:
    """Listens while there are watchers, and distributes the messages.

    Channels of one server share a connection. After the last watcher has gone, it is
    kept for `LINGER` seconds if ``lingers()`` returns True. Otherwise it is closed at
    once: on asyncio, a queue object that was not entered must leave nothing behind.
    """

    def __init__(
        self,
        transport: Transport,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], _Cancellable],
        lingers: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._spawn = spawn
        self._lingers = lingers
        self._forks = forks.count
        self._loop: Any = current_token().native_token
        self._inboxes: dict[bytes, set[Subscription]] = {}
        self._lines: dict[tuple[Hashable, bytes | None], _Line] = {}  # by node; of those apart, also by channel
        self._apart: set[bytes] = set()
        self._line_of: dict[bytes, _Line] = {}
        self._events: set[bytes] = set()
        self._hears_events = not transport.on_cluster  # where 0.9 does not run, and channels are sharded
        self.shared_with_0_9: bool = False
        """Whether 0.9 has changed a watched task: further watchers also hear the server's events."""

    def open(self, channel: bytes, tell: Callable[[], None] | None = None) -> Subscription:
        """Subscribe to a channel. Close the subscription afterwards."""
        inbox = Subscription(channel, tell)
        self._inboxes.setdefault(channel, set()).add(inbox)
        line = self._line_of.get(channel)
        if line is None:
            self._assign(channel)
        elif channel in line.standing:
            inbox.confirm()
        return inbox

    def hear_events(self, inbox: Subscription) -> None:
        """Wake a watcher also when the server reports a change of the key, because 0.9 publishes nothing.

        The server reports it if ``notify-keyspace-events`` is on, which 0.9's own watchers need.
        """
        if self._hears_events and inbox.events is None:
            channel = b'__keyspace@%d__:%b' % (self._transport.database, inbox.channel)
            self._events.add(channel)
            inbox.events = self.open(channel, inbox.wake)

    def close(self, inbox: Subscription) -> None:
        """Stop listening. Safe to repeat."""
        if inbox.events is not None:
            self.close(inbox.events)
        inboxes = self._inboxes.get(inbox.channel, set())
        inboxes.discard(inbox)
        if not inboxes and self._inboxes.pop(inbox.channel, None) is not None:
            self._events.discard(inbox.channel)
            line = self._line_of.pop(inbox.channel)
            line.remove(inbox.channel)
            if not line.channels and not self._lingers():
                self.forget(line)
                line.cancel()

    def close_soon(self, inbox: Subscription) -> None:
        """Stop listening, from any thread, also during garbage collection."""
        if forks.count != self._forks:
            return
        call_soon = getattr(self._loop, 'run_sync_soon', None) or self._loop.call_soon_threadsafe
        try:
            call_soon(self.close, inbox)
        except RuntimeError:  # the event loop has ended, and the connection with it
            return

    # Lines -----------------------------------------------------------------------------------------------------------

    def inboxes(self, channel: bytes) -> tuple[Subscription, ...]:
        return tuple(self._inboxes.get(channel, ()))

    def replace(self, line: _Line) -> None:
        """Move channels that now belong to another server."""
        for channel in tuple(line.channels):
            if self._transport.node_of(channel) != line.key[0]:
                line.remove(channel)
                self._assign(channel)

    def separate(self, line: _Line) -> bool:
        """Give each channel of a listener its own connection, because the user may not subscribe to all of them.

        The server's events are not asked for again: watchers read the state from time to time.
        Returns whether any was moved.
        """
        if events := line.channels & self._events:
            self._hears_events = False
            for channel in events:
                line.remove(channel)
            return True
        moved = [
            channel
            for channel in line.channels - self._apart
            if any(inbox.is_listener for inbox in self._inboxes.get(channel, ()))
        ]
        for channel in moved:
            self._apart.add(channel)
            line.remove(channel)
            self._assign(channel)
        return bool(moved)

    def forget(self, line: _Line) -> None:
        """Remove a connection that has ended."""
        if self._lines.get(line.key) is line:
            del self._lines[line.key]

    def _assign(self, channel: bytes) -> None:
        node = self._transport.node_of(channel)
        key = node, channel if channel in self._apart else None
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(self, self._transport, key, self._lingers)
            line.cancel = self._spawn(line.run).cancel
        self._line_of[channel] = line
        line.add(channel)


class _Line:
    """The connection to one server. It reconnects while there are ``channels``."""

    cancel: Callable[[], None]

    def __init__(
        self, hub: Subscriptions, transport: Transport, key: tuple[Hashable, bytes | None], lingers: Callable[[], bool]
    ) -> None:
        self._hub = hub
        self._transport = transport
        self.key = key
        self._lingers = lingers
        self.channels: set[bytes] = set()
        self.standing: set[bytes] = set()
        """Channels whose subscription the server has confirmed."""
        self._changed = anyio.Event()
        self._failures = 0
        self._logged = False

    def add(self, channel: bytes) -> None:
        self.channels.add(channel)
        self._changed.set()

    def remove(self, channel: bytes) -> None:
        self.channels.discard(channel)
        self.standing.discard(channel)
        self._changed.set()

    async def run(self) -> None:
        try:
            while self.channels:
                begun = self._transport.now()
                failed = True
                refused = False
                try:
                    await self._listen()
                    failed = False
                except* (TorrelqueConnectionError, TorrelqueReplyError) as group:
                    # Watchers poll meanwhile, or always if the user may not subscribe.
                    refused = group.subgroup(_is_refusal) is not None
                except* Exception:
                    if not self._logged:
                        self._logged = True
                        logger.exception('Cannot listen to changes of tasks, retrying; states are read meanwhile')
                finally:
                    self._lose()
                if refused and self._hub.separate(self):
                    continue
                if failed:
                    await self._pause(begun, REFUSED if refused else 0.0)
                    self._hub.replace(self)
        finally:
            self._hub.forget(self)

    async def _pause(self, begun: float, least: float) -> None:
        """Wait before reconnecting, longer after each connection that did not last; at least the time given."""
        if self._transport.now() - begun > STEADY:
            self._failures = 0
        self._failures += 1
        pause = max(least, BACKOFF.pause(self._failures, random.random))
        await self._transport.pause(anyio.Event(), self._transport.now() + pause)

    async def _listen(self) -> None:
        async with self._transport.listen() as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(self._receive, listener)
            await self._subscribe(listener)
            tasks.cancel_scope.cancel()

    async def _receive(self, listener: Listener) -> None:
        while True:
            self._deliver(await listener.receive())

    def _deliver(self, message: Message) -> None:
        if message.data is None:
            if message.channel in self.channels:
                self._logged = False
                self.standing.add(message.channel)
                for inbox in self._hub.inboxes(message.channel):
                    inbox.confirm()
        else:
            for inbox in self._hub.inboxes(message.channel):
                inbox.deliver(message.data)

    async def _subscribe(self, listener: Listener) -> None:
        """Subscribe and unsubscribe as channels come and go. Returns after a while without any."""
        asked: set[bytes] = set()
        while True:
            self._changed = anyio.Event()
            wanted = set(self.channels)
            for channel in wanted - asked:
                await listener.subscribe(channel)
            for channel in asked - wanted:
                await listener.unsubscribe(channel)
            asked = wanted
            if asked:
                await self._transport.pause(self._changed, math.inf)
            else:
                await self._transport.pause(self._changed, self._transport.now() + LINGER)
                if not self.channels and not self._changed.is_set():
                    return

    def _lose(self) -> None:
        self.standing.clear()
        for channel in self.channels:
            for inbox in self._hub.inboxes(channel):
                inbox.lose()
