"""Options that all commands share (server, queue, output), and the wrapper that turns a function into a command."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio
import typer

from torrelque import (
    Torrelque,
    TorrelqueError,
    TorrelqueQueueStats,
    TorrelqueReplyError,
    TorrelqueTaskSerialiser,
    TorrelqueUsageError,
    TorrelqueValueError,
    Transport,
    connect,
    shards_of,
)
from torrelque.cli.errors import Refusal, reported
from torrelque.cli.exit_codes import Exit

__all__ = (
    'AS_BYTES',
    'JsonOption',
    'QueueOption',
    'QueuesOption',
    'Settings',
    'ShardsOption',
    'UnreadableQueueError',
    'UrlOption',
    'find_shards',
    'only_one',
    'read_queue',
    'read_stats',
    'verb',
)

T = TypeVar('T')

DEFAULT_URL = 'redis://localhost:6379'
DEFAULT_QUEUE = 'trq'

UrlOption = Annotated[
    str | None,
    typer.Option(
        '--url',
        metavar='URL',
        show_default=False,
        help='The URL of the server: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://. For TLS, '
        'give certificates as query parameters: ssl_ca_certs, ssl_certfile and ssl_keyfile. '
        f'Defaults to TORRELQUE_URL, then {DEFAULT_URL}.',
    ),
]
QueueOption = Annotated[
    list[str] | None,
    typer.Option(
        '--queue',
        '-q',
        metavar='NAME',
        show_default=False,
        help=f'The queue. Defaults to TORRELQUE_QUEUE, then {DEFAULT_QUEUE}.',
    ),
]
QueuesOption = Annotated[
    list[str] | None,
    typer.Option(
        '--queue',
        '-q',
        metavar='NAME',
        show_default=False,
        help=f'A queue; may be repeated. Defaults to TORRELQUE_QUEUE, then {DEFAULT_QUEUE}.',
    ),
]
JsonOption = Annotated[bool | None, typer.Option('--json', show_default=False, help='Print one JSON object per line.')]

ShardsOption = Annotated[
    int | None,
    typer.Option(
        '--shards',
        min=1,
        max=1000,
        metavar='N',
        show_default=False,
        help='The number of shards of the queue. Read from the server by default.',
    ),
]

OPTIONS: dict[str, Any] = {'url': UrlOption, 'queue': QueueOption, 'shards': ShardsOption, 'json': JsonOption}

AS_BYTES = TorrelqueTaskSerialiser(dumps=bytes, loads=bytes)
"""Leaves payloads as bytes, because the command does not know how an application serialises them."""


@dataclass(frozen=True)
class Settings:
    """Values of the shared options. They may precede or follow the command; the latter take precedence."""

    url: str = DEFAULT_URL
    queue: str = DEFAULT_QUEUE
    shards: int | None = None
    json: bool = False

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[Transport]:
        """Connect a client.

        Raises at once if the server is unreachable. Later calls are retried for a
        while, as is usual in the library.
        """
        async with connect(self.url, retry_timeout=0):
            pass
        async with connect(self.url) as client:
            yield client

    @asynccontextmanager
    async def open_queue(self, serialiser: TorrelqueTaskSerialiser = AS_BYTES) -> AsyncIterator[Torrelque]:
        """Open the queue with its own client. By default, payloads and results are bytes."""
        async with self.open_client() as client:
            shards = await self.find_shards(client)
            async with Torrelque(client, queue=self.queue, serialiser=serialiser, shards=shards) as queue:
                yield queue

    @asynccontextmanager
    async def open_known_queue(self) -> AsyncIterator[Torrelque]:
        """Open the queue. Raises Refusal if no task was ever in a queue of this name."""
        async with self.open_queue() as queue:
            await self.check_known(queue)
            yield queue

    async def find_shards(self, client: Transport) -> int | None:
        """Return the number of shards: the option, or else the recorded number."""
        return self.shards or await find_shards(client, self.queue)

    async def check_known(self, queue: Torrelque) -> None:
        """Raise Refusal if no task was ever in this queue. Skipped if the user may not read statistics."""
        try:
            stats = await queue.get_queue_stats()
        except TorrelqueReplyError as error:
            if error.code != 'NOPERM':
                raise
            return
        if not any(stats) and queue.shards is None:
            raise Refusal(f'there is no queue {self.queue!r} on this server; torrelque queues lists all')

    def with_options(self, **given: Any) -> Settings:  # noqa: ANN401 - the fields have several types
        """Return a copy with the options that are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def only_one(names: list[str] | None) -> str | None:
    """Return the name of the queue, or None. Raises Refusal if there are several."""
    if names and len(names) > 1:
        raise Refusal(f'only one --queue at a time, got {", ".join(names)}', Exit.USAGE)
    return names[0] if names else None


