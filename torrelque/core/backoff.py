"""The formula for the pauses between attempts to reach a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ('Backoff',)


@dataclass(frozen=True, slots=True)
class Backoff:
    """A capped exponential back-off with jitter.

    Callers count the failures in a row, and reset the count when an attempt succeeds.

    Attributes:
        first: The pause after the first failure, in seconds.
        longest: Maximum pause, in seconds.
        factor: How much longer each further pause is.
        jitter: Maximum share of a pause that is randomly taken off, from 0 to 1, so that clients
            that failed together do not come back together.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: float = 0.5

    def pause(self, failures: int, rng: Callable[[], float]) -> float:
        """Return the next pause, in seconds.

        Args:
            failures: The number of failures in a row. Without any there is no pause.
            rng: Returns random numbers from 0 to 1.
        """
        if failures < 1:
            return 0.0
        try:
            grown = self.first * self.factor ** (failures - 1)
        except OverflowError:
            grown = self.longest
        return min(self.longest, grown) * (1 - self.jitter * rng())
