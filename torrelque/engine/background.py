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
"""Seconds after which a background task that fails has worked: the error is logged, and the first pause is short."""


class Cancellable(Protocol):
    """Something that was started."""

    def cancel(self) -> None: ...


class Background:
    """A task that was started beside the engine; ``cancel`` ends it.

    An error in it is logged, and it is started again after a pause.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False

    async def run(self, function: Callable[[], Awaitable[None]]) -> None:
        error: Exception | None
        if self._cancelled:
            return
        with anyio.CancelScope() as self._scope:
            failures = 0
            while True:
                began, error = anyio.current_time(), None
                try:
                    await function()
                except* Exception as group:  # noqa: BLE001 - it may be one with a cancellation in it, which goes on
                    error = group.exceptions[0] if len(group.exceptions) == 1 else group
                if error is None:
                    return
                failures = 1 if anyio.current_time() - began > STEADY else failures + 1
                if failures == 1:
                    logger.warning('A background task has failed, trying again', exc_info=error)
                await rest(self._transport, BACKOFF.pause(failures, random.random))

    def cancel(self) -> None:
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()


async def rest(transport: Transport, seconds: float) -> None:
    """Let time pass on a transport's clock, or, if that fails, on the event loop's."""
    try:
        await transport.pause(anyio.Event(), transport.now() + seconds)
    except Exception:  # noqa: BLE001 - what is rested after has been reported
        await anyio.sleep(seconds)


def start_later(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task that takes its first step in the next turn of the event loop.

    An eager task factory would take it at once, before the call is there that the task is started for.
    """
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=contextvars.Context())
