"""One run of the command: its arguments in, an exit status out."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from torrelque.cli import fail
from torrelque.cli.app import app
from torrelque.cli.exits import Exit
from torrelque.cli.failing import reported

__all__ = ('run',)

# Newer versions of Typer have a Click of their own, so these are found by what both have in common.
ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == 'ClickException')


def _accept_any_text() -> None:
    """Escape what the terminal's encoding lacks, rather than fail after the work is done; ids on input are UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding='utf-8', errors='surrogateescape')


def run(arguments: Sequence[str]) -> NoReturn:
    """Run the command line and exit. No arguments show the help."""
    with reported():
        _accept_any_text()
        try:
            status = app(list(arguments) or ['--help'], prog_name='torrelque', standalone_mode=False)
            sys.stdout.flush()
        except ClickError as error:
            path = error.ctx.command_path if getattr(error, 'ctx', None) else 'torrelque'
            fail(f'{error.format_message()} (see {path} --help)', Exit.USAGE)
        except typer.Abort:
            fail('interrupted', Exit.INTERRUPTED)
    raise SystemExit(status if isinstance(status, int) else int(Exit.OK))
