"""Waits for the server when a program that runs workers starts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from torrelque import retry
from torrelque.errors import TorrelqueError, is_transient

__all__ = ('until_usable',)

T = TypeVar('T')

PAUSE = retry.exponential(0.1, maximum=2.0)
"""Pauses between attempts to reach the server."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


async def until_usable(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while the server is unavailable, and return its result. Safe to cancel.

    Args:
        attempt: Makes the call. It is safe to repeat.

    Raises:
        TorrelqueError: An error that waiting cannot fix.
    """
    failures = 0
    while True:
        try:
            return await attempt()
        except TorrelqueError as error:
            if not is_transient(error):
                raise
            if not failures:
                logger.warning('The server cannot be used yet, trying again until it can: %s', error)
            failures += 1
            pause = PAUSE(failures, error) or 0.0
        await anyio.sleep(pause)
