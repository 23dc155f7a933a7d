"""An event for one task that waits for it once: what each call needs, as cheap as the event loop allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import anyio
from anyio.lowlevel import current_token

__all__ = ('Once', 'once_maker')


class Once(Protocol):
    """Set once, waited for by one task, once."""

    def set(self) -> None: ...

    async def wait(self) -> None: ...


class _FutureOnce:
    """A bare future: on asyncio that costs a third of an event."""

    __slots__ = ('_future',)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():  # who waited was cancelled, and the future with it
            self._future.set_result(None)

    async def wait(self) -> None:
        await self._future


def once_maker() -> Callable[[], Once]:
    """What makes them on the event loop that runs."""
    on_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)
    return _FutureOnce if on_asyncio else anyio.Event
