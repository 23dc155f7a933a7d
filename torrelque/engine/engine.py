"""Runs one queue object's session over a transport: the task group, the timers and the I/O.

It decides nothing: the session says what to run and when. A caller's task only
waits for its ticket, so cancelling it cuts no I/O off. On asyncio the engine
starts by itself with the first call, and ends when nothing is left to do; where
its context is entered, as Trio needs it, it runs as long as the context.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint, current_token

from torrelque.core.combinators import together
from torrelque.core.commands import ENQUEUE, Answer, ClaimedTask, Command, Item
from torrelque.core.machine import Machine, Wait
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Batch, Call, Operation, Reply
from torrelque.engine.background import BACKOFF, Background, Cancellable, start_later
from torrelque.engine.driving import CLOSING_TIME, Course, drive, finish
from torrelque.engine.reads import Reads
from torrelque.engine.subscriptions import Subscriptions
from torrelque.errors import (
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueUsageError,
)
from torrelque.transports import forks
from torrelque.transports.base import Rest, Transport
from torrelque.transports.oneshot import OneShot, oneshot_maker

__all__ = ('Engine',)

T = TypeVar('T')

Job: TypeAlias = 'Wait | Course'

logger: logging.Logger = logging.getLogger('torrelque')

CROWD = 8
"""Calls that make a crowd, which does better in one call of a script than in two at a time."""

SPARE_DRIVERS = 8
"""Tasks that wait for something to drive. To start one costs more than a call, but each holds some kilobytes."""


class _Driver:
    """A task that has done a job and waits for the next."""

    __slots__ = ('_handed', '_job')

    def __init__(self, handed: OneShot) -> None:
        self._handed = handed
        self._job: Job | None = None

    def hand(self, job: Job | None) -> None:
        self._job = job
        self._handed.set()

    async def next(self) -> Job | None:
        await self._handed.wait()
        return self._job


class Engine:
    """The engine of one queue object.

    ``make_session`` makes the state machine, again after a fork and on another
    event loop. ``confirm_timeout`` is how long the server may take to confirm a write,
    in seconds, where that is asked for.
    """

    def __init__(self, transport: Transport, make_session: Callable[[], Machine], confirm_timeout: float = 0.0) -> None:
        self._transport = transport
        self._make_session = make_session
        self._confirm_timeout = confirm_timeout
        self.turns: int = 0
        """Goes up each time the session was asked what to run: what is submitted between is merged."""
        self._home: tuple[int, object] | None = None  # forks, and the event loop, that the state belongs to
        self._entered = False
        self._host: TaskGroup | None = None
        self._starter: asyncio.Task[None] | None = None
        self._spawned: set[asyncio.Task[None]] = set()

    # Life --------------------------------------------------------------------

    async def enter(self) -> None:
        """Run until `leave`, within the task that calls both."""
        self._bind()
        if self._entered:
            raise TorrelqueUsageError('this queue object is entered already; make one for each `async with`')
        self._entered = True
        self._host = anyio.create_task_group()
        await self._host.__aenter__()
        with anyio.CancelScope(shield=True):  # cancelled half-way in, the host would be left open; it takes one turn
            await self._host.start(self._run_shielded)

    async def leave(self) -> None:
        """Finish what is under way, give back what nobody took, and end."""
        host = self._host
        if host is None:
            return
        self._closing = True
        with anyio.move_on_after(CLOSING_TIME, shield=True):
            await self._close_down()
        self._shield.cancel()
        await self._cut_off()
        try:
            # What the body raised goes on its way by itself: the task group would wrap it into a group.
            await host.__aexit__(None, None, None)
        except* Exception as group:  # noqa: BLE001 - of something that failed as it was cancelled
            self._report(group)
        finally:
            self._host = None
            self._entered = False
            self._home = None

    async def _run_shielded(self, *, task_status: TaskStatus[None]) -> None:
        # A cancellation from outside ends the body of the context, whose clean-up may still need the queue.
        with anyio.CancelScope(shield=True) as self._shield:
            async with anyio.create_task_group() as self._tasks:
                task_status.started()
                await self._run()

    async def aclose(self) -> None:
        """End what the engine started by itself on asyncio. May be repeated."""
        if self._entered or self._home is None:
            return
        for task in [*self._spawned, *([self._starter] if self._starter else [])]:
            task.cancel()
            await asyncio.wait([task])
        if self._home == (forks.count, asyncio.get_running_loop()):  # it may have gone home before, with its lanes left
            with anyio.move_on_after(CLOSING_TIME):
                await self._close_down()

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable:
        """Run something beside the engine until it ends, is cancelled, or the engine is closed."""
        self._ensure()
        background = Background(self._transport)
        if self._entered:
            self._spawn(partial(background.run, function))
        else:
            task = start_later(background.run(function))
            self._spawned.add(task)
            task.add_done_callback(self._spawned.discard)
        return background

    # Calls -------------------------------------------------------------------

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation that is not merged. Cancelling it may leave it half done; it is safe to repeat."""
        return await drive(self._transport, operation)

    async def read(self, make: Callable[[], Operation[T]], node: Hashable) -> T:
        """Run a read, merged with others of the same ``node`` that are asked for at the same time. Safe to cancel."""
        self._bind()
        return await self._reads.run(make, node if self._transport.on_cluster else None)

    async def run_each(self, operations: Sequence[Operation[T]]) -> list[T]:
        """The same for operations on different shards, all at once; their results in order."""
        if self._transport.on_cluster:  # what travels together has to be of one slot
            results: list[T | Exception] = [TorrelqueError('the operation did not run')] * len(operations)

            async def run(at: int) -> None:
                try:
                    results[at] = await drive(self._transport, operations[at])
                except Exception as error:  # noqa: BLE001 - raised below
                    results[at] = error

            await self.run_all([partial(run, at) for at in range(len(operations))])
        else:
            results = await drive(self._transport, together(operations))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results  # type: ignore[return-value]  # none of them is an exception

    async def run_all(self, functions: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run functions of the caller's, all at once."""
        async with anyio.create_task_group() as group:
            for function in functions:
                group.start_soon(function)

    async def checkpoint(self) -> None:
        """Let others have their turn."""
        await checkpoint()

    async def submit(self, command: Command, items: Sequence[Item], shard: int = 0) -> list[Answer]:
        """Run a command on at most ``command.limit`` items of a shard. Returns an answer for each."""
        self._ensure()
        once = self._make_once()
        ticket = self._session.submit(command, items, once.set, shard)
        # Not on shards, where ids that are drawn in one turn are of one shard, to go there in one call. What consumers
        # send at one moment goes together.
        answers: list[Answer] = await self._result_of(ticket, once, at_once=command is ENQUEUE)
        return answers

    def fire_and_forget(self, command: Command, items: Sequence[Item], shard: int = 0) -> None:
        """The same, for an answer that nobody waits for."""
        self._ensure()
        self._session.submit(command, items, _nobody, shard)
        self._ask()

    async def dequeue(self, want: int, deadline: float) -> list[ClaimedTask]:
        """Wait for at least one task. Raises TorrelqueTimeoutError at ``deadline``."""
        self._ensure()
        once = self._make_once()
        tasks: list[ClaimedTask] = await self._result_of(self._session.dequeue(want, deadline, once.set), once)
        return tasks

    async def dequeue_nowait(self, want: int) -> list[ClaimedTask]:
        """What is there, up to ``want`` tasks."""
        self._ensure()
        once = self._make_once()
        tasks: list[ClaimedTask] = await self._result_of(self._session.dequeue_nowait(want, once.set), once)
        return tasks

    def check_running(self) -> None:
        """Raise TorrelqueUsageError where nothing can run in the background: under Trio, outside the context."""
        self._ensure()

    @property
    def hub(self) -> Subscriptions:
        """Where inboxes are opened and closed."""
        return self._hub

    async def _result_of(self, ticket: Ticket, once: OneShot, *, at_once: bool = False) -> Any:  # noqa: ANN401 - what the ticket is for
        self._ask(at_once=at_once)
        try:
            await once.wait()
        except BaseException:
            self._session.leave(ticket)
            self.step_soon()
            raise
        if ticket.error is not None:
            raise ticket.error
        return ticket.value

    # Running -----------------------------------------------------------------

    def _bind(self) -> None:
        """Make fresh state where a fork or another event loop made the old one unusable."""
        # Asked by each call, so asked in the cheapest way.
        home = forks.count, asyncio._get_running_loop() or current_token()  # noqa: SLF001 - documented for this
        if self._home == home:
            return
        if self._home is not None and self._home[0] == home[0] and (self._entered or self._runs_elsewhere()):
            raise TorrelqueUsageError('this queue object is in use in another event loop; make one for each loop')
        self._home = home
        self._loop = asyncio._get_running_loop()  # noqa: SLF001 - as above
        self._make_once = oneshot_maker()
        self._entered = False
        self._host = None
        self._starter = None
        self._spawned = set()
        self._wake = anyio.Event()
        self._pausing_until = -math.inf
        self._stepping = False  # by its task, or by callbacks while that waits
        self._next_turn: asyncio.Handle | None = None
        self._asks = 0  # while the operations are under way that are, or since the last one ended
        self._crowded = True  # more than one then
        self._ahead: Course | None = None  # what a lone caller began at once
        self._followed = 0  # how many had asked at its end
        self._courses: set[Course] = set()
        self._left: list[Course] = []  # what closing down has to drive
        self._to_start: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._begun: list[Coroutine[Any, Any, None]] = []  # those of tasks that may not have made a step
        self._running = 0  # waits, and operations on dedicated connections
        self._failures = 0  # steps in a row that failed
        self._reported = ''
        self._drivers: list[_Driver] = []
        self._closing = False
        self._waiting: set[anyio.CancelScope] = set()
        self._session = self._make_session()
        self._until = math.inf  # when to poll the session again at the latest
        self._hub = Subscriptions(self._transport, self.spawn, lambda: self._entered)
        self._reads = Reads(partial(drive, self._transport))

    def _runs_elsewhere(self) -> bool:
        return self._starter is not None and not self._starter.done() and not self._starter.get_loop().is_closed()

    def _ensure(self) -> None:
        """Be running, by itself where the event loop allows it."""
        self._bind()
        if self._entered or self._starter is not None:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise TorrelqueUsageError(
                'under Trio a queue object runs within its context: '
                '`async with Torrelque(...) as queue:` around all that uses it'
            ) from None
        self._starter = start_later(self._run_while_needed())

    async def _run_while_needed(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._run()
        except anyio.get_cancelled_exc_class():
            for coroutine in self._begun:
                coroutine.close()  # of a task that was cancelled before its first step, which would be warned of
            await self._cut_off()
            with anyio.move_on_after(CLOSING_TIME, shield=True):
                await self._close_down(at_end=True)
            raise
        finally:
            # The next call starts another; other tasks that end with the event loop may have some left to make.
            if self._starter is asyncio.current_task():
                self._starter = None

    async def _run(self) -> None:
        self._drivers = []  # those of an earlier run ended with it
        self._stepping = True
        try:
            while not self._closing:  # then `leave` does the steps, and waits on `_wake` itself
                self._wake = anyio.Event()
                self._step()
                self._start_tasks()
                if self._quiet() and not self._entered:
                    # From here on a new call starts a new engine task; no await lies between.
                    self._starter = None
                    self._dismiss_drivers()
                    return
                await self._pause()
        finally:
            self._stepping = False
            self._start_tasks()

    def _spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the engine's task start another: callbacks of asyncio are in no task, and cannot."""
        self._to_start.append(function)
        self._wake.set()

    def _start_tasks(self) -> None:
        functions, self._to_start = self._to_start, []
        for function in functions:
            coroutine = function()
            self._tasks.start_soon(lambda begun: begun, coroutine)
            self._begun = [each for each in (*self._begun, coroutine) if getcoroutinestate(each) == CORO_CREATED]

    def _ask(self, *, at_once: bool = False) -> None:
        """Have the session look at what a caller asked for, after all that wake in this turn have asked.

        With ``at_once`` a caller that finds nothing under way, after one that was alone, does not wait for others. If
        a crowd followed, it joins that the next time: in two parts a crowd takes two calls each time.
        """
        self._asks += 1
        if at_once and self._asks == 1 and not (self._crowded or self._courses):
            self._turn()
            self._ahead = next(iter(self._courses), None)
        elif at_once and self._followed >= CROWD and self._asks == self._followed + 1 and self._courses:
            self._put_off()  # until an operation that is under way ends
        else:
            self.step_soon()

    def step_soon(self) -> None:
        """Have the session polled: something has changed in it."""
        if self._loop is None or self._closing or not self._stepping:
            self._wake.set()
        elif self._next_turn is None and not self._loop.is_closed():
            self._next_turn = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Make a step outside of the engine's task, which is woken if that has something to do."""
        self._put_off()
        if self._closing or not self._stepping:
            self._wake.set()
            return
        self._step()
        if self._until < self._pausing_until or (not self._entered and self._quiet()):
            self._wake.set()

    def _put_off(self) -> None:
        """Make no step in the next turn of the event loop after all."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

    def _look_around(self) -> None:
        """When nothing is under way: whether more than one caller came since."""
        if self._asks and not self._courses:
            self._crowded, self._asks = self._asks > 1, 0
            self._ahead, self._followed = None, 0

    async def _pause(self) -> None:
        """Wait for something to do; after a step that failed no less than the back-off, unless somebody calls."""
        until = self._until
        if self._failures:
            until = max(until, self._transport.now() + BACKOFF.pause(self._failures, random.random))
        self._pausing_until = until
        try:
            await self._transport.pause(self._wake, until)
        except Exception as error:  # noqa: BLE001 - as in a step
            self._report(error)
            with anyio.move_on_after(BACKOFF.first):
                await self._wake.wait()

    def _dismiss_drivers(self) -> None:
        drivers, self._drivers = self._drivers, []
        for driver in drivers:
            driver.hand(None)

    def _step(self) -> None:
        """Run what is to be run now."""
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - a defect, or a transport's: nobody shall wait for ever
            self._failures += 1
            self._until = -math.inf  # that is, after the back-off
            self._session.abort(error)
            self._report(error)
        else:
            self._failures = 0
        self._look_around()

    def _begin(self) -> None:
        self.turns += 1
        turn = self._session.poll()
        self._until = turn.until
        for group in turn.groups:
            operation = group[0] if len(group) == 1 else together(group)
            course = Course(self._transport, operation, self._take_over, self._end_course)
            self._courses.add(course)
            course.go_on()
        for waiting in turn.dedicated:
            self._running += 1
            self._spawn(partial(self._drive_dedicated, waiting))
        for wait in turn.waits:
            self._running += 1
            self._start(wait)

    def _end_course(self, course: Course, error: Exception | None = None) -> None:
        self._courses.discard(course)
        if course is self._ahead:
            self._ahead, self._followed = None, self._asks
        self._look_around()
        if error is not None:
            self._report(error)
        self._put_off()  # callers that this wakes may ask for more first
        self.step_soon()

    def _take_over(self, course: Course) -> None:
        """Have a task drive an operation on."""
        course.abandon = None
        if self._stepping:
            self._start(course)
        else:
            self._left.append(course)
            self._wake.set()

    def _start(self, job: Job) -> None:
        if self._drivers:
            self._drivers.pop().hand(job)
        else:
            self._spawn(partial(self._work, job))

    def _quiet(self) -> bool:
        busy = self._running or self._courses or self._next_turn or self._wake.is_set()
        return not busy and self._until == math.inf

    async def _work(self, job: Job | None) -> None:
        """Do one job after another, as long as there is one, or room to wait for one."""
        while job is not None:
            if isinstance(job, Wait):
                await self._block(job)
            else:
                await self._drive_on(job)
            job = None
            if len(self._drivers) < SPARE_DRIVERS:
                driver = _Driver(self._make_once())
                self._drivers.append(driver)
                job = await driver.next()

    async def _drive_on(self, course: Course, *, at_end: bool = False) -> None:
        try:
            await self._end(course.operation, at_end=at_end, begun=course.left)
        finally:
            self._end_course(course)

    async def _drive_dedicated(self, operation: Operation[None]) -> None:
        try:
            await self._end(operation, dedicated_timeout=self._confirm_timeout)
        finally:
            self._running -= 1
            self.step_soon()

    async def _end(
        self,
        operation: Operation[Any],
        *,
        at_end: bool = False,
        dedicated_timeout: float | None = None,
        begun: Batch | Rest | None = None,
    ) -> None:
        """Drive an operation of the session, which tells its callers what came of it, to its end."""
        try:
            await drive(self._transport, operation, at_end=at_end, dedicated_timeout=dedicated_timeout, begun=begun)
        except Exception as error:  # noqa: BLE001 - of nobody's, and the object goes on
            self._report(error)

    def _report(self, error: Exception) -> None:
        """Log an error, unless it is the last one again."""
        if repr(error) != self._reported:
            self._reported = repr(error)
            logger.error('Unexpected error in the background, going on', exc_info=error)

    async def _block(self, wait: Wait) -> None:
        """Wait on the server."""
        call = Call[Reply]('BZPOPMIN', (wait.key,), (f'{wait.seconds:.3f}',))
        scope = anyio.CancelScope()
        self._waiting.add(scope)
        try:
            with scope:
                if self._closing:
                    return
                if wait.behind is None:
                    reply, behind = await self._transport.block(call, wait.seconds), None
                else:
                    reply, behind = await self._transport.block_then(call, wait.behind, wait.seconds)
                if isinstance(reply, TorrelqueReplyError):
                    raise reply  # noqa: TRY301 - goes where a broken connection goes
                wait.then.ended(None if reply is None else reply[1], behind)
        except Exception as error:  # noqa: BLE001 - told to those who wait
            wait.then.failed(error)
        finally:
            self._waiting.discard(scope)
            self._running -= 1
            self.step_soon()
        self._turn()  # what follows begins at once

    async def _cut_off(self) -> None:
        """Interrupt what goes on without a task; it is given a little time to clean up."""
        courses = [course for course in self._courses if course.abandon or course in self._left]
        self._courses, self._left = set(), []
        with anyio.move_on_after(CLOSING_TIME, shield=True):
            async with anyio.create_task_group() as tasks:
                for course in courses:
                    if course.abandon is not None:
                        course.abandon()
                    tasks.start_soon(finish, self._transport.execute, course.operation)

    async def _close_down(self, *, at_end: bool = False) -> None:
        """Let what is under way finish, and run what the session has left to do."""
        self._session.close()
        for waiting in list(self._waiting):
            waiting.cancel()
        while True:
            turn = self._session.poll()
            for operation in turn.dedicated:
                await self._end(operation, dedicated_timeout=self._confirm_timeout)
            for group in turn.groups:
                await self._end(together(group), at_end=at_end)
            if turn.groups or turn.dedicated:
                continue
            while self._left:
                await self._drive_on(self._left.pop(), at_end=at_end)
            if not (self._running or self._courses):
                return
            self._wake = anyio.Event()
            await self._wake.wait()


def _nobody() -> None:
    """Wakes nobody."""
