"""Hears at once that running tasks are cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing

import anyio

from torrelque import Cancellation, Torrelque
from torrelque.core.models import Running
from torrelque.worker.failures import describe

__all__ = ('CancellationListener',)

REMEMBERED = 100
"""Number of announcements to remember, for tasks that are still on their way to the worker."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class CancellationListener:
    """Listens to the announcements of `Torrelque.cancel`. They are hints: a renewal tells what became of a claim.

    Args:
        queue: The queue that the worker consumes.
        look: Called with the id of a task whose claim is to be looked at now; None for all claims.
        suffix: What log messages add to name the queue.
    """

    def __init__(self, queue: Torrelque, look: Callable[[str | None], None], suffix: str = '') -> None:
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
                    self._look(None if each is None else each.task_id)
        except Exception as error:  # noqa: BLE001 - renewals find out as well
            logger.debug('Cannot listen for cancelled tasks, renewals find out: %s%s', describe(error), self._suffix)

    def has_ended(self, task_id: str) -> bool:
        """Whether a claim that is gone was ended by `cancel`, as far as it was announced. Asked once for each claim."""
        return self._announced.pop(task_id, None) == 'end'

    def _note(self, announced: Cancellation) -> None:
        self._announced.pop(announced.task_id, None)
        self._announced[announced.task_id] = announced.running
        if len(self._announced) > REMEMBERED:
            del self._announced[next(iter(self._announced))]
