"""Runs one queue object's session over blocking connections: the threads that call do all there is to do.

There is no thread and no event loop of our own. A caller puts its request into the session, and then works until that
is answered:

- If there is a call to be made, it makes it. It sends along what other threads have asked for: while one call is under
  way their requests gather, and whoever comes next sends all of them at once.
- If there is nothing to do, one of the callers watches: it waits for the answers to blocking calls, and for the time
  when the session wants something. The others sleep until they are answered, or are woken to go on with the work.
- Whoever leaves wakes another if work is left. The last to leave ends the waits that nobody needs any more.

The lock guards the session and all that is here. It is released while a thread does I/O or sleeps.
"""

from __future__ import annotations

import math
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from torrelque.core.combinators import together
from torrelque.core.commands import Answer, ClaimedTask, Command, Item
from torrelque.core.machine import Machine, Wait
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Batch, Call, Interrupted, Operation, Reply
from torrelque.engine.engine import CLOSING_TIME, Cancellable, Engine
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError, TorrelqueUsageError, renew
from torrelque.sync.redis_py import socket_of
from torrelque.sync.subscriptions import BlockingSubscriptions
from torrelque.sync.suspending import ForkLock, Pause, perform, sit_out, suspend
from torrelque.transports.base import Transport

__all__ = ('BlockingEngine',)

T = TypeVar('T')

GATHER = 0.02
"""Seconds for which requests gather, at most, while a call is under way. Then another call begins beside it."""

GRACE = 0.2
"""A wait that ends within so many seconds is not cut off: servers notice its end up to 0.1 s late."""


class _Job:
    """An operation to be driven, from where it is: ``batch`` is what to send next, None at the beginning."""

    __slots__ = ('apart', 'batch', 'interrupted', 'operation')

    def __init__(self, operation: Operation[Any], *, apart: bool = False) -> None:
        self.operation = operation
        self.apart = apart
        self.batch: Batch | None = None
        self.interrupted = False


Work: TypeAlias = '_Job | Wait'


class _Blocked:
    """A blocking call under way, and what it waits for now."""

    __slots__ = ('coroutine', 'ends', 'pause', 'wait')

    def __init__(self, wait: Wait, coroutine: Coroutine[Any, Any, Reply]) -> None:
        self.wait = wait
        self.coroutine = coroutine
        self.pause = Pause(-math.inf)
        self.ends = time.monotonic() + wait.seconds


class _Caller:
    """A thread that works until its request is answered."""

    __slots__ = ('_bell', 'awake', 'ring', 'state', 'until')

    def __init__(self, state: _State) -> None:
        self.state = state
        self._bell = threading.Lock()
        self._bell.acquire()
        self.awake = False
        self.until = math.inf  # when it looks again by itself
        self.ring: Callable[[], None] | None = None

    def wake(self) -> None:
        """With the lock held."""
        if not self.awake:
            self.awake = True
            self.state.sleepers.pop(self, None)
            if self.ring is None:
                self._bell.release()
            else:
                self.ring()

    def sleep(self, until: float) -> None:
        """With the lock held, which is released meanwhile."""
        state = self.state
        if not self.awake:
            state.sleepers[self] = None
        self.until = until
        state.lock.release()
        try:
            if until == math.inf:
                self._bell.acquire()
            else:
                self._bell.acquire(timeout=min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX))
        finally:
            state.lock.acquire()
            state.sleepers.pop(self, None)
            self._bell.acquire(blocking=False)
            self.awake = False


