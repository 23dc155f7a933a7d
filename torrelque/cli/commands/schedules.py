"""Commands for schedules, which add tasks at regular times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from torrelque import Schedule
from torrelque.cli.exit_codes import Exit
from torrelque.cli.jsonlines import check_json
from torrelque.cli.output import errors, make_table, print_json, print_line, print_table, printable
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
    time_option,
)
from torrelque.cli.payloads import show_bytes
from torrelque.cli.settings import Settings

__all__ = ('fire', 'schedule', 'schedules', 'unschedule')

NameArgument = Annotated[str, typer.Argument(metavar='ID', show_default=False, help='The id of the schedule.')]


class Missed(Choice):
    """Values of ``missed`` in `Torrelque.schedule`."""

    SKIP = 'skip'
    ALL = 'all'


async def schedules(settings: Settings) -> int:
    """List the schedules of the queue, the next one first."""
    async with settings.open_queue() as queue:
        found = [each async for each in queue.schedules()]
    found.sort(key=lambda each: (each.next or 0.0, each.id))
    if settings.json:
        for each in found:
            print_json(_fields_of(each))
        return Exit.OK
    if not found:
        errors().print(f'no schedules in queue {printable(settings.queue)}', style='dim')
        return Exit.OK
    table = make_table('id', 'when', 'next (UTC)', 'last task', 'owner')
    for each in found:
        next_time = '' if each.next is None else f'{datetime.fromtimestamp(each.next, UTC):%Y-%m-%d %H:%M:%S}'
        cells = (each.id, _when(each), next_time, each.last or '', each.owner or '')
        table.add_row(*map(printable, cells))
    print_table(table, cut=3)
    return Exit.OK


def _when(each: Schedule[bytes]) -> str:
    return f'every {each.every:g} s' if each.every is not None else f'{each.cron} {each.tz}'


def _fields_of(each: Schedule[bytes]) -> dict[str, object]:
    encoding, task = show_bytes(each.task)
    return {**each._asdict(), 'task': task, 'task_encoding': encoding, 'headers': dict(each.headers)}


async def schedule(
    settings: Settings,
    schedule_id: NameArgument,
    task: Annotated[str, typer.Argument(metavar='JSON', show_default=False, help='The payload of its tasks.')],
    *,
    cron: Annotated[
        str | None,
        typer.Option(metavar='CRON', show_default=False, help="A cron expression, such as '0 7 * * mon-fri'."),
    ] = None,
    tz: Annotated[
        str | None,
        typer.Option(metavar='ZONE', show_default=False, help='With --cron: its time zone. Defaults to UTC.'),
    ] = None,
    every: Annotated[float | None, time_option('The time between two tasks.')] = None,
    missed: Annotated[
        Missed,
        typer.Option(help='Whether to add one task for all missed times (skip), or one for each (all).'),
    ] = Missed.SKIP,
    no_overlap: Annotated[
        bool, typer.Option('--no-overlap', help='Add no task while the last one is still queued.')
    ] = False,
    owner: Annotated[
        str | None,
        typer.Option(metavar='NAME', show_default=False, help='Only calls with this owner may change the schedule.'),
    ] = None,
    task_timeout: TaskTimeoutOption = None,
    delay: DelayOption = None,
    max_dequeues: MaxDequeuesOption = None,
    expires_in: ExpiresInOption = None,
    on_expiry: OnExpiryOption = None,
    time_limit: TimeLimitOption = None,
    group: GroupOption = None,
    priority: PriorityOption = None,
    header: HeaderOption = None,
) -> None:
    """Schedule a task at regular times, or change its schedule.

    The consumers add the tasks; there is no scheduler process. Each call sets all
    options: those that you do not give get their defaults.
    """
    payload = task.encode(errors='surrogateescape')
    check_json(payload, 'the payload')
    options: dict[str, Any] = {
        'cron': cron,
        'tz': tz,
        'every': every,
        'missed': missed,
        'overlap': not no_overlap,
        'owner': owner,
        'task_timeout': task_timeout,
        'delay': delay,
        'max_dequeues': max_dequeues,
        'expires_in': expires_in,
        'on_expiry': on_expiry,
        'time_limit': time_limit,
        'group': group,
        'priority': priority,
        'headers': parse_headers(header or ()) or None,
    }
    async with settings.open_queue() as queue:
        await queue.schedule(schedule_id, payload, **options)
    _print_done(settings, 'scheduled', schedule_id)


async def unschedule(settings: Settings, schedule_id: NameArgument) -> None:
    """Remove a schedule, even that of another owner. Tasks that it has added stay."""
    async with settings.open_queue() as queue:
        await queue.unschedule(schedule_id)
    _print_done(settings, 'unscheduled', schedule_id)


async def fire(settings: Settings, schedule_id: NameArgument) -> None:
    """Have a schedule add a task now, and print the task's id."""
    async with settings.open_queue() as queue:
        added = await queue.fire(schedule_id)
    if settings.json:
        print_json({'id': added})
    else:
        print_line(printable(added))


def _print_done(settings: Settings, done: str, schedule_id: str) -> None:
    if settings.json:
        print_json({'queue': settings.queue, 'id': schedule_id, done: True})
    else:
        print_line(f'{done} {printable(schedule_id)}')
