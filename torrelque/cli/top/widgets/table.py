"""A table whose rows have keys, so that updates do not move the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from torrelque.cli.output import printable
from torrelque.cli.top.styles import CALM

__all__ = ('Column', 'RowTable', 'cell')

QUIET = frozenset({'0', '–', ''})  # noqa: RUF001 - the dash of an empty cell


def cell(text: str, style: str = '', *, right: bool = True) -> Text:
    """Return a cell of one line. Zeros and dashes are dimmed, so that other values stand out."""
    shown = printable(text)
    return Text(
        shown,
        style=CALM if shown in QUIET else style,
        justify='right' if right else 'left',
        no_wrap=True,
        overflow='ellipsis',
        end='',
    )


class Column(NamedTuple):
    """A column: its title, and its width including the space before it."""

    title: str
    width: int
    right: bool = True


class RowTable(DataTable[Text]):
    """A table with one selected row."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding('enter', 'select_cursor', 'Open')]

    def __init__(self, id: str) -> None:  # noqa: A002 - the name in Textual
        super().__init__(id=id, cursor_type='row', cell_padding=0)
        self._columns: tuple[Column, ...] = ()
        self._names: list[str] = []
        self._shown: dict[str, Sequence[Text]] = {}

    @property
    def selected(self) -> str | None:
        """The key of the selected row."""
        return self._names[self.cursor_row] if 0 <= self.cursor_row < len(self._names) else None

    def show(
        self, columns: Sequence[Column], rows: Sequence[tuple[str, Sequence[Text]]], *, at_top: bool = False
    ) -> None:
        """Show these rows.

        The cursor stays on its row or, if that row is gone, at its position. With ``at_top`` it moves to the first row.
        """
        names = [name for name, _ in rows]
        if tuple(columns) == self._columns and names == self._names:
            self._update(rows)
        else:
            self._rebuild(columns, rows)
        self._shown = dict(rows)
        if at_top:
            self.cursor_coordinate = Coordinate(0, 0)

    def _update(self, rows: Sequence[tuple[str, Sequence[Text]]]) -> None:
        for name, cells in rows:
            for number, (new, old) in enumerate(zip(cells, self._shown[name], strict=True)):
                if new != old or new.style != old.style:
                    self.update_cell(name, str(number), new)

    def _rebuild(self, columns: Sequence[Column], rows: Sequence[tuple[str, Sequence[Text]]]) -> None:
        selected, place, scrolled = self.selected, self.cursor_row, self.scroll_y
        if tuple(columns) == self._columns:
            self.clear()
        else:
            self._columns = tuple(columns)
            self.clear(columns=True)
            for number, column in enumerate(columns):
                title = Text(column.title, justify='right' if column.right else 'left', no_wrap=True, end='')
                self.add_column(title, width=column.width, key=str(number))
        for name, cells in rows:
            self.add_row(*cells, key=name)
        self._names = [name for name, _ in rows]
        if selected in self._names:
            place = self._names.index(selected)
        self.cursor_coordinate = Coordinate(min(place, max(len(rows) - 1, 0)), 0)
        self.scroll_to(y=scrolled, animate=False, force=True)
