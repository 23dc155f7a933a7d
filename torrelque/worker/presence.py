"""Announces a worker, so that others can list it."""

from __future__ import annotations

import logging
import math
import os
import random
import socket
import uuid
from collections.abc import Callable

import anyio

from torrelque import Torrelque, TorrelqueError, is_transient
from torrelque.worker.failures import describe
from torrelque.worker.loops import Clock

__all__ = ('Announcer', 'default_name')

INTERVAL = 10.0
"""Maximum time between two announcements, in seconds. Each is valid for 30 s."""

AT_FIRST = 1.0
"""Time until the second announcement, in seconds. By then the worker has claimed tasks, which that one counts."""

JITTER = 0.2
"""The fraction by which an interval may be shorter, so that workers do not stay in step."""

FAREWELL = 1.0
"""Maximum duration of the last call at the end of a run, in seconds."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


def default_name() -> str:
    """Return the default name of a worker."""
    return f'{socket.gethostname()}:{os.getpid()}'


class Announcer:
    """Announces one worker. Errors here do not affect the worker's tasks.

    Args:
        queue: The worker's queue.
        clock: The worker's clock.
        name: Its name.
        concurrency: Its number of slots.
        running: Returns how many of them are taken.
        suffix: What log messages add to name the queue.
    """

    def __init__(
        self,
        queue: Torrelque,
        clock: Clock,
        *,
        name: str,
        concurrency: int,
        running: Callable[[], int],
        suffix: str = '',
    ) -> None:
        self._suffix = suffix
        self._queue = queue
        self._clock = clock
        self._name = name
        self._concurrency = concurrency
        self._running = running
        self._id = uuid.uuid4().hex
        self._begun = clock.now()
        self._listed = False
        self._failing = False
        self.due: float = -math.inf
        """When to call `announce`, on the worker's clock."""

    async def announce(self) -> None:
        """Announce the worker. Errors are logged."""
        pause = INTERVAL
        try:
            await self._queue.announce(
                self._id,
                name=self._name,
                concurrency=self._concurrency,
                running=self._running(),
                age=self._clock.now() - self._begun,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker works on
            self._report(error)
        else:
            pause = INTERVAL if self._listed else AT_FIRST
            self._listed, self._failing = True, False
        self.due = self._clock.now() + pause * random.uniform(1 - JITTER, 1)  # noqa: S311 - no secret

    async def retract(self) -> None:
        """Remove the worker from the list. If that fails, its last announcement expires soon."""
        if not self._listed:
            return
        with anyio.move_on_after(FAREWELL, shield=True):
            try:
                await self._queue.retract(self._id)
            except Exception as error:  # noqa: BLE001 - it is listed a little longer
                logger.debug('The worker stays listed for a while: %s', describe(error))

    def _report(self, error: Exception) -> None:
        """Log a failure, once until it is over. That the server is unavailable is reported elsewhere."""
        self._listed = False
        if self._failing or (isinstance(error, TorrelqueError) and is_transient(error)):
            logger.debug('The worker cannot announce itself: %s', describe(error))
        else:
            logger.warning(
                'The worker cannot announce itself, and is not listed until it can: %s%s', describe(error), self._suffix
            )
            self._failing = True
