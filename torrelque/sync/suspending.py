"""Runs coroutines without an event loop.

The queue and the transports are written as coroutines. Over a blocking transport they do I/O directly, and suspend
only to wait for a ticket, for data on a connection, or for a time. They yield what they wait for. The runner waits
for it, and sends the outcome into the coroutine.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

__all__ = (
    'ForkLock', 'OutOfTime', 'Pause', 'abandoned_late', 'limited', 'limits', 'perform', 'seconds_left', 'suspend',
    'wait_for',
)  # fmt: skip

T = TypeVar('T')


class OutOfTime(BaseException):
    """The time limit of the running call has passed. Not an ``Exception``, so that nothing repeats the call."""


class _Limits(threading.local):
    """The time limit of each thread's call.

    Attributes:
        until: When its I/O and its sleeps end, on the monotonic clock.
    """

    until: float = math.inf


limits: _Limits = _Limits()


@contextmanager
def limited(until: float) -> Iterator[None]:
    """Set the time limit of this thread within the context."""
    former, limits.until = limits.until, until
    try:
        yield
    finally:
        limits.until = former


def seconds_left(seconds: float) -> float:
    """Return how long something may take that would take some seconds. Raises `OutOfTime` if no time is left."""
    left = limits.until - time.monotonic()
    if left <= 0:
        raise OutOfTime
    return min(seconds, left)


def abandoned_late(function: Callable[[], None]) -> None:
    """Call a function that does I/O without heeding the time limit. If it is late, its thread is left behind."""
    if limits.until == math.inf:
        function()
        return
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised to the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds_left(threading.TIMEOUT_MAX))
    if thread.is_alive():
        raise OutOfTime
    if errors:
        raise errors[0]


class Pause(NamedTuple):
    """Yielded to wait until a time or until data arrives. The runner sends in whether data arrived.

    Attributes:
        until: The time, on the monotonic clock.
        connection: The connection of redis-py whose data to wait for.
        receive: A function that waits in place of the runner.
    """

    until: float
    connection: Any = None
    receive: Callable[[float], None] | None = None


class _Suspension:
    def __init__(self, what: object) -> None:
        self._what = what

    def __await__(self) -> Generator[object, Any, Any]:
        return (yield self._what)


async def suspend(what: object) -> Any:  # noqa: ANN401 - what the runner sends in
    """Suspend the coroutine until the runner has waited for something."""
    return await _Suspension(what)


def perform(coroutine: Coroutine[Any, Any, T], wait: Callable[[Any], Any]) -> T:
    """Run a coroutine to its end. ``wait`` is called to wait for what it yields."""
    step: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            what = step()
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            step = partial(coroutine.send, wait(what))
        except BaseException as error:  # noqa: BLE001 - the coroutine cleans up, and raises it again
            step = partial(coroutine.throw, error)


def wait_for(pause: Pause) -> bool:
    """Wait for a `Pause` in this thread. Return whether data arrived. Raises `OutOfTime` at the time limit."""
    if pause.receive is not None:
        pause.receive(pause.until)
        return True
    arrived = False
    seconds = seconds_left(max(0.0, pause.until - time.monotonic()))
    if pause.connection is None:
        time.sleep(seconds)
    else:
        arrived = bool(pause.connection.can_read(timeout=seconds))
    if not arrived and limits.until < pause.until:
        raise OutOfTime
    return arrived


class ForkLock:
    """A lock between threads, which coroutines can also enter. In a child process it is free."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    @property
    def _lock(self) -> threading.Lock:
        pid = os.getpid()
        lock = self._locks.get(pid)
        if lock is None:
            lock = self._locks.setdefault(pid, threading.Lock())
            for other in [each for each in self._locks if each != pid]:
                self._locks.pop(other, None)
        return lock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    async def __aenter__(self) -> None:
        if limits.until == math.inf:
            self._lock.acquire()
        elif not self._lock.acquire(timeout=seconds_left(threading.TIMEOUT_MAX)):
            raise OutOfTime

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
