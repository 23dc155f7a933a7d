"""The command that enqueues tasks."""

from __future__ import annotations

import io
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Any, cast

import anyio
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from torrelque import EnqueueItem, Torrelque, TorrelqueConnectionError
from torrelque.cli.errors import Refusal, explain
from torrelque.cli.exit_codes import Exit
from torrelque.cli.jsonlines import Line, check_json, read_lines
from torrelque.cli.output import counted, errors, print_json, print_line, printable
from torrelque.cli.params import (
    Choice,
    DelayOption,
    ExpiresInOption,
    GroupOption,
    HeaderOption,
    MaxDequeuesOption,
    OnExpiryOption,
    PriorityOption,
    TaskTimeoutOption,
    TimeLimitOption,
    parse_headers,
)
from torrelque.cli.settings import Settings

__all__ = ('enqueue',)


class IfExists(Choice):
    """Values of ``if_exists`` in `Torrelque.enqueue`."""

    IGNORE = 'ignore'
    RAISE = 'raise'
    REPLACE = 'replace'


ROUND_TRIP = 250
"""Number of tasks that the library sends in one call, which enqueues all of them or none."""


async def enqueue(
    settings: Settings,
    task: Annotated[
        str | None,
        typer.Argument(metavar='JSON', show_default=False, help='The payload; - reads JSON lines from standard input.'),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            '--file',
            '-f',
            metavar='FILE',
            show_default=False,
            help='A file with one JSON payload per line; - is standard input.',
        ),
    ] = None,
    delay: DelayOption = None,
    task_timeout: TaskTimeoutOption = None,
    task_id: Annotated[
        str | None,
        typer.Option(
            metavar='ID',
            show_default=False,
            help='The id of the task. Enqueueing a queued id again changes nothing. Lines get ID-1, ID-2 and so on.',
        ),
    ] = None,
    max_dequeues: MaxDequeuesOption = None,
    if_exists: Annotated[
        IfExists | None,
        typer.Option(
            show_default=False,
            help='What to do if a task has this id: ignore (the default), raise, or replace the task if it waits.',
        ),
    ] = None,
    expires_in: ExpiresInOption = None,
    on_expiry: OnExpiryOption = None,
    time_limit: TimeLimitOption = None,
    group: GroupOption = None,
    priority: PriorityOption = None,
    header: HeaderOption = None,
) -> None:
    """Enqueue a task, or each line of a file or standard input.

    Prints the task's id. For several tasks, prints how many were enqueued, or
    with --json an object for each. Payloads are sent unchanged. A file is
    checked before its first line is sent; lines on standard input are sent as
    they arrive. Without a payload or a file, standard input is read unless it
    is a terminal.
    """
    if task not in (None, '-') and file is not None:
        raise Refusal('enqueue takes either a payload or --file, not both', Exit.USAGE)
    if if_exists is IfExists.REPLACE and task_id is None:
        raise Refusal('--if-exists replace needs --task-id', Exit.USAGE)
    options: dict[str, Any] = {
        'task_timeout': task_timeout,
        'delay': delay,
        'max_dequeues': max_dequeues,
        'expires_in': expires_in,
        'on_expiry': on_expiry,
        'time_limit': time_limit,
        'if_exists': if_exists,
        'group': group,
        'priority': priority,
        'headers': parse_headers(header or ()) or None,
    }
    if task not in (None, '-'):
        payload = str(task).encode(errors='surrogateescape')
        check_json(payload, 'the payload')
        async with settings.open_queue() as queue:
            added = await queue.enqueue(payload, task_id=task_id, **options)
        if settings.json:
            print_json({'id': added})
        else:
            print_line(printable(added))
        return
    if task is None and file is None and sys.stdin.isatty():
        raise Refusal('nothing to enqueue: give a payload as JSON, --file, or - for standard input', Exit.USAGE)
    with ExitStack() as stack:
        stream = cast('io.BufferedIOBase', sys.stdin.buffer)
        name, size = 'standard input', None
        if file is not None and str(file) != '-':
            name, stream = str(file), stack.enter_context(file.open('rb'))
            if stat.S_ISREG(file.stat().st_mode):
                size = file.stat().st_size
                async for _ in read_lines(stream, name):
                    pass
                stream.seek(0)
        async with settings.open_queue() as queue:
            await _Loader(settings, queue, task_id, options).load(stream, name, size)


class _Loader:
    """Enqueues the lines of a stream."""

    def __init__(self, settings: Settings, queue: Torrelque, prefix: str | None, options: dict[str, Any]) -> None:
        self._settings = settings
        self._queue = queue
        self._prefix = prefix
        self._options = options
        self._count = 0
        self._last = 0
        self._under_way = 0
        """Number of tasks that were sent but not acknowledged."""

    async def load(self, stream: io.BufferedIOBase, name: str, size: int | None) -> None:
        """Enqueue all lines in order. If it fails, raises Refusal with the number of tasks that were enqueued."""
        begun = time.monotonic()
        terminal = errors()
        progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=30),
            TextColumn('{task.fields[count]} tasks {task.fields[rate]}'),
            TimeElapsedColumn() if size is None else TimeRemainingColumn(),
            console=terminal,
        )
        with progress if terminal.is_terminal else nullcontext():
            bar = progress.add_task('enqueueing', total=size, count='0', rate='')
            try:
                async for lines in read_lines(stream, name):
                    for first in range(0, len(lines), ROUND_TRIP):
                        part = lines[first : first + ROUND_TRIP]
                        await self._send(part)
                        rate = f'{self._count / max(time.monotonic() - begun, 1e-3):,.0f}/s'
                        progress.update(bar, completed=part[-1].end, count=f'{self._count:,}', rate=rate)
                progress.update(bar, total=size or 1, completed=size or 1)
            except anyio.get_cancelled_exc_class():
                if terminal.is_terminal:
                    progress.stop()
                terminal.print(self._how_far(name))
                raise
            except BrokenPipeError:
                raise
            except Exception as error:
                if not isinstance(error, TorrelqueConnectionError):
                    self._under_way = 0
                message, status = explain(error)
                raise Refusal(f'{message}; {self._how_far(name)}', status) from error
        if not self._settings.json:
            print_line(f'enqueued {counted(self._count, "task")}')

    async def _send(self, lines: Sequence[Line]) -> None:
        items = [
            EnqueueItem(line.text, task_id=self._prefix and f'{self._prefix}-{line.number}', **self._options)
            for line in lines
        ]
        self._under_way = len(items)
        for line, answer in zip(lines, await self._queue.enqueue_many(items), strict=True):
            if isinstance(answer, Exception):
                raise answer
            if self._settings.json:
                print_json({'line': line.number, 'id': answer})
            self._count, self._last = self._count + 1, line.number
        self._under_way = 0

    def _how_far(self, name: str) -> str:
        perhaps = f', and perhaps {self._under_way:,} more' if self._under_way else ''
        if not self._count:
            return f'nothing was enqueued{perhaps and f" for certain{perhaps}"}'
        were = 'was' if self._count == 1 else 'were'
        return f'{counted(self._count, "task")} {were} enqueued, up to line {self._last} of {name}{perhaps}'
