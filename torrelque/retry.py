"""When a task that failed is tried again: policies, and how a handler decides for itself.

A policy is a pure function. It is called with the number of the delivery that
failed, from 1 (``Task.attempt``: a dead letter that was redriven has its
deliveries counted anew), and the exception; it returns the seconds until the
task is due again, or None to give up: the task then goes to the dead letters.
Policies are combined as functions are::

    def patient(attempt: int, error: Exception) -> float | None:
        return None if isinstance(error, ValueError) else retry.exponential(attempts=5)(attempt, error)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

from torrelque.core import checks
from torrelque.core.backoff import Backoff
from torrelque.errors import TorrelqueTypeError, TorrelqueValueError

__all__ = ('Aborted', 'Reject', 'Retry', 'RetryPolicy', 'constant', 'exponential', 'immediately', 'linear', 'never')

RetryPolicy: TypeAlias = Callable[[int, Exception], float | None]
"""Number of the failed delivery, and why it failed -> seconds until the next; None gives up."""


class Retry(Exception):  # noqa: N818 - an order, not an error
    """Raised by a handler: requeue the task, to be due after ``delay`` s, whatever the policy says.

    Only the task's ``max_dequeues`` still bounds how often. Raises
    TorrelqueTypeError or TorrelqueValueError for what is no time.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay: float = _seconds('delay', delay)
        super().__init__(f'to be tried again in {self.delay:g} s')


class Reject(Exception):  # noqa: N818 - an order, not an error
    """Raised by a handler: move the task to the dead letters, with ``reason``, whatever the policy says."""

    def __init__(self, reason: str) -> None:
        self.reason: str = checks.check_text('reason', reason)
        super().__init__(reason)


class Aborted(Exception):  # noqa: N818 - what became of a delivery
    """What a policy and the events get for a delivery that ended with something other than an Exception.

    That may be a cancellation from within the handler, SystemExit, or any
    BaseException. It is the ``__cause__``.
    """


def never() -> RetryPolicy:
    """Give up at the first failure."""
    return constant(0.0, attempts=1)


def immediately(attempts: int | None = None) -> RetryPolicy:
    """Try again at once, at the back of the queue; give up after ``attempts`` deliveries (None: never)."""
    return constant(0.0, attempts)


def constant(delay: float, attempts: int | None = None) -> RetryPolicy:
    """The same delay each time; give up after ``attempts`` deliveries (None: never)."""
    seconds = _seconds('delay', delay)
    return _limited(attempts, lambda _attempt: seconds)


def linear(base: float, maximum: float = 3600.0, attempts: int | None = None) -> RetryPolicy:
    """A delay of ``base`` s after the first delivery, twice that after the second, and so on up to ``maximum``.

    >>> policy = linear(10, maximum=25, attempts=4)
    >>> [policy(attempt, OSError()) for attempt in (1, 2, 3, 4)]
    [10.0, 20.0, 25.0, None]
    """
    step, most = _seconds('base', base), _seconds('maximum', maximum)
    return _limited(attempts, lambda attempt: min(most, step * attempt))


def exponential(
    base: float = 1.0,
    factor: float = 2.0,
    maximum: float = 300.0,
    *,
    jitter: float = 0.2,
    attempts: int | None = None,
    rng: Callable[[], float] = random.random,
) -> RetryPolicy:
    """A delay of ``base`` s after the first delivery, ``factor`` times as long after each further one.

    It grows up to ``maximum``, and is shortened by a random part of at most
    ``jitter`` (0 to 1) of it, so that what failed together does not come back
    together. ``rng`` gives numbers from 0 to 1.

    >>> policy = exponential(base=1, maximum=5, jitter=0, attempts=5)
    >>> [policy(attempt, OSError()) for attempt in (1, 2, 3, 4, 5)]
    [1.0, 2.0, 4.0, 5.0, None]
    """
    first, most = _seconds('base', base), _seconds('maximum', maximum)
    growth, part = _seconds('factor', factor), _seconds('jitter', jitter)
    if growth < 1:
        raise TorrelqueValueError(f'factor must be at least 1, got {factor!r}')
    if part > 1:
        raise TorrelqueValueError(f'jitter must be from 0 to 1, got {jitter!r}')
    if not callable(rng):
        raise TorrelqueTypeError(f'rng must be a function that gives numbers from 0 to 1, got {rng!r}')

    backoff = Backoff(first, most, growth, part)
    return _limited(attempts, lambda attempt: backoff.pause(attempt, rng))


def _limited(attempts: int | None, delay: Callable[[int], float]) -> RetryPolicy:
    most = None if attempts is None else checks.check_count('attempts', attempts)

    def policy(attempt: int, _error: Exception) -> float | None:
        return None if most is not None and attempt >= most else delay(attempt)

    return policy


def _seconds(name: str, value: float) -> float:
    seconds = checks.check_seconds(name, value)
    if seconds is None:
        raise TorrelqueTypeError(f'{name} must be a number, got None')
    return seconds
