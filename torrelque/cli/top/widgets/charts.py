"""Charts of a queue's recent history."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from rich.text import Text
from textual.widgets import Static

from torrelque import TorrelqueTaskStatus
from torrelque.cli.output import counted, printable
from torrelque.cli.states import groups_text, limits_text, pause_text, schedules_texts
from torrelque.cli.top.monitor import Watched
from torrelque.cli.top.sampling import History, bars
from torrelque.cli.top.styles import CALM, IN, OUT, STATUS, WARN
from torrelque.cli.units import NOTHING, count, duration, rate

__all__ = ('Charts',)

LABEL, VALUE, PEAK = 9, 8, 12
"""Widths of the texts beside the bars."""

STATUSES = (
    TorrelqueTaskStatus.PENDING,
    TorrelqueTaskStatus.WORKING,
    TorrelqueTaskStatus.DELAYED,
    TorrelqueTaskStatus.REJECTED,
)


class Line(NamedTuple):
    label: str
    colour: str
    series: list[float]
    now: str
    peak: str


class Charts(Static):
    """Depth by status and rates of one queue, as high as the space allows."""

    def _head(self, title: str, subtitle: str) -> None:
        widget: Static = self  # assigned to self, the titles would count as new attribute declarations
        widget.border_title, widget.border_subtitle = title, subtitle

    def show(self, watched: Watched | None, now: float | None = None) -> None:
        """Show a queue; ``now`` is the server's time."""
        room = self.content_size
        if watched is None or not room.width:
            self._head('', '')
            self.update()
            return
        width = max(room.width - LABEL - VALUE - PEAK, 10)
        self._head(_title(watched, now).markup, f'last {duration(watched.history.span(width))}')
        lines = list(_lines(watched.history, width))
        gap = room.height >= len(lines) * 3 - 1
        height = max((room.height + gap) // len(lines) - gap, 1)
        charts = [_draw(line, width, height) for line in lines]
        self.update(Text('\n\n' if gap else '\n', no_wrap=True, overflow='crop').join(charts))


def _title(watched: Watched, now: float | None) -> Text:
    title = Text(printable(watched.name))
    if watched.stats is not None and watched.stats.paused is not None:
        title.append(f'  {pause_text(watched.stats.paused)}', style=WARN)
    if watched.stats is not None and (limits := limits_text(watched.stats.limits)):
        title.append(f'  {limits}', style=CALM)
    if watched.stats is not None and (groups := groups_text(watched.stats.groups)):
        title.append(f'  {groups}', style=CALM)
    is_paused = watched.stats is not None and watched.stats.paused is not None
    known, silent = schedules_texts(watched.schedules, now or 0.0, is_paused=is_paused)
    for text, style in ((known, CALM), (silent, WARN)):
        title.append(f'  {text}' if text else '', style=style)
    workers = watched.workers
    if workers:
        running, slots = (sum(each) for each in zip(*((one.running, one.concurrency) for one in workers), strict=True))
        title.append(f'  {counted(len(workers), "worker")}, {count(running)} of {count(slots)} slots busy', style=CALM)
    elif workers is not None:
        title.append('  no workers', style=CALM)
    return title


def _lines(history: History, most: int) -> Iterator[Line]:
    for label, colour, series, now in (
        ('in', IN, history.series_in(most), history.rate_in()),
        ('out', OUT, history.series_out(most), history.rate_out()),
    ):
        yield Line(label, colour, series, f'{rate(now)}/s', rate(max(series, default=0.0)))
    stats = history.latest
    for status in STATUSES:
        name = status.name.lower()
        depths = history.series(attrgetter(name), most)
        now_there = NOTHING if stats is None else count(getattr(stats, name))
        yield Line(name, STATUS[status], depths, now_there, count(int(max(depths, default=0))))


def _draw(line: Line, width: int, height: int) -> Text:
    is_flat = not any(line.series)
    *upper, lowest = bars(line.series, width, height)
    text = Text(no_wrap=True)
    for bar in upper:
        text.append(' ' * LABEL + bar + '\n', style=line.colour)
    text.append(f'{line.label:<{LABEL}}', style=CALM)
    text.append(lowest, style=CALM if is_flat else line.colour)
    text.append(f'{line.now:>{VALUE}}', style=CALM if is_flat else 'bold')
    text.append('' if is_flat else f'{"peak " + line.peak:>{PEAK}}', style=CALM)
    return text
