"""An event for one task that waits for it once: what each call needs, as cheap as the event loop allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import anyio
from anyio.lowlevel import current_token

__all__ = ('OneShot', 'oneshot_maker')


class OneShot(Protocol):
    """Set once, waited for by one task, once."""

    def set(self) -> None: ...

    def wait(self) -> Awaitable[None]: ...


class _FutureOneShot(asyncio.Future[None]):
    """A bare future: on asyncio that costs a third of an event."""

    def set(self) -> None:
        if not self.done():  # who waited was cancelled, and the future with it
            self.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self


def oneshot_maker() -> Callable[[], OneShot]:
    """What makes them on the event loop that runs."""
    loop = current_token().native_token
    return partial(_FutureOneShot, loop=loop) if isinstance(loop, asyncio.AbstractEventLoop) else anyio.Event
