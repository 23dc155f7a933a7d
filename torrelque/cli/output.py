"""What verbs print: tables and lines for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

__all__ = ('console', 'errors', 'make_table', 'print_json', 'print_line', 'print_table', 'printable')

WIDE = 10_000
"""Columns where the output is no terminal: what is piped on is never cut off."""

GAP = 3
"""Blanks between the columns of a table."""

LEAST_KEPT = 8
"""Characters that are left of a column that gives way to others."""


def console() -> Console:
    """Standard output. Coloured and as wide as the terminal, if it is one."""
    return _console(sys.stdout.isatty())


def errors() -> Console:
    """Standard error, for progress and remarks."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(terminal: bool, *, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else WIDE)


def make_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines around it; the columns ``right`` are aligned so."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify='right' if name in right else 'left', no_wrap=True)
    return table


def print_table(table: Table, *, cut: int) -> None:
    """Print a table on standard output. Where it is too wide, the column ``cut`` gives way to the others."""
    out = console()
    others = [column for number, column in enumerate(table.columns) if number != cut]
    taken = sum(GAP + max(cell_len(str(cell)) for cell in (column.header, *column.cells)) for column in others)
    table.columns[cut].max_width = max(LEAST_KEPT, out.width - taken)
    table.columns[cut].overflow = 'ellipsis'
    out.print(table)


def printable(text: str, keep: str = '') -> str:
    """The text with what is not printable escaped: an id or a reason must not control the terminal."""
    return ''.join(
        each if each.isprintable() or each in keep else each.encode('unicode_escape').decode() for each in text
    )


def print_json(fields: Mapping[str, Any], *, flush: bool = True) -> None:
    """One object on one line. Of lists, which may be long, lines need not be flushed one by one."""
    print(json.dumps(fields), flush=flush)  # noqa: T201 - what a command does


def print_line(text: str, *, flush: bool = True) -> None:
    """One line on standard output, as it is."""
    print(text, flush=flush)  # noqa: T201 - as above
