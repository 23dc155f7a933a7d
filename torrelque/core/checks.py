"""Checks of arguments before anything is sent.

Each check returns the value, and raises TorrelqueTypeError or TorrelqueValueError, which name the argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torrelque.core.models import Receipt, Task, TaskId
from torrelque.errors import TorrelqueTypeError, TorrelqueValueError

__all__ = (
    'EVERY_GROUP',
    'check_amount',
    'check_count',
    'check_duration',
    'check_flag',
    'check_given',
    'check_group',
    'check_headers',
    'check_id',
    'check_ids',
    'check_moment',
    'check_note',
    'check_seconds',
    'check_serialiser',
    'check_target',
    'check_text',
    'check_time_limit',
    'check_wait',
)

S = TypeVar('S')

PLAIN_NUMBERS = frozenset({int, float})

LONGEST = 1e9
"""Maximum number of seconds, over thirty years. A longer time is a mistake, and would lose digits when it is sent."""


LONGEST_NOTE = 500
"""Maximum number of characters of a note, which is written up to ten times a second."""

LONGEST_GROUP = 256
"""Maximum number of characters of a group's name, which is part of keys."""

EVERY_GROUP = '*'
"""Stands for the default of all groups where limits are set."""

LATEST = 1e11
"""A Unix time over three thousand years from now. A later time is in milliseconds, or a mistake."""


def _float_of(value: Any) -> float | None:  # noqa: ANN401 - the type is what is checked
    """Return a number as a float, NaN if it is too large for one; None for anything else."""
    if isinstance(value, (str, bytes, type)) or not hasattr(value, '__float__'):
        return None
    try:
        return float(value)
    except (OverflowError, ValueError):
        return math.nan


def check_seconds(name: str, value: Any, *, negative: bool = False) -> float | None:  # noqa: ANN401
    """Check an optional number of seconds. It must be finite, and not negative unless ``negative`` allows that."""
    if value is None:
        return None
    if type(value) in PLAIN_NUMBERS and 0 <= value <= LONGEST:  # the usual case
        return float(value)
    number = _float_of(value)
    if number is None:
        raise TorrelqueTypeError(f'{name} must be a number of seconds, got {value!r}')
    if not math.isfinite(number) or abs(number) > LONGEST:
        raise TorrelqueValueError(f'{name} must be a finite number of seconds up to {LONGEST:.0f}, got {value!r}')
    if number < 0 and not negative:
        raise TorrelqueValueError(f'{name} must not be negative, got {value!r}')
    return number


def check_duration(name: str, value: Any) -> float:  # noqa: ANN401
    """Check a required number of seconds: finite and not negative."""
    if value is None or isinstance(value, bool):
        raise TorrelqueTypeError(f'{name} must be a number of seconds, got {value!r}')
    return check_seconds(name, value) or 0.0


def check_time_limit(value: Any) -> float:  # noqa: ANN401
    """Check how many seconds a handler may take: above 0."""
    seconds = check_duration('time_limit', value)
    if not seconds:
        raise TorrelqueValueError(f'time_limit must be above 0, got {value!r}')
    return seconds


def check_moment(name: str, value: Any) -> float:  # noqa: ANN401
    """Check a moment: a Unix time, or a datetime with a time zone. Returns a Unix time."""
    time = value
    if hasattr(value, 'utcoffset') and hasattr(value, 'timestamp'):
        if value.utcoffset() is None:
            raise TorrelqueValueError(f'{name} must be a datetime with a time zone, got {value!r}')
        time = value.timestamp()
    if isinstance(time, bool) or not isinstance(time, (int, float)):
        raise TorrelqueTypeError(f'{name} must be a datetime or a Unix time, got {value!r}')
    if not 0 <= time < LATEST:
        raise TorrelqueValueError(f'{name} must be a Unix time in seconds, from 1970 to 5138, got {value!r}')
    return float(time)


def check_wait(name: str, value: Any) -> float:  # noqa: ANN401
    """Check how long to wait, in seconds. None, 0 and infinity mean without limit."""
    if value is None or _float_of(value) == math.inf:
        return math.inf
    return check_seconds(name, value) or math.inf


