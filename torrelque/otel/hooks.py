"""Runs operations of a queue within a hook.

A subclass of `Torrelque` replaces an operation with the hooked one. A plain queue does not know about hooks, so it
pays nothing for them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

__all__ = ('Invocation', 'hooked')

Method = Callable[..., Awaitable[Any]]


@dataclass
class Invocation:
    """A call of an operation.

    Attributes:
        operation: The operation's name.
        arguments: Its arguments by name, with defaults. A hook may replace them before the operation runs.
        answer: What the operation returned, once it has.
    """

    operation: str
    arguments: dict[str, Any]
    answer: Any = None


Hook = Callable[[Any, Invocation], AbstractContextManager[None]]
"""Takes the queue and the call, and returns a context manager in which the operation runs."""


def hooked(method: Method, hook: Hook) -> Method:
    """Return an operation that runs within a hook, with the signature and docstring of the plain one."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    async def operate(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the operation
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        invocation = Invocation(method.__name__, bound.arguments)
        with hook(args[0], invocation):
            invocation.answer = await method(*bound.args, **bound.kwargs)
        return invocation.answer

    return operate
