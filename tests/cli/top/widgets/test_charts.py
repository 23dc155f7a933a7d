"""Charts of a queue's recent history, as lines of text."""

from __future__ import annotations

from torrelque import TorrelqueQueueStats
from torrelque.cli.top.sampling import History, Sample
from torrelque.cli.top.styles import CALM
from torrelque.cli.top.widgets.charts import LABEL, PEAK, VALUE, _draw, _lines


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
