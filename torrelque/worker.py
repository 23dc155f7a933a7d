"""Consume a queue: start a handler for each task, keep the claims alive, write what became of them.

The worker holds nothing that a program could not have of the public interface,
and may serve as an example of its use.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
import signal
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from torrelque import (
    Reject,
    Retry,
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
    events,
)
from torrelque import retry as policies
from torrelque.renewing import Clock, Renewer

__all__ = ('Worker',)

CLOSING_TIME = 5.0
"""Seconds that the end of a run may spend on writing outcomes and giving claims back."""

BACK_OFF = policies.exponential(0.05, 2, 0.5, jitter=0.5)
"""Between tries to reach a server that is away."""

PASSING = re.compile(
    r'\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED)\b'
    r'|max number of clients'
)
"""Answers of a server that will work again by itself. Old servers put a script's code in the middle of the message."""

LONGEST = 1e9
"""Seconds. Beyond it a time is a mistake."""

logger = logging.getLogger('torrelque.worker')


class _LoopClock:
    def now(self) -> float:
        return anyio.current_time()

    async def pause(self, event: anyio.Event, until: float) -> None:
        with anyio.move_on_after(until - anyio.current_time()):
            await event.wait()


class _Job:
    """One delivery: a task in this worker's hands."""

    __slots__ = ('expires', 'in_thread', 'lost', 'scope', 'task')

    def __init__(self, task: Task) -> None:
        self.task = task
        self.expires = task.expires
        self.scope = anyio.CancelScope()
        self.in_thread = False
        self.lost = False


