"""An event that is set once and awaited once. Each call needs one, so it is as cheap as possible."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import anyio
from anyio.lowlevel import current_token

__all__ = ('OneShot', 'oneshot_maker')


class OneShot(Protocol):
    """An event that is set once, for which one task waits once."""

    def set(self) -> None: ...

    def wait(self) -> Awaitable[None]: ...


class _FutureOneShot(asyncio.Future[None]):
    """A bare future. On asyncio it costs a third of an event."""

    def set(self) -> None:
        if not self.done():  # cancelled together with the waiting task
            self.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self


def oneshot_maker() -> Callable[[], OneShot]:
    """Return a function that creates such events on the running event loop."""
    loop = current_token().native_token
    return partial(_FutureOneShot, loop=loop) if isinstance(loop, asyncio.AbstractEventLoop) else anyio.Event
