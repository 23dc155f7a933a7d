"""The columns of the table of queues."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

from torrelque import Pause, TorrelqueQueueStats
from torrelque.cli.top.figures import FIGURES
from torrelque.cli.top.monitor import Watched
from torrelque.cli.top.sampling import Sample
from torrelque.cli.top.styles import WARN

BY_TITLE = {figure.title: figure for figure in FIGURES}


def watched(*samples: tuple[float, TorrelqueQueueStats]) -> Watched:
    made = Watched(cast('Any', SimpleNamespace(queue='mail')))
    for time, stats in samples:
        made.history.add(Sample(time, stats))
    return made


def stats(pending: int, **more: Any) -> TorrelqueQueueStats:  # noqa: ANN401 - its fields
    return TorrelqueQueueStats(pending + 1, pending, 1, 0, **more)


def row(each: Watched) -> dict[str, str]:
    return {title: figure.shown(each) for title, figure in BY_TITLE.items()}


def test_before_anything_is_known() -> None:
    assert set(row(watched()).values()) == {'–'}  # noqa: RUF001 - the dash of an unknown value
    assert {figure.worth(watched()) for figure in FIGURES} == {None}


def test_a_row() -> None:
    first = stats(20_000, total_enqueued=0, rejected=2)
    then = stats(19_000, total_enqueued=500, total_completed=1500, rejected=2)._replace(oldest_pending_age=250.0)
    shown = row(watched((0.0, first), (10.0, then)))
    assert shown == {
        'pending': '19.0k', 'working': '1', 'delayed': '0', 'rejected': '2',
        'in/s': '50.0', 'out/s': '150', 'oldest': '4m 10s', 'drain': '3m 10s',
    }  # fmt: skip


def test_they_fit_their_columns() -> None:
    first = stats(999_999_999)
    then = stats(998_999_999, total_enqueued=10_000_000, total_completed=11_000_000)._replace(
        oldest_pending_age=400_000.0
    )
    each = watched((0.0, first), (10.0, then))
    for figure in FIGURES:
        assert len(figure.shown(each)) < figure.width, figure.title
        assert len(figure.title) < figure.width


def test_a_queue_that_never_drains_stands_out() -> None:
    drain = BY_TITLE['drain']
    growing = watched((0.0, stats(5)), (10.0, stats(10)))
    assert (drain.shown(growing), drain.worth(growing), drain.style(growing)) == ('∞', math.inf, WARN)
    empty = watched((0.0, stats(5)), (10.0, stats(0)))
    assert (drain.worth(empty), drain.style(empty)) == (0.0, '')


def test_a_paused_queue_shows_as_such() -> None:
    each = watched((0, stats(5, paused=Pause(1.0, None, 'why'))))
    assert row(each)['drain'] == 'paused'
    assert BY_TITLE['drain'].style(each) == WARN
