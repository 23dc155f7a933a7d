"""The threads of one process that call a queue object, and how they share its work.

The queue object has neither a thread nor an event loop of its own. A caller puts its request into the session, and
then works until the request is answered:

- If the session has calls to send, the caller sends them, including other threads' requests. While one call is in
  flight, further requests gather, and the next thread sends all of them at once.
- If there is nothing to send, one caller is the watcher: it waits for the answers to blocking calls, and for the time
  at which the session has to be polled again. The others sleep until they are answered, or are woken to take over.
- A thread that leaves wakes another one if there is work left. The last one ends blocking calls that nobody needs.

The lock guards the session and the state here. It is released while a thread does I/O or sleeps.
"""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torrelque.core.combinators import together
from torrelque.core.machine import Machine, Wait
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Batch, Call, Interrupted, Operation, Reply
from torrelque.engine.driving import CLOSING_TIME, LAST_ATTEMPT
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueUsageError,
    renew,
)
from torrelque.sync.redis_py import socket_of
from torrelque.sync.suspending import OutOfTime, Pause, limited, limits, seconds_left

__all__ = ('Caller', 'Crew', 'Due', 'Job', 'drive')

GATHER = 0.02
"""Maximum time for which requests gather while a call is in flight, in seconds. Then a second call is sent."""

GRACE = 0.2
"""Blocking calls that end within this time (in seconds) are not cut off. Servers answer up to 0.1 s late."""


class Job:
    """An operation in progress. ``batch`` is what to send next, None at the start."""

    __slots__ = ('batch', 'dedicated', 'interrupted', 'operation')

    def __init__(self, operation: Operation[Any], *, dedicated: bool = False) -> None:
        self.operation: Operation[Any] = operation
        self.dedicated: bool = dedicated
        self.batch: Batch | None = None
        self.interrupted: bool = False


def drive(job: Job, send: Callable[[Job, Batch], Sequence[Reply]]) -> Any:  # noqa: ANN401 - what the operation returns
    """Run an operation to its end. If ``send`` raises a BaseException, the job can be driven again later.

    Raises what the operation raises, and TorrelqueConnectionError if it was interrupted.
    """
    operation = job.operation
    resume: Callable[[], Batch] = partial(next, operation)
    try:
        if job.batch is None:
            job.batch = resume()
        while True:
            try:
                replies = send(job, job.batch)
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


Work: TypeAlias = 'Job | Wait'


class _Blocked:
    """A blocking call in flight, and what it waits for now."""

    __slots__ = ('coroutine', 'ends', 'pause', 'wait')

    def __init__(self, wait: Wait, coroutine: Coroutine[Any, Any, Reply]) -> None:
        self.wait: Wait = wait
        self.coroutine: Coroutine[Any, Any, Reply] = coroutine
        self.pause: Pause = Pause(-math.inf)
        self.ends: float = time.monotonic() + wait.seconds


class Caller:
    """A thread that works until its request is answered."""

    __slots__ = ('_bell', 'awake', 'crew', 'ring', 'until')

    def __init__(self, crew: Crew) -> None:
        self.crew: Crew = crew
        self._bell = threading.Lock()
        self._bell.acquire()
        self.awake: bool = False
        self.until: float = math.inf  # when it continues without being woken
        self.ring: Callable[[], None] | None = None

    def wake(self) -> None:
        """Wake the thread. The caller holds the lock."""
        if not self.awake:
            self.awake = True
            self.crew.sleepers.pop(self, None)
            if self.ring is None:
                self._bell.release()
            else:
                self.ring()

    def sleep(self, until: float) -> None:
        """Sleep until woken, or until a time. The caller holds the lock, which is released meanwhile."""
        crew = self.crew
        if not self.awake:
            crew.sleepers[self] = None
        self.until = until
        crew.lock.release()
        try:
            if until == math.inf:
                self._bell.acquire()
            else:
                self._bell.acquire(timeout=min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX))
        finally:
            crew.lock.acquire()
            crew.sleepers.pop(self, None)
            self._bell.acquire(blocking=False)
            self.awake = False