class _State:
    """What belongs to one process."""

    def __init__(self, session: Machine) -> None:
        self.session = session
        self.lock = threading.RLock()
        self.broken: Exception | None = None
        self.callers = 0
        self.sleepers: dict[_Caller, None] = {}
        self.watcher: _Caller | None = None
        self.called: _Caller | None = None  # who was woken to go on with the work, and has not come yet
        self.fresh = False  # something has happened since the session was polled
        self.until = math.inf  # when to poll it at the latest
        self.jobs: deque[Work] = deque()
        self.chores: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self.blocked: list[_Blocked] = []
        self.under_way = 0  # calls
        self.begun = -math.inf  # when the latest of them was
        self._bell: tuple[socket.socket, socket.socket] | None = None

    def give_up(self, why: str = 'the queue was interrupted during the call') -> None:
        """Tell all callers, whose requests may have got lost. Calls that follow have another state."""
        self.broken = TorrelqueError(why)
        for sleeper in list(self.sleepers):
            sleeper.wake()

    def check(self) -> None:
        """Raise what all callers are told."""
        if self.broken is not None:
            raise renew(self.broken)

    def bell(self) -> socket.socket:
        """What has data once it was rung."""
        if self._bell is None:
            self._bell = socket.socketpair()
            for end in self._bell:
                end.settimeout(0)
        return self._bell[0]

    def ring(self) -> None:
        if self._bell is not None:
            with suppress(OSError):  # it is full: it rings already
                self._bell[1].send(b'!')

    def silence(self) -> None:
        if self._bell is not None:
            with suppress(OSError):
                self._bell[0].recv(4096)

    def close(self) -> None:
        if self._bell is not None:
            for end in self._bell:
                end.close()
            self._bell = None

    @property
    def gathers(self) -> bool:
        """Whether requests wait for the end of the call that is under way."""
        return self.under_way > 0 and time.monotonic() < self.begun + GATHER

    def call(self) -> None:
        """Have another caller go on with the work."""
        if self.called is None and self.sleepers:
            self.called = next(iter(self.sleepers))
            self.called.wake()

    @property
    def is_covered(self) -> bool:
        """Whether somebody looks when the session wants something, and takes the answers of blocking calls."""
        if self.blocked and self.watcher is None:
            return False
        if self.until == math.inf:
            return True
        watchers = [] if self.watcher is None else [self.watcher]
        return any(caller.until <= self.until for caller in (*watchers, *self.sleepers))


class _Due(NamedTuple):
    """What a coroutine waits for: that a caller's ticket is done."""

    ticket: Ticket
    caller: _Caller


