"""The command that runs a `torrelque.Worker` in its own process."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, NamedTuple

import anyio
import typer
from anyio.abc import TaskStatus

from torrelque import Torrelque, Transport, Worker, connect, events
from torrelque import retry as policies
from torrelque.cli.commands.supervisor import end_with_parent, is_supervised, supervise
from torrelque.cli.deadline import Deadline
from torrelque.cli.errors import Refusal, explain, first_of
from torrelque.cli.exit_codes import Exit, require
from torrelque.cli.heartbeat import Heartbeat, check_alive
from torrelque.cli.importer import find_shadows, load
from torrelque.cli.output import errors, print_json, printable
from torrelque.cli.params import TIME, parse_of_queues, parse_time, time_option
from torrelque.cli.settings import QueuesOption, Settings, find_shards
from torrelque.worker.failures import describe
from torrelque.worker.presence import default_name
from torrelque.worker.signals import received
from torrelque.worker.starting import until_usable

__all__ = ('worker',)

Policy = Callable[[int, Exception], float | None]


ENDING_TIME = 5.0
"""Maximum time from the end of the run until the process exits, in seconds."""

BLOCKED_TIME = 20.0
"""Maximum time from the end of the grace time until the run ends, in seconds, unless its event loop is blocked."""


REPORTING_TIME = 1.0
"""Time to report why the process ended, in seconds."""


logger: logging.Logger = logging.getLogger('torrelque.worker')


class Loop(StrEnum):
    """Event loops."""

    ASYNCIO = 'asyncio'
    UVLOOP = 'uvloop'
    TRIO = 'trio'


class LogLevel(StrEnum):
    """Log levels."""

    DEBUG = 'debug'
    INFO = 'info'
    WARNING = 'warning'
    ERROR = 'error'


def worker(
    settings: Settings,
    handler: Annotated[
        str | None,
        typer.Argument(
            metavar='MODULE:HANDLER',
            show_default=False,
            help='The function to call with each torrelque.Task, or a torrelque.Router.',
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option('--concurrency', '-c', min=1, metavar='N', help='Maximum number of tasks handled at once.')
    ] = 10,
    loop: Annotated[Loop, typer.Option('--loop', help='The event loop to run the handler on.')] = Loop.ASYNCIO,
    retry: Annotated[
        str,
        typer.Option(
            metavar='POLICY',
            help='When to retry a failed task: exponential, linear, constant, immediately, never, or '
            'module:policy for your own.',
        ),
    ] = 'exponential',
    attempts: Annotated[
        int, typer.Option(min=1, metavar='N', help='Make a failing task a dead letter after N deliveries.')
    ] = 10,
    retry_delay: Annotated[
        float, typer.Option(metavar=TIME, parser=parse_time, help='The first delay of the retry policy, if it has one.')
    ] = 1.0,
    retry_max: Annotated[
        float, typer.Option(metavar=TIME, parser=parse_time, help='The longest delay of a policy whose delays grow.')
    ] = 300.0,
    grace: Annotated[
        float, typer.Option(metavar=TIME, parser=parse_time, help='How long handlers may take to finish on shutdown.')
    ] = 20.0,
    result_ttl: Annotated[float | None, time_option('How long to keep results. Defaults to 1h.')] = None,
    finished_ttl: Annotated[
        float,
        typer.Option(
            metavar=TIME, parser=parse_time, help='How long to keep the final state of tasks without a result.'
        ),
    ] = 60.0,
    time_limit: Annotated[float | None, time_option('How long a handler may take. Not limited by default.')] = None,
    lifespan: Annotated[
        str | None,
        typer.Option(
            metavar='MODULE:FUNCTION',
            show_default=False,
            help="A function that returns an async context manager; its value holds the handlers' dependencies.",
        ),
    ] = None,
    on_event: Annotated[
        str | None,
        typer.Option(
            metavar='MODULE:FUNCTION',
            show_default=False,
            help='A function to call with each event (see torrelque.events).',
        ),
    ] = None,
    serialiser: Annotated[
        str | None,
        typer.Option(
            metavar='MODULE[:OBJECT]', show_default=False, help='An object with dumps and loads. Defaults to JSON.'
        ),
    ] = None,
    result_serialiser: Annotated[
        str | None,
        typer.Option(
            metavar='MODULE[:OBJECT]', show_default=False, help='The serialiser of results. Defaults to --serialiser.'
        ),
    ] = None,
    max_rejected: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar='N',
            show_default=False,
            help='Keep at most N dead letters; the oldest are deleted. Keeps all by default.',
        ),
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            show_default=False,
            help='How much to log to standard error. Defaults to info, without its line for each task.',
        ),
    ] = None,
    queue: QueuesOption = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar='QUEUE=N', show_default=False, help="A queue's share of the deliveries, 1 by default. Repeatable."
        ),
    ] = None,
    reserve: Annotated[
        list[str] | None,
        typer.Option(metavar='QUEUE=N', show_default=False, help='Keep N handlers free for a queue. Repeatable.'),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, metavar='N', help='Run in N processes.')] = 1,
    name: Annotated[
        str | None,
        typer.Option(
            metavar='NAME',
            show_default=False,
            help='The name under which the worker is listed. Defaults to the host and the process id.',
        ),
    ] = None,
    *,
    probe: Annotated[
        bool,
        typer.Option(
            '--probe', help="Only check that this user's workers on this machine, or those with --name, are alive."
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option('--strict', help='Take tasks only from the first --queue that has any.')
    ] = False,
    burst: Annotated[bool, typer.Option('--burst', help='Stop once no task is pending or due.')] = False,
    reload: Annotated[
        bool, typer.Option('--reload', help='Restart when a Python file below the working directory changes.')
    ] = False,
    otel: Annotated[
        bool | None,
        typer.Option(
            '--otel/--no-otel', show_default=False, help='Report to OpenTelemetry. By default, if a provider is set.'
        ),
    ] = None,
) -> int:
    """Work on one or more queues: call a function for each task.

    Repeat --queue to work on several, which share the --concurrency. The
    function's return value is kept as the result. If it raises, the task is
    retried or rejected. The working directory is searched for the module first.
    On Ctrl-C or SIGTERM, the worker waits for its handlers to finish; on a
    second one it cancels them and gives their tasks back. With --json, events
    are printed as they happen.
    """
    if probe:
        check_alive(name)
        return Exit.OK
    if handler is None:
        raise Refusal(
            'give the function that handles tasks, as MODULE:HANDLER (see torrelque worker --help)', Exit.USAGE
        )
    _require_loop(loop)
    if otel:
        require({'opentelemetry': 'otel'})
    if burst and reload:
        raise Refusal('--burst and --reload exclude each other', Exit.USAGE)
    if strict and weight:
        raise Refusal('--strict and --weight exclude each other', Exit.USAGE)
    names = list(dict.fromkeys(queue or [settings.queue]))
    weights = parse_of_queues('--weight', weight or (), names, float)
    shares = _Shares(names, weights, parse_of_queues('--reserve', reserve or (), names, int), strict)
    policy = None if ':' in retry else _policy(retry, attempts, retry_delay, retry_max)
    logging.basicConfig(
        level=(log_level or LogLevel.INFO).upper(),
        stream=sys.stderr,
        format=f'%(asctime)s %(levelname)s %(name)s{"[%(process)d]" if is_supervised() else ""}: %(message)s',
    )
    if processes > 1 or reload:
        arguments = without_options(sys.argv[1:], {'--processes': 1, '--reload': 0})
        return anyio.run(partial(supervise, arguments, processes, reload=reload))
    end_with_parent()
    backend = 'trio' if loop is Loop.TRIO else 'asyncio'
    importlib.import_module(f'anyio._backends._{backend}')  # before the user's files can hide its imports
    serialisers = {'serialiser': serialiser, 'result_serialiser': result_serialiser}
    given = {option: load(path, f'the {option.replace("_", " ")}') for option, path in serialisers.items() if path}
    reporter = _Reporter(settings, log_tasks=log_level in (LogLevel.INFO, LogLevel.DEBUG))
    reporter.own_hook = load(on_event, 'the function for events') if on_event else None
    run = _Run(
        settings,
        shares,
        {'max_rejected': max_rejected, **given},
        {
            'handler': load(handler, 'the handler'),
            'concurrency': concurrency,
            'retry': policy or load(retry, 'the retry policy'),
            'result_ttl': result_ttl,
            'finished_ttl': finished_ttl,
            'grace': grace,
            'time_limit': time_limit,
            'handle_signals': True,
            'name': name,
            'burst': burst,
        },
        loop,
        reporter,
        lifespan=load(lifespan, 'the lifespan') if lifespan else None,
        otel=otel,
    )
    run.check()
    for path in find_shadows(os.getcwd()):  # noqa: PTH109 - as sys.path has it
        errors().print(printable(f"warning: {path} hides the standard library's {path.stem}: rename it"))
    loop_options = {} if loop is Loop.TRIO else {'loop_factory': _loop_factory(loop, run.leave)}
    try:
        anyio.run(run, backend=backend, backend_options=loop_options)
    except Exception as error:
        first = first_of(error)
        run.end(explain(first)[1] if isinstance(first, Exception) else Exit.BUG)
        raise
    run.end(run.status)
    if run.error is not None:
        raise run.error
    return Exit.OK


def without_options(arguments: Sequence[str], options: dict[str, int]) -> list[str]:
    """Return command-line arguments without these options and the number of values that each has."""
    kept: list[str] = []
    skipped = 0
    for at, word in enumerate(arguments):
        if word == '--':
            return [*kept, *arguments[at:]]
        if skipped:
            skipped -= 1
        elif word in options:
            skipped = options[word]
        elif word.partition('=')[0] not in options:
            kept.append(word)
    return kept


def _require_loop(loop: Loop) -> None:
    if loop is Loop.TRIO:
        require({'trio': 'trio'})
    elif loop is Loop.UVLOOP and importlib.util.find_spec('uvloop') is None:
        raise Refusal('not installed: uvloop. Install with: pip install uvloop', Exit.USAGE)


def _loop_factory(loop: Loop, leave: Callable[[SystemExit | KeyboardInterrupt], None]) -> Callable[[], Any]:
    """Return a factory of event loops that continue if a task calls ``sys.exit``, after calling ``leave``."""
    base: Any
    if loop is Loop.UVLOOP:
        import uvloop  # noqa: PLC0415 - an optional package

        base = uvloop.Loop
    else:
        base = getattr(asyncio, 'ProactorEventLoop', asyncio.SelectorEventLoop)

    class Surviving(base):  # type: ignore[misc]  # the base is chosen at run time
        def run_forever(self) -> None:
            while True:
                try:
                    super().run_forever()
                except (SystemExit, KeyboardInterrupt) as error:
                    self.call_soon(leave, error)
                else:
                    return

    return Surviving


def _classes(otel: bool | None) -> tuple[type[Torrelque], type[Worker]]:
    """Return the classes of queues and workers. None chooses OpenTelemetry's if this process uses it."""
    if otel is False or not (otel or _has_provider()):
        return Torrelque, Worker
    from torrelque.otel import InstrumentedTorrelque, InstrumentedWorker  # noqa: PLC0415 - an optional package

    return InstrumentedTorrelque, InstrumentedWorker


