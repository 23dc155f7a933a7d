"""Subscriptions for threads. Each watcher has a connection, on which its thread waits for messages."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, cast

import anyio
from redis import exceptions

from torrelque.core.backoff import Backoff
from torrelque.engine.subscriptions import Subscription, Subscriptions
from torrelque.errors import TorrelqueError
from torrelque.sync.redis_py import BlockingTransport, Listener
from torrelque.transports.base import Transport
from torrelque.transports.failover import FailoverTransport

__all__ = ('BlockingSubscriptions',)

BACKOFF = Backoff(0.05, 4.0)
"""Pauses between attempts to reconnect."""


class _News:
    """Replaces the event of an event loop: whether there are new messages."""

    def __init__(self, inbox: _Inbox) -> None:
        self._inbox = inbox
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def receive(self, until: float) -> None:
        """Wait for messages until a time."""
        while not self._is_set and time.monotonic() < until:
            self._inbox.receive(until)


class _Inbox(Subscription):
    """The messages of one channel."""

    def __init__(self, transport: BlockingTransport, channel: bytes) -> None:
        super().__init__(channel)
        self.news = cast('anyio.Event', _News(self))
        self._transport = transport
        self._listener: Listener | None = None
        self._failures = 0
        self._not_before = time.monotonic()

    def take(self) -> list[bytes]:
        messages = super().take()
        self.news = cast('anyio.Event', _News(self))
        return messages

    def receive(self, until: float) -> None:
        """Wait for a message until a time. After a pause, reconnect if the connection broke."""
        if self._listener is None and time.monotonic() < self._not_before:
            time.sleep(max(0.0, min(until, self._not_before) - time.monotonic()))
            return
        try:
            if self._listener is None:
                self._listener = self._transport.listener(self.channel)
            message = self._listener.next(until)
        except (TorrelqueError, exceptions.RedisError, OSError):
            # Until then the watcher polls. If the user may not subscribe, it always does.
            self.end()
            self._failures += 1
            self._not_before = time.monotonic() + BACKOFF.pause(self._failures, random.random)
            self.lose()
            return
        if message is not None and message.data is None:
            self._failures = 0
            self.confirm()
        elif message is not None and message.data is not None:
            self.deliver(message.data)

    def end(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()


class BlockingSubscriptions(Subscriptions):
    """See :class:`~torrelque.engine.subscriptions.Subscriptions`. Nothing runs in the background."""

    def __init__(self, transport: Transport) -> None:
        inner: Any = transport.inner if isinstance(transport, FailoverTransport) else transport
        self._blocking: BlockingTransport = inner
        self.shared_with_0_9: bool = False

    def hear_events(self, inbox: Subscription) -> None:
        """Do nothing: a thread waits on one channel, and reads the state from time to time."""

    def open(self, channel: bytes, tell: Callable[[], None] | None = None) -> Subscription:
        del tell
        return _Inbox(self._blocking, channel)

    def close(self, inbox: Subscription) -> None:
        if isinstance(inbox, _Inbox):
            inbox.end()

    def close_soon(self, inbox: Subscription) -> None:
        self.close(inbox)
