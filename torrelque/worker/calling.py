"""Calls the handlers of a worker, and decides on the outcomes of their deliveries."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread

from torrelque import TorrelqueLookupError, events
from torrelque import retry as policies
from torrelque.core import checks
from torrelque.worker.failures import Failure, for_log, presentable, sendable, understand
from torrelque.worker.feeds import Job
from torrelque.worker.loops import Clock, Tasks, count_cancellations
from torrelque.worker.router import Unfit

__all__ = ('HandlerCaller',)

HEAD_START = 3
"""Number of turns of the event loop that a claim takes from the worker to the socket."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class HandlerCaller:
    """Calls handlers, each in the task of its delivery.

    Args:
        policy: The retry policy of handlers without their own.
        time_limit: The time limit of handlers without their own, in seconds; None for none.
        concurrency: Maximum number of threads.
        clock: What time limits are timed on.
        tasks: Starts the tasks that watch time limits.
        tell: Called with events; None if nobody wants them.
        end: Called if a handler raised an exception that ends the process.
    """

    def __init__(
        self,
        policy: policies.RetryPolicy,
        time_limit: float | None,
        concurrency: int,
        clock: Clock,
        tasks: Tasks,
        tell: Callable[[events.WorkerEvent], None] | None,
        end: Callable[[SystemExit | KeyboardInterrupt, Job], None],
    ) -> None:
        self._retry = policy
        self._time_limit = time_limit
        self._limiter = anyio.CapacityLimiter(concurrency)
        self._clock = clock
        self._tasks = tasks
        self._tell = tell
        self._exit = end

    async def outcome_of(self, job: Job) -> events.Outcome | None:
        """Call the handler of a delivery. Its exceptions do not leave this method.

        Returns:
            The outcome; None if nothing is to be written.
        """
        if job.lost or job.scope.cancel_called:
            return None if job.lost else events.GivenBack(job.task)
        handler = job.feed.handler_of(job.task)
        if handler is None:
            return self._refuse(job)
        job.handler = handler
        if self._tell is not None:
            self._tell(events.Started(job.task))
        limit = job.time_limit(self._time_limit)
        if limit is not None:
            job.limit, job.over = limit, anyio.Event()
            self._tasks.start(self._watch_limit, job, f'limit of task:{job.task.id}')
        result, error = await self._call(job)
        try:
            if job.over is not None:
                job.over.set()
                error = job.as_late(error)
            if isinstance(error, Unfit):
                job.unfit = error.__cause__ if isinstance(error.__cause__, Exception) else error
                return events.Finished(job.task, None)
            if error is not None:
                return await self._judge_unless_cancelled(job, error)
            if job.scope.cancelled_caught:
                return job.unfinished()
            return events.Finished(job.task, result)
        finally:
            result = error = None  # from Python 3.12 on, the error's traceback refers to this frame

    async def _call(self, job: Job) -> tuple[Any, BaseException | None]:
        """Call the handler in a scope that can cancel it. Return its result and its exception."""
        try:
            with job.scope:
                if not job.handler.in_thread:
                    return await job.handler.call(job.task), None
                result, error = await self._call_in_thread(job)
                if error is None and inspect.isawaitable(result):
                    if job.lost:
                        job.scope.cancel()
                    result = await result
                return result, error
        except GeneratorExit as error:
            if not self._tasks.is_running():
                raise
            return None, error
        except BaseException as error:  # noqa: BLE001 - the retry policy judges it
            return None, presentable(error)
        return None, None

    async def _call_in_thread(self, job: Job) -> tuple[Any, BaseException | None]:
        job.in_thread = True
        try:
            await anyio.to_thread.run_sync(self._call_plainly, job, limiter=self._limiter, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            job.note_thread()
            raise
        job.in_thread = False
        ended, job.ended = job.ended, (None, None)  # the traceback refers to the thread's frames, and these to the job
        return ended

    def _call_plainly(self, job: Job) -> None:
        try:
            job.ended = job.handler.call(job.task), None
        except BaseException as error:  # noqa: BLE001 - anyio does not pass all exceptions on from threads
            job.ended = None, presentable(error)

    async def _judge_unless_cancelled(self, job: Job, error: BaseException) -> events.Outcome | None:
        """Return the outcome of a task whose handler raised, perhaps because this worker cancelled it."""
        failure = understand(error)
        decided = failure.rejects or failure.delay is not None or failure.exit is not None
        if not (decided or job.timed_out) and await self._is_cancelled(job):  # it may raise something else
            return job.unfinished()
        if failure.exit is not None:
            self._exit(failure.exit, job)
        return None if job.lost else self._judge(job, failure, error)

    async def _is_cancelled(self, job: Job) -> bool:
        """Return whether this worker or the event loop is shutting down. Otherwise an inner call was cancelled."""
        if job.is_ending:
            return True
        if not count_cancellations():
            return False
        for _ in range(HEAD_START):  # a closing event loop cancels all tasks in one turn, `run` included
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return job.is_ending

    def _judge(self, job: Job, failure: Failure, raised: BaseException) -> events.Outcome:
        """Return the outcome of a task whose handler raised."""
        task, error = job.task, failure.error
        if failure.rejects:
            return events.Rejected(task, failure.reason, error)
        if job.called_off:  # there is no next delivery
            if failure.delay is None and failure.exit is None:
                logger.warning(
                    'Delivery %d of task:%s failed after it was asked to end, removing it',
                    task.dequeue_count,
                    job.label,
                    exc_info=for_log(raised),
                )
            return events.Cancelled(task)
        if failure.delay is not None:
            return events.Retried(task, failure.delay, error, failure.counts, failure.group)
        delay = self._ask_policy(job, error, job.handler.retry or self._retry)
        shown = None if failure.exit else for_log(raised)
        if delay is None:
            logger.error('Delivery %d of task:%s failed, rejecting it', task.dequeue_count, job.label, exc_info=shown)
            return events.Rejected(task, failure.reason, error)
        logger.warning(
            'Delivery %d of task:%s failed, the next is due in %g s',
            task.dequeue_count,
            job.label,
            delay,
            exc_info=shown,
        )
        return events.Retried(task, delay, error)

    def _ask_policy(self, job: Job, error: Exception, policy: policies.RetryPolicy) -> float | None:
        try:
            delay = policy(job.task.attempt, error)
            return None if delay is None else checks.check_duration('the delay of a retry policy', delay)
        except BaseException:
            logger.exception('The retry policy failed, task:%s is rejected', job.label)
            return None

    def _refuse(self, job: Job) -> events.Outcome:
        """Return the outcome of a task that no function of the router handles."""
        task = job.task
        reason = 'it has no kind' if task.kind is None else f'there is no handler of its kind {task.kind!r}'
        logger.error('Task:%s cannot be handled, rejecting it: %s', job.label, reason)
        return events.Rejected(task, sendable(reason), TorrelqueLookupError(reason))

    async def _watch_limit(self, job: Job) -> None:
        over = job.over
        if over is not None:
            await self._clock.pause(over, self._clock.now() + job.limit)
            if not (over.is_set() or job.lost or job.scope.cancel_called):
                self._end_late(job)

    def _end_late(self, job: Job) -> None:
        """Cancel a handler whose time is up. A thread is left behind and keeps its slot until it ends."""
        job.timed_out = True
        if not job.in_thread:
            job.scope.cancel()
            return
        job.note_thread()
        error = job.late()
        outcome = self._judge(job, understand(error), error)
        job.expires = job.feed.keeper.remove(job)
        job.lost = True  # drops what the thread returns
        job.feed.writer.settle_soon(job, outcome)
