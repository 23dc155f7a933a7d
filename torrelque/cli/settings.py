"""What all verbs share: which server, which queue, which form of output; and how a verb is made of a function."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any

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
    'Settings',
    'ShardsOption',
    'UnreadableQueueError',
    'UrlOption',
    'find_shards',
    'only_one',
    'read_stats',
    'verb',
)

DEFAULT_URL = 'redis://localhost:6379'
DEFAULT_QUEUE = 'trq'

UrlOption = Annotated[
    str | None,
    typer.Option(
        '--url',
        metavar='URL',
        show_default=False,
        help='The URL of the server: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://. Certificates '
        'are options of it: rediss://host?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE. '
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
"""The command neither knows nor needs to know how an application serialises its payloads."""


@dataclass(frozen=True)
class Settings:
    """What the options that all verbs share say. They may stand before the verb and after it; after it wins."""

    url: str = DEFAULT_URL
    queue: str = DEFAULT_QUEUE
    shards: int | None = None
    json: bool = False

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[Transport]:
        """A connected client.

        Raises at once if the server is not there; later it is waited for, for a
        while, as calls of the library do.
        """
        async with connect(self.url, retry_timeout=0):
            pass
        async with connect(self.url) as client:
            yield client

    @asynccontextmanager
    async def open_queue(self, serialiser: TorrelqueTaskSerialiser = AS_BYTES) -> AsyncIterator[Torrelque]:
        """The queue, over a client of its own. Payloads and results are bytes unless told otherwise."""
        async with self.open_client() as client:
            shards = await self.find_shards(client)
            async with Torrelque(client, queue=self.queue, serialiser=serialiser, shards=shards) as queue:
                yield queue

    @asynccontextmanager
    async def open_known_queue(self) -> AsyncIterator[Torrelque]:
        """The same. Raises Refusal if nothing was ever in a queue of this name."""
        async with self.open_queue() as queue:
            await self.check_known(queue)
            yield queue

    async def find_shards(self, client: Transport) -> int | None:
        """How many shards the queue has: as was said, else as is recorded with it."""
        return self.shards or await find_shards(client, self.queue)

    async def check_known(self, queue: Torrelque) -> None:
        """Raise Refusal if nothing was ever in this queue. Who may not look at statistics is not told."""
        try:
            stats = await queue.get_queue_stats()
        except TorrelqueReplyError as error:
            if error.code != 'NOPERM':
                raise
            return
        if not any(stats) and queue.shards is None:
            raise Refusal(f'there is no queue {self.queue!r} on this server; torrelque queues lists those there are')

    def with_options(self, **given: Any) -> Settings:  # noqa: ANN401 - of the types of the fields
        """The same but for the options that were given."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def only_one(names: list[str] | None) -> str | None:
    """The queue that was named, if one was. Raises Refusal for several."""
    if names and len(names) > 1:
        raise Refusal(f'only one --queue at a time, got {", ".join(names)}', Exit.USAGE)
    return names[0] if names else None


async def find_shards(client: Transport, queue: str) -> int | None:
    """How many shards are recorded with a queue; None, too, if the user may not look."""
    try:
        return await shards_of(client, queue)
    except TorrelqueReplyError as error:
        if error.code not in ('NOPERM', 'WRONGTYPE'):  # of a damaged key, what comes next tells more
            raise
        return None


class UnreadableQueueError(TorrelqueError):
    """A queue whose keys are damaged, or that this user may not read. Other queues are not affected."""


async def read_stats(client: Transport, queue: str) -> TorrelqueQueueStats:
    """The statistics of one of several queues. Raises UnreadableQueueError for a fault of this queue alone."""
    try:
        async with Torrelque(client, queue=queue, shards=await find_shards(client, queue)) as opened:
            return await opened.get_queue_stats()
    except (TorrelqueReplyError, TorrelqueUsageError, TorrelqueValueError) as error:
        if isinstance(error, TorrelqueReplyError) and error.code not in ('NOPERM', 'WRONGTYPE'):
            raise
        raise UnreadableQueueError(f'queue {queue!r}, which cannot be read: {error}') from error


def verb(
    function: Callable[..., Any], *, options: tuple[str, ...] = ('url', 'queue', 'shards', 'json')
) -> Callable[..., None]:
    """What Typer is given for a verb.

    ``function`` is a plain or a coroutine function whose first parameter is a
    `Settings`; the others are what Typer makes options and arguments of, its
    docstring is the help. It prints its answer with ``output.py``. It returns
    None or the exit status, and may raise Refusal or any error of the library.
    ``options`` are those of `Settings` that the verb has a use for.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    kind = inspect.Parameter.KEYWORD_ONLY
    shared = [inspect.Parameter(name, kind, default=None, annotation=OPTIONS[name]) for name in options]
    context = inspect.Parameter('context', kind, annotation=typer.Context)

    def command(*, context: typer.Context, **values: Any) -> None:  # noqa: ANN401 - whatever the verb's options are
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
