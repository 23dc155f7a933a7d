"""An event for one task that waits for it once: what each call needs, as cheap as the event loop allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import anyio
from anyio.lowlevel import current_token

__all__ = ('OneShot', 'oneshot_maker')


class OneShot(Protocol):
    """Set once, waited for by one task, once."""

    def set(self) -> None: ...

    async def wait(self) -> None: ...


class _FutureOneShot:
    """A bare future: on asyncio that costs a third of an event."""

    __slots__ = ('_future',)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():  # who waited was cancelled, and the future with it
            self._future.set_result(None)

    async def wait(self) -> None:
        await self._future


def oneshot_maker() -> Callable[[], OneShot]:
    """What makes them on the event loop that runs."""
    on_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)
    return _FutureOneShot if on_asyncio else anyio.Event
