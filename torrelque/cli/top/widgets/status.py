"""The first line of each screen: its position, and whether the server is reachable."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text
from textual.widgets import Static

from torrelque.cli.output import printable
from torrelque.cli.top.monitor import Monitor
from torrelque.cli.top.styles import BAD, CALM, GOOD, STRONG, WARN
from torrelque.cli.units import duration

__all__ = ('StatusLine',)


class StatusLine(Static):
    """The path to the screen on the left, the server's state on the right."""

    def __init__(self, *way: str) -> None:
        super().__init__(id='status')
        self._way = way

    def show(self, monitor: Monitor) -> None:
        line = Table.grid(expand=True, padding=(0, 2))
        line.add_column(no_wrap=True, overflow='ellipsis', ratio=1)
        line.add_column(no_wrap=True, justify='right')
        line.add_row(self._left(), _right(monitor))
        self.update(line)

    def _left(self) -> Text:
        first, *rest = self._way
        return Text.assemble(
            ('torrelque top  ', STRONG),
            (printable(first), CALM if '://' in first else ''),
            *((f' / {printable(step)}', '') for step in rest),
        )


def _right(monitor: Monitor) -> Text:
    if not monitor.connected:
        return Text('○ connecting', style=WARN)
    if monitor.away:
        return Text(f'● away for {duration(monitor.away_for)}, trying again', style=f'bold {BAD}')
    clock = '' if monitor.server_time is None else f'{datetime.fromtimestamp(monitor.server_time, UTC):%H:%M:%S} UTC '
    return Text.assemble((clock, CALM), ('●', GOOD))
