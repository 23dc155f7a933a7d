"""Numbers as people read them at a glance: at most six characters for a count, seven for a duration."""

from __future__ import annotations

import math

__all__ = ('NOTHING', 'count', 'duration', 'rate')

NOTHING = '–'  # noqa: RUF001 - a dash as wide as a digit, for what is not known or not there
NEVER = '∞'
EXACT = 10_000
"""Counts below it are shown to the last digit."""

MINUTE, HOUR, DAY = 60, 3_600, 86_400


def count(value: int) -> str:
    """9,999 and 12.3k."""
    return f'{value:,}' if value < EXACT else _short(value)


def rate(value: float | None) -> str:
    """Events a second, without the unit: 0.25, 12.3, 1.23k; a dash for None."""
    if value is None:
        return NOTHING
    if value < 0.005:  # noqa: PLR2004 - what would be shown as 0.00
        return '0'
    return _short(value)


def duration(seconds: float | None) -> str:
    """Its two largest units: 4m 10s, 3h 20m; a dash for None, ∞ for what never ends."""
    if seconds is None:
        return NOTHING
    if math.isinf(seconds):
        return NEVER
    whole = round(seconds)
    if whole < MINUTE:
        return '<1s' if 0 < seconds < 1 else f'{whole}s'
    for unit, name, part, part_name in ((DAY, 'd', HOUR, 'h'), (HOUR, 'h', MINUTE, 'm')):
        if whole >= unit:
            return f'{whole // unit}{name} {whole % unit // part}{part_name}'
    return f'{whole // MINUTE}m {whole % MINUTE}s'


def _short(value: float) -> str:
    """Three significant digits and a suffix."""
    for factor, suffix in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= factor * 0.9995:  # what would be rounded up to it
            return _three_digits(value / factor) + suffix
    return _three_digits(value)


def _three_digits(value: float) -> str:
    digits = next((digits for limit, digits in ((9.995, 2), (99.95, 1)) if value < limit), 0)
    return f'{value:.{digits}f}'