def _has_provider() -> bool:
    """Return whether a global provider of OpenTelemetry is set. Does not import OpenTelemetry."""
    trace, metrics = (sys.modules.get(f'opentelemetry.{name}') for name in ('trace', 'metrics'))
    return bool(
        (trace and type(trace.get_tracer_provider()).__name__ != 'ProxyTracerProvider')
        or (metrics and type(metrics.get_meter_provider()).__name__ != '_ProxyMeterProvider')
    )


def _policy(name: str, attempts: int, delay: float, longest: float) -> Policy:
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


class _Shares(NamedTuple):
    """The names of the queues, and how they share the handlers."""

    names: list[str]
    weights: dict[str, float]
    reserve: dict[str, int]
    strict: bool

    def options(self, queues: Sequence[Torrelque]) -> dict[str, Any]:
        """Return the worker's options for these queues."""
        of_name = dict(zip(self.names, queues, strict=True))
        return {
            'queue': {of_name[name]: self.weights.get(name, 1.0) for name in self.names} if self.weights else queues,
            'reserve': {of_name[name]: slots for name, slots in self.reserve.items()},
            'strict': self.strict,
        }


class _Run:
    """A run of the worker. Hides a handler's SystemExit from the event loop, which would end at once."""

    def __init__(
        self,
        settings: Settings,
        shares: _Shares,
        of_queue: dict[str, Any],
        of_worker: dict[str, Any],
        loop: Loop,
        reporter: _Reporter,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None,
        otel: bool | None,
    ) -> None:
        self._settings = settings
        self._shares = shares
        self._of_queue = of_queue
        self._of_worker = of_worker
        self._loop = loop
        self._reporter = reporter
        self._lifespan = lifespan
        self._otel = otel
        self.deadline = Deadline(lambda: self._reporter.leftovers)
        self.error: SystemExit | KeyboardInterrupt | None = None

    @property
    def status(self) -> int:
        """The exit status that Python would use."""
        if isinstance(self.error, KeyboardInterrupt):
            return Exit.INTERRUPTED
        code = None if self.error is None else self.error.code
        return code if isinstance(code, int) else int(code is not None)

    def check(self) -> None:
        """Check the options without the server. Raises Refusal or TorrelqueError."""
        client = connect(self._settings.url)
        queues = [Torrelque(client, queue=name, **self._of_queue) for name in self._shares.names]
        options = {**self._of_worker, **self._shares.options(queues)}
        Worker(lifespan=self._lifespan, on_event=self._reporter.own_hook, **options)

    async def __call__(self) -> None:
        reporter = self._reporter
        async with AsyncExitStack() as stack:
            heartbeat = Heartbeat(self._of_worker['name'] or default_name())
            stack.callback(heartbeat.stop)
            heartbeat.start()
            client, shards = await self._connect(stack)
            async with nullcontext() if self._lifespan is None else self._lifespan() as context:
                await self._work(client, shards, context)
            self.deadline.end_within(ENDING_TIME, self.status)
            if reporter.unread:
                raise BrokenPipeError
            self._say(f'stopped: {reporter.summary}')

    async def _work(self, client: Transport, shards: dict[str, int | None], context: Any) -> None:  # noqa: ANN401 - the user's
        make_queue, make_worker = _classes(self._otel)
        async with AsyncExitStack() as stack:
            queues = [make_queue(client, queue=name, shards=shards[name], **self._of_queue) for name in shards]
            for queue in queues:
                await stack.enter_async_context(queue)
            options = {**self._of_worker, **self._shares.options(queues)}
            await self._run(make_worker(context=context, on_event=self._reporter.heed, **options))

    async def _run(self, worker: Worker) -> None:
        self._reporter.stop = worker.stop
        with received(_Alarm(self.deadline, self._of_worker['grace'])):
            async with anyio.create_task_group() as group:
                await group.start(self._run_one, worker)
                names = self._shares.names
                listed = ', '.join(map(printable, names))
                self._say(f'working on queue{"s" if len(names) > 1 else ""} {listed}, on {self._loop}; Ctrl-C stops')

    async def _connect(self, stack: AsyncExitStack) -> tuple[Transport, dict[str, int | None]]:
        """Open a client, and find the numbers of shards. Wait while the server is unavailable."""

        async def attempt() -> tuple[Transport, dict[str, int | None]]:
            async with connect(self._settings.url, retry_timeout=0) as client:
                given = self._settings.shards
                shards = {name: given or await find_shards(client, name) for name in self._shares.names}
            return await stack.enter_async_context(connect(self._settings.url)), shards

        return await until_usable(attempt)

    async def _run_one(self, worker: Worker, *, task_status: TaskStatus[None]) -> None:
        try:
            await worker.run(task_status=task_status)
        except (SystemExit, KeyboardInterrupt) as error:
            self.leave(error)

    def leave(self, error: SystemExit | KeyboardInterrupt) -> None:
        """Shut down. The run then raises this error."""
        self.error = self.error or error.with_traceback(None)
        self._reporter.stop()

    def end(self, status: int) -> None:
        """Make sure that the process exits soon, even if threads keep it running."""
        self.deadline.call_off()
        if self.deadline.is_kept(ENDING_TIME):
            Deadline(lambda: 'a thread is still running').end_within(REPORTING_TIME, status)

    def _say(self, text: str) -> None:
        if not self._settings.json:
            errors().print(text)


