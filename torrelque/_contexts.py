"""Calls a coroutine function in a context of its own, within the same event-loop task.

Event loops give each *task* a context, and a task for each delivery would cost
more than many handlers do. So the coroutine is stepped by hand, each step with
``Context.run``; what it yields goes to the event loop as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from types import coroutine
from typing import Any, TypeVar

__all__ = ('call_in',)

A = TypeVar('A')


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
