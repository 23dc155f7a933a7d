"""Writes the outcomes of a worker's tasks, and tries again while the server is away."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import anyio

from torrelque import (
    ReleaseItem,
    Task,
    Torrelque,
    TorrelqueDurabilityError,
    TorrelqueError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueValueError,
    events,
    is_transient,
)
from torrelque import retry as policies
from torrelque.worker.failures import describe, is_cancellation, presentable, understand
from torrelque.worker.loops import Clock, count_cancellations

__all__ = ('BACK_OFF', 'OutcomeWriter', 'may_pass', 'sleep')

BACK_OFF = policies.exponential(0.05, 2, 0.5, jitter=0.5)
"""Pauses between tries while the server is away."""

LAST_MOMENTS = 2.0
"""Seconds (fewer if the lease is short) for a few tries to complete a task without its result."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


def may_pass(error: Exception) -> bool:
    """Whether to try again. Unexpected errors, such as that no file can be opened, may pass as well."""
    return is_transient(error) or not isinstance(error, TorrelqueError)


def _is_about_result(error: Exception) -> bool:
    """Whether an outcome cannot be written because of its result."""
    if isinstance(error, (TorrelqueTypeError, TorrelqueValueError)):
        return True
    return not isinstance(error, (TorrelqueError, OSError))  # any other is the serialiser's


def _ends_run(error: BaseException) -> bool:
    """Whether the writing itself is cancelled or interrupted. A serialiser may raise the same of its own."""
    if is_cancellation(error):
        return count_cancellations() > 0 or anyio.current_effective_deadline() == -math.inf
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


def _note_unconfirmed(error: TorrelqueDurabilityError) -> None:
    logger.warning('Written, not confirmed: %s', error)  # writing it again would find no claim


def _too_late() -> Exception:
    return TorrelqueTimeoutError('the worker ended before the server answered')


async def sleep(clock: Clock, seconds: float) -> None:
    await clock.pause(anyio.Event(), clock.now() + seconds)


class Job(Protocol):
    """One delivery, and when its lease expires."""

    task: Task
    expires: float

    @property
    def label(self) -> str:
        """The task's name in log messages."""
        ...


J = TypeVar('J', bound=Job)


class _Attempt:
    """How far the writing of an outcome has come."""

    __slots__ = ('_most_left', 'error', 'outcome', 'pause', 'tries', 'unfit', 'writable')

    def __init__(self, outcome: events.Outcome, error: Exception | None) -> None:
        self.outcome = outcome
        self.writable = outcome
        self.unfit: Exception | None = None
        """Why the result is left out."""
        self.error = error
        self.tries = 0
        self.pause = 0.0
        self._most_left = 0.0

    def last_moments(self, left: float) -> float:
        """Seconds before the lease expires in which to try once more without the result."""
        self._most_left = max(self._most_left, left)
        return min(LAST_MOMENTS, self._most_left / 4)