class Worker:
    """Consumes a queue: ``await Worker(queue, handler, concurrency=10).run()``.

    ``handler(task)`` is called for each :class:`~torrelque.Task`, at most
    ``concurrency`` at once. What it returns is kept as the task's result for
    ``result_ttl`` s (None: the queue's); of None nothing is kept. If it raises
    :class:`~torrelque.Retry` or :class:`~torrelque.Reject`, that is done; of any
    other exception ``retry``, a policy of :mod:`torrelque.retry`, says when the
    task is tried again, or that it goes to the dead letters. A plain function
    runs in a thread.

    Meanwhile the claim is renewed. When it is lost all the same, the handler is
    cancelled at once and nothing is written.

    ``grace`` is how many seconds handlers have to finish when the worker is
    stopped; with ``handle_signals`` SIGTERM and SIGINT stop it, and the second
    of them allows no grace. ``on_event`` is called with each event of
    :mod:`torrelque.events`. ``clock`` is for tests whose transport has one.

    Raises TorrelqueTypeError or TorrelqueValueError for bad arguments.
    """

    def __init__(
        self,
        queue: Torrelque,
        handler: Callable[[Task], Any],
        *,
        concurrency: int,
        retry: policies.RetryPolicy | None = None,
        result_ttl: float | None = None,
        grace: float = 20.0,
        handle_signals: bool = False,
        on_event: Callable[[events.WorkerEvent], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(queue, Torrelque):
            raise TorrelqueTypeError(f'queue must be a Torrelque, got {queue!r}')
        if not isinstance(handle_signals, bool):
            raise TorrelqueTypeError(f'handle_signals must be True or False, got {handle_signals!r}')
        self._queue = queue
        self._handler = _check_function('handler', handler)
        self._in_thread = not _is_coroutine_function(handler)
        self._concurrency = _check_count('concurrency', concurrency)
        self._retry = policies.exponential(attempts=10) if retry is None else _check_plain_function('retry', retry)
        self._result_ttl = None if result_ttl is None else _check_seconds('result_ttl', result_ttl)
        self._grace = _check_seconds('grace', grace)
        self._handle_signals = handle_signals
        self._on_event = None if on_event is None else _check_plain_function('on_event', on_event)
        self._clock: Clock = _LoopClock() if clock is None else clock

        self._begun = False
        self._stopping = False
        self._stopped_at = math.inf  # when the last handlers are cancelled
        self._failure: Exception | None = None
        self._outage: Exception | None = None
        self._jobs: set[_Job] = set()
        self._claiming: set[anyio.CancelScope] = set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until `stop`, once.

        It goes on while the server is away, from the start if need be. Raises
        what makes all further work impossible, such as a refused password, after
        it stopped as by `stop`.

        When cancelled, it cancels the handlers and gives their claims back at
        once; that, and writing the outcomes that are on their way, takes at
        most 5 s. ``task_status.started()`` is called when it begins to claim.
        """
        if self._begun:
            raise TorrelqueUsageError('this worker was run before: make a new one for each run')
        if self._handle_signals and threading.current_thread() is not threading.main_thread():
            raise TorrelqueUsageError('handle_signals=True works in the main thread only: there call stop()')
        self._begun = True
        self._limiter = anyio.CapacityLimiter(self._concurrency)
        self._probing = anyio.Lock()
        self._renewer = Renewer(self._queue, self._clock, self._lose)
        self._stop_news = anyio.Event()
        async with anyio.create_task_group() as group:
            await group.start(self._host_settlements)
            try:
                async with anyio.create_task_group() as helpers:
                    helpers.start_soon(self._renewer.run)
                    helpers.start_soon(self._end_grace)
                    if self._handle_signals:
                        await helpers.start(self._heed_signals)
                    async with anyio.create_task_group() as slots:
                        for _ in range(self._concurrency):
                            slots.start_soon(self._fill_slot)
                        task_status.started()
                    helpers.cancel_scope.cancel()
            finally:
                self._stopping = True
                self._settlement.deadline = anyio.current_time() + CLOSING_TIME
                self._all_ended.set()
        if self._failure is not None:
            raise self._failure

    def stop(self, grace: float | None = None) -> None:
        """Claim nothing more, and let `run` end when the handlers have finished.

        After ``grace`` s (None: the worker's) those that have not are cancelled,
        and their claims given back. Called again it can only shorten the time.
        Before `run`, it makes that end at once. Call it on the worker's event
        loop: in a thread, of a plain function's handler for one, it is
        ``anyio.from_thread.run_sync(worker.stop)``.
        """
        seconds = self._grace if grace is None else _check_seconds('grace', grace)
        if not self._stopping and self._begun:
            logger.info('Stopping: %d handlers have %g s to finish', len(self._jobs), seconds)
        self._stopping = True
        if not self._begun:
            return
        self._stopped_at = min(self._stopped_at, self._clock.now() + seconds)
        self._stop_news.set()
        for scope in self._claiming:
            scope.cancel()

    # Claiming --------------------------------------------------------------------------------------------------------

    async def _fill_slot(self) -> None:
        while (job := await self._claim()) is not None:
            outcome = await self._work(job)
            if outcome is not None:
                self._settle_soon(job, outcome)
            await checkpoint()  # the outcome is asked for first, so that it travels with the claim that follows

    async def _claim(self) -> _Job | None:
        """The next task; None when the worker stops."""
        job: _Job | None = None
        if self._stopping:
            return None
        with anyio.CancelScope() as scope:
            self._claiming.add(scope)
            try:
                job = _Job(await self._next_task())
            except Exception as error:  # noqa: BLE001 - `run` raises it
                self._failure = self._failure or error
                self.stop()
            finally:
                self._claiming.discard(scope)
        if job is not None and self._stopping:
            self._settle_soon(job, events.GivenBack(job.task))
            return None
        return job

    async def _next_task(self) -> Task:
        while True:
            if self._outage is not None:
                tasks = await self._until_back()
                if tasks:
                    return tasks[0]
            try:
                return await self._queue.dequeue()
            except (TorrelqueConnectionError, TorrelqueReplyError) as error:
                if not _will_pass(error):
                    raise
                if self._outage is None:
                    self._outage = error
                    logger.warning('The server cannot be used, trying again until it can: %s', error)
                    self._tell(events.Disconnected(error))

    async def _until_back(self) -> list[Task]:
        """Try until the server answers; one slot does for all. What it claimed thereby."""
        async with self._probing:
            for failures in count(1):
                if self._outage is None:
                    break
                await self._sleep(BACK_OFF(failures, self._outage) or 0.0)
                try:
                    tasks = await self._queue.dequeue_nowait()
                except (TorrelqueConnectionError, TorrelqueReplyError) as error:
                    if not _will_pass(error):
                        raise
                else:
                    self._outage = None
                    logger.info('The server can be used again')
                    self._tell(events.Reconnected())
                    return tasks
        return []

    # Handling --------------------------------------------------------------------------------------------------------

    async def _work(self, job: _Job) -> events.Outcome | None:
        """Call the handler. None if the claim was lost meanwhile."""
        if job.expires <= self._clock.now():
            self._lose(job)
            return None
        outcome: events.Outcome = events.GivenBack(job.task)
        self._jobs.add(job)
        self._renewer.add(job)
        self._tell(events.Started(job.task))
        try:
            with job.scope:
                outcome = events.Finished(job.task, await self._call(job))
        except (Retry, Reject) as error:
            outcome = self._judge(job.task, error)
        except Exception as error:  # noqa: BLE001 - the policy's
            # A handler that is cancelled may well fail of it.
            if not job.scope.cancel_called and anyio.current_effective_deadline() != -math.inf:
                outcome = self._judge(job.task, error)
        except BaseException:
            if not job.lost:
                self._settle_soon(job, outcome)
            raise
        finally:
            self._jobs.discard(job)
            job.expires = self._renewer.remove(job)
        return None if job.lost else outcome

    async def _call(self, job: _Job) -> Any:  # noqa: ANN401 - what the handler returns
        if not self._in_thread:
            return await self._handler(job.task)
        job.in_thread = True
        (result,) = await anyio.to_thread.run_sync(
            self._call_plainly, job.task, limiter=self._limiter, abandon_on_cancel=True
        )
        job.in_thread = False
        if inspect.isawaitable(result):
            if job.lost:
                job.scope.cancel()
            return await result
        return result

    def _call_plainly(self, task: Task) -> tuple[Any]:
        return (self._handler(task),)  # packed: Trio refuses a thread that returns a coroutine

    def _judge(self, task: Task, error: Exception) -> events.Outcome:
        """What becomes of a task whose handler raised."""
        if isinstance(error, Retry):
            return events.Retried(task, error.delay, error)
        if isinstance(error, Reject):
            return events.Rejected(task, error.reason, error)
        reason = f'{type(error).__name__}: {error}'[:1000].encode(errors='backslashreplace').decode()
        try:
            delay = self._retry(task.attempt, error)
            if delay is not None:
                delay = _check_seconds('the delay of a retry policy', delay)
        except Exception:
            logger.exception('The retry policy failed, task:%s is rejected', task.id)
            delay = None
        if delay is None:
            logger.error('Delivery %d of task:%s failed, rejecting it', task.dequeue_count, task.id, exc_info=error)
            return events.Rejected(task, reason, error)
        logger.warning(
            'Delivery %d of task:%s failed, the next is due in %g s', task.dequeue_count, task.id, delay, exc_info=error
        )
        return events.Retried(task, delay, error)

    # Settling --------------------------------------------------------------------------------------------------------

    async def _host_settlements(self, *, task_status: TaskStatus[None]) -> None:
        """Where outcomes are written: a cancellation of `run` leaves them a bounded time."""
        self._all_ended = anyio.Event()
        with anyio.CancelScope(shield=True) as self._settlement:
            async with anyio.create_task_group() as self._settling:
                task_status.started()
                await self._all_ended.wait()

    def _settle_soon(self, job: _Job, outcome: events.Outcome) -> None:
        self._settling.start_soon(self._settle, job, outcome)

    async def _settle(self, job: _Job, outcome: events.Outcome) -> None:
        """Write an outcome; while the server is away, try for as long as the lease lasts."""
        error: Exception = TorrelqueTimeoutError('the worker ended before the server answered')
        try:
            for tries in count(1):
                try:
                    await self._write(outcome)
                except (TorrelqueLeaseLostError, TorrelqueLookupError):
                    self._lose(job)
                    return
                except (TorrelqueConnectionError, TorrelqueReplyError) as failure:
                    error = failure
                    if not _will_pass(error) or self._clock.now() >= job.expires:
                        break
                    await self._sleep(BACK_OFF(tries, error) or 0.0)
                except Exception as failure:  # noqa: BLE001 - a result that cannot be serialised is the handler's fault
                    error = failure
                    if not isinstance(outcome, events.Finished):
                        break
                    outcome = self._judge(outcome.task, error)
                else:
                    self._tell(outcome)
                    return
        except BaseException:
            self._give_up(outcome, error)
            raise
        self._give_up(outcome, error)

    async def _write(self, outcome: events.Outcome) -> None:
        match outcome:
            case events.Finished(task, result):
                await self._queue.release(task, result=result, result_ttl=self._result_ttl)
            case events.Retried(task, delay):
                await self._queue.requeue(task, delay)
            case events.Rejected(task, reason):
                await self._queue.reject(task, reason)
            case events.GivenBack(task):
                await self._queue.giveback(task)

    def _give_up(self, outcome: events.Outcome, error: Exception) -> None:
        logger.error(
            'Task:%s stays claimed until its lease ends, its outcome (%s) could not be written: %r',
            outcome.task.id,
            type(outcome).__name__,
            error,
        )
        self._tell(events.Unsettled(outcome.task, outcome, error))

    def _lose(self, job: _Job) -> None:
        """End a handler whose claim is lost. A thread cannot be: what it returns is dropped."""
        if job.lost:
            return
        job.lost = True
        logger.warning('Delivery %d of task:%s lost its claim, nothing is written', job.task.dequeue_count, job.task.id)
        self._tell(events.LeaseLost(job.task))
        if not job.in_thread:
            job.scope.cancel()

    # Stopping --------------------------------------------------------------------------------------------------------

    async def _end_grace(self) -> None:
        """Cancel the handlers that still run when the time to finish is over."""
        while self._clock.now() < self._stopped_at:
            self._stop_news = anyio.Event()
            await self._clock.pause(self._stop_news, self._stopped_at)
        for job in self._jobs:
            job.scope.cancel()

    async def _heed_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            task_status.started()
            grace: float | None = None
            async for _ in received:
                self.stop(grace)
                grace = 0.0

    # Within ----------------------------------------------------------------------------------------------------------

    async def _sleep(self, seconds: float) -> None:
        await self._clock.pause(anyio.Event(), self._clock.now() + seconds)

    def _tell(self, event: events.WorkerEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception('on_event failed for %s', type(event).__name__)


def _will_pass(error: Exception) -> bool:
    """Whether the server can be expected to work again without anybody's doing."""
    if isinstance(error, TorrelqueReplyError):
        return bool(PASSING.search(f'{error.code} {error}'))
    return isinstance(error, TorrelqueConnectionError) and not isinstance(error, TorrelqueHandshakeError)


def _is_coroutine_function(function: Any) -> bool:  # noqa: ANN401 - that is what is asked
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _check_function(name: str, value: Any) -> Any:  # noqa: ANN401 - that is what is checked
    if not callable(value):
        raise TorrelqueTypeError(f'{name} must be a function, got {value!r}')
    return value


def _check_plain_function(name: str, value: Any) -> Any:  # noqa: ANN401 - as above
    if _is_coroutine_function(_check_function(name, value)):
        raise TorrelqueTypeError(f'{name} must be a plain function, got a coroutine function: {value!r}')
    return value


def _check_count(name: str, value: Any) -> int:  # noqa: ANN401 - as above
    if isinstance(value, bool) or not isinstance(value, int):
        raise TorrelqueTypeError(f'{name} must be a whole number, got {value!r}')
    if value < 1:
        raise TorrelqueValueError(f'{name} must be at least 1, got {value!r}')
    return value


def _check_seconds(name: str, value: Any) -> float:  # noqa: ANN401 - as above
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TorrelqueTypeError(f'{name} must be a number of seconds, got {value!r}')
    if not 0 <= value <= LONGEST:
        raise TorrelqueValueError(f'{name} must be from 0 to {LONGEST:.0f} seconds, got {value!r}')
    return float(value)
