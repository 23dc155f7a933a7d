"""Formats numbers for people: at most six characters for a count, seven for a duration."""

from __future__ import annotations

__all__ = ('NOTHING', 'age', 'count', 'duration', 'rate')

NOTHING = '–'  # noqa: RUF001 - a dash as wide as a digit, for an unknown or missing value
NEVER = '∞'
EXACT = 10_000
"""Counts below this are shown in full."""

WIDEST = 7
"""Maximum number of characters of a duration."""

LONGEST = 999_999 * 86_400
"""Seconds; anything longer is shown as infinite."""

UNITS = ((86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's'))


def count(value: int) -> str:
    """Format a count, such as 9,999 or 12.3k."""
    return f'{value:,}' if value < EXACT else _short(value)


def rate(value: float | None) -> str:
    """Format a rate per second without its unit: 0.25, 12.3, 1.23k; a dash for None."""
    if value is None:
        return NOTHING
    if value < 0.005:  # noqa: PLR2004 - would be shown as 0.00
        return '0'
    return _short(value)


def duration(seconds: float | None) -> str:
    """Format a duration with its two largest units: 4m 10s, 3h 20m, 120d; a dash for None, ∞ for infinity."""
    if seconds is None:
        return NOTHING
    if seconds > LONGEST:
        return NEVER
    if 0 < seconds < 1:
        return '<1s'
    parts = _parts(seconds)
    text = ' '.join(parts)
    return text if len(text) <= WIDEST else parts[0]


def age(seconds: float | None) -> str:
    """Format a duration without spaces: 5s, 3m20s, 2d4h; empty for None."""
    return '' if seconds is None else ''.join(_parts(seconds))


def _parts(seconds: float) -> list[str]:
    left = max(0, round(seconds))
    first = next((at for at, (size, _) in enumerate(UNITS) if left >= size), len(UNITS) - 1)
    parts: list[str] = []
    for size, unit in UNITS[first : first + 2]:
        number, left = divmod(left, size)
        if number or not parts:
            parts.append(f'{number}{unit}')
    return parts


def _short(value: float) -> str:
    """Format with three significant digits and a suffix."""
    for factor, suffix in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= factor * 0.9995:  # would be rounded up to the factor
            return _three_digits(value / factor) + suffix
    return _three_digits(value)


def _three_digits(value: float) -> str:
    digits = next((digits for limit, digits in ((9.995, 2), (99.95, 1)) if value < limit), 0)
    return f'{value:.{digits}f}'