class Due(NamedTuple):
    """Yielded by a coroutine to wait until a caller's ticket is done."""

    ticket: Ticket
    caller: Caller


class Crew:
    """The threads that call a queue object; see the module's docstring.

    Args:
        session: Decides what to do.
        send: Sends the batch of a job.
        block: Sends a call that may block for the given number of seconds, and suspends until it is answered.
        run: Runs a coroutine to its end.
        begin_turn: Called before the session is polled.
        report: Called with errors that do not concern a caller.
    """

    def __init__(
        self,
        session: Machine,
        *,
        send: Callable[[Job, Batch], Sequence[Reply]],
        block: Callable[[Call[Reply], float], Coroutine[Any, Any, Reply]],
        run: Callable[[Coroutine[Any, Any, None]], None],
        begin_turn: Callable[[], None],
        report: Callable[[Exception], None],
    ) -> None:
        self.session: Machine = session
        self._send = send
        self._block = block
        self._run = run
        self._begin_turn = begin_turn
        self._report = report
        self.lock: threading.RLock = threading.RLock()
        self.broken: Exception | None = None
        self.callers: int = 0
        self.sleepers: dict[Caller, None] = {}
        self.watcher: Caller | None = None
        self.called: Caller | None = None  # woken to take over, but not running yet
        self.fresh: bool = False  # the session has changed since it was polled
        self.until: float = math.inf  # when to poll the session at the latest
        self.jobs: deque[Work] = deque()
        self.chores: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self.blocked: list[_Blocked] = []
        self.under_way: int = 0  # number of calls in flight
        self.begun: float = -math.inf  # when the latest of them was sent
        self._bell: tuple[socket.socket, socket.socket] | None = None

    # Working ---------------------------------------------------------------------------------------------------------

    def ask(self, ask: Callable[[Machine, Callable[[], None]], Ticket]) -> Due:
        """Put a request into the session."""
        caller = Caller(self)
        with self.lock:
            ticket = ask(self.session, caller.wake)
            self.fresh = True
        return Due(ticket, caller)

    def work_until(self, ticket: Ticket, caller: Caller) -> None:
        """Work until a ticket is done. Raises `OutOfTime` at the time limit of this thread's call."""
        with self.lock:
            self.callers += 1
            try:
                while not ticket.done:
                    self._check()
                    seconds_left(0.0)
                    self._take_turn(caller)
            except BaseException:
                self.session.leave(ticket)
                self.fresh = True
                raise
            finally:
                self.callers -= 1
                self._leave(caller, failed=isinstance(ticket.error, TorrelqueConnectionError))

    def look_again(self) -> None:
        """Poll the session again soon, because something that it depends on has changed."""
        with self.lock:
            self.fresh = True
            if self.watcher is not None:
                self.watcher.wake()
            else:
                self._call()

    def close(self) -> None:
        """Fail callers that wait for tasks, finish the calls in flight, and give the lanes back."""
        with self.lock:
            self.session.close()
            deadline = time.monotonic() + CLOSING_TIME
            caller = Caller(self)
            with limited(deadline), suppress(OutOfTime):
                while time.monotonic() < deadline:
                    if self._work_off():
                        continue
                    if not self.under_way:
                        break
                    caller.sleep(time.monotonic() + GATHER)
            self._give_up('the queue was closed during the call')
            if not self.callers:
                self.close_bell()

    def _take_turn(self, caller: Caller) -> None:
        """Do some work, or wait until there may be some. The caller holds the lock."""
        gathers = self.gathers
        job = self._next(gathers=gathers)
        if job is not None:
            self._do(job)
        elif self.chores:
            self._do_chore()
        else:
            until = min(self.until, limits.until)
            if gathers and self.fresh:
                until = min(until, self.begun + GATHER)
            if self.watcher is None and self.blocked:
                self._watch(caller, until)
            else:
                caller.sleep(until)

    def _leave(self, caller: Caller, *, failed: bool) -> None:
        """Hand the work over to another caller, or finish it if this is the last one."""
        if self.called is caller:
            self.called = None
        if self.fresh and not self.gathers and not failed:
            self._look()
        if self.sleepers or self.callers:
            if self.jobs or (self.fresh and not self.under_way) or not self.is_covered:
                self._call()
        elif self.broken is None:
            deadline = min(time.monotonic() + CLOSING_TIME, limits.until + LAST_ATTEMPT)
            with limited(deadline), suppress(OutOfTime):  # a caller that was answered gets its answer
                while (self.jobs or self.blocked) and time.monotonic() < deadline and not self.callers:
                    self._work_off()
                if self.chores:
                    self._do_chore()
        else:
            self.close_bell()

    def _work_off(self) -> bool:
        """Do a part of the work that is left after the last caller. Return whether there was any."""
        job = self._next(gathers=False)
        if job is not None:
            if isinstance(job, Wait):
                job.then.ended(None)
            else:
                self._do(job)
            return True
        if not self.blocked:
            return False
        soon = min(blocked.ends for blocked in self.blocked)
        if self.watcher is None and soon < time.monotonic() + GRACE:
            self._watch(Caller(self), soon + GRACE)
        else:
            self._abandon()
        return True

    def _abandon(self) -> None:
        """End blocking calls that nobody needs. Each may have consumed a hint, so treat it as if it had."""
        blocked, self.blocked = self.blocked, []
        for each in blocked:
            each.coroutine.close()
            each.wait.then.ended(b'')
        self.fresh = True

    def _next(self, *, gathers: bool) -> Work | None:
        """Return what to do now."""
        self.called = None
        if not self.jobs and not gathers:
            self._look()
        if not self.jobs:
            return None
        job = self.jobs.popleft()
        if self.jobs:
            self._call()
        return job

    def _look(self) -> None:
        """Ask the session what to do."""
        self._begin_turn()
        self.fresh = False
        try:
            turn = self.session.poll()
            self.until = turn.until
            self.jobs.extend(Job(group[0] if len(group) == 1 else together(group)) for group in turn.groups)
            self.jobs.extend(Job(operation, dedicated=True) for operation in turn.dedicated)
            self.jobs.extend(turn.waits)
        except Exception as error:  # noqa: BLE001 - a defect here or in a transport: no caller may wait forever
            self.session.abort(error)
            self._report(error)
        except BaseException:
            self._give_up()
            raise

    def _do(self, job: Work) -> None:
        if isinstance(job, Wait):
            self._begin_wait(job)
            return
        self.under_way += 1
        self.begun = time.monotonic()
        try:
            drive(job, self._execute)
        except Exception as error:  # noqa: BLE001 - operations report errors to their callers, so this is a defect
            self._report(error)
        except BaseException:
            if job.batch is None:  # interrupted while it changed the session
                self._give_up()
            else:  # another thread will send it again, or this one before it leaves
                self.jobs.appendleft(job)
            raise
        finally:
            self.under_way -= 1
            self.fresh = True

    def _execute(self, job: Job, batch: Batch) -> Sequence[Reply]:
        self.lock.release()
        try:
            return self._send(job, batch)
        except OutOfTime:
            if self.callers > 1:  # another thread will send it again
                raise
            raise TorrelqueResponseTimeout('no answer in time') from None
        finally:
            self.lock.acquire()

    def _do_chore(self) -> None:
        chore = self.chores.popleft()
        self.lock.release()
        try:
            self._run(chore())
        except Exception as error:  # noqa: BLE001 - reported, as for background tasks on an event loop
            self._report(error)
        finally:
            self.lock.acquire()

    # Waiting on the server -------------------------------------------------------------------------------------------

    def _begin_wait(self, wait: Wait) -> None:
        call = Call[Reply]('BZPOPMIN', (wait.key,), (f'{wait.seconds:.3f}',))
        self._resume(_Blocked(wait, self._block(call, wait.seconds)), None)

    def _resume(self, blocked: _Blocked, value: object) -> None:
        """Resume a blocking call. Keep it if it is not answered yet."""
        reply: Reply = None
        error: BaseException | None = None
        self.lock.release()
        try:
            blocked.pause = blocked.coroutine.send(value)
        except StopIteration as stop:
            reply = stop.value
            blocked.pause = Pause(math.nan)
        except BaseException as raised:  # noqa: BLE001 - passed on to the callers, or raised below
            error = raised
        finally:
            self.lock.acquire()
        self.fresh = True
        then = blocked.wait.then
        if isinstance(error, Exception):
            then.failed(error)
        elif error is not None:
            then.ended(b'')
            raise error
        elif isinstance(reply, TorrelqueReplyError):
            then.failed(reply)
        elif math.isnan(blocked.pause.until):
            then.ended(None if reply is None else reply[1])
        else:
            self.blocked.append(blocked)
            if self.watcher is not None:
                self.watcher.wake()

    def _watch(self, caller: Caller, until: float) -> None:
        """Wait for an answer to a blocking call, until a time, or until this caller is woken."""
        if caller.awake:
            caller.sleep(-math.inf)  # clears the wake-up
            return
        until = min([until, *(blocked.pause.until for blocked in self.blocked)])
        self.watcher, caller.ring, caller.until = caller, self._ring, until
        arrived: list[Any] = []
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._bell_socket(), selectors.EVENT_READ)
                for blocked in self.blocked:
                    if blocked.pause.connection is not None:
                        selector.register(socket_of(blocked.pause.connection), selectors.EVENT_READ, blocked)
                self.lock.release()
                try:
                    seconds = None if until == math.inf else max(0.0, until - time.monotonic())
                    arrived = [key.data for key, _ in selector.select(seconds)]
                finally:
                    self.lock.acquire()
        finally:
            self.watcher, caller.ring, caller.awake = None, None, False
            self._silence()
        now = time.monotonic()
        ready = [each for each in self.blocked if each in arrived or each.pause.until <= now]
        for blocked in ready:
            if blocked in self.blocked:  # another thread may have ended it meanwhile
                self.blocked.remove(blocked)
                self._resume(blocked, blocked in arrived)

    # State -----------------------------------------------------------------------------------------------------------

    def _give_up(self, why: str = 'the queue was interrupted during the call') -> None:
        """Fail all callers, because their requests may be lost. Later calls get a new crew."""
        self.broken = TorrelqueError(why)
        for sleeper in list(self.sleepers):
            sleeper.wake()

    def _check(self) -> None:
        """Raise the error that all callers get."""
        if self.broken is not None:
            raise renew(self.broken)

    def _bell_socket(self) -> socket.socket:
        """Return the socket that becomes readable when the watcher is woken."""
        if self._bell is None:
            self._bell = socket.socketpair()
            for end in self._bell:
                end.settimeout(0)
        return self._bell[0]

    def _ring(self) -> None:
        if self._bell is not None:
            with suppress(OSError):  # the buffer is full, so it is readable anyway
                self._bell[1].send(b'!')

    def _silence(self) -> None:
        if self._bell is not None:
            with suppress(OSError):
                self._bell[0].recv(4096)

    def __del__(self) -> None:
        if hasattr(self, '_bell'):
            self.close_bell()

    def close_bell(self) -> None:
        """Close the sockets. Called when there is no watcher."""
        if self._bell is not None:
            for end in self._bell:
                end.close()
            self._bell = None

    @property
    def gathers(self) -> bool:
        """Whether new requests wait for the end of the call in flight."""
        return self.under_way > 0 and time.monotonic() < self.begun + GATHER

    def _call(self) -> None:
        """Wake another caller to take over."""
        if self.called is None and self.sleepers:
            self.called = next(iter(self.sleepers))
            self.called.wake()
        elif self.called is None and self.watcher is not None and self.jobs:
            self.watcher.wake()

    @property
    def is_covered(self) -> bool:
        """Whether some caller will poll the session in time, and receive the answers to blocking calls."""
        if self.blocked and self.watcher is None:
            return False
        if self.until == math.inf:
            return True
        watchers = [] if self.watcher is None else [self.watcher]
        return any(caller.until <= self.until for caller in (*watchers, *self.sleepers))
