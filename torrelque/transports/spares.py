"""Idle connections: as many as were recently in use at the same time."""

from __future__ import annotations

import time
from collections import deque
from typing import Generic, TypeVar

__all__ = ('KEEP', 'Spares')

C = TypeVar('C')

KEEP = 15.0
"""Seconds after which an idle connection is closed. Longer than a blocking call, so that idle consumers keep theirs."""


class Spares(Generic[C]):
    """A stack of idle connections. The one used last is lent first, so those at the bottom expire."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, C]] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, connection: C) -> None:
        """Keep a connection that is in step."""
        self._kept.append((time.monotonic(), connection))

    def take(self) -> C | None:
        """Remove and return the connection that was used last; None if there is none."""
        return self._kept.pop()[1] if self._kept else None

    def take_unused(self) -> list[C]:
        """Remove and return the connections that have been idle for `KEEP` seconds. The caller closes them."""
        unused: list[C] = []
        before = time.monotonic() - KEEP
        while self._kept and self._kept[0][0] <= before:
            unused.append(self._kept.popleft()[1])
        return unused
