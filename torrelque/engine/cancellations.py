"""Listens to announcements of cancellations of running tasks."""

from __future__ import annotations

from collections import deque
from typing import cast

import anyio

from torrelque.core.models import Cancellation, Running
from torrelque.engine.dispatch import Dispatcher
from torrelque.engine.subscriptions import Subscription, Subscriptions

__all__ = ('Cancellations',)

LOOK = 8.0
"""Seconds after which to look whether the queue has other shards."""


class Cancellations:
    """The announcements for one listener, from the channel of the queue, or of each of its shards."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._inboxes: dict[bytes, tuple[Subscriptions, Subscription]] = {}
        self._news = anyio.Event()
        self._found: deque[Cancellation | None] = deque()

    async def next(self) -> Cancellation | None:
        """Wait for the next announcement; None if some may have been missed."""
        transport = self._dispatcher.runtime.transport
        while not self._found:
            self._news = anyio.Event()
            self._listen()
            self._gather()
            if not self._found:
                await transport.pause(self._news, transport.now() + LOOK)
        return self._found.popleft()

    def close(self) -> None:
        """Stop listening. Safe to repeat."""
        while self._inboxes:
            self._close(next(iter(self._inboxes)))

    def _close(self, channel: bytes) -> None:
        hub, inbox = self._inboxes.pop(channel)
        hub.close(inbox)

    def _listen(self) -> None:
        engine = self._dispatcher.runtime.engine
        engine.check_running()
        channels = {keys['cancel'] for keys in self._dispatcher.known_keys()}
        for channel in self._inboxes.keys() - channels:
            self._close(channel)
        for channel in channels - self._inboxes.keys():
            hub = engine.hub
            self._inboxes[channel] = hub, hub.open(channel, self._wake)

    def _wake(self) -> None:
        self._news.set()

    def _gather(self) -> None:
        for _, inbox in self._inboxes.values():
            if inbox.may_have_missed:
                self._found.append(None)
            for data in inbox.take():
                running, _, task_id = data.decode(errors='replace').partition(' ')
                if running in ('end', 'ask') and task_id:
                    self._found.append(Cancellation(task_id, cast('Running', running)))
