"""What event loops themselves keep for a while."""

from __future__ import annotations

import asyncio
import heapq
import sys

__all__ = ('drop_cancelled_timers',)


def drop_cancelled_timers() -> None:
    """Have the running loop forget timers that were cancelled.

    asyncio and Trio keep some hundreds of them, with what they refer to, until there are too many or their time
    comes. uvloop keeps none.
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        sys.modules['trio']._core._run.GLOBAL_RUN_CONTEXT.runner.deadlines._prune()
    elif isinstance(loop, asyncio.BaseEventLoop):
        timers = loop._scheduled  # type: ignore[attr-defined]  # there is no public way
        timers[:] = [timer for timer in timers if not timer.cancelled()]
        heapq.heapify(timers)
        loop._timer_cancelled_count = 0  # type: ignore[attr-defined]
