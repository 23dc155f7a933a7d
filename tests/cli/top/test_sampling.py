"""What `torrelque top` makes of what it read: rates, charts, units, payloads. No server, no screen."""

from __future__ import annotations

import math

import pytest

from torrelque import TorrelqueQueueStats
from torrelque.cli.top.sampling import KEPT, History, Sample, bars


def stats(pending: int = 0, *, enqueued: int = 0, completed: int = 0, rejected: int = 0) -> TorrelqueQueueStats:
    return TorrelqueQueueStats(
        pending, pending, 0, 0, total_enqueued=enqueued, total_completed=completed, total_rejected=rejected
    )


def history(*samples: tuple[float, TorrelqueQueueStats]) -> History:
    made = History()
    for time, each in samples:
        made.add(Sample(time, each))
    return made


# Rates ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_known_from_one_sample() -> None:
    one = history((100.0, stats(5, enqueued=5)))
    assert (one.rate_in(), one.rate_out(), one.time_to_drain()) == (None, None, None)
    assert (History().latest, History().rate_in(), History().span(), History().series_in()) == (None, None, 0.0, [])
    assert one.latest == stats(5, enqueued=5)


def test_rates_are_changes_of_totals_on_the_servers_time() -> None:
    two = history((100.0, stats(10, enqueued=50)), (104.0, stats(30, enqueued=90, completed=18, rejected=2)))
    assert two.rate_in() == 10.0
    assert two.rate_out() == 5.0


def test_rates_are_of_the_last_ten_seconds() -> None:
    samples = [(float(time), stats(enqueued=1000 if time else 0)) for time in range(0, 25, 2)]
    assert history(*samples[:2]).rate_in() == 500.0
    assert history(*samples[:6]).rate_in() == 100.0  # ten seconds, the leap included
    assert history(*samples).rate_in() == 0.0


def test_rare_samples_still_make_a_rate() -> None:
    assert history((0.0, stats()), (60.0, stats(enqueued=60)), (120.0, stats(enqueued=180))).rate_in() == 2.0


def test_time_to_drain() -> None:
    assert history((0.0, stats(100)), (10.0, stats(80))).time_to_drain() == 40.0
    assert history((0.0, stats(80)), (10.0, stats(80))).time_to_drain() == math.inf
    assert history((0.0, stats(80)), (10.0, stats(100))).time_to_drain() == math.inf
    assert history((0.0, stats(80)), (10.0, stats(0))).time_to_drain() == 0.0


@pytest.mark.parametrize(
    ('time', 'after'),
    [
        (101.0, stats(1, enqueued=1)),  # removed, and made again
        (101.0, stats(1, enqueued=10, completed=4)),
        (100.0, stats(1, enqueued=10, completed=5)),  # a clock that stands still, or was set back
        (99.0, stats(1, enqueued=10, completed=5)),
    ],
)
def test_what_cannot_follow_begins_anew(time: float, after: TorrelqueQueueStats) -> None:
    made = history((100.0, stats(5, enqueued=10, completed=5)), (time, after))
    assert (made.latest, made.rate_in(), made.series_in()) == (after, None, [])


def test_series() -> None:
    made = history((0.0, stats(1)), (1.0, stats(4, enqueued=4)), (3.0, stats(2, enqueued=6, completed=4)))
    assert made.series(lambda each: each.pending) == [1, 4, 2]
    assert made.series(lambda each: each.pending, 2) == [4, 2]
    assert made.series_in() == [4.0, 1.0]
    assert made.series_in(1) == [1.0]
    assert made.series_out() == [0.0, 2.0]
    assert (made.span(), made.span(2)) == (3.0, 2.0)


def test_a_history_does_not_grow_for_ever() -> None:
    made = history(*((float(time), stats(time)) for time in range(KEPT + 50)))
    assert made.series(lambda each: each.pending) == list(range(50, KEPT + 50))


def test_bars_reach_from_zero_to_the_peak() -> None:
    assert bars([0, 1, 2, 4, 8], 5) == ['▁▁▂▄█']
    assert bars([7, 7, 7], 3) == ['███']
    assert bars([0, 0], 2) == ['▁▁']
    assert bars([0.001, 1000], 2) == ['▁█']


def test_bars_keep_to_the_right() -> None:
    assert bars([1, 2], 4) == ['  ▄█']
    assert bars([9, 1, 2], 2) == ['▄█']
    assert bars([], 3) == ['   ']
    assert bars([1], 0) == ['']


def test_bars_of_several_lines() -> None:
    assert bars([0, 1, 8, 12, 16], 5, 2) == ['   ▄█', '▁▁███']
