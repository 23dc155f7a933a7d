"""The table: what stands out, and where the cursor stays."""

from __future__ import annotations

import pytest
from rich.text import Text
from textual.app import App, ComposeResult

from torrelque.cli.top.styles import CALM
from torrelque.cli.top.widgets import RowTable
from torrelque.cli.top.widgets.table import Column, cell

pytestmark = pytest.mark.anyio

COLUMNS = [Column('name', 10, right=False), Column('tasks', 8)]


@pytest.fixture(scope='module')
def anyio_backend() -> str:
    """Textual runs on asyncio only."""
    return 'asyncio'


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield RowTable('rows')

    @property
    def table(self) -> RowTable:
        return self.query_one(RowTable)

    def show(self, *names: str, tasks: int = 1, at_top: bool = False) -> None:
        rows = [(name, [cell(name, right=False), cell(str(tasks))]) for name in names]
        self.table.show(COLUMNS, rows, at_top=at_top)


def test_cells() -> None:
    assert (cell('7', 'red').plain, cell('7', 'red').style, cell('7').justify) == ('7', 'red', 'right')
    assert (cell('0', 'red').style, cell('', 'red').style) == (CALM, CALM)
    assert cell('\x1b[31m', right=False).plain == r'\x1b[31m'


async def test_the_cursor_stays_on_its_row() -> None:
    app = Shown()
    async with app.run_test():
        assert app.table.selected is None
        app.show('a', 'b', 'c')
        assert app.table.selected == 'a'
        app.table.move_cursor(row=1)
        app.show('0', 'a', 'b', 'c')
        assert app.table.selected == 'b'
        app.show('0', 'a', 'c')
        assert app.table.selected == 'c', 'the one that is now in its place'
        app.show('0', at_top=True)
        assert app.table.selected == '0'
        app.show()
        assert app.table.selected is None


async def test_only_cells_that_change_are_written() -> None:
    app = Shown()
    written: list[tuple[str, str]] = []
    async with app.run_test():
        app.show('a', 'b')
        update = app.table.update_cell

        def note(row: str, column: str, value: Text) -> None:
            written.append((row, column))
            update(row, column, value)

        app.table.update_cell = note  # type: ignore[method-assign, assignment]  # of this one only
        app.show('a', 'b')
        assert written == []
        app.show('a', 'b', tasks=2)
        assert written == [('a', '1'), ('b', '1')]
        assert app.table.get_row_at(0)[1].plain == '2'
