"""Ends workers once their queues are empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import anyio

from torrelque import Torrelque, TorrelqueQueueStats
from torrelque import retry as policies
from torrelque.worker.loops import Clock
from torrelque.worker.outcomes import BACK_OFF, may_pass, sleep

__all__ = ('Burst', 'Member')

SETTLING = policies.exponential(0.2, maximum=8.0)
"""Pauses between checks of the queues while tasks are held, are about to be claimed, or may not be claimed now."""


class Member(NamedTuple):
    """A worker, reduced to what `Burst` needs to end it."""

    queue: Torrelque
    is_idle: Callable[[], bool]
    """Whether it has looked for tasks, holds none, and has no outcome to write."""
    end: Callable[[], None]


class Burst:
    """Ends several workers together, once the queues of all are empty.

    Pass the same object as ``burst=`` to workers whose handlers add tasks to each other's queues: none ends while
    another still has tasks. They have to run on the same event loop.
    """

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._changes = 0
        self._news = anyio.Event()

    def join(self, member: Member) -> None:
        """Add a worker. Called before it runs."""
        self._members.append(member)

    def leave(self, member: Member) -> None:
        """Remove a worker that has ended."""
        self._members.remove(member)
        self.note()

    def note(self) -> None:
        """Record that a worker has looked for tasks, claimed some, or written an outcome."""
        self._changes += 1
        self._news.set()
        self._news = anyio.Event()

    async def run(self, clock: Clock) -> None:
        """Wait until the queues are empty and all workers idle, then end the workers.

        Tasks that are being claimed count as working, like those that other workers hold. If there are any, the
        queues are checked again a little later. Safe to cancel.

        Raises:
            TorrelqueError: A queue cannot be read, and waiting cannot fix that.
        """
        seen, looks = -1, 0
        while True:
            while not all(member.is_idle() for member in self._members):
                await self._news.wait()
            before = self._changes
            counts = [await _count(member.queue, clock) for member in self._members]
            if self._changes == before and not any(count.pending for count in counts):
                if seen == before or not any(count.working for count in counts):
                    break
                seen = before
            if self._changes == before:
                looks += 1
                await clock.pause(self._news, clock.now() + (SETTLING(looks, TimeoutError()) or 0.0))
            else:
                looks = 0
        for member in self._members:
            member.end()


async def _count(queue: Torrelque, clock: Clock) -> TorrelqueQueueStats:
    """Count a queue's tasks. Wait while the server is unavailable."""
    failures = 0
    while True:
        try:
            return await queue.get_queue_stats()
        except Exception as error:
            if not may_pass(error):
                raise
            failures += 1
            pause = BACK_OFF(failures, error) or 0.0
        await sleep(clock, pause)
