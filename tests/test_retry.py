"""Retry policies: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from torrelque import Reject, Retry, TorrelqueTypeError, TorrelqueValueError, retry

ERROR = RuntimeError('no')


def delays(policy: retry.RetryPolicy, count: int = 5) -> list[float | None]:
    return [policy(attempt, ERROR) for attempt in range(1, count + 1)]


def test_never() -> None:
    assert delays(retry.never()) == [None] * 5


def test_immediately() -> None:
    assert delays(retry.immediately()) == [0] * 5
    assert delays(retry.immediately(3)) == [0, 0, None, None, None]


def test_constant() -> None:
    assert delays(retry.constant(7)) == [7] * 5
    assert delays(retry.constant(7, attempts=2)) == [7, None, None, None, None]


def test_linear() -> None:
    assert delays(retry.linear(2, maximum=7)) == [2, 4, 6, 7, 7]
    assert delays(retry.linear(2, attempts=4)) == [2, 4, 6, None, None]


def test_exponential() -> None:
    assert delays(retry.exponential(1, 3, 30, jitter=0)) == [1, 3, 9, 27, 30]
    assert delays(retry.exponential(2, 2, jitter=0, attempts=3)) == [2, 4, None, None, None]


def test_exponential_shortens_by_the_jitter() -> None:
    assert delays(retry.exponential(1, 2, 4, jitter=0.5, rng=lambda: 1.0)) == [0.5, 1, 2, 2, 2]
    assert delays(retry.exponential(1, 2, 4, jitter=0.5, rng=lambda: 0.5)) == [0.75, 1.5, 3, 3, 3]
    assert delays(retry.exponential(1, 2, 4, jitter=0.5, rng=lambda: 0.0)) == [1, 2, 4, 4, 4]


def test_exponential_is_random_by_itself() -> None:
    policy = retry.exponential(1, jitter=1)
    assert len({policy(1, ERROR) for _ in range(20)}) > 1


@pytest.mark.parametrize('attempt', [1000, 5000, 10**9])
def test_a_large_number_of_attempts_does_not_overflow(attempt: int) -> None:
    assert retry.exponential(1, 10, 60, jitter=0)(attempt, ERROR) == 60
    assert retry.linear(1, 60)(attempt, ERROR) == 60


BAD: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    'delay': (retry.constant, [-1, math.nan, math.inf, '5', None]),
    'base of linear': (retry.linear, [-1, math.nan, '5', None]),
    'base': (retry.exponential, [-1, math.nan, '5', None]),
    'factor': (lambda bad: retry.exponential(factor=bad), [0, 0.5, -1, math.nan, None]),
    'maximum': (lambda bad: retry.exponential(maximum=bad), [-1, math.nan, None]),
    'jitter': (lambda bad: retry.exponential(jitter=bad), [-0.1, 1.1, math.nan, None]),
    'rng': (lambda bad: retry.exponential(rng=bad), [None, 0.5]),
    'attempts': (retry.immediately, [0, -1, 1.5, True, '3']),
    'delay of Retry': (Retry, [-1, math.nan, math.inf, '5', None]),
    'reason of Reject': (Reject, ['', None, 5, b'no']),
}


@pytest.mark.parametrize(('name', 'bad'), [(name, bad) for name, (_, values) in BAD.items() for bad in values])
def test_bad_arguments_are_named(name: str, bad: Any) -> None:  # noqa: ANN401 - of a wrong type on purpose
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match=name.partition(' ')[0]):
        BAD[name][0](bad)


def test_what_a_handler_raises_says_what_it_asks_for() -> None:
    assert (Retry().delay, Retry(2.5).delay, Reject('spoilt').reason) == (0, 2.5, 'spoilt')
    assert (str(Retry(2.5)), str(Reject('spoilt'))) == ('to be tried again in 2.5 s', 'spoilt')
