"""What the worker needs of event loops beyond what AnyIO has: contexts, tasks apart, their own clock.

Event loops give each *task* a context, and a task for each delivery would cost
more than many handlers do. So the coroutine of a handler is stepped by hand, each
step with ``Context.run``; what it yields goes to the event loop as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import current_token

__all__ = ('LoopClock', 'call_in', 'count_cancellations', 'start_dedicated')

A = TypeVar('A')


class LoopClock:
    """The clock of the event loop that runs when it is made: each task asks, so it is asked directly."""

    def __init__(self) -> None:
        loop = current_token().native_token
        self.now: Callable[[], float] = loop.time if isinstance(loop, asyncio.AbstractEventLoop) else anyio.current_time

    async def pause(self, event: anyio.Event, until: float) -> None:
        with anyio.move_on_after(until - self.now()):
            await event.wait()


@coroutine
def call_in(
    context: Context, function: Callable[[A], Any], argument: A
) -> Generator[Any, Any, tuple[Any, BaseException | None]]:
    """Await ``function(argument)`` in ``context``. Returns its result and None, or None and what it raised.

    GeneratorExit is raised if, and only if, the event loop closes this coroutine.
    """
    run = context.run
    value: Any = None
    try:
        inner = run(function, argument)
        if not hasattr(inner, 'throw'):
            inner = _wait_for(inner)
    except BaseException as error:  # noqa: BLE001 - the caller's to judge
        return None, error
    step = inner.send
    while True:
        try:
            yielded = run(step, value)
        except StopIteration as end:
            return end.value, None
        except BaseException as error:  # noqa: BLE001 - as above
            value = None  # it may be the same, and would keep itself alive through its traceback
            return None, error
        try:
            value = yield yielded
            step = inner.send
        except GeneratorExit:
            run(inner.close)
            raise
        except BaseException as error:  # noqa: BLE001 - a cancellation, say, which is the coroutine's to handle
            value = error
            step = inner.throw


async def _wait_for(awaitable: Awaitable[Any]) -> Any:  # noqa: ANN401 - whatever it gives
    return await awaitable


def start_dedicated(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task that belongs to no task group, in a copy of this context. It must not raise."""
    loop: Any = current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        task = loop.create_task(function())
        _apart.add(task)
        task.add_done_callback(_apart.discard)
    else:
        import trio.lowlevel  # noqa: PLC0415 - it is there, as it runs

        trio.lowlevel.spawn_system_task(function, context=copy_context())


_apart: set[asyncio.Task[None]] = set()
"""As event loops refer to their tasks weakly."""


def count_cancellations() -> int:
    """How often the running task was told to end; only asyncio counts it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return 0 if task is None else task.cancelling()
