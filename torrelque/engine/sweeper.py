"""Runs scheduled sweeps in the background."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from torrelque.engine.background import Cancellable
from torrelque.engine.runtime import Runtime
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError

__all__ = ('Sweeper',)

logger: logging.Logger = logging.getLogger('torrelque')


class Sweeper:
    """Sweeps a queue at once and then regularly, until stopped."""

    def __init__(self, runtime: Runtime, sweep: Callable[[], Awaitable[tuple[int, int, int]]]) -> None:
        self._runtime = runtime
        self._sweep = sweep
        self._background: Cancellable | None = None
        self._interval = 0.0

    def start(self, interval: float) -> None:
        """Start sweeping every ``interval`` seconds. Stops an earlier schedule."""
        self.stop()
        self._interval = interval
        self._background = self._runtime.engine.spawn(self._run)

    def stop(self) -> None:
        """Stop sweeping. Safe to repeat."""
        if self._background is not None:
            self._background.cancel()
            self._background = None

    async def _run(self) -> None:
        transport = self._runtime.transport
        while True:
            try:
                stale, delayed, undequeued = await self._sweep()
            except (TorrelqueConnectionError, TorrelqueReplyError):
                logger.exception('Sweep has failed with Redis error, continuing')
            except Exception:
                logger.exception('Sweep has failed with unexpected error, stopping')
                return
            else:
                logger.debug('Sweep has requeued: stale=%d, delayed=%d, undequeued=%d', stale, delayed, undequeued)
            await transport.pause(anyio.Event(), transport.now() + self._interval)
