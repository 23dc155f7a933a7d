"""The pauses between attempts to reach a server, worked out in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ('Backoff',)


@dataclass(frozen=True, slots=True)
class Backoff:
    """A capped exponential back-off with jitter.

    The pause after the first failure is ``first`` seconds, then ``factor`` times as long after each further one, up to
    ``longest`` seconds. A random part of each pause, at most ``jitter`` of it (0 to 1), is taken off, so that clients
    that failed together do not come back together.

    It keeps no count of failures: the caller counts them, and sets the count to 0 when an attempt succeeds.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: float = 0.5

    def pause(self, failures: int, rng: Callable[[], float]) -> float:
        """Seconds to wait after this many failures in a row; 0 after none. ``rng`` returns numbers from 0 to 1."""
        if failures < 1:
            return 0.0
        try:
            grown = self.first * self.factor ** (failures - 1)
        except OverflowError:
            grown = self.longest
        return min(self.longest, grown) * (1 - self.jitter * rng())
