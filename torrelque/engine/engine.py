"""Runs the session of one queue object over a transport.

Theory of operation. The engine has the task group, the timers and the I/O. It
makes no decisions: the session says what to run and when. A *step* polls the
session once and starts what it returns. There is a step after each request, each
time a call or a wait ends, and at the time that the session asks for.

A caller submits a request and waits for its ticket. It does no I/O, so
cancelling it interrupts none. Requests from one turn of the event loop are
collected before the step, so that the session can merge them. A caller that
comes alone, after another that came alone, has its step at once.

A call needs no task. The engine starts it on the transport (a `Course`), and the
transport's callback continues it. A call that has more to do than the callback
can, and each wait on the server, is passed to a *driver*, a task that takes one
such job after another. A few idle drivers are kept.

On asyncio the engine starts with the first call, and ends when nothing is left
to do. If its context is entered, as Trio requires, it runs as long as the
context. After a fork, and on another event loop, it starts with a new session.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate
from threading import get_ident
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint, current_token

from torrelque.core.combinators import together
from torrelque.core.commands import ADD, ENQUEUE, Answer, ClaimedTask, Command, Item
from torrelque.core.machine import Machine, Wait
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Batch, Call, Course, Operation, Reply
from torrelque.core.waiters import FIRST_LOOK
from torrelque.engine.background import BACKOFF, Background, Cancellable, rest, start_later
from torrelque.engine.driving import CLOSING_TIME, Drivers, drive, finish
from torrelque.engine.reads import Reads
from torrelque.engine.subscriptions import Subscriptions
from torrelque.engine.waits import WaitSharer
from torrelque.errors import (
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueTimeoutError,
    TorrelqueUsageError,
)
from torrelque.transports import forks
from torrelque.transports.base import Rest, Transport
from torrelque.transports.oneshot import OneShot, oneshot_maker

__all__ = ('Engine',)

T = TypeVar('T')

logger: logging.Logger = logging.getLogger('torrelque')

CROWD = 8
"""Minimum number of callers at which one merged call is faster than two calls in turn."""


class Engine:
    """The engine of one queue object.

    Args:
        transport: The transport.
        make_session: Makes the session: at first, after a fork, and on another event loop.
        confirm_timeout: How long the server may take to confirm a durable write, in seconds.
    """

    def __init__(self, transport: Transport, make_session: Callable[[], Machine], confirm_timeout: float = 0.0) -> None:
        self._transport = transport
        self._make_session = make_session
        self._confirm_timeout = confirm_timeout
        self.turns: int = 0
        """The number of steps. Requests between two steps can be merged."""
        self._home: tuple[int, object] | None = None  # the number of forks, and the event loop, of the current state
        self._loop: Any = None  # asyncio's
        self._thread: int | None = None  # its thread
        self._forks = 0
        self._entered = False
        self._host: TaskGroup | None = None
        self._starter: asyncio.Task[None] | None = None
        self._spawned: set[asyncio.Task[None]] = set()
        self._sharer: WaitSharer | None = None

    # Life --------------------------------------------------------------------

    async def enter(self) -> None:
        """Start, and run until `leave`. Call both from the same task.

        Raises:
            TorrelqueUsageError: It is running already, or in use on another event loop.
        """
        self._bind()
        if self._entered:
            raise TorrelqueUsageError('this queue object is already entered; create one for each `async with`')
        self._entered = True
        self._host = anyio.create_task_group()
        await self._host.__aenter__()
        with anyio.CancelScope(shield=True):  # takes one turn; a cancellation here would leave the host open
            await self._host.start(self._run_shielded)

    async def leave(self) -> None:
        """Finish the calls in flight, give back tasks that no caller received, and end. Takes up to `CLOSING_TIME`."""
        host = self._host
        if host is None:
            return
        self._closing = True
        with anyio.move_on_after(CLOSING_TIME, shield=True):
            await self._close_down()
        self._shield.cancel()
        await self._cut_off()
        try:
            # The error of the body is not passed on, because the task group would wrap it into a group.
            await host.__aexit__(None, None, None)
        except* Exception as group:  # noqa: BLE001 - a task failed while it was cancelled
            self._report(group)
        finally:
            self._host = None
            self._entered = False
            self._home = self._thread = None

    async def _run_shielded(self, *, task_status: TaskStatus[None]) -> None:
        # A cancellation from outside ends the body of the context. Its clean-up may still need the queue.
        with anyio.CancelScope(shield=True) as self._shield:
            async with anyio.create_task_group() as self._tasks:
                task_status.started()
                await self._run()

    async def aclose(self) -> None:
        """End what the engine started on asyncio without its context. Safe to repeat."""
        if self._entered or self._home is None:
            return
        for task in [*self._spawned, *([self._starter] if self._starter else [])]:
            task.cancel()
            await asyncio.wait([task])
        if self._home == (forks.count, asyncio.get_running_loop()):  # the engine may have ended, but its lanes are left
            with anyio.move_on_after(CLOSING_TIME):
                await self._close_down()

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable:
        """Run a function in the background until it returns, is cancelled, or the engine is closed.

        Errors in it are logged, and it is started again after a pause.
        """
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
        """Run an operation that is not merged. Safe to repeat. Cancelling it may leave it half done."""
        return await drive(self._transport, operation)

    async def read(self, make: Callable[[], Operation[T]], node: Hashable) -> T:
        """Run a read, merged with others from the same ``node`` that are requested at the same time. Safe to cancel."""
        self._bind()
        return await self._reads.run(make, node if self._transport.on_cluster else None)

    async def run_each(self, operations: Sequence[Operation[T]]) -> list[T]:
        """Run operations on different shards at the same time. Returns their results in order, or raises an error."""
        if self._transport.on_cluster:  # a batch may only have keys of one slot
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
        """Run functions at the same time, in a task group."""
        async with anyio.create_task_group() as group:
            for function in functions:
                group.start_soon(function)

    @contextmanager
    def limit(self, deadline: float, late: Callable[[], TorrelqueTimeoutError]) -> Iterator[None]:
        """End a block that waits for the server too long after a deadline: longer than `FIRST_LOOK`.

        Args:
            deadline: The deadline of the caller, on the transport's clock; may be infinite.
            late: Makes the error to raise.
        """
        if deadline == math.inf:
            yield
            return
        with anyio.move_on_after(deadline + FIRST_LOOK - self._transport.now()) as scope:
            yield
        if scope.cancelled_caught:
            raise late()

    async def rest(self, seconds: float) -> None:
        """Let time pass on the transport's clock."""
        await rest(self._transport, seconds)

    async def checkpoint(self) -> None:
        """Let other tasks run."""
        await checkpoint()

    def submit(self, command: Command, items: Sequence[Item], shard: int = 0) -> Coroutine[Any, Any, list[Answer]]:
        """Run a command on items of a shard, merged with other requests. Safe to cancel.

        Args:
            command: The command.
            items: The items, at most ``command.limit``.
            shard: The number of the shard; ignored without shards.

        Returns:
            An answer for each item.
        """
        self._ensure()
        once = self._make_once()
        ticket = self._session.submit(command, items, once.set, shard)
        # Only enqueues are sent at once: consumers end their tasks at the same moment, so their calls are merged.
        return self._result_of(ticket, once, at_once=command is ADD or command is ENQUEUE)

    def fire_and_forget(self, command: Command, items: Sequence[Item], shard: int = 0) -> None:
        """Run a command on items of a shard without waiting for the answer."""
        self._ensure()
        self._session.submit(command, items, _nobody, shard)
        self._ask()

    def dequeue(self, want: int, deadline: float) -> Coroutine[Any, Any, list[ClaimedTask]]:
        """Wait for up to ``want`` tasks. Safe to cancel: tasks that arrive too late are given back.

        Returns:
            At least one task.

        Raises:
            TorrelqueTimeoutError: There was none until ``deadline``, on the transport's clock.
        """
        self._ensure()
        once = self._make_once()
        return self._result_of(self._session.dequeue(want, deadline, once.set), once)

    def dequeue_nowait(self, want: int) -> Coroutine[Any, Any, list[ClaimedTask]]:
        """Return up to ``want`` tasks that are available now. Safe to cancel."""
        self._ensure()
        once = self._make_once()
        return self._result_of(self._session.dequeue_nowait(want, once.set), once)

    @property
    def shares_waits(self) -> bool:
        """Whether the waits on the server, or the subscriptions, are shared with other queue objects."""
        return self._sharer is not None

    def share_waits(self, sharer: WaitSharer | None) -> None:
        """Have further waits on the server and subscriptions made by ``sharer``; None makes them here again."""
        self._sharer = sharer
        if self._home is not None:
            self._session.share_waits(shared=self._waits_elsewhere)

    @property
    def _waits_elsewhere(self) -> bool:
        return self._sharer is not None and not self._transport.on_cluster  # one call has keys of one slot only

    def check_running(self) -> None:
        """Raise TorrelqueUsageError if nothing can run in the background: under Trio, outside the context."""
        self._ensure()

    @property
    def nonce(self) -> str:
        """The nonce of the current session, which the tokens of its claims contain."""
        self._bind()
        return self._session.nonce

    @property
    def hub(self) -> Subscriptions:
        """The subscriptions of the watchers."""
        return self._hub if self._sharer is None else self._sharer.share_hub(self._hub)

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
        """Create new state at first, and when a fork or another event loop makes the old state unusable."""
        # Each call gets here. Before Python 3.12, asyncio needs a system call to find the thread's running loop.
        if self._thread == get_ident() and self._forks == forks.count and self._loop.is_running():
            return
        home = forks.count, asyncio._get_running_loop() or current_token()  # noqa: SLF001 - documented for this
        if self._home == home:
            return
        if self._home is not None and self._home[0] == home[0] and (self._entered or self._runs_elsewhere()):
            raise TorrelqueUsageError(
                'this queue object is in use on another event loop; create one for each loop, or, in synchronous code, '
                'use torrelque.sync'
            )
        self._home = home
        self._loop = asyncio._get_running_loop()  # noqa: SLF001 - documented for this
        self._forks, self._thread = forks.count, None if self._loop is None else get_ident()
        self._make_once = oneshot_maker()
        self._entered = False
        self._host = None
        self._starter = None
        self._spawned = set()
        self._wake = anyio.Event()
        self._pausing_until = -math.inf
        self._stepping = False  # whether the engine's task, or callbacks while it waits, make steps
        self._next_turn: asyncio.Handle | None = None
        self._asks = 0  # requests since the current courses began, or since the last one ended
        self._crowded = True  # whether there was more than one request then
        self._ahead: Course | None = None  # the course that a lone caller began at once
        self._followed = 0  # the number of requests when it ended
        self._courses: set[Course] = set()
        self._left: list[Course] = []  # courses that closing down has to drive
        self._to_start: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._begun: list[Coroutine[Any, Any, None]] = []  # coroutines of tasks that may not have run yet
        self._running = 0  # waits, and operations on dedicated connections
        self._failures = 0  # steps in a row that failed
        self._reported = ''
        self._drivers = self._make_drivers()
        self._closing = False
        self._waiting: set[anyio.CancelScope] = set()
        self._begun_waits: dict[object, Callable[[], Awaitable[object]]] = {}  # without a task, and what ends them
        self._session = self._make_session()
        self._session.share_waits(shared=self._waits_elsewhere)
        self._until = math.inf  # when to poll the session again at the latest
        self._hub = Subscriptions(self._transport, self.spawn, lambda: self._entered)
        self._reads = Reads(partial(drive, self._transport))

    def _runs_elsewhere(self) -> bool:
        return self._starter is not None and not self._starter.done() and not self._starter.get_loop().is_closed()

    def _ensure(self) -> None:
        """Start the engine if it is not running. Trio does not permit that outside the context."""
        self._bind()
        if self._entered or self._starter is not None:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise TorrelqueUsageError(
                'under Trio a queue object runs within its context: '
                '`async with Torrelque(...) as queue:` around all code that uses it'
            ) from None
        self._starter = start_later(self._run_while_needed())

    async def _run_while_needed(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._run()
        except anyio.get_cancelled_exc_class():
            for coroutine in self._begun:
                coroutine.close()  # avoids a warning about tasks that were cancelled before they ran
            await self._cut_off()
            with anyio.move_on_after(CLOSING_TIME, shield=True):
                await self._close_down(at_end=True)
            raise
        finally:
            # Other tasks that end with the event loop may still make calls. The next one starts another task.
            if self._starter is asyncio.current_task():
                self._starter = None

    async def _run(self) -> None:
        self._drivers = self._make_drivers()  # those of an earlier run have ended
        self._stepping = True
        try:
            while not self._closing:  # while closing, `leave` makes the steps and waits for `_wake`
                self._wake = anyio.Event()
                self._step()
                self._start_tasks()
                if self._quiet() and not self._entered:
                    # From here on, a new call starts a new engine task. There is no await in between.
                    self._starter = None
                    self._drivers.dismiss()
                    return
                await self._pause()
        finally:
            self._stepping = False
            self._start_tasks()

    def _spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the engine's task start another task, because asyncio's callbacks cannot."""
        self._to_start.append(function)
        self._wake.set()

    def _start_tasks(self) -> None:
        functions, self._to_start = self._to_start, []
        for function in functions:
            coroutine = function()
            self._tasks.start_soon(lambda begun: begun, coroutine)
            self._begun = [each for each in (*self._begun, coroutine) if getcoroutinestate(each) == CORO_CREATED]

    def _ask(self, *, at_once: bool = False) -> None:
        """Schedule a step for a request, after the other callers that run in this turn have made theirs.

        With ``at_once``, the step is made now if nothing is in flight and the last caller was alone. If a crowd
        followed that caller, the next one waits for the crowd, because a crowd in two parts needs two calls.
        """
        self._asks += 1
        if at_once and self._asks == 1 and not (self._crowded or self._courses):
            self._turn()
            self._ahead = next(iter(self._courses), None)
        elif at_once and self._followed >= CROWD and self._asks == self._followed + 1 and self._courses:
            self._put_off()  # until a course ends
        elif self._next_turn is None:
            self.step_soon()

    def step_soon(self) -> None:
        """Schedule a step, because something has changed in the session."""
        if self._loop is None or self._closing or not self._stepping:
            self._wake.set()
        elif self._next_turn is None and not self._loop.is_closed():
            self._next_turn = self._loop.call_soon(self._turn)

    def _step_later(self) -> None:
        """Schedule a step after consumers that were served have run. Usually they soon ask for more."""
        if self._next_turn is None and self._loop is not None and not self._loop.is_closed():
            self._next_turn = self._loop.call_soon(self._step_next)
        else:
            self.step_soon()

    def _step_next(self) -> None:
        self._next_turn = None
        self.step_soon()

    def _turn(self) -> None:
        """Make a step outside the engine's task, which is woken if it has something to do."""
        self._put_off()
        if self._closing or not self._stepping:
            self._wake.set()
            return
        self._step()
        if self._until < self._pausing_until or (not self._entered and self._quiet()):
            self._wake.set()

    def _put_off(self) -> None:
        """Cancel the step in the next turn of the event loop."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

    def _look_around(self) -> None:
        """When the last course has ended, note whether there was more than one request."""
        if self._asks and not self._courses:
            self._crowded, self._asks = self._asks > 1, 0
            self._ahead, self._followed = None, 0

    async def _pause(self) -> None:
        """Wait until there is something to do. After a failed step, wait for the back-off, unless there is a call."""
        until = self._until
        if self._failures:
            until = max(until, self._transport.now() + BACKOFF.pause(self._failures, random.random))
        self._pausing_until = until
        try:
            await self._transport.pause(self._wake, until)
        except Exception as error:  # noqa: BLE001 - an error of the transport's clock, which must not end the engine
            self._report(error)
            with anyio.move_on_after(BACKOFF.first):
                await self._wake.wait()

    def _step(self) -> None:
        """Poll the session, and start what it returns."""
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - a defect here or in a transport; no caller may wait for ever
            self._failures += 1
            self._until = -math.inf  # the next step is made after the back-off
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
            course = Course(self._transport.start, operation, self._take_over, self._end_course)
            self._courses.add(course)
            course.go_on()
        for waiting in turn.dedicated:
            self._running += 1
            self._spawn(partial(self._drive_dedicated, waiting))
        for wait in turn.waits:
            self._running += 1
            if wait.behind is None or not self._start_wait(wait, wait.behind):
                self._drivers.start(partial(self._block, wait))

    def _end_course(self, course: Course, error: Exception | None = None) -> None:
        self._courses.discard(course)
        if course is self._ahead:
            self._ahead, self._followed = None, self._asks
        self._look_around()
        if error is not None:
            self._report(error)
        if self._entered and self._session.is_idle:
            return  # an engine that was not entered may end now
        self._put_off()  # the callers that this wakes make their requests first
        self.step_soon()

    def _take_over(self, course: Course) -> None:
        """Have a driver continue a course."""
        course.abandon = None
        if self._stepping:
            self._drivers.start(partial(self._drive_on, course))
        else:
            self._left.append(course)
            self._wake.set()

    def _make_drivers(self) -> Drivers:
        return Drivers(self._spawn, self._make_once)

    def _quiet(self) -> bool:
        busy = self._running or self._courses or self._next_turn or self._wake.is_set()
        return not busy and self._until == math.inf

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
        """Drive an operation of the session to its end. It passes results and errors to its callers."""
        try:
            await drive(self._transport, operation, at_end=at_end, dedicated_timeout=dedicated_timeout, begun=begun)
        except Exception as error:  # noqa: BLE001 - no caller gets it, and the engine must not end
            self._report(error)

    def _report(self, error: Exception) -> None:
        """Log an error, unless it is the same as the last one."""
        if repr(error) != self._reported:
            self._reported = repr(error)
            logger.error('Unexpected error in the background, continuing', exc_info=error)

    def _start_wait(self, wait: Wait, behind: Call[Reply]) -> bool:
        """Begin a wait without a task. Return False if the transport needs one."""
        key = object()

        def receive(outcome: Sequence[Reply] | Rest) -> None:
            self._begun_waits.pop(key, None)
            if not callable(outcome):
                self._pass_on(wait, outcome)
                self._end_wait(wait)
                self._claim_after(wait)
            elif self._stepping:
                self._drivers.start(partial(self._block, wait, outcome))
            else:
                self._begun_waits[key] = outcome  # closing down ends it

        try:
            end = self._transport.start_block((_blocking(wait), behind), wait.seconds, receive)
        except Exception:  # noqa: BLE001 - `block_then` raises it again, in a task
            return False
        if end is None:
            return False
        self._begun_waits[key] = end
        return True

    async def _block(self, wait: Wait, rest: Rest | None = None) -> None:
        """Wait on the server. ``rest`` finishes a wait that began without a task."""
        scope = anyio.CancelScope()
        self._waiting.add(scope)
        try:
            with scope:
                if self._closing:
                    if rest is None:
                        return
                    scope.cancel()  # this closes the connection
                self._pass_on(wait, await (self._reply_to(wait) if rest is None else rest()))
        except Exception as error:  # noqa: BLE001 - raised to the consumers
            if not self._closing:
                wait.then.failed(error)
        finally:
            self._waiting.discard(scope)
            self._end_wait(wait)
        self._claim_after(wait)

    async def _reply_to(self, wait: Wait) -> Sequence[Reply]:
        call = _blocking(wait)
        if wait.behind is not None:
            return await self._transport.block_then(call, wait.behind, wait.seconds)
        if self._sharer is not None and self._waits_elsewhere:
            return await self._sharer.block(self._transport, wait.key, wait.seconds), None
        return await self._transport.block(call, wait.seconds), None

    @staticmethod
    def _pass_on(wait: Wait, replies: Sequence[Reply]) -> None:
        try:
            reply, behind = replies
            if isinstance(reply, TorrelqueReplyError):
                raise reply  # noqa: TRY301 - handled like a broken connection
            wait.then.ended(None if reply is None else reply[1], behind)
        except Exception as error:  # noqa: BLE001 - raised to the consumers
            wait.then.failed(error)

    def _end_wait(self, wait: Wait) -> None:
        self._running -= 1
        if wait.behind is None:
            self.step_soon()
        else:
            self._step_later()

    def _claim_after(self, wait: Wait) -> None:
        """Begin the next claim at once, and give back at once what nobody wants any more."""
        if wait.behind is None or self._session.asked:
            self._turn()

    async def _cut_off(self) -> None:
        """Interrupt the courses, and give them up to `CLOSING_TIME` to clean up."""
        courses = [course for course in self._courses if course.abandon or course in self._left]
        self._courses, self._left = set(), []
        with anyio.move_on_after(CLOSING_TIME, shield=True):
            async with anyio.create_task_group() as tasks:
                for course in courses:
                    if course.abandon is not None:
                        course.abandon()
                    tasks.start_soon(finish, self._transport.execute, course.operation)

    async def _close_down(self, *, at_end: bool = False) -> None:
        """Let the calls in flight finish, and run what the session has left to do."""
        self._session.close()
        for waiting in list(self._waiting):
            waiting.cancel()
        begun, self._begun_waits = self._begun_waits, {}
        for end in begun.values():
            with suppress(Exception), anyio.move_on_after(0):  # cancelled, it still closes its connection
                await end()
            self._running -= 1
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


def _blocking(wait: Wait) -> Call[Reply]:
    return Call('BZPOPMIN', (wait.key,), (f'{wait.seconds:.3f}',))


def _nobody() -> None:
    """Wake no caller: none waits for the ticket."""
