"""Interprets and describes the exceptions that handlers raise."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

from torrelque.retry import Aborted, Reject, Retry

__all__ = (
    'Failure',
    'describe',
    'for_log',
    'is_cancellation',
    'leaves_of',
    'message_of',
    'presentable',
    'sendable',
    'understand',
)

LONGEST_REASON = 1000
"""Maximum number of characters of error text in the reason of a dead letter."""

LONGEST_DELAY = 1e9
"""Seconds."""


class Failure(NamedTuple):
    """How a delivery failed."""

    cause: BaseException
    """The exception that was raised. For a group of one, its only exception."""
    error: Exception
    """The exception for the retry policy and the events, wrapped if it is not an Exception."""
    reason: str
    """The reason for a dead letter."""
    rejects: bool = False
    """Whether the handler raised `Reject`."""
    delay: float | None = None
    """Delay of the `Retry` that the handler raised, if it did."""
    counts: bool = True
    """Whether the delivery counts as an attempt."""
    group: bool = False
    """Whether the group of the task waits as well."""
    exit: SystemExit | KeyboardInterrupt | None = None
    """The exception if the handler raised it to end the process."""


def understand(error: BaseException) -> Failure:
    """Interpret the exception of a handler.

    In a group, cancellations are ignored, because they follow from the other errors. `Reject`
    takes precedence over all others. `Retry` is obeyed unless the group contains other errors, which the
    retry policy judges. A group of one error counts as that error.
    """
    every = list(leaves_of(error))
    leaves = [leaf for leaf in every if not is_cancellation(leaf)] or every
    ending = next((leaf for leaf in leaves if isinstance(leaf, (SystemExit, KeyboardInterrupt))), None)
    rejections = [leaf for leaf in leaves if isinstance(leaf, Reject)]
    if rejections:
        reasons = [text for leaf in rejections if isinstance(text := _attribute(leaf, 'reason'), str) and text]
        return Failure(
            rejections[0], rejections[0], sendable('; '.join(reasons) or describe(error)), rejects=True, exit=ending
        )
    delays = {index: delay for index, leaf in enumerate(leaves) if (delay := _find_delay(leaf)) is not None}
    longest = max(delays, key=delays.__getitem__) if len(delays) == len(leaves) else None
    whole = error if longest is None and len(leaves) > 1 else leaves[longest or 0]
    return Failure(
        cause=whole,
        error=_as_exception(whole),
        reason=sendable('; '.join(describe(leaf) for leaf in leaves)[:LONGEST_REASON]),
        delay=None if longest is None else delays[longest],
        counts=longest is None or any(getattr(leaf, 'count', True) is not False for leaf in leaves),
        group=bool(
            longest is not None and delays[longest] and any(_attribute(leaf, 'group') is True for leaf in leaves)
        ),
        exit=ending,
    )


def describe(error: BaseException) -> str:
    """Return the type and message of an exception, or of all leaves of a group. Works even if ``__str__`` fails."""
    if isinstance(error, BaseExceptionGroup):
        return '; '.join(describe(leaf) for leaf in leaves_of(error))
    text = message_of(error)
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def message_of(error: BaseException) -> str:
    """Return ``str(error)``, or a substitute if that fails."""
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001 - the class of the exception is the user's
        return f'<str() raised {type(failure).__name__}>'


def sendable(text: str) -> str:
    """Return the text with characters escaped that UTF-8 cannot encode."""
    return text.encode(errors='backslashreplace').decode()


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group at any depth, or any other exception itself."""
    stack = [error]
    while stack:
        each = stack.pop()
        if isinstance(each, BaseExceptionGroup):
            stack.extend(reversed(each.exceptions))
        else:
            yield each


def _find_delay(error: BaseException) -> float | None:
    """Return the delay of a `Retry`; None for any other error, or if the attribute was changed to an invalid value."""
    delay = _attribute(error, 'delay') if isinstance(error, Retry) else None
    return float(delay) if isinstance(delay, (int, float)) and 0 <= delay <= LONGEST_DELAY else None


def _attribute(error: BaseException, name: str) -> Any:  # noqa: ANN401 - the user's
    """Return an attribute; None if reading it fails."""
    try:
        return getattr(error, name)
    except BaseException:  # noqa: BLE001 - the class of the exception is the user's
        return None


def presentable(error: BaseException) -> BaseException:
    """Return the error, or an `Aborted` in its place if inspecting it fails."""
    try:
        understand(error)
    except BaseException:  # noqa: BLE001 - the class of the exception is the user's
        return _aborted(error, type(error).__name__)
    return error


def for_log(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return the error as a tuple for ``exc_info``. `logging` would test an exception's truth value, which may fail."""
    return type(error), error, error.__traceback__


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else _aborted(error, describe(error))


def _aborted(error: BaseException, text: str) -> Aborted:
    aborted = Aborted(text)
    aborted.__cause__ = error
    return aborted


def is_cancellation(error: BaseException) -> bool:
    """Return whether it is an event loop's cancellation. Also works in threads, which have no event loop."""
    trio = sys.modules.get('trio')
    return isinstance(error, asyncio.CancelledError) or (trio is not None and isinstance(error, trio.Cancelled))
