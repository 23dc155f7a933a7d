"""The worker: claims tasks, calls a handler for each, keeps the leases alive and writes the outcomes.

It calls the queue only through its public interface, so it is also an example of a consumer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from itertools import count
from time import monotonic
from typing import Any, Concatenate, Generic

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint, current_token

from torrelque import (
    Task,
    Torrelque,
    TorrelqueError,
    TorrelqueLookupError,
    TorrelqueTimeLimitError,
    TorrelqueTooLargeError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    events,
)
from torrelque import retry as policies
from torrelque.core import checks
from torrelque.core.models import TIME_LIMIT, Payload, number_of
from torrelque.worker.burst import Burst, Member
from torrelque.worker.failures import Failure, describe, for_log, presentable, sendable, understand
from torrelque.worker.leases import LeaseKeeper
from torrelque.worker.loops import Clock, LoopClock, count_cancellations, open_tasks, start_dedicated
from torrelque.worker.outcomes import BACK_OFF, OutcomeWriter, may_pass, sleep
from torrelque.worker.presence import Announcer, default_name
from torrelque.worker.router import Handler, Router, Unfit, check_function, check_plain_function, check_time_limit
from torrelque.worker.signals import HANG_UP, received

__all__ = ('Worker',)

CLOSING_TIME = 5.0
"""Maximum time to write outcomes and give claims back at the end of a run, in seconds."""

TURN = 0.001
"""Maximum duration of a turn of the event loop in which handlers are started, in seconds."""

AT_FIRST = 8
"""Number of handlers to start in one turn of the event loop, until it is known how long they take."""

COMPLAINTS = 60.0
"""Minimum time between log lines about a task that is too large to be claimed, in seconds."""

HEAD_START = 3
"""Number of turns of the event loop that a claim takes from the worker to the socket."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class _Job:
    """One delivery: a task that this worker holds."""

    __slots__ = (
        'ended',
        'expires',
        'handler',
        'in_thread',
        'limit',
        'lost',
        'over',
        'scope',
        'task',
        'timed_out',
        'unfit',
    )

    def __init__(self, task: Task) -> None:
        self.task = task
        self.expires = task.expires
        self.scope = anyio.CancelScope()  # its handler's
        self.in_thread = False
        self.ended: tuple[Any, BaseException | None] = None, None  # what a thread returned or raised
        self.lost = False
        self.handler: Handler
        self.limit = 0.0  # seconds
        self.over: anyio.Event | None = None  # if there is a time limit: set when the handler ends
        self.timed_out = False
        self.unfit: Exception | None = None  # why the result cannot be written


