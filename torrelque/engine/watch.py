"""Watches a task: reads its state after each message about it, and from time to time without one."""

from __future__ import annotations

import math
import random
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio

from torrelque.core import operations
from torrelque.core.backoff import Backoff
from torrelque.core.keys import Keys
from torrelque.core.models import TorrelqueTaskState
from torrelque.core.watch import Watch
from torrelque.engine.dispatch import Dispatcher
from torrelque.engine.subscriptions import Subscription, Subscriptions
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTimeoutError,
    is_transient,
)

__all__ = ('States', 'Watcher')

REREAD = 8.0
"""Seconds after which to read the state without a message: 0.9 publishes nothing.

Once a watcher has found such a transition, it and later ones also hear the server's own events, if those are on."""

UNHEARD_REREAD = 0.5
"""The same while there is no subscription."""

BACKOFF = Backoff(0.05, 2.0)
"""Pauses between reads while the server is unavailable."""

LAG = 1.0
"""How long after a read that shows its effect a message may arrive, in seconds."""


class Watcher:
    """One watch of one task.

    Subscribes only if the task has not ended yet. Holds nothing open between calls, so
    you can stop iterating at any point; dropping the watcher closes its subscription.
    """

    def __init__(self, dispatcher: Dispatcher, task_id: str, timeout: float) -> None:
        self._dispatcher = dispatcher
        self._engine = dispatcher.runtime.engine
        self._transport = dispatcher.runtime.transport
        self._keys: Keys | None = None
        self._task_id = task_id
        self._timeout = timeout
        self._deadline = math.inf
        self._watch = Watch()
        self._hub: Subscriptions | None = None
        self._inbox: Subscription | None = None
        self._finalizer: weakref.finalize[..., Watcher] | None = None
        self._failures = 0

    @property
    def ended(self) -> bool:
        return self._watch.ended

    def close(self) -> None:
        """Stop listening. Safe to repeat."""
        if self._hub is not None and self._inbox is not None:
            self._hub.close(self._inbox)
        if self._finalizer is not None:
            self._finalizer.detach()

    async def next_states(self) -> list[TorrelqueTaskState]:
        """Wait for a change, and return the new states, if any.

        The first call fails if the server is unavailable. Later ones wait until it is back.

        Raises:
            TorrelqueLookupError: The first call found no such task.
            TorrelqueTimeoutError: The task did not end in time.
        """
        inbox = self._inbox
        if inbox is None:
            self._engine.check_running()
            self._deadline = self._transport.now() + self._timeout
            with self._engine.limit(self._deadline, self._late):
                return await self._look()
        await self._news(inbox)
        missed = inbox.may_have_missed or bool(self._failures)
        if missed:
            self._watch.miss()
        self._take(inbox)
        try:
            with self._engine.limit(self._deadline, self._late):
                state = await self._read()
        except (TorrelqueConnectionError, TorrelqueReplyError) as error:
            await self._outlast(error)
            return []
        self._failures = 0
        if inbox.stands and (state is None or not missed):
            await self._stragglers(inbox, state)
        states = self._watch.read(state)
        if self._watch.unpublished and self._hub is not None:
            self._hub.shared_with_0_9 = True
            if not self.ended:
                self._hub.hear_events(inbox)
        return states

    async def _look(self) -> list[TorrelqueTaskState]:
        """Read the state for the first time. If it is not final, subscribe."""
        layout = self._dispatcher.layout
        state = await self._read()
        if state is None and await self._dispatcher.is_changed(layout):  # it may be on another shard now
            self._keys = None
            state = await self._read()
        if state is None:
            raise TorrelqueLookupError(f'no task {self._task_id!r} in queue {self._dispatcher.runtime.name!r}')
        states = self._watch.read(state)
        if not self.ended and self._keys is not None:
            self._hub = self._engine.hub
            self._inbox = self._hub.open(self._keys.state(self._task_id))
            if self._hub.shared_with_0_9:
                self._hub.hear_events(self._inbox)
            self._finalizer = weakref.finalize(self, self._hub.close_soon, self._inbox)
            self._finalizer.atexit = False
        return states

    async def _read(self) -> TorrelqueTaskState | None:
        if self._keys is None:
            self._keys = await self._dispatcher.keys_of(self._task_id)
        return await self._engine.read(partial(operations.task_state, self._keys, self._task_id), self._keys)

    async def _outlast(self, error: TorrelqueConnectionError | TorrelqueReplyError) -> None:
        """Pause after a failed read, or raise an error that will not pass."""
        if not is_transient(error):
            raise error
        self._failures += 1
        pause = BACKOFF.pause(self._failures, random.random)
        await self._transport.pause(anyio.Event(), min(self._deadline, self._transport.now() + pause))
        if self._transport.now() >= self._deadline:
            raise self._late() from error

    async def _news(self, inbox: Subscription) -> None:
        if self._watch.behind or self._failures:
            return
        pause = REREAD if inbox.stands else UNHEARD_REREAD
        until = min(self._deadline, self._transport.now() + pause)
        await self._transport.pause(inbox.news, until)
        if not inbox.news.is_set() and self._transport.now() >= self._deadline:
            raise self._late()

    async def _stragglers(self, inbox: Subscription, state: TorrelqueTaskState | None) -> None:
        """Wait for messages that are behind what was read, because they come on another connection."""
        until = min(self._deadline, self._transport.now() + LAG)
        while self._watch.lacks(state) and inbox.stands and self._transport.now() < until:
            await self._transport.pause(inbox.news, until)
            self._take(inbox)

    def _take(self, inbox: Subscription) -> None:
        for message in inbox.take():
            self._watch.publish(message)

    def _late(self) -> TorrelqueTimeoutError:
        return TorrelqueTimeoutError(f'task {self._task_id!r} did not end in time')

    def final_state(self) -> TorrelqueTaskState:
        """Return how the task ended. Raises TorrelqueLookupError if that is unknown."""
        last, final = self._watch.last, self._watch.final
        if last is None or final is None:
            how = (
                'was cancelled'
                if self._watch.cancelled
                else 'ended while the connection was down, so its outcome is unknown'
            )
            raise TorrelqueLookupError(f'task {self._task_id!r} {how}')
        return last._replace(status=final)


class States(AsyncIterator[TorrelqueTaskState]):
    """The states of a watched task.

    Not an asynchronous generator, because Trio warns about those that are not exhausted.
    You can drop this iterator at any point.
    """

    def __init__(self, watcher: Watcher, convert: Callable[[TorrelqueTaskState], TorrelqueTaskState]) -> None:
        self._watcher = watcher
        self._convert = convert
        self._states: deque[TorrelqueTaskState] = deque()
        self._closed = False

    async def __anext__(self) -> TorrelqueTaskState:
        try:
            while not (self._states or self._closed or self._watcher.ended):
                self._states.extend(await self._watcher.next_states())
        except BaseException:
            await self.aclose()
            raise
        if self._states:
            return self._convert(self._states.popleft())
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop watching. Safe to repeat."""
        self._closed = True
        self._states.clear()
        self._watcher.close()