class OutcomeWriter(Generic[J]):
    """Writes outcomes, those of one moment together.

    A result that cannot be written is dropped, and the task is released without it.

    Args:
        queue: The queue that the tasks are of.
        clock: What leases are timed on.
        result_ttl: Seconds for which results are kept. None takes the queue's.
        finished_ttl: Seconds for which final states without a result are kept; 0 keeps none.
        lose: Called with a job whose claim is gone.
        tell: Called with events.
        note: Called when an outcome is written, or never will be.
    """

    def __init__(
        self,
        queue: Torrelque,
        clock: Clock,
        result_ttl: float | None,
        finished_ttl: float,
        lose: Callable[[J], Awaitable[None]],
        tell: Callable[[events.WorkerEvent], None],
        note: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._result_ttl = result_ttl
        self._finished_ttl = finished_ttl
        self._lose = lose
        self._tell = tell
        self._note = note
        self.unwritten: int = 0
        """Outcomes that are still to be written."""
        self._finished: list[tuple[J, events.Finished]] = []
        self.ready: anyio.Event = anyio.Event()
        """Set when outcomes can be handed over."""
        self._all_ended = anyio.Event()
        self._scope = anyio.CancelScope(shield=True)

    async def run(self) -> None:
        """Host the writing until `end`. If cancelled, it continues for the time that `end` allows."""
        with self._scope:
            async with anyio.create_task_group() as self._group:
                self.ready.set()
                await self._all_ended.wait()

    def end(self, seconds: float) -> None:
        """Announce that no outcome will follow, and allow up to ``seconds`` for those in progress."""
        self._scope.deadline = anyio.current_time() + seconds
        self._all_ended.set()

    def settle_soon(self, job: J, outcome: events.Outcome, unfit: Exception | None = None) -> None:
        """Write an outcome, together with others that arrive before the event loop's next turn.

        Args:
            job: The delivery.
            outcome: How it ended.
            unfit: Why its result is left out, if it is.
        """
        self.unwritten += 1
        if unfit is not None:
            self._group.start_soon(self._settle, job, outcome, None, unfit)
        elif isinstance(outcome, events.Finished):
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
        ttl = self._finished_ttl
        items: list[Task | ReleaseItem] = [
            ReleaseItem(ended.task, ended.result, self._result_ttl, finished_ttl=ttl)
            if ended.result is not None
            else ended.task
            for _, ended in finished
        ]
        try:
            answers = await self._queue.release_many(items, finished_ttl=ttl)
        except BaseException as failure:
            if _ends_run(failure):
                for job, outcome in finished:
                    self._give_up(job, outcome, _too_late())
                    self._close()
                raise
            for job, outcome in finished:  # one is bad, so nothing was sent: write each alone
                self._group.start_soon(self._settle, job, outcome)
        else:
            for (job, outcome), error in zip(finished, answers, strict=True):
                if error is None or isinstance(error, TorrelqueDurabilityError):
                    if error is not None:
                        _note_unconfirmed(error)
                    self._tell(outcome)
                    self._close()
                else:
                    self._group.start_soon(self._settle, job, outcome, error)

    async def _settle(
        self, job: J, outcome: events.Outcome, error: Exception | None = None, unfit: Exception | None = None
    ) -> None:
        """Write an outcome. While the server is away, try for as long as the lease lasts.

        Args:
            job: The delivery.
            outcome: How it ended.
            error: Of the first try, if there was one.
            unfit: Why its result is left out, if it is.
        """
        attempt = _Attempt(outcome, error)
        attempt.unfit = unfit
        try:
            ended = False
            while not ended:
                error = error or await self._write(attempt.writable)
                if isinstance(error, (TorrelqueLeaseLostError, TorrelqueLookupError)):
                    await self._lose(job)
                    return
                ended = self._is_ended(job, attempt, error)
                if not ended and attempt.pause:
                    await sleep(self._clock, attempt.pause)
                error = None
        except BaseException:
            self._give_up(job, outcome, attempt.error or _too_late())
            raise
        finally:
            self._close()

    def _close(self) -> None:
        self.unwritten -= 1
        self._note()

    def _is_ended(self, job: J, attempt: _Attempt, error: Exception | None) -> bool:
        """Whether an outcome is written or never will be; otherwise, decide what to write next, and when."""
        outcome = attempt.writable
        if error is None:
            if attempt.unfit is not None:
                logger.error('Task:%s is completed without its result: %s', job.label, describe(attempt.unfit))
                self._tell(events.ResultDropped(outcome.task, attempt.unfit))
            self._tell(outcome)
            return True
        attempt.error = error
        left = job.expires - self._clock.now()
        over = not may_pass(error) or left <= 0
        has_result = isinstance(outcome, events.Finished) and outcome.result is not None
        if has_result and (over or left <= attempt.last_moments(left) or _is_about_result(error)):
            attempt.unfit = error
            attempt.writable = events.Finished(outcome.task, None)  # rather than call the handler again
            attempt.pause = 0.0
            return False
        if over:
            self._give_up(job, attempt.outcome, error)
            return True
        attempt.tries += 1
        attempt.pause = BACK_OFF(attempt.tries, error) or 0.0
        if attempt.tries == 1 and not isinstance(error, TorrelqueError):
            logger.warning('The outcome of task:%s cannot be written yet: %s', job.label, describe(error))
        return False

    async def _write(self, outcome: events.Outcome) -> Exception | None:
        try:
            match outcome:
                case events.Finished(task, result):
                    await self._queue.release(
                        task, result=result, result_ttl=self._result_ttl, finished_ttl=self._finished_ttl
                    )
                case events.Retried(task, delay):
                    await self._queue.requeue(task, delay, count=outcome.count, group=outcome.group)
                case events.Rejected(task, reason):
                    await self._queue.reject(task, reason)
                case events.GivenBack(task) | events.Cancelled(task):  # what is to be cancelled does not go back
                    await self._queue.giveback(task)
        except TorrelqueDurabilityError as error:
            _note_unconfirmed(error)
        except BaseException as error:
            if _ends_run(error):
                raise
            return understand(presentable(error)).error
        return None

    def _give_up(self, job: J, outcome: events.Outcome, error: Exception) -> None:
        logger.error(
            'Task:%s stays claimed until its lease ends, its outcome (%s) could not be written: %s',
            job.label,
            type(outcome).__name__,
            describe(error),
        )
        self._tell(events.Unsettled(outcome.task, outcome, error))
