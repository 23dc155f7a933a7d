"""Listens to announcements of cancellations of running tasks."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias, cast

import anyio

from torrelque.core.models import Cancellation, Running
from torrelque.engine.dispatch import Dispatcher
from torrelque.engine.subscriptions import Subscription, Subscriptions

__all__ = ('Cancellations',)

LOOK = 8.0
"""Seconds after which to look whether the queue has other shards."""


Inboxes: TypeAlias = dict[bytes, tuple[Subscriptions, Subscription]]


class Cancellations(AsyncGenerator[Cancellation | None, None]):
    """The announcements for one listener, from the channel of the queue, or of each of its shards.

    Not a function with ``yield``, because Trio warns about those that are not exhausted.
    You can drop this iterator at any point.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._inboxes: Inboxes = {}
        self._news = anyio.Event()
        self._found: deque[Cancellation | None] = deque()
        self._closed = False
        weakref.finalize(self, _close_soon, self._inboxes).atexit = False

    async def asend(self, value: None) -> Cancellation | None:
        """Wait for the next announcement; None if some may have been missed."""
        del value
        transport = self._dispatcher.runtime.transport
        while not (self._found or self._closed):
            self._news = anyio.Event()
            self._listen()
            self._gather()
            if not self._found:
                await transport.pause(self._news, transport.now() + LOOK)
        if self._closed:
            raise StopAsyncIteration
        return self._found.popleft()

    async def athrow(self, error: Any, value: Any = None, traceback: Any = None) -> None:  # noqa: ANN401 - as any generator's
        """Stop listening, and raise an error."""
        del traceback
        await self.aclose()
        raise error if value is None else value

    async def aclose(self) -> None:
        """Stop listening. Safe to repeat."""
        self._closed = True
        self._news.set()
        self._found.clear()
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
            self._inboxes[channel] = hub, hub.open(channel, _waking(self))

    def wake(self) -> None:
        """Look for announcements."""
        self._news.set()

    def _gather(self) -> None:
        for _, inbox in self._inboxes.values():
            if inbox.may_have_missed:
                self._found.append(None)
            for data in inbox.take():
                running, _, task_id = data.decode(errors='replace').partition(' ')
                if running in ('end', 'ask') and task_id:
                    self._found.append(Cancellation(task_id, cast('Running', running)))


def _waking(feed: Cancellations) -> Callable[[], None]:
    """Return a function that wakes a listener, but does not keep it."""
    known = weakref.ref(feed)

    def wake() -> None:
        listener = known()
        if listener is not None:
            listener.wake()

    return wake


def _close_soon(inboxes: Inboxes) -> None:
    """Stop listening on behalf of a listener that was dropped."""
    for hub, inbox in inboxes.values():
        hub.close_soon(inbox)