class _Alarm:
    """After a signal, ends the process in time, even if a handler blocks the event loop."""

    def __init__(self, deadline: Deadline, grace: float) -> None:
        self._deadline = deadline
        self._grace = grace

    def __call__(self, number: int) -> None:
        self._deadline.end_within(self._grace + BLOCKED_TIME, Exit.BUG)
        self._grace = 0.0


class _Reporter:
    """Counts a worker's events, and prints them with ``--json``."""

    def __init__(self, settings: Settings, *, log_tasks: bool) -> None:
        self._print = settings.json
        self._log_tasks = log_tasks
        self._counts: Counter[str] = Counter()
        self.unread = False
        """Whether the program that read the output is gone."""
        self.stop: Callable[[], None] = lambda: None
        self.own_hook: Callable[[events.WorkerEvent], object] | None = None
        """The user's own hook, which is called as well."""
        self._running: dict[tuple[str, str], float] = {}

    @property
    def leftovers(self) -> str:
        """Describe what may keep the process running."""
        names = ', '.join(f'task:{task_id}' for _, task_id in sorted(self._running))
        return f'the handlers of {names} do not end' if names else 'a thread is still running'

    @property
    def summary(self) -> str:
        words = ('finished', 'retried', 'rejected', 'given back')
        return ', '.join(f'{self._counts[word.replace(" ", "_")]:,} {word}' for word in words)

    def heed(self, event: events.WorkerEvent) -> None:
        name = re.sub(r'(?<=[a-z])(?=[A-Z])', '_', type(event).__name__).lower()
        self._counts[name] += 1
        task = getattr(event, 'task', None)
        queue = getattr(event if task is None else task, 'queue', '')
        if task is not None:
            key = queue, str(task.id)
            goes_on = name in {'abandoned', 'result_dropped'}
            begun = self._running.get(key, math.nan) if goes_on else self._running.pop(key, math.nan)
            if name == 'started':
                self._running[key] = time.monotonic()
            elif name == 'finished' and self._log_tasks:
                logger.info('Finished task:%s of queue %s in %.3f s', task.id, queue, time.monotonic() - begun)
        if self._print and not self.unread:
            try:
                print_json(_fields(name, queue, event))
            except BrokenPipeError:
                self.unread = True
                self.stop()
        if self.own_hook is not None:
            self.own_hook(event)


def _fields(name: str, queue: str, event: events.WorkerEvent) -> dict[str, Any]:
    task = getattr(event, 'task', None)
    error = getattr(event, 'error', None)
    return {
        'event': name,
        'time': time.time(),
        'queue': queue,
        'id': task and str(task.id),
        'dequeue_count': task and task.dequeue_count,
        'delay': getattr(event, 'delay', None),
        'reason': getattr(event, 'reason', None),
        'error': describe(error) if error is not None else None,
    }
