"""Retry policies, and exceptions with which a handler overrides them.

A policy is a pure function. Its arguments are the number of the failed delivery,
from 1 (``Task.attempt``; redriving a dead letter resets it), and the exception. It
returns the seconds until the task is due again, or None to give up, which makes
the task a dead letter. Combine policies like any functions::

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
"""Takes the number of the failed delivery and its exception. Returns the seconds until the next one; None gives up."""


class Retry(Exception):  # noqa: N818 - an order, not an error
    """Raise this in a handler to requeue the task, whatever the policy says.

    Only the task's ``max_dequeues`` limits the number of such retries.

    Args:
        delay: Seconds until the task is due.
        count: Whether this delivery counts as an attempt. If it is False, the task only waits: the next delivery
            has the same ``Task.attempt``, so back-off continues where it was, and ``max_dequeues`` does not count
            this one. There is no limit to how often a task waits.
        group: Whether the whole group of the task waits, for example because a service replied "429 Too Many
            Requests". A task without a group waits alone.

    Raises:
        TorrelqueTypeError: ``delay`` is not a number, or ``count`` or ``group`` is not a bool.
        TorrelqueValueError: ``delay`` is negative or not finite, or 0 with ``group=True``.
    """

    def __init__(self, delay: float = 0.0, *, count: bool = True, group: bool = False) -> None:
        self.delay: float = checks.check_duration('delay', delay)
        self.count: bool = checks.check_flag('count', count)
        self.group: bool = checks.check_flag('group', group)
        if group and not self.delay:
            raise TorrelqueValueError(f'group=True needs a delay above 0, for which the group waits, got {delay!r}')
        super().__init__(f'to be tried again in {self.delay:g} s')


class Reject(Exception):  # noqa: N818 - an order, not an error
    """Raise this in a handler to make the task a dead letter, whatever the policy says.

    Args:
        reason: The reason, which is kept in the task's state.

    Raises:
        TorrelqueTypeError: ``reason`` is not a string.
        TorrelqueValueError: ``reason`` is empty or cannot be encoded as UTF-8.
    """

    def __init__(self, reason: str) -> None:
        self.reason: str = checks.check_text('reason', reason)
        super().__init__(reason)


class Aborted(Exception):  # noqa: N818 - an outcome, not an error
    """Passed to policies and events when a handler raises a BaseException that is not an Exception.

    Examples are SystemExit and a cancellation from within the handler. The original
    exception is the ``__cause__``.
    """


def never() -> RetryPolicy:
    """Create a policy that gives up at the first failure.

    Returns:
        The policy.
    """
    return constant(0.0, attempts=1)


def immediately(attempts: int | None = None) -> RetryPolicy:
    """Create a policy that retries at once, at the back of the queue.

    Args:
        attempts: Give up after this number of deliveries; None never gives up.

    Returns:
        The policy.

    Raises:
        TorrelqueTypeError: ``attempts`` is not an integer.
        TorrelqueValueError: ``attempts`` is less than 1.
    """
    return constant(0.0, attempts)


def constant(delay: float, attempts: int | None = None) -> RetryPolicy:
    """Create a policy with the same delay after each failure.

    Args:
        delay: Seconds until the next delivery.
        attempts: Give up after this number of deliveries; None never gives up.

    Returns:
        The policy.

    Raises:
        TorrelqueTypeError: An argument is not a number.
        TorrelqueValueError: An argument is out of range.
    """
    seconds = checks.check_duration('delay', delay)
    return _limited(attempts, lambda _attempt: seconds)


def linear(base: float, maximum: float = 3600.0, attempts: int | None = None) -> RetryPolicy:
    """Create a policy whose delay grows by ``base`` seconds with each failure.

    >>> policy = linear(10, maximum=25, attempts=4)
    >>> [policy(attempt, OSError()) for attempt in (1, 2, 3, 4)]
    [10.0, 20.0, 25.0, None]

    Args:
        base: Seconds after the first delivery; twice that after the second, and so on.
        maximum: Longest delay, in seconds.
        attempts: Give up after this number of deliveries; None never gives up.

    Returns:
        The policy.

    Raises:
        TorrelqueTypeError: An argument is not a number.
        TorrelqueValueError: An argument is out of range.
    """
    step, most = checks.check_duration('base', base), checks.check_duration('maximum', maximum)
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
    """Create a policy with exponential back-off and jitter.

    >>> policy = exponential(base=1, maximum=5, jitter=0, attempts=5)
    >>> [policy(attempt, OSError()) for attempt in (1, 2, 3, 4, 5)]
    [1.0, 2.0, 4.0, 5.0, None]

    Args:
        base: Seconds after the first delivery.
        factor: Multiplies the delay after each further delivery; at least 1.
        maximum: Longest delay, in seconds.
        jitter: Each delay is shortened at random by up to this fraction of it, from 0
            to 1, so that tasks that failed together are not retried together.
        attempts: Give up after this number of deliveries; None never gives up.
        rng: Returns random numbers from 0 to 1.

    Returns:
        The policy.

    Raises:
        TorrelqueTypeError: An argument is not a number, or ``rng`` is not callable.
        TorrelqueValueError: An argument is out of range.
    """
    first, most = checks.check_duration('base', base), checks.check_duration('maximum', maximum)
    growth, part = checks.check_duration('factor', factor), checks.check_duration('jitter', jitter)
    if growth < 1:
        raise TorrelqueValueError(f'factor must be at least 1, got {factor!r}')
    if part > 1:
        raise TorrelqueValueError(f'jitter must be from 0 to 1, got {jitter!r}')
    if not callable(rng):
        raise TorrelqueTypeError(f'rng must be a function that returns numbers from 0 to 1, got {rng!r}')

    backoff = Backoff(first, most, growth, part)
    return _limited(attempts, lambda attempt: backoff.pause(attempt, rng))


def _limited(attempts: int | None, delay: Callable[[int], float]) -> RetryPolicy:
    most = None if attempts is None else checks.check_count('attempts', attempts)

    def policy(attempt: int, _error: Exception) -> float | None:
        return None if most is not None and attempt >= most else delay(attempt)

    return policy
