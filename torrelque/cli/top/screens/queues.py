"""The screen with all queues on the server."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from torrelque import TorrelqueTaskStatus
from torrelque.cli.top.figures import FIGURES
from torrelque.cli.top.monitor import Watched
from torrelque.cli.top.sampling import bars
from torrelque.cli.top.screens.base import FilteredScreen
from torrelque.cli.top.screens.tasks import TasksScreen
from torrelque.cli.top.styles import BAD, CALM, STATUS, STRONG
from torrelque.cli.top.widgets import Charts, Column, RowTable, StatusLine, cell

__all__ = ('QueuesScreen',)

NAME_AT_MOST = 28
SHORTEST_TREND = 14
GAP = '  '


class QueuesScreen(FilteredScreen):
    """A table of all queues, and charts of the selected one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding('s', 'sort', 'Sort'),
        Binding('r', 'reverse', 'Reverse'),
        Binding('slash', 'filter', 'Filter', key_display='/'),
        Binding('escape', 'back', 'Back', show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._sorted_by = 0
        """Index of the sort column: 0 is the name, then the figures."""
        self._reversed = False

    def compose(self) -> ComposeResult:
        yield StatusLine(self.top.server)
        yield RowTable('queues')
        yield Static(id='nothing')
        yield Charts(id='charts')
        yield self.make_filter()
        yield Footer()

    # Showing

    def draw(self) -> None:
        shown = self._in_order([each for each in self.monitor if self.wanted.lower() in each.name.lower()])
        table = self.query_one(RowTable)
        columns = self._columns(self.size.width - 3)
        rows = [(each.name, self._cells(each, columns)) for each in shown]
        table.show(columns, rows, at_top=not self.monitor.searched)
        self.set_class(not shown, '-empty')
        if shown and self.focused is None:
            table.focus()
        if not shown:
            self.query_one('#nothing', Static).update(self._why_nothing())
        self._show_charts()

    def _why_nothing(self) -> Text:
        if not self.monitor.connected:
            return Text('Connecting to the server')
        if self.monitor.away:
            return Text('The server is away')
        if self.wanted:
            return Text(f'No queue has {self.wanted!r} in its name')
        if not self.monitor.searched:
            return Text('Looking for queues')
        return Text.assemble(('No queues on this server yet', STRONG), '\n\nA queue exists from its first task on.')

    def _show_charts(self) -> None:
        selected = self.query_one(RowTable).selected
        self.query_one(Charts).show(self.monitor.get(selected) if selected else None, self.monitor.server_time)

    def _columns(self, room: int) -> list[Column]:
        left = room - sum(figure.width for figure in FIGURES)
        trend = left - NAME_AT_MOST if left - NAME_AT_MOST >= SHORTEST_TREND else 0
        titles = ['queue', *(figure.title for figure in FIGURES)]
        ascending = (self._sorted_by == 0) != self._reversed
        mark = '▲' if ascending else '▼'
        titles[self._sorted_by] = mark + titles[self._sorted_by] if self._sorted_by else titles[0] + mark
        columns = [Column(titles[0], max(left - trend, 8), right=False)]
        columns += [Column(title, figure.width) for title, figure in zip(titles[1:], FIGURES, strict=True)]
        return [*columns, Column(f'{GAP}pending, lately', trend, right=False)] if trend else columns

    def _cells(self, watched: Watched, columns: list[Column]) -> list[Text]:
        name = cell(watched.name, 'bold', right=False)
        if watched.trouble:
            return [name, cell('error', BAD), *[cell('')] * (len(columns) - 2)]
        cells = [name, *(cell(figure.shown(watched), figure.style(watched)) for figure in FIGURES)]
        if len(columns) > len(cells):
            width = columns[-1].width - len(GAP)
            series = watched.history.series(lambda stats: stats.pending, width)
            colour = STATUS[TorrelqueTaskStatus.PENDING] if any(series) else CALM
            cells.append(Text(GAP + bars(series, width)[0], style=colour, end=''))
        return cells

    def _in_order(self, some: list[Watched]) -> list[Watched]:
        by_name = sorted(some, key=lambda each: each.name)
        if not self._sorted_by:
            return by_name[::-1] if self._reversed else by_name
        worth = FIGURES[self._sorted_by - 1].worth

        def key(watched: Watched) -> float:
            value = worth(watched)
            return -1.0 if value is None else value

        return sorted(by_name, key=key, reverse=not self._reversed)

    # Keys

    def on_data_table_row_highlighted(self) -> None:
        self._show_charts()

    def on_data_table_row_selected(self) -> None:
        self.action_open()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        if event.column_index <= len(FIGURES):
            self._reversed = event.column_index == self._sorted_by and not self._reversed
            self._sorted_by = event.column_index
            self.show_figures()

    def action_open(self) -> None:
        selected = self.query_one(RowTable).selected
        watched = self.monitor.get(selected) if selected else None
        if watched is not None:
            self.app.push_screen(TasksScreen(watched))

    def action_sort(self) -> None:
        self._sorted_by = (self._sorted_by + 1) % (len(FIGURES) + 1)
        self._reversed = False
        self.show_figures()

    def action_reverse(self) -> None:
        self._reversed = not self._reversed
        self.show_figures()

    def filter_changed(self) -> None:
        self.show_figures()