def check_count(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:  # noqa: ANN401
    """Check a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TorrelqueTypeError(f'{name} must be a whole number, got {value!r}')
    if value < least:
        raise TorrelqueValueError(f'{name} must be at least {least}, got {value!r}')
    if value > most:
        raise TorrelqueValueError(f'{name} must be at most {most}, got {value!r}')
    return value


def check_amount(name: str, value: Any, *, least: float | None = None) -> float:  # noqa: ANN401
    """Check a finite number of at least 0; with ``least``, above that."""
    number = None if isinstance(value, bool) else _float_of(value)
    if number is None:
        raise TorrelqueTypeError(f'{name} must be a number, got {value!r}')
    if not math.isfinite(number) or number < 0 or (least is not None and number <= least):
        wanted = 'a finite number from 0' if least is None else f'a finite number above {least:g}'
        raise TorrelqueValueError(f'{name} must be {wanted}, got {value!r}')
    return number


def check_group(name: str, value: Any) -> str:  # noqa: ANN401
    """Check the name of a group: a string of at most `LONGEST_GROUP` characters, other than `EVERY_GROUP`."""
    text = check_text(name, value)
    if len(text) > LONGEST_GROUP:
        raise TorrelqueValueError(
            f'{name} must have at most {LONGEST_GROUP} characters, got {len(text)}: {text[:40]!r}...'
        )
    if text == EVERY_GROUP:
        raise TorrelqueValueError(f'{name} must not be {EVERY_GROUP!r}, which stands for the default of all groups')
    return text


def check_note(name: str, value: Any) -> str:  # noqa: ANN401
    """Check a note: a string of at most `LONGEST_NOTE` characters, which may be empty."""
    if value == '':
        return ''
    text = check_text(name, value)
    if len(text) > LONGEST_NOTE:
        raise TorrelqueValueError(
            f'{name} must have at most {LONGEST_NOTE} characters, got {len(text)}: {text[:40]!r}...'
        )
    return text


def check_flag(name: str, value: Any) -> bool:  # noqa: ANN401
    """Check a bool. Other values that are only true or false in a condition are refused."""
    if not isinstance(value, bool):
        raise TorrelqueTypeError(f'{name} must be True or False, got {value!r}')
    return value


def check_given(name: str, value: object, wanted_by: str) -> None:
    """Check that an argument is given because another one needs it."""
    if value is None:
        raise TorrelqueValueError(f'{wanted_by} needs {name}, got None')


def check_serialiser(name: str, value: S) -> S:
    """Check that a serialiser has ``dumps`` and ``loads``."""
    if not (callable(getattr(value, 'dumps', None)) and callable(getattr(value, 'loads', None))):
        raise TorrelqueTypeError(f'{name} must have dumps and loads, got {value!r}')
    return value


def check_text(name: str, value: Any) -> str:  # noqa: ANN401
    """Check a string: not empty, and UTF-8 can encode it."""
    if not isinstance(value, str):
        raise TorrelqueTypeError(f'{name} must be a string, got {value!r}')
    if not value:
        raise TorrelqueValueError(f'{name} must not be empty')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TorrelqueValueError(f'{name} must be text that UTF-8 can encode, got {value!r}') from None
    return value


def check_id(value: Any) -> str:  # noqa: ANN401
    """Return the id of a task, given as an id or as a dequeued task."""
    return check_text('task id', value.id if isinstance(value, Task) else value)


def check_ids(value: Any) -> list[str]:  # noqa: ANN401
    """Return the ids of an id or a dequeued task, or of several."""
    if isinstance(value, (str, Task)):
        return [check_id(value)]
    if isinstance(value, (bytes, bytearray)) or not isinstance(value, Iterable):
        raise TorrelqueTypeError(f'task ids must be a string or several, got {value!r}')
    return [check_id(each) for each in value]


def check_target(value: Any) -> Receipt | str:  # noqa: ANN401
    """Return the claim that a dequeued task or its id carries. A plain id has none, and is returned itself."""
    if isinstance(value, (Task, TaskId)):
        return value.receipt
    return check_id(value)


def check_headers(value: Any) -> Mapping[str, str] | None:  # noqa: ANN401
    """Check headers: a mapping of strings to strings, or None."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TorrelqueTypeError(f'headers must map strings to strings, got {value!r}')
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TorrelqueTypeError(f'headers must map strings to strings, got {name!r}: {text!r}')
        for word in (name, text):
            if word:
                check_text('a header', word)
    return value
