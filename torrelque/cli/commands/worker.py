"""The verb that works: a `torrelque.Worker` in a process of its own."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import anyio
import typer

from torrelque import Torrelque, Worker, events
from torrelque import retry as policies
from torrelque.cli import require
from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.importer import load
from torrelque.cli.output import errors, print_json, printable
from torrelque.cli.params import TIME, parse_time
from torrelque.cli.settings import Settings

__all__ = ('worker',)

Policy = Callable[[int, Exception], float | None]


class Loop(StrEnum):
    """Event loops."""

    ASYNCIO = 'asyncio'
    UVLOOP = 'uvloop'
    TRIO = 'trio'


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = 'debug'
    INFO = 'info'
    WARNING = 'warning'
    ERROR = 'error'


def worker(
    settings: Settings,
    handler: Annotated[
        str,
        typer.Argument(
            metavar='MODULE:HANDLER', show_default=False, help='The function that is called with each torrelque.Task.'
        ),
    ],
    concurrency: Annotated[
        int, typer.Option('--concurrency', '-c', min=1, metavar='N', help='Tasks that are worked on at once.')
    ] = 10,
    loop: Annotated[Loop, typer.Option('--loop', help='The event loop that the handler runs on.')] = Loop.ASYNCIO,
    retry: Annotated[
        str,
        typer.Option(
            metavar='POLICY',
            help='When a task that failed is tried again: exponential, linear, constant, immediately, never, or '
            'module:policy with one of your own.',
        ),
    ] = 'exponential',
    attempts: Annotated[
        int, typer.Option(min=1, metavar='N', help='Deliveries after which a task that fails becomes a dead letter.')
    ] = 10,
    retry_delay: Annotated[
        float, typer.Option(metavar=TIME, parser=parse_time, help='The (first) delay of a policy that has one.')
    ] = 1.0,
    retry_max: Annotated[
        float, typer.Option(metavar=TIME, parser=parse_time, help='The longest delay of a policy whose delays grow.')
    ] = 300.0,
    grace: Annotated[
        float, typer.Option(metavar=TIME, parser=parse_time, help='How long handlers may finish when it is stopped.')
    ] = 20.0,
    result_ttl: Annotated[
        float | None,
        typer.Option(metavar=TIME, parser=parse_time, show_default=False, help='How long results are kept; 1h.'),
    ] = None,
    serialiser: Annotated[
        str | None,
        typer.Option(metavar='MODULE[:OBJECT]', show_default=False, help='Has dumps and loads; JSON if not given.'),
    ] = None,
    max_rejected: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar='N',
            show_default=False,
            help='Dead letters that are kept; the oldest make room for new ones. All if not given.',
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help='How much is logged, to standard error.')] = LogLevel.INFO,
) -> None:
    """Work on a queue: call a function of yours for each task.

    What it returns is kept as the result, what it raises has the task tried
    again, or rejected. The working folder is searched for the module first.
    Ctrl-C and SIGTERM stop it once its handlers have finished, the second one
    at once: their tasks go back. With --json events are printed as they happen.
    """
    _require_loop(loop)
    function = load(handler, 'the handler')
    policy = _policy(retry, attempts, retry_delay, retry_max)
    options: dict[str, Any] = {'max_rejected': max_rejected}
    if serialiser is not None:
        options['serialiser'] = load(serialiser, 'the serialiser')
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format='%(asctime)s %(levelname)s %(name)s: %(message)s'
    )
    make = partial(
        Worker,
        handler=function,
        concurrency=concurrency,
        retry=policy,
        result_ttl=result_ttl,
        grace=grace,
        handle_signals=True,
    )
    backend = 'trio' if loop is Loop.TRIO else 'asyncio'
    loop_options = {'use_uvloop': True} if loop is Loop.UVLOOP else {}
    anyio.run(_work, settings, make, options, loop, backend=backend, backend_options=loop_options)


def _require_loop(loop: Loop) -> None:
    if loop is Loop.TRIO:
        require({'trio': 'trio'})
    elif loop is Loop.UVLOOP and importlib.util.find_spec('uvloop') is None:
        raise Refusal('not installed: uvloop. Install with: pip install uvloop', Exit.USAGE)


def _policy(name: str, attempts: int, delay: float, longest: float) -> Policy:
    if ':' in name:
        policy: Policy = load(name, 'the retry policy')
        return policy
    match name:
        case 'exponential':
            return policies.exponential(delay, maximum=longest, attempts=attempts)
        case 'linear':
            return policies.linear(delay, longest, attempts)
        case 'constant':
            return policies.constant(delay, attempts)
        case 'immediately':
            return policies.immediately(attempts)
        case 'never':
            return policies.never()
    raise Refusal(f'no retry policy {name!r}: see torrelque worker --help', Exit.USAGE)


async def _work(settings: Settings, make: Callable[..., Worker], options: dict[str, Any], loop: Loop) -> None:
    remarks = errors()
    async with (
        settings.open_client() as client,
        Torrelque(client, queue=settings.queue, shards=await settings.find_shards(client), **options) as queue,
    ):
        reporter = _Reporter(settings)
        worker = make(queue, on_event=reporter.heed)
        reporter.stop = worker.stop
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            if not settings.json:
                remarks.print(f'working on queue {printable(settings.queue)}, on {loop}; Ctrl-C stops')
        if reporter.unread:
            raise BrokenPipeError
        if not settings.json:
            remarks.print(f'stopped: {reporter.summary}')


class _Reporter:
    """Counts the events of a worker, and prints them if they are wanted."""

    def __init__(self, settings: Settings) -> None:
        self._print = settings.json
        self._counts: Counter[str] = Counter()
        self.unread = False
        """Whether nobody reads them any more."""
        self.stop: Callable[[], None] = lambda: None

    @property
    def summary(self) -> str:
        words = ('finished', 'retried', 'rejected', 'given back')
        return ', '.join(f'{self._counts[word.replace(" ", "_")]:,} {word}' for word in words)

    def heed(self, event: events.WorkerEvent) -> None:
        name = re.sub(r'(?<=[a-z])(?=[A-Z])', '_', type(event).__name__).lower()
        self._counts[name] += 1
        if self._print and not self.unread:
            try:
                print_json(_fields(name, event))
            except BrokenPipeError:
                self.unread = True
                self.stop()


def _fields(name: str, event: events.WorkerEvent) -> dict[str, Any]:
    task = getattr(event, 'task', None)
    error = getattr(event, 'error', None)
    return {
        'event': name,
        'time': time.time(),
        'id': task and str(task.id),
        'dequeue_count': task and task.dequeue_count,
        'delay': getattr(event, 'delay', None),
        'reason': getattr(event, 'reason', None),
        'error': error and f'{type(error).__name__}: {error}',
    }
