"""Counts the forks between this process and the one that imported the library. Cheaper than `os.getpid`."""

from __future__ import annotations

import os

__all__ = ('count',)

count: int = 0


def _forked() -> None:
    global count  # noqa: PLW0603 - it belongs to the whole process
    count += 1


os.register_at_fork(after_in_child=_forked)
