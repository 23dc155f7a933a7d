"""Charts of a queue's recent history, as lines of text."""

from __future__ import annotations

import pytest

from torrelque import Torrelque, TorrelqueQueueStats
from torrelque.cli.top.monitor import Watched
from torrelque.cli.top.sampling import History, Sample
from torrelque.cli.top.styles import CALM, WARN
from torrelque.cli.top.widgets.charts import LABEL, PEAK, VALUE, _draw, _lines, _title
from torrelque.testing import MemoryTransport, VirtualClock


def history() -> History:
    made = History()
    for time, pending, enqueued, completed in ((0.0, 0, 0, 0), (1.0, 8, 8, 0), (2.0, 4, 8, 4)):
        made.add(
            Sample(
                time, TorrelqueQueueStats(pending, pending, 0, 0, total_enqueued=enqueued, total_completed=completed)
            )
        )
    return made


def test_a_line_for_each_rate_and_status() -> None:
    lines = {line.label: line for line in _lines(history(), 10)}
    assert list(lines) == ['in', 'out', 'pending', 'working', 'delayed', 'rejected']
    assert (lines['in'].now, lines['in'].peak, lines['in'].series) == ('4.00/s', '8.00', [8.0, 0.0])
    assert (lines['out'].now, lines['out'].peak) == ('2.00/s', '4.00')
    assert (lines['pending'].now, lines['pending'].peak, lines['pending'].series) == ('4', '8', [0, 8, 4])


def test_without_samples_there_are_dashes() -> None:
    assert {line.now for line in _lines(History(), 10)} == {'–/s', '–'}  # noqa: RUF001 - as shown


def test_bars_have_their_label_and_figures_beside_them() -> None:
    lines = {line.label: line for line in _lines(history(), 10)}
    upper, lowest = _draw(lines['pending'], 10, 2).plain.split('\n')
    assert upper == ' ' * LABEL + ' ' * 8 + '█' + '▁'[:0] + ' '
    assert lowest.startswith('pending  ')
    assert lowest[LABEL : LABEL + 10].strip() == '▁██'
    assert lowest.endswith(f'{"4":>{VALUE}}{"peak 8":>{PEAK}}')


def test_a_flat_line_is_calm_and_has_no_peak() -> None:
    lines = {line.label: line for line in _lines(history(), 10)}
    text = _draw(lines['delayed'], 10, 1)
    assert 'peak' not in text.plain
    assert {str(span.style) for span in text.spans} == {CALM}


async def made(*schedules: tuple[str, float], paused: bool = False) -> Watched:
    """A queue with schedules that fire in a while, from a time of 1,000."""
    clock = VirtualClock(1_000)
    async with Torrelque(MemoryTransport(clock=clock), queue='mail') as queue:
        for name, every in schedules:
            await queue.schedule(name, 1, every=every)
        if paused:
            await queue.pause()
        watched = Watched(queue, schedules=[each async for each in queue.schedules()])
        watched.history.add(Sample(1_000, await queue.get_queue_stats()))
        return watched


@pytest.mark.anyio
async def test_the_title_shows_schedules() -> None:
    assert 'schedule' not in _title(await made(), 1_000).plain
    one = _title(await made(('report', 90)), 1_000)
    assert one.plain == 'mail  1 schedule, report in 1m 30s'
    names = ('a', 'b', 'c', 'd')
    late = _title(await made(*((name, 5) for name in names), ('report', 3600)), 1_060)
    assert late.plain == 'mail  5 schedules, report in 59m  silent: a, b, c, ...'
    assert str(late.spans[-1].style) == WARN
    assert _title(await made(('report', 90), paused=True), 2_000).plain == 'mail  paused  1 schedule, paused'
