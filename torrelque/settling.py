"""Writes what became of a worker's tasks, and tries again while the server is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskStatus

from torrelque import (
    ReleaseItem,
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueDurabilityError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTimeoutError,
    events,
    is_transient,
)
from torrelque import retry as policies
from torrelque.renewing import Clock

__all__ = ('BACK_OFF', 'Settler', 'sleep')

BACK_OFF = policies.exponential(0.05, 2, 0.5, jitter=0.5)
"""Between tries to reach a server that is away."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


async def sleep(clock: Clock, seconds: float) -> None:
    await clock.pause(anyio.Event(), clock.now() + seconds)


class Job(Protocol):
    """One delivery, and until when its lease lasts."""

    task: Task
    expires: float


J = TypeVar('J', bound=Job)


class Settler(Generic[J]):
    """Writes outcomes, those of one moment together.

    ``judge`` says what becomes of a task whose result cannot be written,
    ``lose`` is called with a job whose claim has gone, ``tell`` with events.
    """

    def __init__(
        self,
        queue: Torrelque,
        clock: Clock,
        result_ttl: float | None,
        judge: Callable[[Task, Exception], events.Outcome],
        lose: Callable[[J], None],
        tell: Callable[[events.WorkerEvent], None],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._result_ttl = result_ttl
        self._judge = judge
        self._lose = lose
        self._tell = tell
        self._finished: list[tuple[J, events.Finished]] = []
        self._all_ended = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Host the writing until `end`: a cancellation from outside leaves it a bounded time."""
        with self._scope:
            async with anyio.create_task_group() as self._group:
                task_status.started()
                await self._all_ended.wait()

    def end(self, seconds: float) -> None:
        """No outcome will follow; spend so much time at most on those under way."""
        self._scope.deadline = anyio.current_time() + seconds
        self._all_ended.set()

    def settle_soon(self, job: J, outcome: events.Outcome) -> None:
        """Write an outcome, with the others that are handed over before the event loop's next turn."""
        if isinstance(outcome, events.Finished):
            self._finished.append((job, outcome))
            if len(self._finished) == 1:
                self._group.start_soon(self._release)
        else:
            self._group.start_soon(self._settle, job, outcome)

    async def _release(self) -> None:
        finished, self._finished = self._finished, []
        if len(finished) == 1:
            await self._settle(*finished[0])
            return
        items = [ReleaseItem(outcome.task, outcome.result, self._result_ttl) for _, outcome in finished]
        try:
            answers = await self._queue.release_many(items)
        except Exception:  # noqa: BLE001 - one of them cannot be written, and nothing was sent: each by itself then
            for job, outcome in finished:
                self._group.start_soon(self._settle, job, outcome)
        except BaseException:
            for _, outcome in finished:
                self._give_up(outcome, self._too_late())
            raise
        else:
            for (job, outcome), error in zip(finished, answers, strict=True):
                if error is None:
                    self._tell(outcome)
                else:
                    self._group.start_soon(self._settle, job, outcome, error)

    async def _settle(self, job: J, outcome: events.Outcome, error: Exception | None = None) -> None:
        """Write an outcome; while the server is away, try for as long as the lease lasts. ``error``: of a first try."""
        tries = 0
        last = error or self._too_late()
        try:
            while True:
                if error is None:
                    error = await self._write(outcome)
                if isinstance(error, TorrelqueDurabilityError):
                    logger.warning('Written, not confirmed: %s', error)  # writing it again would find no claim
                    error = None
                if error is None:
                    self._tell(outcome)
                    return
                last = error
                if isinstance(error, (TorrelqueLeaseLostError, TorrelqueLookupError)):
                    self._lose(job)
                    return
                if isinstance(error, (TorrelqueConnectionError, TorrelqueReplyError)):
                    if not is_transient(error) or self._clock.now() >= job.expires:
                        break
                    tries += 1
                    await sleep(self._clock, BACK_OFF(tries, error) or 0.0)
                elif isinstance(outcome, events.Finished):  # a result that cannot be serialised is the handler's fault
                    outcome = self._judge(outcome.task, error)
                else:
                    break
                error = None
        except BaseException:
            self._give_up(outcome, last)
            raise
        self._give_up(outcome, last)

    async def _write(self, outcome: events.Outcome) -> Exception | None:
        try:
            match outcome:
                case events.Finished(task, result):
                    await self._queue.release(task, result=result, result_ttl=self._result_ttl)
                case events.Retried(task, delay):
                    await self._queue.requeue(task, delay)
                case events.Rejected(task, reason):
                    await self._queue.reject(task, reason)
                case events.GivenBack(task):
                    await self._queue.giveback(task)
        except Exception as error:  # noqa: BLE001 - it is looked at by the caller
            return error
        return None

    def _give_up(self, outcome: events.Outcome, error: Exception) -> None:
        logger.error(
            'Task:%s stays claimed until its lease ends, its outcome (%s) could not be written: %r',
            outcome.task.id,
            type(outcome).__name__,
            error,
        )
        self._tell(events.Unsettled(outcome.task, outcome, error))

    @staticmethod
    def _too_late() -> Exception:
        return TorrelqueTimeoutError('the worker ended before the server answered')
