"""Background tasks, which are started again if they fail."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import anyio

from torrelque.core.backoff import Backoff
from torrelque.transports.base import Transport

__all__ = ('BACKOFF', 'Background', 'Cancellable', 'rest', 'start_later')

logger: logging.Logger = logging.getLogger('torrelque')

BACKOFF = Backoff(0.1, 4.0)
"""Pauses after a background task failed."""

STEADY = 60.0
"""Seconds after which a task counts as having worked: when it fails, that is logged, and the back-off starts again."""


class Cancellable(Protocol):
    """A handle to something that was started."""

    def cancel(self) -> None:
        """End it. Safe to repeat."""


class Background:
    """A background task. If it fails, the error is logged, and it is started again after a pause."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False

    async def run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a function until it returns or `cancel` is called."""
        error: Exception | None
        if self._cancelled:
            return
        with anyio.CancelScope() as self._scope:
            failures = 0
            while True:
                began, error = anyio.current_time(), None
                try:
                    await function()
                except* Exception as group:  # noqa: BLE001 - a cancellation in the group propagates
                    error = group.exceptions[0] if len(group.exceptions) == 1 else group
                if error is None:
                    return
                failures = 1 if anyio.current_time() - began > STEADY else failures + 1
                if failures == 1:
                    logger.warning('A background task has failed, trying again', exc_info=error)
                await rest(self._transport, BACKOFF.pause(failures, random.random))

    def cancel(self) -> None:
        """End the task. Safe to repeat."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()


async def rest(transport: Transport, seconds: float) -> None:
    """Sleep on a transport's clock, or on the event loop's if that fails."""
    try:
        await transport.pause(anyio.Event(), transport.now() + seconds)
    except Exception:  # noqa: BLE001 - the failure before this pause has been logged
        await anyio.sleep(seconds)


def start_later(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task that first runs in the next turn of the event loop.

    An eager task factory would run it at once, before there is the call for which it is started.
    """
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=contextvars.Context())
