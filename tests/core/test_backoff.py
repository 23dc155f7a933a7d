"""Pauses between attempts grow up to a limit, and differ from client to client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import torrelque
from torrelque.core.backoff import Backoff


def steady() -> float:
    return 0.0


def test_there_is_no_pause_before_a_failure() -> None:
    assert Backoff(0.05, 5.0).pause(0, steady) == 0.0


def test_each_pause_is_twice_as_long_as_the_one_before() -> None:
    backoff = Backoff(0.05, 5.0)
    assert [backoff.pause(failures, steady) for failures in (1, 2, 3, 4)] == pytest.approx([0.05, 0.1, 0.2, 0.4])


@pytest.mark.parametrize('failures', [8, 100, 10_000])
def test_no_pause_is_longer_than_the_longest(failures: int) -> None:
    assert Backoff(0.05, 5.0).pause(failures, steady) == 5.0


@pytest.mark.parametrize(('random', 'expected'), [(0.0, 4.0), (0.5, 3.0), (1.0, 2.0)])
def test_jitter_takes_off_up_to_a_part(random: float, expected: float) -> None:
    assert Backoff(4.0, 5.0, jitter=0.5).pause(1, lambda: random) == expected


def test_the_factor_can_be_chosen() -> None:
    assert Backoff(1.0, 100.0, factor=3.0).pause(3, steady) == 9.0


def test_nobody_else_works_out_a_back_off() -> None:
    """A power or a doubling that is not capped is how consumers came to sleep through a recovery."""
    formula = re.compile(r'\b2(?:\.0)? ?\*\* ?\w|(?:pause|delay|back_?off)\w* ?(?:\* ?2|\*= ?2)', re.IGNORECASE)
    package = Path(torrelque.__file__).parent
    found = [
        f'{path.relative_to(package)}:{number}'
        for path in sorted(package.rglob('*.py'))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if formula.search(line.split('#')[0])
    ]
    assert found == []
