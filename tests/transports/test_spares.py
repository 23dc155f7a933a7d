"""Connections that wait for their next use."""

from __future__ import annotations

import time

import pytest

from torrelque.transports.spares import KEEP, Spares


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; change the only item to move it."""
    times = [100.0]
    monkeypatch.setattr(time, 'monotonic', lambda: times[0])
    return times


def test_the_one_used_last_is_lent_first() -> None:
    spares: Spares[str] = Spares()
    assert spares.take() is None
    spares.put('a')
    spares.put('b')
    assert len(spares) == 2
    assert [spares.take(), spares.take(), spares.take()] == ['b', 'a', None]


def test_those_that_are_not_needed_expire(now: list[float]) -> None:
    spares: Spares[str] = Spares()
    spares.put('a')
    now[0] += KEEP / 2
    spares.put('b')
    assert spares.take_unused() == []
    now[0] += KEEP / 2
    assert spares.take_unused() == ['a']
    assert (spares.take_unused(), len(spares)) == ([], 1)


def test_use_keeps_them(now: list[float]) -> None:
    spares: Spares[str] = Spares()
    for _ in range(10):
        spares.put('a')
        now[0] += KEEP * 0.9
        assert spares.take_unused() == []
        assert spares.take() == 'a'
