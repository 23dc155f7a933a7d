"""The times of cron expressions."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from torrelque import TorrelqueUsageError
from torrelque.engine.cron import next_times, upcoming

VIENNA = ZoneInfo('Europe/Vienna')


def times(cron: str, begin: datetime, count: int) -> list[str]:
    found = next_times(cron, 'Europe/Vienna', begin.timestamp(), count)
    return [f'{datetime.fromtimestamp(time, VIENNA):%d %H:%M %z}' for time in found]


def test_after_a_moment() -> None:
    assert next_times('* * * * *', 'UTC', 60.5, 3) == [120, 180, 240]
    assert next_times('* * * * *', 'UTC', 120, 1) == [180]
    assert next_times('*/20 * * * * *', 'UTC', 0, 3) == [20, 40, 60]


def test_two_times_that_are_skipped_fall_together() -> None:
    begin = datetime(2026, 3, 28, 12, tzinfo=VIENNA)
    assert times('0,30 2 * * *', begin, 3) == ['29 03:00 +0200', '30 02:00 +0200', '30 02:30 +0200']


def test_in_the_hour_that_is_repeated() -> None:
    begin = datetime(2026, 10, 25, 2, 45, tzinfo=VIENNA, fold=1)
    assert times('50 2 * * *', begin, 1) == ['26 02:50 +0100']
    assert times('*/30 * * * *', begin.replace(fold=0), 3) == ['25 02:00 +0100', '25 02:30 +0100', '25 03:00 +0100']


def test_no_more_times() -> None:
    assert next_times('* * */20 * 1L', 'UTC', 0, 2) == []


def test_who_cannot_compute_them_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'cronsim', None)
    with pytest.raises(TorrelqueUsageError, match=r'pip install "torrelque\[cron\]"'):
        next_times('1 2 3 4 5', 'UTC', 0, 1)
    with caplog.at_level(logging.WARNING, 'torrelque'):
        for _ in range(3):
            assert upcoming('1 2 3 4 5', 'UTC', 0, 1) == ()
    (record,) = caplog.records
    assert "Cannot compute the next times of cron '1 2 3 4 5' in 'UTC': cron needs" in record.getMessage()