class BlockingEngine(Engine):
    """The engine of one queue object whose callers are threads.

    Its coroutines suspend only for what `run_blocking` waits for.
    """

    def __init__(self, transport: Transport, make_session: Callable[[], Machine], patience: float = 0.0) -> None:
        super().__init__(transport, make_session, patience)
        self._states: dict[int, _State] = {}
        self._making = ForkLock()
        self._reported = ''

    # Life ------------------------------------------------------------------------------------------------------------

    @property
    def lock(self) -> threading.RLock:
        """What guards the session."""
        return self._state.lock

    @property
    def _state(self) -> _State:
        pid = os.getpid()
        state = self._states.get(pid)
        if state is None or state.broken is not None:
            with self._making:
                state = self._states.get(pid)
                if state is None or state.broken is not None:
                    state = _State(self._make_session())
                    self._states = {pid: state}  # what a parent process had is its own
        return state

    def close(self) -> None:
        """Fail callers that wait for tasks, finish what is under way, and let go of the lanes. May be repeated."""
        state = self._states.get(os.getpid())
        if state is None:
            return
        with state.lock:
            state.session.close()
            deadline = time.monotonic() + CLOSING_TIME
            caller = _Caller(state)
            while time.monotonic() < deadline:
                if self._work_off(state):
                    continue
                if not state.under_way:
                    break
                caller.sleep(time.monotonic() + GATHER)
            state.give_up('the queue was closed during the call')
            state.close()
            self._states.pop(os.getpid(), None)

    # Calls -----------------------------------------------------------------------------------------------------------

    def run_blocking(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run one of the queue's coroutines to its end."""
        return perform(coroutine, self._wait)

    def _wait(self, what: _Due | Pause) -> None:
        if isinstance(what, _Due):
            self._work_until(what)
        else:
            sit_out(what)

    async def run(self, operation: Operation[T]) -> T:
        result: T = self._drive_job(_Job(operation), None)
        return result

    async def read(self, make: Callable[[], Operation[T]], node: Hashable) -> T:
        return await self.run(make())

    async def run_each(self, operations: Sequence[Operation[T]]) -> list[T]:
        if self._transport.on_cluster:
            return [await self.run(operation) for operation in operations]
        results = await self.run(together(operations))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results  # type: ignore[return-value]  # none of them is an exception

    async def run_all(self, functions: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run functions side by side: all of them ask before this thread works for any."""
        waiting: deque[tuple[Coroutine[Any, Any, None], Any]] = deque()

        def resume(coroutine: Coroutine[Any, Any, None], value: Any = None) -> None:  # noqa: ANN401 - as sent in
            with suppress(StopIteration):
                waiting.append((coroutine, coroutine.send(value)))

        for function in functions:
            resume(function())
        while waiting:
            coroutine, what = waiting.popleft()
            resume(coroutine, await suspend(what))

    async def checkpoint(self) -> None:
        """Other threads have their turns by themselves."""

    async def submit(self, verb: Command, items: Sequence[Item], shard: int = 0) -> list[Answer]:
        answers: list[Answer] = await self._request(lambda session, wake: session.submit(verb, items, wake, shard))
        return answers

    def fire_and_forget(self, verb: Command, items: Sequence[Item], shard: int = 0) -> None:
        with suppress(TorrelqueError):
            self.run_blocking(self.submit(verb, items, shard))

    async def dequeue(self, want: int, deadline: float) -> list[ClaimedTask]:
        tasks: list[ClaimedTask] = await self._request(lambda session, wake: session.dequeue(want, deadline, wake))
        return tasks

    async def dequeue_nowait(self, want: int) -> list[ClaimedTask]:
        tasks: list[ClaimedTask] = await self._request(lambda session, wake: session.dequeue_nowait(want, wake))
        return tasks

    def check_running(self) -> None:
        """It runs wherever it is called."""

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable:
        """Have a thread run something that comes along, once it has nothing better to do."""
        chores = self._state.chores
        chores.append(function)
        return _Chore(chores, function)

    def step_soon(self) -> None:
        self._state.fresh = True

    @property
    def hub(self) -> BlockingSubscriptions:
        return BlockingSubscriptions(self._transport)

    async def _request(self, ask: Callable[[Machine, Callable[[], None]], Ticket]) -> Any:  # noqa: ANN401 - what the ticket is for
        state = self._state
        caller = _Caller(state)
        with state.lock:
            ticket = ask(state.session, caller.wake)
            state.fresh = True
        await suspend(_Due(ticket, caller))
        if ticket.error is not None:
            raise ticket.error
        return ticket.value

    # Working ---------------------------------------------------------------------------------------------------------

    def _work_until(self, due: _Due) -> None:
        ticket, caller = due
        state = caller.state
        with state.lock:
            state.callers += 1
            try:
                while not ticket.done:
                    state.check()
                    self._take_turn(state, caller)
            except BaseException:
                state.session.leave(ticket)
                state.fresh = True
                raise
            finally:
                state.callers -= 1
                self._leave(state, caller, failed=isinstance(ticket.error, TorrelqueConnectionError))

    def _take_turn(self, state: _State, caller: _Caller) -> None:
        """Do some work, or wait until there may be some."""
        gathers = state.gathers
        job = self._next(state, gathers=gathers)
        if job is not None:
            self._do(state, job)
        elif state.chores:
            self._do_chore(state)
        else:
            until = state.until
            if gathers and state.fresh:
                until = min(until, state.begun + GATHER)
            if state.watcher is None and state.blocked:
                self._watch(state, caller, until)
            else:
                caller.sleep(until)

    def _leave(self, state: _State, caller: _Caller, *, failed: bool) -> None:
        """One of the callers goes: others go on, or nothing is left."""
        if state.called is caller:
            state.called = None
        if state.fresh and not state.gathers and not failed:
            self._look(state)
        if state.sleepers or state.callers:
            if state.jobs or (state.fresh and not state.under_way) or not state.is_covered:
                state.call()
        elif state.broken is None:
            deadline = time.monotonic() + CLOSING_TIME
            while (state.jobs or state.blocked) and time.monotonic() < deadline and not state.callers:
                self._work_off(state)
            if state.chores:
                self._do_chore(state)

    def _work_off(self, state: _State) -> bool:
        """Do something of what is left when nobody waits any more; whether there was anything."""
        job = self._next(state, gathers=False)
        if job is not None:
            if isinstance(job, Wait):
                job.then.ended(None)
            else:
                self._do(state, job)
            return True
        if not state.blocked:
            return False
        soon = min(blocked.ends for blocked in state.blocked)
        if state.watcher is None and soon < time.monotonic() + GRACE:
            self._watch(state, _Caller(state), soon + GRACE)
        else:
            self._abandon(state)
        return True

    def _abandon(self, state: _State) -> None:
        """End waits that nobody needs. They may take a hint along, so it is as if there had been one."""
        blocked, state.blocked = state.blocked, []
        for each in blocked:
            each.coroutine.close()
            each.wait.then.ended(b'')
        state.fresh = True

    def _next(self, state: _State, *, gathers: bool) -> Work | None:
        """What to do now."""
        state.called = None
        if not state.jobs and not gathers:
            self._look(state)
        if not state.jobs:
            return None
        job = state.jobs.popleft()
        if state.jobs:
            state.call()
        return job

    def _look(self, state: _State) -> None:
        """Ask the session what is to be done."""
        self.turns += 1
        state.fresh = False
        try:
            turn = state.session.poll()
            state.until = turn.until
            state.jobs.extend(_Job(group[0] if len(group) == 1 else together(group)) for group in turn.groups)
            state.jobs.extend(_Job(operation, apart=True) for operation in turn.dedicated)
            state.jobs.extend(turn.waits)
        except Exception as error:  # noqa: BLE001 - a defect, or a transport's: nobody shall wait for ever
            state.session.abort(error)
            self._report(error)
        except BaseException:
            state.give_up()
            raise

    def _do(self, state: _State, job: Work) -> None:
        if isinstance(job, Wait):
            self._begin_wait(state, job)
            return
        state.under_way += 1
        state.begun = time.monotonic()
        try:
            self._drive_job(job, state)
        except Exception as error:  # noqa: BLE001 - of nobody's, as the operations tell their callers
            self._report(error)
        except BaseException:
            if job.batch is None:  # in the midst of the session
                state.give_up()
            else:  # another thread sends it again, or this one as it leaves
                state.jobs.appendleft(job)
            raise
        finally:
            state.under_way -= 1
            state.fresh = True

    def _do_chore(self, state: _State) -> None:
        chore = state.chores.popleft()
        state.lock.release()
        try:
            self.run_blocking(chore())
        except Exception as error:  # noqa: BLE001 - as of what runs beside an engine on an event loop
            self._report(error)
        finally:
            state.lock.acquire()

    def _drive_job(self, job: _Job, state: _State | None) -> Any:  # noqa: ANN401 - what the operation returns
        """Run an operation to its end, with the lock released while calls are under way, if there is one.

        Raises what the operation raises, and TorrelqueConnectionError if it was cut off.
        """
        operation = job.operation
        resume: Callable[[], Batch] = partial(next, operation)
        try:
            if job.batch is None:
                job.batch = resume()
            while True:
                batch = job.batch
                try:
                    replies = self._execute(job, batch, state)
                except TorrelqueUsageError as error:  # nothing was sent
                    job.interrupted, resume = False, partial(operation.throw, error)
                except Exception as error:  # noqa: BLE001 - a lost connection, or anything else: the outcome is unknown
                    job.interrupted, resume = True, partial(operation.throw, Interrupted(error))
                else:
                    job.interrupted, resume = False, partial(operation.send, replies)
                job.batch = None
                job.batch = resume()
        except StopIteration as stop:
            return stop.value
        except Interrupted as interruption:
            raise interruption.cause or TorrelqueError('the operation was interrupted') from None

    def _execute(self, job: _Job, batch: Batch, state: _State | None) -> Sequence[Reply]:
        transport = self._transport
        if job.interrupted:  # the call that it settles has used up its time
            coroutine = transport.execute_once(batch)
        elif job.apart:
            coroutine = transport.execute_dedicated(batch, self._patience)
        else:
            coroutine = transport.execute(batch)
        if state is None:
            return perform(coroutine, sit_out)
        state.lock.release()
        try:
            return perform(coroutine, sit_out)
        finally:
            state.lock.acquire()

    # Waiting on the server -------------------------------------------------------------------------------------------

    def _begin_wait(self, state: _State, wait: Wait) -> None:
        call = Call[Reply]('BZPOPMIN', (wait.key,), (f'{wait.seconds:.3f}',))
        self._resume(state, _Blocked(wait, self._transport.block(call, wait.seconds)), None)

    def _resume(self, state: _State, blocked: _Blocked, value: object) -> None:
        """Go on with a blocking call; keep it if it goes on waiting."""
        reply: Reply = None
        error: BaseException | None = None
        state.lock.release()
        try:
            blocked.pause = blocked.coroutine.send(value)
        except StopIteration as stop:
            reply = stop.value
            blocked.pause = Pause(math.nan)
        except BaseException as raised:  # noqa: BLE001 - told to those who wait, or raised below
            error = raised
        finally:
            state.lock.acquire()
        state.fresh = True
        if isinstance(reply, TorrelqueReplyError):
            error = reply
        if isinstance(error, Exception):
            blocked.wait.then.failed(error)
        elif error is not None:
            blocked.wait.then.ended(b'')
            raise error
        elif math.isnan(blocked.pause.until):
            blocked.wait.then.ended(None if reply is None else reply[1])  # pyright: ignore[reportIndexIssue] # it is no error
        else:
            state.blocked.append(blocked)
            if state.watcher is not None:
                state.watcher.wake()

    def _watch(self, state: _State, caller: _Caller, until: float) -> None:
        """Wait for the answer to a blocking call, until a time, or until somebody wakes this caller."""
        if caller.awake:
            caller.sleep(-math.inf)  # which takes note of it
            return
        until = min([until, *(blocked.pause.until for blocked in state.blocked)])
        state.watcher, caller.ring, caller.until = caller, state.ring, until
        arrived: list[Any] = []
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(state.bell(), selectors.EVENT_READ)
                for blocked in state.blocked:
                    if blocked.pause.connection is not None:
                        selector.register(socket_of(blocked.pause.connection), selectors.EVENT_READ, blocked)
                state.lock.release()
                try:
                    seconds = None if until == math.inf else max(0.0, until - time.monotonic())
                    arrived = [key.data for key, _ in selector.select(seconds)]
                finally:
                    state.lock.acquire()
        finally:
            state.watcher, caller.ring, caller.awake = None, None, False
            state.silence()
        now = time.monotonic()
        ready = [each for each in state.blocked if each in arrived or each.pause.until <= now]
        state.blocked = [each for each in state.blocked if each not in ready]
        for blocked in ready:
            self._resume(state, blocked, blocked in arrived)


class _Chore:
    """Something that was spawned."""

    def __init__(
        self, chores: deque[Callable[[], Coroutine[Any, Any, None]]], function: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._chores = chores
        self._function = function

    def cancel(self) -> None:
        with suppress(ValueError):
            self._chores.remove(self._function)
