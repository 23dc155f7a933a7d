"""The worker: claims tasks, calls a handler for each, keeps the leases alive and writes the outcomes.

It calls the queue only through its public interface, so it is also an example of a consumer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from functools import partial
from time import monotonic
from typing import Any, Concatenate, Generic

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import current_token

from torrelque import Task, Torrelque, TorrelqueTypeError, TorrelqueUsageError, events
from torrelque import retry as policies
from torrelque.core import checks
from torrelque.core.callables import check_plain_function
from torrelque.core.models import Payload
from torrelque.core.wording import counted
from torrelque.worker.burst import Burst, Member
from torrelque.worker.calling import HandlerCaller
from torrelque.worker.cancelling import CancellationListener
from torrelque.worker.failures import describe
from torrelque.worker.feeds import Feed, Job, sharing_waits
from torrelque.worker.leases import LeaseKeeper
from torrelque.worker.loops import Clock, LoopClock, open_tasks, start_dedicated
from torrelque.worker.outcomes import OutcomeWriter
from torrelque.worker.presence import default_name
from torrelque.worker.router import Router
from torrelque.worker.shares import Claim, Share, Shares
from torrelque.worker.signals import HANG_UP, received
from torrelque.worker.sources import Source, check_handler, check_reserve, check_sources

__all__ = ('Worker',)

CLOSING_TIME = 5.0
"""Maximum time to write outcomes and give claims back at the end of a run, in seconds."""

TURN = 0.001
"""Maximum duration of a turn of the event loop in which handlers are started, in seconds."""

AT_FIRST = 8
"""Number of handlers to start in one turn of the event loop, until it is known how long they take."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class Worker(Generic[Payload]):
    """Consumes a queue: ``await Worker(queue, handler, concurrency=10).run()``.

    The worker calls the handler for each task, renews the lease while the handler runs, and writes the
    outcome. The handler's return value is the task's result. If the handler raises
    :class:`~torrelque.retry.Retry` or :class:`~torrelque.retry.Reject`, even in an exception group, the
    worker obeys. After any other exception, the retry policy decides. If a claim is lost, the worker cancels
    the handler at once and writes nothing.

    Args:
        queue: The queue to consume. For several, a mapping of queues to weights or :class:`~torrelque.Source`
            objects, or a list: ``Worker({critical: 6, default: 3}, handler, concurrency=10)``.
        handler: Called with each :class:`~torrelque.Task`, or a :class:`~torrelque.Router`, which has a
            function for each kind of tasks. None if each queue has its own handler. A coroutine function runs in its
            own event-loop task, in a copy of the context in which `run` was called. A plain function runs in a thread.
        concurrency: Maximum number of tasks to handle at once, of all queues together.
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
        strict: Whether to take tasks only from the first of several queues that has any. Pass the queues without
            weights, the most urgent first.
        reserve: Maps queues to numbers of slots that are kept free for their tasks.

    Raises:
        TorrelqueTypeError: An argument has a bad type.
        TorrelqueValueError: An argument has a bad value.
    """

    def __init__(
        self,
        queue: Torrelque[Payload] | Sequence[Torrelque[Any]] | Mapping[Any, float | Source],
        handler: Callable[Concatenate[Task[Payload], ...], Any] | Router | None = None,
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
        strict: bool = False,
        reserve: Mapping[Torrelque[Any], int] | None = None,
    ) -> None:
        sources = check_sources(queue, handler, strict=checks.check_flag('strict', strict))
        if context is not None and lifespan is not None:
            raise TorrelqueTypeError(f'context and lifespan exclude each other, got {context!r} and {lifespan!r}')
        self._time_limit = None if time_limit is None else checks.check_time_limit(time_limit)
        self._context = context
        self._lifespan = None if lifespan is None else check_plain_function('lifespan', lifespan)
        self._concurrency = checks.check_count('concurrency', concurrency)
        self._retry = (
            policies.exponential(attempts=10)
            if retry is None
            else check_plain_function('retry', retry, 'attempt', 'error')
        )
        self._result_ttl = None if result_ttl is None else checks.check_duration('result_ttl', result_ttl)
        self._finished_ttl = checks.check_duration('finished_ttl', finished_ttl)
        self._grace = checks.check_duration('grace', grace)
        self._name = None if name is None else checks.check_text('name', name)
        self._handle_signals = checks.check_flag('handle_signals', handle_signals)
        self._on_event = None if on_event is None else check_plain_function('on_event', on_event, 'event')
        self._given_clock = clock
        self._burst = burst if isinstance(burst, Burst) else Burst() if checks.check_flag('burst', burst) else None

        reserved = check_reserve(reserve, sources, self._concurrency)
        self._feeds = [
            Feed(
                each,
                check_handler(source.handler),
                Share(source.weight or 1.0, reserved.get(each, 0)),
                f' of queue {each.queue!r}' if len(sources) > 1 else '',
            )
            for each, source in sources.items()
        ]
        self._shares = Shares(self._concurrency, [feed.share for feed in self._feeds], strict=strict)
        self._several = len(self._feeds) > 1
        self._of_share = {feed.share: feed for feed in self._feeds}
        self._claims: dict[Share, anyio.CancelScope] = {}  # in progress

        self._begun = False
        self._running = False
        self._stopping = False
        self._signalled = False
        self._stopped_at = math.inf  # when the last handlers are cancelled
        self._crash: BaseException | None = None
        self._failure: BaseException | None = None
        self._jobs: set[Job] = set()
        self._ready: deque[Job] = deque()  # claimed, about to start; never more than the free slots
        self._many = max(2, self._concurrency // 4)
        self._at_once = AT_FIRST  # handlers started in one turn of the event loop
        self._starting = False
        if self._burst is not None:
            self._members = [Member(feed.queue, self._is_idle, self._end_burst) for feed in self._feeds]
            for member in self._members:
                self._burst.join(member)

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
                for member in self._members:
                    self._burst.leave(member)
        if self._failure is not None:
            raise self._failure

    def _prepare(self, context: Any) -> None:  # noqa: ANN401 - the user's
        """Bind the handlers to their dependencies."""
        for feed in self._feeds:
            for handler in feed.bind(context):
                handler.call = self._observe(handler.call, feed.queue)

    def _observe(self, call: Callable[..., Any], queue: Torrelque[Any]) -> Callable[..., Any]:
        """Return the function to call. Subclasses override this to wrap the handlers of a queue."""
        del queue
        return call

    def _set_up(self, feed: Feed) -> None:
        """Prepare a queue for a run."""
        feed.begin(self._clock, lambda: self._room_of(feed), self._be_away, self._tell)
        feed.announce_as(self._name or default_name(), self._shares.most(feed.share))
        feed.keeper = LeaseKeeper(
            feed.queue, self._clock, self._expire, self._lose, feed.announcer, Job.call_off, feed.suffix
        )
        feed.cancellations = CancellationListener(feed.queue, partial(self._look_at, feed), feed.suffix)
        feed.writer = OutcomeWriter(
            feed.queue, self._clock, self._result_ttl, self._finished_ttl, self._lose, self._tell, self._note
        )

    async def _run(self, task_status: TaskStatus[None]) -> None:
        self._clock: Clock = self._given_clock or LoopClock()
        for feed in self._feeds:
            self._set_up(feed)
        self._stop_news = anyio.Event()
        self._room = anyio.Event()
        self._all_ended = anyio.Event()
        self._running = True
        with self._heeding_signals(), sharing_waits(self._feeds):
            await self._run_all(task_status)

    async def _run_all(self, task_status: TaskStatus[None]) -> None:
        async with anyio.create_task_group() as group:
            try:
                for feed in self._feeds:
                    group.start_soon(feed.writer.run)
                    await feed.writer.ready.wait()  # `group.start`, if cancelled, would wait for ever
                async with anyio.create_task_group() as helpers:
                    for feed in self._feeds:
                        helpers.start_soon(feed.keeper.run)
                        helpers.start_soon(feed.cancellations.run)
                    helpers.start_soon(self._end_grace)
                    if self._burst is not None:
                        helpers.start_soon(self._watch_burst, self._burst)
                    await self._run_deliveries(task_status)
                    helpers.cancel_scope.cancel()
            finally:
                self._stopping = True
                self._give_back_unbegun()
                for feed in self._feeds:
                    group.start_soon(feed.announcer.retract)
                    feed.writer.end(CLOSING_TIME)

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
            logger.info('Stopping: waiting up to %g s for %s', seconds, counted(len(self._jobs), 'handler'))
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
        looked = all(feed.share.has_been_empty for feed in self._feeds)
        return looked and not (self._jobs or self._ready or any(feed.writer.unwritten for feed in self._feeds))

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
                self._caller = HandlerCaller(
                    self._retry,
                    self._time_limit,
                    self._concurrency,
                    self._clock,
                    self._tasks,
                    None if self._on_event is None else self._tell,
                    self._exit,
                )
                try:
                    await (self._claim_by_shares() if self._several else self._claim_and_start())
                except BaseException as error:  # noqa: BLE001 - `run` raises it
                    self._crash = error
                    self.stop()
        finally:
            self._all_ended.set()

    async def _claim_and_start(self) -> None:
        """Claim tasks of the only queue for all free slots, until the worker stops."""
        (feed,) = self._feeds
        while not self._stopping:
            # If many tasks are ready but there are more free slots, claim the next ones while these start.
            if self._many <= len(self._ready) < self._free() if self._ready else self._free():
                await self._claim_alone(feed, self._free())
            else:
                self._room = anyio.Event()
                await self._room.wait()
            if self._ready:
                self._start_ready()
                if not self._starting and self._burst is None:  # a burst ends soon after its last claim
                    await self._tasks.checkpoint()  # these few handlers begin before the next claim is made
        self._give_back_ready()

    async def _claim_alone(self, feed: Feed, free: int) -> None:
        waits = self._burst is None or feed.share.has_been_empty
        with anyio.CancelScope() as scope:
            self._claims[feed.share] = scope
            try:
                jobs = await feed.claim(free, waits=waits)
                feed.share.has_been_empty = waits or not jobs
                self._ready += jobs
                self._note()
            except Exception as error:  # noqa: BLE001 - `run` raises it
                self._fail(error)
            finally:
                del self._claims[feed.share]

    async def _claim_by_shares(self) -> None:
        """Claim tasks of several queues, each for its share of the slots, until the worker stops."""
        shares = self._shares
        while not self._stopping:
            self._room = anyio.Event()
            self._start_ready()
            if not self._ready or len(self._ready) >= self._many:
                for claim in shares.plan(self._clock.now()):
                    feed, scope = self._of_share[claim.share], anyio.CancelScope()
                    self._claims[claim.share] = scope
                    self._tasks.start(self._claim_beside, (claim, feed, scope), f'claim of queue:{feed.queue.queue}')
            for share in shares.to_withdraw():
                self._claims[share].cancel()
            await self._clock.pause(self._room, shares.timer())
        self._give_back_ready()

    async def _claim_beside(self, claim: tuple[Claim, Feed, anyio.CancelScope]) -> None:
        await self._claim(*claim)
        self._room.set()

    async def _claim(self, claim: Claim, feed: Feed, scope: anyio.CancelScope) -> None:
        """Claim tasks, and add them to the ready ones. Those for which no slot is left are given back."""
        self._claims[claim.share] = scope
        jobs: list[Job] | None = None
        try:
            with scope:
                jobs = await feed.claim(claim.many, waits=claim.waits)
        except Exception as error:  # noqa: BLE001 - `run` raises it
            self._fail(error)
        finally:
            del self._claims[claim.share]
            if jobs is None:
                self._shares.withdrawn(claim.share, self._clock.now())
        if jobs is not None:
            kept = self._shares.answered(claim.share, len(jobs), self._clock.now())
            self._ready += jobs[:kept]
            for job in jobs[kept:]:
                self._give_back(job)
            self._note()

    def _start_ready(self) -> None:
        if not self._starting and not self._stopping:
            self._start_some()
            if self._ready:
                self._starting = True
                self._tasks.start(Worker._start_rest, self, 'Worker._start_rest')

    async def _start_rest(self) -> None:
        """Start the handlers of all ready tasks in steps, so that the event loop can do other work in between."""
        last = monotonic()
        while self._ready and not self._stopping:
            await self._tasks.checkpoint()  # runs the handlers that were started before
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
        now = self._clock.now()
        for _ in range(min(self._at_once, len(self._ready))):
            job = self._ready.popleft()
            if job.expires <= now:
                if self._several:
                    self._shares.freed(job.feed.share, now)
                self._expire(job)
            else:
                self._jobs.add(job)
                job.feed.running += 1
                job.feed.keeper.add(job)
                cancellations = job.feed.cancellations
                if job.task.id in cancellations or (job.hears and not job.heard):
                    job.feed.keeper.hurry(job)
                self._tasks.start(self._deliver, job, f'task:{job.task.id}')

    def _end_claiming(self) -> None:
        self._room.set()
        for scope in self._claims.values():
            scope.cancel()

    def _give_back_ready(self) -> None:
        while self._ready:
            self._give_back(self._ready.popleft())

    def _give_back_unbegun(self) -> None:
        """Give back tasks that were never handled, for example because a closing event loop cancelled all its tasks."""
        self._give_back_ready()
        for job in self._jobs:
            if not job.lost:
                job.lost = True
                self._give_back(job)

    @staticmethod
    def _give_back(job: Job) -> None:
        job.feed.writer.settle_soon(job, events.GivenBack(job.task))

    def _free(self) -> int:
        return self._concurrency - len(self._jobs) - len(self._ready)

    def _room_of(self, feed: Feed) -> int:
        return self._shares.room(feed.share) if self._several else self._free()

    def _be_away(self, feed: Feed) -> None:
        """Let the other queues have the slots that a queue whose server is away was given."""
        self._shares.away(feed.share)
        self._room.set()

    # Handling --------------------------------------------------------------------------------------------------------

    async def _deliver(self, job: Job) -> None:
        """Run one delivery in its own event-loop task. Exceptions of the handler do not leave it."""
        outcome = await self._caller.outcome_of(job)
        self._jobs.discard(job)
        job.feed.running -= 1
        if self._several:
            self._shares.freed(job.feed.share, self._clock.now())
        expires = job.feed.keeper.remove(job)
        if outcome is not None and not job.lost:
            job.expires = expires
            job.feed.writer.settle_soon(job, outcome, job.unfit)
        else:
            self._note()
        outcome = None  # from Python 3.12 on, an error's traceback refers to this frame
        self._room.set()

    def _exit(self, error: SystemExit | KeyboardInterrupt, job: Job) -> None:
        """Stop the worker because a handler raised SystemExit or KeyboardInterrupt. `run` raises it."""
        again = isinstance(self._failure, KeyboardInterrupt)
        logger.error('Delivery %d of task:%s ends the worker: %s', job.task.dequeue_count, job.label, describe(error))
        if self._failure is None:
            self._failure = error
        self.stop(0.0 if again else None)

    def _expire(self, job: Job) -> None:
        """End a delivery whose lease has expired."""
        if not job.lost:
            job.lost = True
            self._end_lost(job, was_cancelled=job.feed.cancellations.was_ended(job.task.id))

    async def _lose(self, job: Job) -> None:
        """End a delivery whose claim is gone."""
        if job.lost:
            return
        job.lost = True
        was_cancelled = False
        try:
            was_cancelled = await job.feed.cancellations.has_ended(job.task.id, heard=job.heard)
        finally:
            self._end_lost(job, was_cancelled=was_cancelled)

    def _end_lost(self, job: Job, *, was_cancelled: bool) -> None:
        """Cancel the handler of a lost claim. A thread cannot be cancelled; its result is dropped."""
        delivery = job.task.dequeue_count
        if was_cancelled:
            logger.info('Delivery %d of task:%s is cancelled, nothing is written', delivery, job.label)
            self._tell(events.Cancelled(job.task))
        else:
            logger.warning('Delivery %d of task:%s lost its claim, nothing is written', delivery, job.label)
            self._tell(events.LeaseLost(job.task))
        self._note()
        if not job.in_thread:
            job.scope.cancel()

    def _look_at(self, feed: Feed, task_id: str | None) -> None:
        """Find out at once what became of a claim, or of all claims of a queue."""
        for job in self._jobs:
            if job.feed is feed and task_id in (None, job.task.id):
                feed.keeper.hurry(job)

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
            logger.error('The handler of task:%s ignores its cancellation and is left behind', job.label)
            self._tell(events.Abandoned(job.task))
            if not job.lost:
                job.lost = True
                job.feed.keeper.remove(job)
                self._give_back(job)
        self._all_ended.set()

    @contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        """Heed signals until the last outcome is written: until then, they would end the process with it unwritten."""
        if not self._handle_signals:
            yield
            return
        loop: Any = current_token().native_token
        soon = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon
        with received(lambda number: soon(self._heed, number)):
            yield

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
