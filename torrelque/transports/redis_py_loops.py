"""What asyncio asks of connections: an event loop each, no lost cancellations, and an end with the loop."""

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
"""What an event loop does not hold on to itself."""

LEFT_BY_THE_PARENT: list[object] = []
"""Closing these would end the polling of their sockets in the process that this one was forked from."""


class PerLoop(Generic[S]):
    """Connections for each event loop and process in turn. They are closed with the loop, or when nobody holds this."""

    def __init__(self, make: Callable[[], S], at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._at_end = at_end
        self._home: tuple[int, object] | None = None
        self._value: S
        self._end: AsyncGenerator[None]

    def get(self) -> S:
        """Return the connections that the running event loop can use. Raises TorrelqueUsageError on Trio."""
        try:
            home = forks.count, asyncio.get_running_loop()
        except RuntimeError:
            raise TorrelqueUsageError(ASYNCIO_ONLY) from None
        if self._home != home:
            if self._home is not None and self._home[0] != home[0]:
                LEFT_BY_THE_PARENT.append(self._value)
            self._home = home
            self._value = self._make()
            # 0.9's users have nothing to close but their client: `asyncio.run` ends the generators that are left.
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
    """Do some work, and be cancelled after all if it lost a cancellation.

    Python 3.11's wait_for, which redis-py connects with, loses one that coincides with the end of what it waits for.
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
    """Do something, once more if the client had kept a connection of an event loop that has ended.

    Args:
        send: Safe to repeat.
        drop: Drops connections that nobody uses.

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
            'the client was used on another event loop: make a client for each, or, in synchronous code, '
            f'use torrelque.sync ({error})'
        ) from error


def _is_of_another_loop(error: RuntimeError) -> bool:
    said = str(error)
    return any(
        words in said for words in ('loop is closed', 'different loop', 'different event loop', 'handler is closed')
    )


def call_later(seconds: float, function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a function after some seconds. Until then there is no task, which the end of the event loop would report."""
    loop = asyncio.get_running_loop()

    def start() -> None:
        task = loop.create_task(function())
        RUNNING.add(task)
        task.add_done_callback(RUNNING.discard)

    return loop.call_later(seconds, start).cancel
