"""What asyncio requires: connections for each event loop, closed with it, and no lost cancellations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from anyio.lowlevel import checkpoint_if_cancelled

from torrelque.errors import (
    TorrelqueUsageError,
)
from torrelque.transports import forks
from torrelque.transports.client import Servers

S = TypeVar('S', bound=Servers)
T = TypeVar('T')

__all__ = ('PerLoop', 'call_later', 'keep_cancelled', 'on_this_loop')

ASYNCIO_ONLY = 'redis-py runs on asyncio only: under Trio use a coredis.Redis or the client of torrelque.connect(url)'

RUNNING: set[asyncio.Task[None]] = set()
"""Background tasks. The event loop keeps only weak references to them."""

LEFT_BY_THE_PARENT: list[object] = []
"""Connections from before a fork. Closing them would stop the parent process from polling their sockets."""


class PerLoop(Generic[S]):
    """Connections for the current event loop and process. They are closed with the loop, or with this object."""

    def __init__(self, make: Callable[[], S], at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._at_end = at_end
        self._home: tuple[int, object] | None = None
        self._value: S
        self._end: AsyncGenerator[None]

    def get(self) -> S:
        """Return the connections of the running event loop. Raises TorrelqueUsageError on Trio."""
        try:
            home = forks.count, asyncio.get_running_loop()
        except RuntimeError:
            raise TorrelqueUsageError(ASYNCIO_ONLY) from None
        if self._home != home:
            if self._home is not None and self._home[0] != home[0]:
                LEFT_BY_THE_PARENT.append(self._value)
            self._home = home
            self._value = self._make()
            # 0.9's users close only their client. `asyncio.run` closes all generators that are left, such as this one.
            self._end = _close_at_the_end(self._value, self._at_end)
            with suppress(StopIteration):
                self._end.__anext__().send(None)
        return self._value


async def _close_at_the_end(servers: Servers, at_end: Callable[[], Awaitable[None]] | None) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await servers.aclose()
        if at_end is not None:
            await at_end()


async def keep_cancelled(work: Awaitable[T]) -> T:
    """Do some work, and raise the cancellation if the work swallowed it.

    redis-py connects with `asyncio.wait_for`, which in Python 3.11 swallows a cancellation that arrives at the moment
    when the connection is ready.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine on asyncio
    cancellations = task.cancelling()
    result = await work
    if task.cancelling() > cancellations:
        await checkpoint_if_cancelled()
        task.uncancel()
        task.cancel()
        await asyncio.sleep(0)
    return result


async def on_this_loop(send: Callable[[], Awaitable[T]], drop: Callable[[], Awaitable[object]]) -> T:
    """Call a function, and again if the client still had a connection of an event loop that has ended.

    Args:
        send: The function. It is safe to repeat.
        drop: Closes the client's idle connections.

    Raises:
        TorrelqueUsageError: The client cannot be used on another event loop.
    """
    try:
        return await send()
    except RuntimeError as error:
        if not _is_of_another_loop(error):
            raise
    await drop()
    try:
        return await send()
    except RuntimeError as error:
        if not _is_of_another_loop(error):
            raise
        raise TorrelqueUsageError(
            'the client was used on another event loop: create a client on each, or, in synchronous code, '
            f'use torrelque.sync ({error})'
        ) from error


def _is_of_another_loop(error: RuntimeError) -> bool:
    said = str(error)
    return any(
        words in said for words in ('loop is closed', 'different loop', 'different event loop', 'handler is closed')
    )


def call_later(seconds: float, function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a function after some seconds. There is no task before that, so nothing is pending when the loop ends."""
    loop = asyncio.get_running_loop()

    def start() -> None:
        task = loop.create_task(function())
        RUNNING.add(task)
        task.add_done_callback(RUNNING.discard)

    return loop.call_later(seconds, start).cancel