async def find_shards(client: Transport, queue: str) -> int | None:
    """Return the recorded number of shards, or None. Also None if the user may not read it."""
    try:
        return await shards_of(client, queue)
    except TorrelqueReplyError as error:
        if error.code not in ('NOPERM', 'WRONGTYPE'):  # for a damaged key, the next call raises a better error
            raise
        return None


class UnreadableQueueError(TorrelqueError):
    """The queue's keys are damaged, or this user may not read them. Other queues are not affected."""


async def read_stats(client: Transport, queue: str) -> TorrelqueQueueStats:
    """Return the statistics of one of several queues. Raises UnreadableQueueError if only this queue has a fault."""
    return await read_queue(client, queue, Torrelque.get_queue_stats)


async def read_queue(client: Transport, queue: str, read: Callable[[Torrelque], Awaitable[T]]) -> T:
    """Read something of one of several queues. Raises UnreadableQueueError if only this queue has a fault."""
    try:
        async with Torrelque(client, queue=queue, shards=await find_shards(client, queue)) as opened:
            return await read(opened)
    except (TorrelqueReplyError, TorrelqueUsageError, TorrelqueValueError) as error:
        if isinstance(error, TorrelqueReplyError) and error.code not in ('NOPERM', 'WRONGTYPE'):
            raise
        raise UnreadableQueueError(f'queue {queue!r}, which cannot be read: {error}') from error


def verb(
    function: Callable[..., Any], *, options: tuple[str, ...] = ('url', 'queue', 'shards', 'json')
) -> Callable[..., None]:
    """Wrap a function as a command for Typer.

    Args:
        function: A plain or coroutine function. Its first parameter is a `Settings`;
            Typer turns the others into options and arguments, and the docstring into
            the help. It prints with ``output.py``, returns None or the exit status,
            and may raise Refusal or any error of the library.
        options: Names of the shared options that the command has.

    Returns:
        The function to register.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    shared = [inspect.Parameter(name, kind, default=None, annotation=OPTIONS[name]) for name in options]
    context = inspect.Parameter('context', kind, annotation=typer.Context)

    def command(*, context: typer.Context, **values: Any) -> None:  # noqa: ANN401 - options have any type
        given = {name: values.pop(name) for name in options}
        before = context.obj if isinstance(context.obj, Settings) else Settings()
        with reported():
            if 'queue' in given:
                given['queue'] = only_one(given['queue'])
            call = partial(function, before.with_options(**given), **values)
            status = anyio.run(call) if inspect.iscoroutinefunction(function) else call()
        raise typer.Exit(int(Exit.OK if status is None else status))

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    parameters = [parameter.replace(kind=kind) for parameter in own]
    command.__signature__ = inspect.Signature([context, *parameters, *shared])  # type: ignore[attr-defined]  # Typer's to read
    command.__annotations__ = {each.name: each.annotation for each in (context, *parameters, *shared)}
    return command


assert set(OPTIONS) == {field.name for field in fields(Settings)}  # noqa: S101 - each is an option
