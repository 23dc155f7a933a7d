"""`torrelque top`: all queues on a server, live.

From the bottom up: ``sampling`` and ``paging`` hold the data to show,
``monitor`` reads the server, ``widgets`` and ``screens`` display it, and
``app`` connects them.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit, require
from torrelque.cli.settings import Settings

__all__ = ('top',)


def top(
    settings: Settings,
    *,
    interval: Annotated[float, typer.Option(metavar='SECONDS', min=0.1, help='Seconds between two updates.')] = 1.0,
    queue: Annotated[
        str | None,
        typer.Option(
            '--queue', '-q', metavar='NAME', show_default=False, help='Show only this queue, which may be one of 0.9.'
        ),
    ] = None,
) -> None:
    """Show the server's queues and their tasks, live.

    Finds the queues by scanning all keys of the database in bounded steps.
    Press ? for help.
    """
    require({'textual': 'cli'})
    if not has_terminal():
        raise Refusal('top needs a terminal; use torrelque queues instead', Exit.USAGE)
    from torrelque.cli.top.app import TopApp  # noqa: PLC0415 - importing it takes as long as all other commands together

    app = TopApp(settings.url, queue=queue, interval=interval)
    app.run()
    if app.failure is not None:
        raise app.failure


def has_terminal() -> bool:
    """Return whether there is a terminal: the monitor reads standard input and draws on standard error."""
    return all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stderr__))
