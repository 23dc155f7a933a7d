"""The columns of the table of queues: how each is shown and sorted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torrelque import TorrelqueTaskStatus
from torrelque.cli.top.monitor import Watched
from torrelque.cli.top.styles import IN, OUT, STATUS, WARN
from torrelque.cli.units import NOTHING, count, duration, rate

__all__ = ('FIGURES', 'Figure')


class Figure(NamedTuple):
    """A column. Its width fits the longest text or the title, after a space or the sort mark."""

    title: str
    width: int
    shown: Callable[[Watched], str]
    worth: Callable[[Watched], float | None]
    style: Callable[[Watched], str] = lambda _: ''


def _depth(status: TorrelqueTaskStatus) -> Figure:
    name = status.name.lower()

    def number(watched: Watched) -> int | None:
        return None if watched.stats is None else int(getattr(watched.stats, name))

    def shown(watched: Watched) -> str:
        value = number(watched)
        return NOTHING if value is None else count(value)

    return Figure(name, len(name) + 1, shown, number, lambda _: STATUS[status])


def _oldest(watched: Watched) -> float | None:
    return None if watched.stats is None else watched.stats.oldest_pending_age


def _drain(watched: Watched) -> float | None:
    return watched.history.time_to_drain()


def _is_paused(watched: Watched) -> bool:
    return watched.stats is not None and watched.stats.paused is not None


FIGURES = (
    _depth(TorrelqueTaskStatus.PENDING),
    _depth(TorrelqueTaskStatus.WORKING),
    _depth(TorrelqueTaskStatus.DELAYED),
    _depth(TorrelqueTaskStatus.REJECTED),
    Figure('in/s', 6, lambda each: rate(each.history.rate_in()), lambda each: each.history.rate_in(), lambda _: IN),
    Figure('out/s', 6, lambda each: rate(each.history.rate_out()), lambda each: each.history.rate_out(), lambda _: OUT),
    Figure('oldest', 8, lambda each: duration(_oldest(each)), _oldest),
    Figure(
        'drain',
        8,
        lambda each: 'paused' if _is_paused(each) else duration(_drain(each) or None),
        _drain,
        lambda each: WARN if _is_paused(each) or _drain(each) == math.inf else '',
    ),
)
