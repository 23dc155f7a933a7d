"""A task being watched: reads its state whenever something was published, and now and then besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torrelque.core import operations
from torrelque.core.keys import Keys
from torrelque.core.models import TorrelqueTaskState
from torrelque.core.watching import Watch
from torrelque.errors import TorrelqueLookupError, TorrelqueTimeoutError

if TYPE_CHECKING:
    from torrelque.observing import Observer

__all__ = ('Watcher',)

REREAD = 8.0
"""Seconds after which the state is read even if nothing was published: 0.9 publishes nothing."""

UNHEARD_REREAD = 0.5
"""The same while no subscription stands."""

LAG = 1.0
"""Seconds that a message may come later than what was read after it was published."""


class Watcher:
    """One watch of one task. Holds no scope between calls, so a generator may stop between any two."""

    def __init__(self, queue: Observer, keys: Keys, task_id: str, timeout: float) -> None:
        self._queue = queue
        self._keys = keys
        self._task_id = task_id
        self._transport = queue._transport  # noqa: SLF001 - a part of the queue in a module of its own
        self._deadline = self._transport.now() + timeout
        self._watch = Watch()
        self._inbox = queue._engine.open_inbox(keys.state(self._task_id))  # noqa: SLF001 - as above
        self._heard = False

    @property
    def ended(self) -> bool:
        return self._watch.ended

    def close(self) -> None:
        self._inbox.close()

    async def next_states(self) -> list[TorrelqueTaskState]:
        """Wait for news, read, and return the states that are new; perhaps none.

        Raises TorrelqueLookupError if the task is unknown from the start, and
        TorrelqueTimeoutError.
        """
        if self._watch.last is not None:
            await self._news()
        missed = self._inbox.may_have_missed
        self._heard = self._heard or missed
        self._take()
        (state,) = await self._queue._engine.run(operations.task_states(self._keys, [self._task_id]))  # noqa: SLF001 - as above
        if state is None and self._watch.last is None:
            raise TorrelqueLookupError(f'no task {self._task_id!r} in queue {self._queue.queue!r}')
        if self._heard and (state is None or not missed):
            await self._stragglers(state)
        return self._watch.read(state)

    async def _news(self) -> None:
        if self._watch.behind:
            return
        pause = REREAD if self._heard else UNHEARD_REREAD
        until = min(self._deadline, self._transport.now() + pause)
        await self._transport.pause(self._inbox.news, until)
        if self._inbox.news.is_set():
            self._heard = True
        elif self._transport.now() >= self._deadline:
            raise TorrelqueTimeoutError(f'task {self._task_id!r} did not end in time')

    async def _stragglers(self, state: TorrelqueTaskState | None) -> None:
        """Messages come on another connection, and may be a little behind what was read."""
        until = min(self._deadline, self._transport.now() + LAG)
        while self._watch.lacks(state) and self._transport.now() < until:
            await self._transport.pause(self._inbox.news, until)
            self._take()

    def _take(self) -> None:
        for message in self._inbox.take():
            self._watch.publish(message)

    def final_state(self) -> TorrelqueTaskState:
        """After the end. Raises TorrelqueLookupError if nobody can say how the task ended."""
        last, final = self._watch.last, self._watch.final
        if last is None or final is None:
            how = 'was cancelled' if self._watch.cancelled else 'went while nobody could hear how'
            raise TorrelqueLookupError(f'task {self._task_id!r} {how}')
        return last._replace(status=final)
