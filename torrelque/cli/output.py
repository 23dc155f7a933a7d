"""Output of commands: tables and lines for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

__all__ = ('console', 'counted', 'errors', 'make_table', 'print_json', 'print_line', 'print_table', 'printable')

WIDE = 10_000
"""Width if the output is not a terminal. Piped output is never truncated."""

GAP = 3
"""Blanks between the columns of a table."""

LEAST_KEPT = 8
"""Minimum width of a column that is truncated to make room for others."""


def console() -> Console:
    """Return a console for standard output. On a terminal it uses colours and the terminal's width."""
    return _console(sys.stdout.isatty())


def errors() -> Console:
    """Return a console for standard error, for progress and notes."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(terminal: bool, *, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if terminal else WIDE)


def make_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return a table without a frame; the columns in ``right`` are right-aligned."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify='right' if name in right else 'left', no_wrap=True)
    return table


def print_table(table: Table, *, cut: int) -> None:
    """Print a table on standard output. If it is too wide, truncate the column ``cut``."""
    out = console()
    others = [column for number, column in enumerate(table.columns) if number != cut]
    taken = sum(GAP + max(cell_len(str(cell)) for cell in (column.header, *column.cells)) for column in others)
    table.columns[cut].max_width = max(LEAST_KEPT, out.width - taken)
    table.columns[cut].overflow = 'ellipsis'
    out.print(table)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless there is one."""
    return f'{number:,} {noun}{"" if number == 1 else "s"}'


def printable(text: str, keep: str = '') -> str:
    """Escape unprintable characters, so that an id or a reason cannot control the terminal."""
    return ''.join(
        each if each.isprintable() or each in keep else each.encode('unicode_escape').decode() for each in text
    )


def print_json(fields: Mapping[str, Any], *, flush: bool = True) -> None:
    """Print one object on one line. Pass ``flush=False`` for long lists."""
    print(json.dumps(fields), flush=flush)  # noqa: T201 - what a command does


def print_line(text: str, *, flush: bool = True) -> None:
    """Print one line on standard output, unchanged."""
    print(text, flush=flush)  # noqa: T201 - see above
