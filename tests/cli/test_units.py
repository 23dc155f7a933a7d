"""Numbers for people."""

from __future__ import annotations

import math

import pytest

from torrelque.cli.units import age, count, duration, rate


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0, '0'), (999, '999'), (9_999, '9,999'), (10_000, '10.0k'), (12_345, '12.3k'), (99_950, '100k'),
        (999_499, '999k'), (999_500, '1.00M'), (1_234_567, '1.23M'), (12_345_678_901, '12.3G'),
    ],
)  # fmt: skip
def test_counts(value: int, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ('value', 'text'),
    [(None, '–'), (0.0, '0'), (0.004, '0'), (0.25, '0.25'), (9.996, '10.0'), (99.96, '100'), (1234.5, '1.23k')],  # noqa: RUF001 - a dash for nothing
)
def test_rates(value: float | None, text: str) -> None:
    assert rate(value) == text


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (None, '–'), (0.0, '0s'), (0.4, '<1s'), (59.4, '59s'), (59.6, '1m'), (250.0, '4m 10s'), (3_599.0, '59m 59s'),  # noqa: RUF001
        (12_000.0, '3h 20m'), (86_400.0, '1d'), (math.inf, '∞'),
        (8_636_400.0, '99d 23h'), (8_722_800.0, '100d'), (999_999 * 86_400.0, '999999d'), (1e12, '∞'),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
    assert len(text) <= 7


@pytest.mark.parametrize(
    ('seconds', 'text'), [(None, ''), (0.0, '0s'), (200.0, '3m20s'), (187_200.0, '2d4h'), (-1.0, '0s')]
)
def test_ages(seconds: float | None, text: str) -> None:
    assert age(seconds) == text
