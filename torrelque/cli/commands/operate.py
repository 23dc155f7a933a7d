"""Commands for operators, which move or delete tasks."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Literal

import anyio
import typer

from torrelque import Torrelque, TorrelqueError, TorrelqueLookupError
from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.output import counted, print_json, print_line
from torrelque.cli.params import IdsArgument, confirm, name_of, read_ids, time_option
from torrelque.cli.settings import Settings

__all__ = ('cancel', 'purge', 'redrive', 'reject', 'requeue')

SomeIdsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar='ID', show_default=False, help='Ids of dead letters; - reads them from standard input.'),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        '--limit', '-n', min=1, metavar='N', show_default=False, help='At most N dead letters, the oldest first.'
    ),
]


# Tasks by id ---------------------------------------------------------------------------------------------------------


async def requeue(
    settings: Settings,
    task_id: IdsArgument,
    delay: Annotated[float | None, time_option('Deliver the tasks after this time.')] = None,
    task_timeout: Annotated[float | None, time_option('How long the next consumer may work on each task.')] = None,
) -> int:
    """Take tasks away from their consumers and requeue them.

    The consumers lose their claims. To requeue dead letters, use redrive.
    """

    async def act(queue: Torrelque, each: str) -> None:
        (error,) = await queue.requeue_many([each], delay=delay, task_timeout=task_timeout)
        if error is not None:
            raise error

    return await _to_each(settings, task_id, act, 'requeued')


async def reject(
    settings: Settings,
    task_id: IdsArgument,
    reason: Annotated[
        str, typer.Option('--reason', '-r', metavar='TEXT', help='The reason to keep with the dead letters.')
    ] = 'rejected by an operator',
) -> int:
    """Take tasks from their consumers and make them dead letters."""
    return await _to_each(settings, task_id, lambda queue, each: queue.reject(each, reason), 'rejected')


class Running(StrEnum):
    """What to do about running tasks."""

    END = 'end'
    ASK = 'ask'


HOW: Mapping[Running, Literal['end', 'ask']] = {Running.END: 'end', Running.ASK: 'ask'}


async def cancel(
    settings: Settings,
    task_id: IdsArgument,
    running: Annotated[
        Running | None,
        typer.Option(
            show_default=False,
            help='What to do about running tasks: end the claim, or ask the consumer to end the task.',
        ),
    ] = None,
) -> int:
    """Delete pending or delayed tasks.

    With --running, also delete running tasks. With --running end, nothing that the
    consumer still does to the task has any effect. With --running ask, the handler
    is cancelled, but may still finish.
    """

    async def act(queue: Torrelque, each: str) -> None:
        await queue.cancel(each, running=None if running is None else HOW[running])

    return await _to_each(settings, task_id, act, 'cancelled')


async def _to_each(
    settings: Settings, words: Sequence[str], act: Callable[[Torrelque, str], Awaitable[None]], done: str
) -> int:
    """Apply an action to each task, even if it fails for others. Return the exit status."""
    count, refusals = 0, list[str]()
    async with settings.open_known_queue() as queue:
        for task_id in read_ids(words):
            try:
                await act(queue, task_id)
                refusal = None
                count += 1
            except TorrelqueLookupError:
                refusal = await _reason_of(queue, task_id)
                refusals.append(refusal)
            if settings.json:
                print_json({'id': task_id, 'done': refusal is None, 'error': refusal})
    if not settings.json and (count or not refusals):
        print_line(f'{done} {counted(count, "task")}')
    for refusal in refusals:
        print(f'torrelque: {refusal}', file=sys.stderr)  # noqa: T201 - what a command does
    return Exit.NEGATIVE if refusals else Exit.OK


async def _reason_of(queue: Torrelque, task_id: str) -> str:
    """Return the reason why an action on a task was refused."""
    try:
        state = await queue.get_task_state(task_id)
    except TorrelqueLookupError:
        return f'there is no task {task_id!r} in queue {queue.queue!r}'
    except TorrelqueError:
        return f'task {task_id!r} has the wrong status; nothing was changed'
    return f'task {task_id!r} is {name_of(state.status)}; nothing was changed'


# Dead letters --------------------------------------------------------------------------------------------------------


async def redrive(
    settings: Settings,
    task_id: SomeIdsArgument = None,
    *,
    everything: Annotated[bool, typer.Option('--all', help='All dead letters, the oldest first.')] = False,
    limit: LimitOption = None,
) -> None:
    """Requeue dead letters and reset their delivery counts.

    If any of the ids is not a dead letter, nothing is changed.
    """
    if bool(task_id) == everything:
        raise Refusal('redrive takes either ids or --all', Exit.USAGE)
    ids = read_ids(task_id) if task_id else None
    async with settings.open_known_queue() as queue:
        count = await queue.redrive(ids, limit=limit)
    _tell_count(settings, 'redriven', count)


def purge(
    settings: Settings,
    task_id: SomeIdsArgument = None,
    *,
    everything: Annotated[bool, typer.Option('--all', help='All dead letters.')] = False,
    older_than: Annotated[float | None, time_option('Dead letters rejected at least this long ago.')] = None,
    limit: LimitOption = None,
    yes: Annotated[bool, typer.Option('--yes', '-y', help='Do not ask for confirmation.')] = False,
) -> None:
    """Delete dead letters, after asking.

    If any of the ids is not a dead letter, nothing is changed. The exit status
    is 1 if you answer no.
    """
    if [bool(task_id), everything, older_than is not None].count(True) != 1:
        raise Refusal('purge takes either ids, --older-than or --all', Exit.USAGE)
    if task_id and '-' in task_id and not yes:
        raise Refusal('standard input cannot give both the ids and your answer: add --yes', Exit.USAGE)
    ids = read_ids(task_id) if task_id else None
    age = 0.0 if everything else older_than
    if not yes:
        # Ask outside the event loop, in which Ctrl-C would wait for the answer.
        count = min(anyio.run(_count, settings, ids, age), limit or sys.maxsize)
        if not count:
            _tell_count(settings, 'purged', 0)
            return
        confirm(f'Delete {counted(count, "task")} from the dead letters of queue {settings.queue!r}?')
    _tell_count(settings, 'purged', anyio.run(_purge, settings, ids, age, limit))


async def _count(settings: Settings, ids: Sequence[str] | None, age: float | None) -> int:
    async with settings.open_known_queue() as queue:
        if ids is not None:
            return len(ids)
        if not age:
            return (await queue.get_queue_stats()).rejected
        before = await queue.get_server_time() - age
        found = {task_id async for task_id, state in queue.rejected() if (state.release_time or 0.0) <= before}
        return len(found)


async def _purge(settings: Settings, ids: Sequence[str] | None, age: float | None, limit: int | None) -> int:
    async with settings.open_known_queue() as queue:
        return await queue.purge(ids, older_than=age, limit=limit)


# Within --------------------------------------------------------------------------------------------------------------


def _tell_count(settings: Settings, done: str, count: int) -> None:
    if settings.json:
        print_json({done: count})
    else:
        print_line(f'{done} {counted(count, "task")}')
