"""Derives rates, the time to drain and series to draw from successive statistics of a queue.

It does no I/O. Samples carry the server's time, so neither the client's clock nor the pauses between samples matter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torrelque import TorrelqueQueueStats

__all__ = ('WINDOW', 'History', 'Sample', 'bars')

WINDOW = 10.0
"""Seconds over which rates are averaged, so that they are readable. Longer if samples are less frequent."""

KEPT = 300
"""Number of samples in a history: more than the columns of a wide terminal."""

BLOCKS = '▁▂▃▄▅▆▇█'


class Sample(NamedTuple):
    """A queue's statistics at one time of the server's clock."""

    time: float
    stats: TorrelqueQueueStats

    def entered(self) -> int:
        """Return the total number of tasks enqueued."""
        return self.stats.total_enqueued

    def left(self) -> int:
        """Return the total number of tasks completed or rejected."""
        return self.stats.total_completed + self.stats.total_rejected


class History:
    """The latest samples of one queue, oldest first.

    It restarts if the clock is set back, or if a total decreases: then the queue was
    deleted and created again.
    """

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def add(self, sample: Sample) -> None:
        if self._samples and not _follows(sample, self._samples[-1]):
            self._samples.clear()
        self._samples.append(sample)

    @property
    def latest(self) -> TorrelqueQueueStats | None:
        """The latest statistics; None before the first sample."""
        return self._samples[-1].stats if self._samples else None

    def span(self, most: int = KEPT) -> float:
        """Return the seconds that the latest ``most`` samples span."""
        samples = list(self._samples)[-most:]
        return samples[-1].time - samples[0].time if samples else 0.0

    def rate_in(self) -> float | None:
        """Recent rate of tasks enqueued per second; None until there are two samples."""
        return self._change(Sample.entered)

    def rate_out(self) -> float | None:
        """Recent rate of tasks completed or rejected per second; None until there are two samples."""
        return self._change(Sample.left)

    def time_to_drain(self) -> float | None:
        """Seconds until no task is pending at the recent rate: 0 if none is, infinity if the number does not shrink.

        None until there are two samples.
        """
        change = self._change(lambda sample: sample.stats.pending)
        if change is None:
            return None
        pending = self._samples[-1].stats.pending
        if not pending:
            return 0.0
        return pending / -change if change < 0 else math.inf

    def series(self, value: Callable[[TorrelqueQueueStats], float], most: int = KEPT) -> list[float]:
        """Return a value of each of the latest samples."""
        return [value(sample.stats) for sample in list(self._samples)[-most:]]

    def series_in(self, most: int = KEPT) -> list[float]:
        """Return `rate_in` between successive samples."""
        return self._series_of_rates(Sample.entered, most)

    def series_out(self, most: int = KEPT) -> list[float]:
        """Return `rate_out` between successive samples."""
        return self._series_of_rates(Sample.left, most)

    def _series_of_rates(self, total: Callable[[Sample], int], most: int) -> list[float]:
        samples = list(self._samples)[-most - 1 :]
        return [(total(after) - total(before)) / (after.time - before.time) for before, after in pairwise(samples)]

    def _change(self, value: Callable[[Sample], int]) -> float | None:
        """Return a value's change per second over the window."""
        samples = list(self._samples)
        if len(samples) < 2:  # noqa: PLR2004 - a change needs two
            return None
        last = samples[-1]
        first = next((sample for sample in samples[:-2] if sample.time >= last.time - WINDOW), samples[-2])
        return (value(last) - value(first)) / (last.time - first.time)


def _follows(sample: Sample, last: Sample) -> bool:
    return (
        sample.time > last.time
        and sample.entered() >= last.entered()
        and sample.left() >= last.left()
        and sample.stats.total_claimed >= last.stats.total_claimed
    )


def bars(values: Sequence[float], width: int, height: int = 1) -> list[str]:
    """Draw a chart of the last ``width`` values, from 0 to their peak, as ``height`` lines from top to bottom.

    The latest value is on the right. If there are fewer values, the left stays empty. Any value above 0 is visible.
    """
    drawn = values[-width:] if width > 0 else []
    peak = max(drawn, default=0)
    eighths = [math.ceil(max(value, 0) / peak * height * len(BLOCKS)) if peak > 0 else 0 for value in drawn]
    return [
        ''.join(_block(level - line * len(BLOCKS), base=line == 0) for level in eighths).rjust(width)
        for line in reversed(range(height))
    ]


def _block(eighths: int, *, base: bool) -> str:
    if eighths <= 0:
        return BLOCKS[0] if base and not eighths else ' '
    return BLOCKS[min(eighths, len(BLOCKS)) - 1]
