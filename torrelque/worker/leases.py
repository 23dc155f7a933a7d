"""Keeps the leases of a worker's tasks alive."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from torrelque import Task, Torrelque, TorrelqueError, TorrelqueLeaseLostError, TorrelqueLookupError
from torrelque.core.leases import Leases
from torrelque.worker.failures import describe
from torrelque.worker.loops import Clock
from torrelque.worker.presence import Announcer

__all__ = ('LeaseKeeper',)

logger: logging.Logger = logging.getLogger('torrelque.worker')


class Job(Protocol):
    """One delivery of a task. Compared by identity, because a task may come again before its last delivery ended."""

    task: Task
    heard: bool

    @property
    def hears(self) -> bool:
        """Whether the worker hears announcements of cancellations now."""
        ...

    @property
    def label(self) -> str:
        """The task's name in log messages."""
        ...

    def __hash__(self) -> int: ...


J = TypeVar('J', bound=Job)


class LeaseKeeper(Generic[J]):
    """Renews leases. It renews those that are due together at once, so that the queue merges them into one call.

    Args:
        queue: The queue that the tasks are of.
        clock: What leases are timed on.
        expire: Called with a job whose lease expired before it could be renewed.
        lose: Called with a job whose claim is gone.
        announcer: Announces the worker as long as leases are kept.
        call_off: Called at each renewal with a job whose task is to be cancelled.
        suffix: What log messages add to name the queue.
    """

    def __init__(
        self,
        queue: Torrelque,
        clock: Clock,
        expire: Callable[[J], None],
        lose: Callable[[J], Awaitable[None]],
        announcer: Announcer,
        call_off: Callable[[J], None],
        suffix: str = '',
    ) -> None:
        self._suffix = suffix
        self._queue = queue
        self._clock = clock
        self._expire = expire
        self._lose = lose
        self._announcer = announcer
        self._call_off = call_off
        self._leases: Leases[J] = Leases()
        self._news = anyio.Event()
        self._next_look = -math.inf
        self._failing = False

    def add(self, job: J) -> None:
        """Renew the lease of a task until it is removed."""
        self._look_at(self._leases.add(job, job.task.expires, self._clock.now()))

    def remove(self, job: J) -> float:
        """Stop renewing. Returns when the lease expires; minus infinity if it already has."""
        return self._leases.remove(job)

    def hurry(self, job: J) -> None:
        """Renew a lease at once, to find out what became of the claim."""
        self._look_at(self._leases.hurry(job, self._clock.now()))

    async def run(self) -> None:
        """Work until cancelled."""
        async with anyio.create_task_group() as renewals:
            while True:
                now = self._clock.now()
                self._start_due(renewals, now)
                self._news = anyio.Event()
                # With no lease left, keep the next look: tasks that come and go do not each need one.
                if self._leases or self._next_look <= now:
                    self._next_look = min(self._leases.timer(), self._announcer.due)
                await self._clock.pause(self._news, self._next_look)

    def _start_due(self, renewals: TaskGroup, now: float) -> None:
        for job in self._leases.expired(now):
            self._expire(job)
        for job in self._leases.due(now):
            renewals.start_soon(self._renew, job)
        if self._announcer.due <= now:
            self._announcer.due = math.inf  # until it has ended
            renewals.start_soon(self._announce)

    def _look_at(self, moment: float) -> None:
        if moment < self._next_look:
            self._next_look = moment
            self._news.set()

    async def _announce(self) -> None:
        await self._announcer.announce()
        self._look_at(self._announcer.due)

    async def _renew(self, job: J) -> None:
        sent, heard = self._clock.now(), job.hears
        try:
            deadline = await self._queue.extend(job.task)
        except (TorrelqueLeaseLostError, TorrelqueLookupError):
            if job in self._leases:  # its outcome may have been written meanwhile
                self._leases.remove(job)
                await self._lose(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, the lease is not renewed
            self._report(job, error)
            self._look_at(self._leases.failed(job, self._clock.now()))
        else:
            self._failing = False
            job.heard = heard
            self._look_at(self._leases.renewed(job, sent))
            if deadline.cancel_asked and job in self._leases:
                self._call_off(job)

    def _report(self, job: J, error: Exception) -> None:
        """Log a failure. An absent server is reported elsewhere; anything else is logged once until it is over."""
        if self._failing or isinstance(error, TorrelqueError):
            logger.debug('The lease of task:%s could not be renewed: %s', job.label, describe(error))
        else:
            logger.warning(
                'Leases cannot be renewed, trying again until they run out: %s%s', describe(error), self._suffix
            )
            self._failing = True