class Worker(Generic[Payload]):
    """Consumes a queue: ``await Worker(queue, handler, concurrency=10).run()``.

    The worker calls the handler for each task, renews the lease while the handler runs, and writes the
    outcome. The handler's return value is the task's result. If the handler raises
    :class:`~torrelque.retry.Retry` or :class:`~torrelque.retry.Reject`, even in an exception group, the
    worker obeys. After any other exception, the retry policy decides. If a claim is lost, the worker cancels
    the handler at once and writes nothing.

    Args:
        queue: The queue to consume.
        handler: Called with each :class:`~torrelque.Task`, or a :class:`~torrelque.Router`, which has a
            function for each kind of tasks. A coroutine function runs in its own event-loop task, in a copy of
            the context in which `run` was called. A plain function runs in a thread.
        concurrency: Maximum number of tasks to handle at once.
        retry: A policy of :mod:`torrelque.retry`, or any function like it. None uses
            ``exponential(attempts=10)``.
        result_ttl: Seconds for which results are kept. None uses the queue's.
        grace: Seconds that handlers have to finish when the worker shuts down.
        handle_signals: Whether SIGTERM, SIGINT, SIGQUIT and SIGHUP shut down this and all other workers
            of the process. A second signal shuts them down without grace.
        on_event: Called with each event of :mod:`torrelque.events`, on the event loop. It must not block.
        clock: The virtual clock of a memory transport, for tests.
        time_limit: Seconds that a handler may take. After that it is cancelled, and the delivery fails with
            TorrelqueTimeLimitError. A thread cannot be cancelled: it is left behind and keeps its slot until
            it ends. Tasks and kinds of a router can have their own limits. None sets no limit.
        context: Dependencies of handlers. Each keyword-only parameter of a handler gets the item (of a
            mapping) or attribute (of any other object) with its name. A parameter named ``context`` gets
            the whole object.
        lifespan: A function without arguments that returns an asynchronous context manager. `run` enters it
            before it claims tasks and leaves it after the last outcome has been written. Its value is the
            ``context``.
        finished_ttl: Seconds for which the final state of a task without a result is kept, so that a caller
            that asks a moment later sees COMPLETED. 0 keeps nothing.
        name: The worker's name in `Torrelque.workers` and ``torrelque workers``. None uses the host name and
            the process id.
        burst: Whether to stop once the queue is empty: no task is pending or due, and this worker holds none.
            Tasks that are due later or that other workers hold do not count. To stop several workers once all
            their queues are empty, pass them the same :class:`~torrelque.Burst`.

    Raises:
        TorrelqueTypeError: An argument has a bad type.
        TorrelqueValueError: An argument has a bad value.
    """

    def __init__(
        self,
        queue: Torrelque[Payload],
        handler: Callable[Concatenate[Task[Payload], ...], Any] | Router,
        *,
        concurrency: int,
        retry: policies.RetryPolicy | None = None,
        result_ttl: float | None = None,
        grace: float = 20.0,
        handle_signals: bool = False,
        on_event: Callable[[events.WorkerEvent], object] | None = None,
        clock: Clock | None = None,
        time_limit: float | None = None,
        context: Any = None,  # noqa: ANN401 - the user's
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        finished_ttl: float = 60.0,
        name: str | None = None,
        burst: bool | Burst = False,
    ) -> None:
        if not isinstance(queue, Torrelque):
            raise TorrelqueTypeError(f'queue must be a Torrelque, got {queue!r}')
        self._queue = queue
        if not isinstance(handler, Router):
            check_function('handler', handler)
        elif not handler.kinds:
            raise TorrelqueTypeError(
                f'handler has no kinds of tasks: decorate functions with its task(), got {handler!r}'
            )
        if context is not None and lifespan is not None:
            raise TorrelqueTypeError(f'context and lifespan exclude each other, got {context!r} and {lifespan!r}')
        self._handler: Callable[..., Any] | Router = handler
        self._time_limit = None if time_limit is None else check_time_limit(time_limit)
        self._context = context
        self._lifespan = None if lifespan is None else check_plain_function('lifespan', lifespan)
        self._concurrency = checks.check_count('concurrency', concurrency)
        self._retry = policies.exponential(attempts=10) if retry is None else check_plain_function('retry', retry)
        self._result_ttl = None if result_ttl is None else checks.check_duration('result_ttl', result_ttl)
        self._finished_ttl = checks.check_duration('finished_ttl', finished_ttl)
        self._grace = checks.check_duration('grace', grace)
        self._name = None if name is None else checks.check_text('name', name)
        self._handle_signals = checks.check_flag('handle_signals', handle_signals)
        self._on_event = None if on_event is None else check_plain_function('on_event', on_event)
        self._given_clock = clock
        self._burst = burst if isinstance(burst, Burst) else Burst() if checks.check_flag('burst', burst) else None

        self._begun = False
        self._running = False
        self._kinds: dict[str, Handler] | None = None
        self._only: Handler | None = None
        self._stopping = False
        self._signalled = False
        self._stopped_at = math.inf  # when the last handlers are cancelled
        self._crash: BaseException | None = None
        self._failure: BaseException | None = None
        self._jobs: set[_Job] = set()
        self._ready: deque[_Job] = deque()  # claimed, about to start; never more than the free slots
        self._many = max(2, self._concurrency // 4)
        self._at_once = AT_FIRST  # handlers started in one turn of the event loop
        self._starting = False
        self._claiming: anyio.CancelScope | None = None
        self._next_complaint = -math.inf
        self._found_none = False
        if self._burst is not None:
            self._member = Member(queue, self._is_idle, self._end_burst)
            self._burst.join(self._member)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until `stop` is called. A worker runs once.

        It keeps running while the server is unavailable, and may start before the server does. It returns even
        if a handler does not end: 5 s after the handler was cancelled, its claim is given back, and the handler
        is left behind.

        Safe to cancel: it then cancels the handlers and gives their claims back at once. That, and writing
        outcomes in progress, takes at most 5 s.

        Args:
            task_status: Its ``started()`` is called when the worker begins to claim, for
                ``await task_group.start(worker.run)``.

        Raises:
            TorrelqueUsageError: The worker has already run, or ``handle_signals`` is set outside the main thread.
            TorrelqueError: An error that waiting cannot fix, such as a refused password. The worker shuts
                down first, as after `stop`.
            SystemExit: A handler raised it (or KeyboardInterrupt). The worker shuts down first.
        """
        if self._begun:
            raise TorrelqueUsageError('this worker has already run: create a new one for each run')
        if self._handle_signals and threading.current_thread() is not threading.main_thread():
            raise TorrelqueUsageError(
                'handle_signals=True works only in the main thread; in other threads, call stop()'
            )
        self._begun = True
        try:
            async with nullcontext(self._context) if self._lifespan is None else self._lifespan() as context:
                self._prepare(context)
                await self._run(task_status)
        finally:
            if self._burst is not None:
                self._burst.leave(self._member)
        if self._failure is not None:
            raise self._failure

    def _prepare(self, context: Any) -> None:  # noqa: ANN401 - the user's
        """Bind the handlers to their dependencies."""
        if isinstance(self._handler, Router):
            self._kinds = {name: kind.handler(context) for name, kind in self._handler.kinds.items()}
        else:
            self._only = Handler(self._handler)
            self._only.bind(context, self._handler)
        for handler in [self._only] if self._kinds is None else self._kinds.values():
            if handler is not None:
                handler.call = self._observe(handler.call)

    def _observe(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function to call. Subclasses override this to wrap handlers."""
        return call

    async def _run(self, task_status: TaskStatus[None]) -> None:
        self._limiter = anyio.CapacityLimiter(self._concurrency)
        self._clock: Clock = self._given_clock or LoopClock()
        self._announcer = Announcer(
            self._queue,
            self._clock,
            name=self._name or default_name(),
            concurrency=self._concurrency,
            running=lambda: len(self._jobs),
        )
        self._renewer = LeaseKeeper(self._queue, self._clock, self._lose, self._announcer)
        self._settler = OutcomeWriter[_Job](
            self._queue, self._clock, self._result_ttl, self._finished_ttl, self._lose, self._tell, self._note
        )
        self._stop_news = anyio.Event()
        self._room = anyio.Event()
        self._all_ended = anyio.Event()
        self._running = True
        async with anyio.create_task_group() as group:
            try:
                group.start_soon(self._settler.run)
                await self._settler.ready.wait()  # `group.start`, if cancelled, would wait for ever
                async with anyio.create_task_group() as helpers:
                    helpers.start_soon(self._renewer.run)
                    helpers.start_soon(self._end_grace)
                    if self._burst is not None:
                        helpers.start_soon(self._watch_burst, self._burst)
                    if self._handle_signals:
                        await helpers.start(self._heed_signals)
                    await self._run_deliveries(task_status)
                    helpers.cancel_scope.cancel()
            finally:
                self._stopping = True
                self._give_back_unbegun()
                group.start_soon(self._announcer.retract)
                self._settler.end(CLOSING_TIME)

    def stop(self, grace: float | None = None) -> None:
        """Stop claiming tasks, and let `run` return when the handlers have finished.

        Handlers that have not finished after the grace time are cancelled, and their claims are given back.
        If called before `run`, it makes `run` return at once. Safe to repeat; further calls can only shorten
        the grace time.

        Call it on the worker's event loop. From a thread, such as that of a plain function's handler,
        use ``anyio.from_thread.run_sync(worker.stop)``.

        Args:
            grace: Seconds that handlers have to finish. None uses the worker's.

        Raises:
            TorrelqueTypeError: ``grace`` is not a number.
            TorrelqueValueError: ``grace`` is out of range.
        """
        seconds = self._grace if grace is None else checks.check_duration('grace', grace)
        if not self._stopping and self._running:
            logger.info('Stopping: %d handlers have %g s to finish', len(self._jobs), seconds)
        self._begin_stop(seconds)

    def _begin_stop(self, seconds: float) -> None:
        self._stopping = True
        if not self._running:
            return
        self._stopped_at = min(self._stopped_at, self._clock.now() + seconds)
        self._stop_news.set()
        self._end_claiming()

    async def _watch_burst(self, burst: Burst) -> None:
        try:
            await burst.run(self._clock)
        except Exception as error:  # noqa: BLE001 - `run` raises it
            self._fail(error)

    def _is_idle(self) -> bool:
        return self._found_none and not (self._jobs or self._ready or self._settler.unwritten)

    def _end_burst(self) -> None:
        if not self._stopping:
            logger.info('The queue is empty: stopping')
            self._begin_stop(self._grace)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.stop()

    # Claiming --------------------------------------------------------------------------------------------------------

    async def _run_deliveries(self, task_status: TaskStatus[None]) -> None:
        """Return when all deliveries have ended, or were abandoned.

        They run outside the caller's task groups, because a task group would wait for a handler that ignores
        its cancellation.
        """
        start_dedicated(self._host_deliveries)
        try:
            task_status.started()
            await self._all_ended.wait()
        except BaseException:  # a cancellation, or Ctrl-C on Trio
            self._stopping = True
            self._end_claiming()
            self._cancel_handlers()
            with anyio.CancelScope(shield=True):
                await self._abandon_late()
            raise
        if self._crash is not None:
            raise self._crash

    async def _host_deliveries(self) -> None:
        try:
            async with open_tasks() as self._tasks:
                try:
                    await self._claim_and_start()
                except BaseException as error:  # noqa: BLE001 - `run` raises it
                    self._crash = error
                    self.stop()
        finally:
            self._all_ended.set()

    async def _claim_and_start(self) -> None:
        """Claim tasks for all free slots, until the worker stops."""
        while not self._stopping:
            # If many tasks are ready but there are more free slots, claim the next ones while these start.
            if self._many <= len(self._ready) < self._free() if self._ready else self._free():
                await self._claim()
            else:
                self._room = anyio.Event()
                await self._room.wait()
            if not self._starting and not self._stopping:
                self._start_some()
                if self._ready:
                    self._starting = True
                    self._tasks.start(Worker._start_rest, self, 'Worker._start_rest')
        self._give_back_ready()

    async def _start_rest(self) -> None:
        """Start the handlers of all ready tasks in steps, so that the event loop can do other work in between."""
        last = monotonic()
        while self._ready and not self._stopping:
            await checkpoint()  # runs the handlers that were started before
            now = monotonic()
            took, last = now - last, now
            if took > TURN:
                self._at_once = max(1, self._at_once // 2)
            elif took < TURN / 2:
                self._at_once = min(self._concurrency, self._at_once * 2)
            self._start_some()
        self._starting = False
        self._room.set()

    def _start_some(self) -> None:
        for _ in range(min(self._at_once, len(self._ready))):
            job = self._ready.popleft()
            if job.expires <= self._clock.now():
                self._lose(job)
            else:
                self._jobs.add(job)
                self._renewer.add(job)
                self._tasks.start(self._deliver, job, f'task:{job.task.id}')

    def _end_claiming(self) -> None:
        self._room.set()
        if self._claiming is not None:
            self._claiming.cancel()

    def _give_back_ready(self) -> None:
        while self._ready:
            job = self._ready.popleft()
            self._settler.settle_soon(job, events.GivenBack(job.task))

    def _give_back_unbegun(self) -> None:
        """Give back tasks that were never handled, for example because a closing event loop cancelled all its tasks."""
        self._give_back_ready()
        for job in self._jobs:
            if not job.lost:
                job.lost = True
                self._settler.settle_soon(job, events.GivenBack(job.task))

    def _free(self) -> int:
        return self._concurrency - len(self._jobs) - len(self._ready)

    async def _claim(self) -> None:
        """Claim tasks for all free slots, and add them to the ready ones."""
        with anyio.CancelScope() as scope:
            self._claiming = scope
            try:
                self._ready.extend([_Job(task) for task in await self._next_tasks()])
                self._note()
            except Exception as error:  # noqa: BLE001 - `run` raises it
                self._fail(error)
            finally:
                self._claiming = None

    async def _next_tasks(self) -> list[Task]:
        try:
            if self._burst is not None and not self._found_none:
                tasks = await self._queue.dequeue_nowait(max_tasks=self._free())
                self._found_none = not tasks
                return tasks
            return await self._queue.dequeue_many(self._free())
        except Exception as error:  # noqa: BLE001 - judged below
            away = self._note_failed_claim(error, away=False)
            return await self._until_back(error, away)

    async def _until_back(self, error: Exception, away: bool) -> list[Task]:
        """Try again until the server answers, and return the tasks that were claimed then.

        Args:
            error: The error of the first claim that failed.
            away: Whether the server has been reported as unusable.
        """
        for failures in count(1):
            await sleep(self._clock, BACK_OFF(failures, error) or 0.0)
            try:
                tasks = await self._queue.dequeue_nowait(max_tasks=self._free())
            except Exception as failure:  # noqa: BLE001 - raised if waiting cannot fix it
                away = self._note_failed_claim(failure, away)
            else:
                if away:
                    logger.info('The server can be used again')
                    self._tell(events.Reconnected())
                return tasks
        raise AssertionError('there is always another try')  # for type checkers

    def _note_failed_claim(self, error: Exception, away: bool) -> bool:
        """Report an error if it is new, or raise it if waiting cannot fix it.

        Returns:
            Whether the server has now been reported as unusable.
        """
        if isinstance(error, TorrelqueTooLargeError):
            if self._clock.now() >= self._next_complaint:
                self._next_complaint = self._clock.now() + COMPLAINTS
                logger.error('A task is too large to be claimed, trying again: %s', error)
            return away
        if not may_pass(error):
            raise error
        if not away:
            shown = error if isinstance(error, TorrelqueError) else describe(error)
            logger.warning('The server cannot be used, trying again until it can: %s', shown)
            self._tell(events.Disconnected(error))
        return True

    # Handling --------------------------------------------------------------------------------------------------------

    async def _deliver(self, job: _Job) -> None:
        """Run one delivery in its own event-loop task. Exceptions of the handler do not leave it."""
        if job.lost:
            outcome: events.Outcome | None = None
        elif job.scope.cancel_called:
            outcome = events.GivenBack(job.task)
        elif (handler := self._handler_of(job.task)) is None:
            outcome = self._refuse(job.task)
        else:
            job.handler = handler
            if self._on_event is not None:
                self._tell(events.Started(job.task))
            self._set_limit(job)
            result, error = await self._call(job)
            if job.over is not None:
                job.over.set()
                error = _as_late(job, error)
            if isinstance(error, Unfit):
                outcome = events.Finished(job.task, None)
                job.unfit = error.__cause__ if isinstance(error.__cause__, Exception) else error
            elif error is not None:
                outcome = await self._judge_unless_cancelled(job, error)
            elif job.scope.cancelled_caught:
                outcome = events.GivenBack(job.task)
            else:
                outcome = events.Finished(job.task, result)
        self._jobs.discard(job)
        expires = self._renewer.remove(job)
        if outcome is not None and not job.lost:
            job.expires = expires
            self._settler.settle_soon(job, outcome, job.unfit)
        else:
            self._note()
        result = error = outcome = None  # from Python 3.12 on, the error's traceback refers to this frame
        self._room.set()

    async def _call(self, job: _Job) -> tuple[Any, BaseException | None]:
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

    async def _call_in_thread(self, job: _Job) -> tuple[Any, BaseException | None]:
        job.in_thread = True
        try:
            await anyio.to_thread.run_sync(self._call_plainly, job, limiter=self._limiter, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            _note_thread(job)
            raise
        job.in_thread = False
        ended, job.ended = job.ended, (None, None)  # the traceback refers to the thread's frames, and these to the job
        return ended

    def _call_plainly(self, job: _Job) -> None:
        try:
            job.ended = job.handler.call(job.task), None
        except BaseException as error:  # noqa: BLE001 - anyio does not pass all exceptions on from threads
            job.ended = None, presentable(error)

    async def _judge_unless_cancelled(self, job: _Job, error: BaseException) -> events.Outcome | None:
        """Return the outcome of a task whose handler raised, perhaps because this worker cancelled it."""
        failure = understand(error)
        decided = failure.rejects or failure.delay is not None or failure.exit is not None
        if not (decided or job.timed_out) and await self._is_cancelled(
            job.scope
        ):  # a cancelled handler may raise something else
            return events.GivenBack(job.task)
        if failure.exit is not None:
            self._exit(failure.exit, job.task)
        return None if job.lost else self._judge(job, failure, error)

    async def _is_cancelled(self, scope: anyio.CancelScope) -> bool:
        """Return whether this worker or the event loop is shutting down. Otherwise an inner call was cancelled."""
        if _is_ending(scope):
            return True
        if not count_cancellations():
            return False
        for _ in range(HEAD_START):  # a closing event loop cancels all tasks in one turn, `run` included
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return _is_ending(scope)

    def _exit(self, error: SystemExit | KeyboardInterrupt, task: Task) -> None:
        """Stop the worker because a handler raised SystemExit or KeyboardInterrupt. `run` raises it."""
        again = isinstance(self._failure, KeyboardInterrupt)
        logger.error('Delivery %d of task:%s ends the worker: %s', task.dequeue_count, task.id, describe(error))
        if self._failure is None:
            self._failure = error
        self.stop(0.0 if again else None)

    def _judge(self, job: _Job, failure: Failure, raised: BaseException) -> events.Outcome:
        """Return the outcome of a task whose handler raised."""
        task, error = job.task, failure.error
        if failure.rejects:
            return events.Rejected(task, failure.reason, error)
        if failure.delay is not None:
            return events.Retried(task, failure.delay, error, failure.counts)
        delay = self._ask_policy(task, error, job.handler.retry or self._retry)
        shown = None if failure.exit else for_log(raised)
        if delay is None:
            logger.error('Delivery %d of task:%s failed, rejecting it', task.dequeue_count, task.id, exc_info=shown)
            return events.Rejected(task, failure.reason, error)
        logger.warning(
            'Delivery %d of task:%s failed, the next is due in %g s', task.dequeue_count, task.id, delay, exc_info=shown
        )
        return events.Retried(task, delay, error)

    def _ask_policy(self, task: Task, error: Exception, policy: policies.RetryPolicy) -> float | None:
        try:
            delay = policy(task.attempt, error)
            return None if delay is None else checks.check_duration('the delay of a retry policy', delay)
        except BaseException:
            logger.exception('The retry policy failed, task:%s is rejected', task.id)
            return None

    def _handler_of(self, task: Task) -> Handler | None:
        return self._only if self._kinds is None else self._kinds.get(task.kind or '')

    def _refuse(self, task: Task) -> events.Outcome:
        """Return the outcome of a task that no function of the router handles."""
        reason = 'it has no kind' if task.kind is None else f'there is no handler of its kind {task.kind!r}'
        logger.error('Task:%s cannot be handled, rejecting it: %s', task.id, reason)
        return events.Rejected(task, sendable(reason), TorrelqueLookupError(reason))

    def _set_limit(self, job: _Job) -> None:
        """Start the time limit of a handler, if it has one."""
        own = number_of(job.task.headers.get(TIME_LIMIT, '').encode())
        limit = own if own is not None and own > 0 else job.handler.time_limit or self._time_limit
        if limit is not None:
            job.limit, job.over = limit, anyio.Event()
            self._tasks.start(self._watch_limit, job, f'limit of task:{job.task.id}')

    async def _watch_limit(self, job: _Job) -> None:
        over = job.over
        if over is not None:
            await self._clock.pause(over, self._clock.now() + job.limit)
            if not (over.is_set() or job.lost or job.scope.cancel_called):
                self._end_late(job)

    def _end_late(self, job: _Job) -> None:
        """Cancel a handler whose time is up. A thread is left behind and keeps its slot until it ends."""
        job.timed_out = True
        if not job.in_thread:
            job.scope.cancel()
            return
        _note_thread(job)
        error = _late(job)
        outcome = self._judge(job, understand(error), error)
        job.expires = self._renewer.remove(job)
        job.lost = True  # drops what the thread returns
        self._settler.settle_soon(job, outcome)

    def _lose(self, job: _Job) -> None:
        """Cancel the handler of a lost claim. A thread cannot be cancelled; its result is dropped."""
        if job.lost:
            return
        job.lost = True
        logger.warning('Delivery %d of task:%s lost its claim, nothing is written', job.task.dequeue_count, job.task.id)
        self._tell(events.LeaseLost(job.task))
        self._note()
        if not job.in_thread:
            job.scope.cancel()

    # Stopping --------------------------------------------------------------------------------------------------------

    async def _end_grace(self) -> None:
        """Cancel the handlers that are still running after the grace time."""
        while self._clock.now() < self._stopped_at:
            self._stop_news = anyio.Event()
            await self._clock.pause(self._stop_news, self._stopped_at)
        self._cancel_handlers()
        await self._abandon_late()

    def _cancel_handlers(self) -> None:
        for job in self._jobs:
            job.scope.cancel()

    async def _abandon_late(self) -> None:
        """Give cancelled handlers time to end, then leave behind those that have not ended."""
        with anyio.move_on_after(CLOSING_TIME):
            await self._all_ended.wait()
            return
        for job in list(self._jobs):
            logger.error('The handler of task:%s ignores that it was cancelled, and is left behind', job.task.id)
            self._tell(events.Abandoned(job.task))
            if not job.lost:
                job.lost = True
                self._renewer.remove(job)
                self._settler.settle_soon(job, events.GivenBack(job.task))
        self._all_ended.set()

    async def _heed_signals(self, *, task_status: TaskStatus[None]) -> None:
        loop: Any = current_token().native_token
        soon = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon
        with received(lambda number: soon(self._heed, number)):
            task_status.started()
            await anyio.sleep_forever()

    def _heed(self, number: int) -> None:
        if self._signalled and number == HANG_UP:
            return
        self.stop(0.0 if self._signalled else None)
        self._signalled = True

    # Helpers ---------------------------------------------------------------------------------------------------------

    def _note(self) -> None:
        if self._burst is not None:
            self._burst.note()

    def _tell(self, event: events.WorkerEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except BaseException:
            logger.exception('on_event failed for %s', type(event).__name__)


def _note_thread(job: _Job) -> None:
    logger.warning('The thread of task:%s is still running; its result is dropped', job.task.id)


def _late(job: _Job) -> TorrelqueTimeLimitError:
    return TorrelqueTimeLimitError(f'the handler took longer than {job.limit:g} s')


def _as_late(job: _Job, error: BaseException | None) -> BaseException | None:
    """Return the exception of a handler that may have been cancelled because of its time limit."""
    if not job.timed_out or (error is None and not job.scope.cancelled_caught):
        return error
    if error is not None:
        failure = understand(error)
        if failure.rejects or failure.delay is not None or failure.exit is not None:
            return error
    late = _late(job)
    late.__cause__ = error
    return late


def _is_ending(scope: anyio.CancelScope) -> bool:
    return scope.cancel_called or anyio.current_effective_deadline() == -math.inf
