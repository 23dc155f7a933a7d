"""Ends a process that its event loop or threads keep running."""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

__all__ = ('Deadline',)

LAST_WORDS = 2.0
"""Time to write a last log line, in seconds. The reader of standard error may be stuck, too."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class Deadline:
    """Ends the process at a given time if it is still running.

    Args:
        describe: Returns a description of what keeps the process running.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._before = set(threading.enumerate())
        self._called_off = False

    def end_within(self, seconds: float, status: int) -> None:
        """Exit with this status after ``seconds``. The earliest deadline counts. Safe to call in a signal handler."""
        _thread.start_new_thread(self._end_later, (seconds, status))  # threading takes locks and waits for threads

    def call_off(self) -> None:
        """Cancel the deadline."""
        self._called_off = True

    def is_kept(self, seconds: float) -> bool:
        """Return whether new threads that keep Python from exiting are still running after ``seconds``."""
        end = time.monotonic() + seconds
        for thread in set(threading.enumerate()) - self._before:
            if not thread.daemon:
                thread.join(max(0.0, end - time.monotonic()))
                if thread.is_alive():
                    return True
        return False

    def _end_later(self, seconds: float, status: int) -> None:
        time.sleep(seconds)
        if self._called_off:
            return
        said = _thread.allocate_lock()
        said.acquire()
        _thread.start_new_thread(self._say, (said,))
        said.acquire(timeout=LAST_WORDS)
        os._exit(status)

    def _say(self, said: _thread.LockType) -> None:
        try:
            logger.error('The process does not exit, so it is ended: %s', self._describe())
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            said.release()
