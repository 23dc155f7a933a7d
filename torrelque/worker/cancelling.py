"""Hears at once that running tasks are cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing, suppress

import anyio

from torrelque import Cancellation, Torrelque, TorrelqueLookupError
from torrelque.core.models import Running
from torrelque.worker.failures import describe

__all__ = ('CancellationListener',)

REMEMBERED = 100
"""Number of announcements to remember, for tasks that are still on their way to the worker."""

LATE = 1.0
"""Seconds that a look at a task whose claim is gone may take."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class CancellationListener:
    """Listens to the announcements of `Torrelque.cancel`. They are hints: a renewal tells what became of a claim.

    Args:
        queue: The queue that the worker consumes.
        look: Called with the id of a task whose claim is to be looked at now; None for all claims.
        suffix: What log messages add to name the queue.

    Attributes:
        hears: Whether it has begun to hear announcements.
    """

    def __init__(self, queue: Torrelque, look: Callable[[str | None], None], suffix: str = '') -> None:
        self.hears: bool = False
        self._suffix = suffix
        self._queue = queue
        self._look = look
        self._begun = anyio.Event()
        self._announced: dict[str, Running] = {}

    def __contains__(self, task_id: str) -> bool:
        """Whether it was announced lately that a task is cancelled."""
        return task_id in self._announced

    def begin(self) -> None:
        """Listen from now on, because the worker has tasks. An idle worker needs no connection for this."""
        self._begun.set()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._begun.wait()
        try:
            async with aclosing(self._queue.cancellations()) as announcements:
                async for each in announcements:
                    if each is not None:
                        self._note(each)
                    else:
                        self.hears = True
                    self._look(None if each is None else each.task_id)
        except Exception as error:  # noqa: BLE001 - renewals find out as well
            logger.debug('Cannot listen for cancelled tasks, renewals find out: %s%s', describe(error), self._suffix)

    async def has_ended(self, task_id: str, *, heard: bool) -> bool:
        """Return whether a claim that is gone, although its lease goes on, was ended by `cancel`. Safe to cancel.

        Args:
            task_id: The id of the task.
            heard: Whether the claim was live at a time when announcements were heard.
        """
        if task_id not in self._announced:
            # While this is read, an announcement that was under way arrives.
            with anyio.move_on_after(LATE, shield=True), suppress(Exception):  # the claim is gone in any case
                try:
                    await self._queue.get_task_state(task_id)
                except TorrelqueLookupError:
                    if self.hears and not heard and task_id not in self._announced:
                        return True  # the task was removed before the worker could hear why
        return self.was_ended(task_id)

    def was_ended(self, task_id: str) -> bool:
        """Whether it was announced that `cancel` ended a claim. Asked once for each claim."""
        return self._announced.pop(task_id, None) == 'end'

    def _note(self, announced: Cancellation) -> None:
        self._announced.pop(announced.task_id, None)
        self._announced[announced.task_id] = announced.running
        if len(self._announced) > REMEMBERED:
            del self._announced[next(iter(self._announced))]
