"""Computes the times of cron expressions, in any time zone and across its changes to and from daylight saving time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from torrelque.errors import TorrelqueError, TorrelqueUsageError, TorrelqueValueError

__all__ = ('next_times', 'upcoming')

logger: logging.Logger = logging.getLogger('torrelque')


def next_times(cron: str, tz: str, after: float, count: int) -> Sequence[float]:
    """Return the next times of a cron expression.

    Args:
        cron: The expression: minute, hour, day of the month, month, day of the week; or six fields, with seconds first.
        tz: The name of the time zone.
        after: A Unix time.
        count: Maximum number of times.

    Returns:
        Unix times after ``after``, in order; fewer than ``count`` if there are no more in the next 50 years.

    Raises:
        TorrelqueUsageError: The library that reads cron expressions is not installed.
        TorrelqueValueError: The expression or the time zone is bad.
    """
    try:
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 - an extra
    except ImportError:
        raise TorrelqueUsageError('cron needs another package: pip install "torrelque[cron]"') from None
    try:
        zone = ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        raise TorrelqueValueError(f'tz must be the name of a time zone that this system knows, got {tz!r}') from None
    try:
        iterator = CronSim(cron, datetime.fromtimestamp(after, zone))
    except (CronSimError, ValueError) as error:  # a ValueError for a number of thousands of digits
        raise TorrelqueValueError(f'cron is not a cron expression ({str(error).lower()}), got {cron!r}') from None
    times: list[float] = []
    for moment in iterator:
        time = moment.timestamp()
        if time > (times[-1] if times else after):  # an hour that is repeated or skipped may give a time again
            times.append(time)
        if len(times) == count:
            break
    return times


def upcoming(cron: str, tz: str, after: float, count: int) -> Sequence[float]:
    """Return the same; without an error, but a warning, if this process cannot compute them. Others may."""
    try:
        return next_times(cron, tz, after, count)
    except TorrelqueError as error:
        _warn(cron, tz, str(error))
        return ()


@lru_cache(maxsize=256)
def _warn(cron: str, tz: str, why: str) -> None:
    """Warn once of each."""
    logger.warning('Cannot compute the next times of cron %r in %r: %s', cron, tz, why)
