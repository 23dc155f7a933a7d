"""What the worker needs from event loops beyond AnyIO: cheap tasks, tasks without a parent, and the loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

import anyio
from anyio.lowlevel import checkpoint, current_token

__all__ = ('Clock', 'LoopClock', 'Tasks', 'count_cancellations', 'open_tasks', 'start_dedicated')

A = TypeVar('A')


class Clock(Protocol):
    """A source of time: the event loop's clock, or a ``torrelque.testing.VirtualClock``."""

    def now(self) -> float:
        """Return the time in seconds, on the clock of ``Task.expires``."""
        ...

    async def pause(self, event: anyio.Event, until: float) -> object:
        """Wait for an event until a time. Safe to cancel.

        Args:
            event: Ends the pause when it is set.
            until: The time on this clock, in seconds. It may be infinite.
        """


class LoopClock:
    """The clock of the running event loop, read directly because each task reads it."""

    def __init__(self) -> None:
        loop = current_token().native_token
        self.now: Callable[[], float] = loop.time if isinstance(loop, asyncio.AbstractEventLoop) else anyio.current_time

    async def pause(self, event: anyio.Event, until: float) -> None:
        with anyio.move_on_after(until - self.now()):
            await event.wait()


class Tasks(Protocol):
    """Starts tasks that must not raise, each in a copy of the current context."""

    def start(self, function: Callable[[A], Coroutine[Any, Any, None]], argument: A, name: str) -> None:
        """Start a task. It first runs in a later turn of the event loop."""

    async def checkpoint(self) -> None:
        """Let other tasks run, among them those that were started."""

    def is_running(self) -> bool:
        """Return whether the caller runs in such a task. It does not while the task's coroutine is being closed."""
        ...


@asynccontextmanager
async def open_tasks() -> AsyncIterator[Tasks]:
    """Start tasks in this block and wait for them at its end. Cancelling the caller does not cancel them."""
    if isinstance(current_token().native_token, asyncio.AbstractEventLoop):
        tasks = _AsyncioTasks()
        try:
            yield tasks
        finally:
            await tasks.wait()
    else:
        import trio.lowlevel  # noqa: PLC0415 - it is installed, because it is running

        @trio.lowlevel.enable_ki_protection  # Ctrl-C cancels the program; it is not a handler's failure
        async def run(function: Callable[[A], Coroutine[Any, Any, None]], argument: A) -> None:
            await function(argument)

        async with trio.open_nursery() as nursery:
            yield _TrioTasks(nursery, run)


class _AsyncioTasks:
    """Used because AnyIO's task groups take three times as long to start a task."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, function: Callable[[A], Coroutine[Any, Any, None]], argument: A, name: str) -> None:
        task = asyncio.Task(function(argument), loop=self._loop, name=name)  # an eager task factory would run it now
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    def is_running(self) -> bool:
        try:
            return asyncio.current_task() in self._tasks
        except RuntimeError:
            return False

    async def wait(self) -> None:
        while self._tasks:
            with suppress(asyncio.CancelledError):  # the event loop is closing, and has cancelled the tasks too
                await asyncio.wait(self._tasks)


class _TrioTasks:
    def __init__(self, nursery: Any, run: Any) -> None:  # noqa: ANN401 - Trio need not be installed
        self._nursery = nursery
        self._run = run

    def start(self, function: Callable[[A], Coroutine[Any, Any, None]], argument: A, name: str) -> None:
        self._nursery.start_soon(self._run, function, argument, name=name)

    async def checkpoint(self) -> None:
        await checkpoint()

    def is_running(self) -> bool:
        import trio.lowlevel  # noqa: PLC0415 - it is installed, because it is running

        try:
            return trio.lowlevel.current_task().parent_nursery is self._nursery
        except RuntimeError:
            return False


def start_dedicated(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task that belongs to no task group, in a copy of this context. It must not raise."""
    loop: Any = current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        task = loop.create_task(function())
        _apart.add(task)
        task.add_done_callback(_apart.discard)
    else:
        import trio.lowlevel  # noqa: PLC0415 - it is installed, because it is running

        trio.lowlevel.spawn_system_task(function, context=copy_context())


_apart: set[asyncio.Task[None]] = set()
"""Keeps these tasks alive, because event loops hold only weak references."""


def count_cancellations() -> int:
    """Return how many times the running task was cancelled; always 0 on Trio, which does not count."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return 0 if task is None else task.cancelling()
