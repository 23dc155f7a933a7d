"""Commands that list: counts, queues, workers and tasks. They change nothing."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

import anyio
import typer

from torrelque import Torrelque, TorrelqueLookupError, TorrelqueQueueStats, TorrelqueTask
from torrelque import queues as find_queues
from torrelque.cli.output import console, errors, make_table, print_json, print_line, print_table, printable
from torrelque.cli.params import Status, name_of, time_option
from torrelque.cli.presence import Holders, read_workers, try_workers
from torrelque.cli.settings import Settings, UnreadableQueueError, read_stats
from torrelque.cli.states import (
    STYLES,
    deliveries,
    groups_text,
    last_change,
    limits_text,
    notes,
    pause_text,
    progress,
    state_fields,
    stats_fields,
)
from torrelque.cli.units import age

__all__ = ('groups', 'queues', 'stats', 'tasks', 'workers')

COLUMNS = ('id', 'status', 'changed', 'tries', 'note')

SCREENFUL = 100
"""Maximum number of rows on a terminal without ``--limit``."""

PAGE = 100
"""Number of tasks whose times are read at once."""

WITH_TIMES = (Status.DELAYED, Status.WORKING)
"""Statuses whose tasks have a time: when they are due, or when their claims end."""


async def stats(settings: Settings) -> None:
    """Show how many tasks have each status, and totals."""
    async with settings.open_known_queue() as queue:
        counts = await queue.get_queue_stats()
    if settings.json:
        print_json(stats_fields(settings.queue, counts))
        return
    table = make_table('', 'now', '', 'total', right=('now', 'total'))
    now = {'pending': counts.pending, 'working': counts.working, 'delayed': counts.delayed, 'rejected': counts.rejected}
    ever = [
        ('enqueued', counts.total_enqueued), ('claimed', counts.total_claimed), ('completed', counts.total_completed),
        ('requeued', counts.total_requeued), ('rejected', counts.total_rejected),
        ('expired', counts.total_expired),
    ]  # fmt: skip
    for (name, count), (total_name, total) in zip([*now.items(), ('', None), ('', None)], ever, strict=True):
        table.add_row(name, '' if count is None else f'{count:,}', total_name, f'{total:,}')
    out = console()
    out.print(f'queue {printable(settings.queue)}')
    out.print(table)
    if counts.paused is not None:
        out.print(f'The queue is {pause_text(counts.paused)}.', style='yellow', soft_wrap=True)
    if limits := limits_text(counts.limits):
        out.print(f'The queue has limits: {limits}.', soft_wrap=True)
    if counts.pending_high or counts.pending_low:
        levels = f'{counts.pending_high:,} have high priority, {counts.pending_low:,} low priority'
        out.print(f'Of the pending tasks, {levels}.')
    if counts.groups is not None:
        out.print(f'The queue has {groups_text(counts.groups, "groups with waiting tasks")}.', soft_wrap=True)
    if counts.schedules:
        out.print(f'The queue has schedules: {counts.schedules:,}.')
    if counts.oldest_pending_age is not None:
        out.print(f'The oldest pending task was enqueued {age(counts.oldest_pending_age)} ago.')


async def queues(settings: Settings) -> None:
    """List the queues on the server.

    Scans all keys of the database in bounded steps. Queues that only Torrelque
    0.9 has used are not found. Queues that cannot be read are skipped with a
    warning.
    """
    found: dict[str, TorrelqueQueueStats] = {}
    skipped: set[str] = set()
    async with settings.open_client() as client:
        async for name in find_queues(client):
            if name in found or name in skipped:
                continue
            try:
                found[name] = await read_stats(client, name)
            except UnreadableQueueError as error:
                skipped.add(name)
                errors().print(f'Skipped {error}', style='yellow')
    if settings.json:
        for name in sorted(found):
            print_json(stats_fields(name, found[name]))
        return
    if not found:
        errors().print('no queues', style='dim')
        return
    numeric = ('pending', 'working', 'delayed', 'rejected', 'oldest')
    has_notes = any(map(notes, found.values()))
    table = make_table('queue', *numeric, *['note'] * has_notes, right=numeric)
    for name in sorted(found):
        counts = found[name]
        numbers = (counts.pending, counts.working, counts.delayed, counts.rejected)
        cells = [printable(name), *(f'{number:,}' for number in numbers), age(counts.oldest_pending_age)]
        if has_notes:
            cells.append(notes(counts))
        table.add_row(*cells)
    print_table(table, cut=0)


async def workers(settings: Settings) -> None:
    """List the workers of the queue.

    A worker is listed from its start until it shuts down. A worker that was killed,
    or lost its connection, stays listed for half a minute after it was last seen.
    """
    async with settings.open_queue() as queue:
        now = await queue.get_server_time()
        found = await read_workers(queue)
    if settings.json:
        for worker in found:
            print_json(asdict(worker))
        return
    if not found:
        errors().print(f'no workers of queue {printable(settings.queue)}', style='dim')
        return
    table = make_table('name', 'host', 'pid', 'up', 'busy', 'seen', right=('pid', 'up', 'busy', 'seen'))
    for worker in found:
        busy = f'{worker.running}/{worker.concurrency}'
        times = age(now - worker.since), f'{age(now - worker.seen)} ago'
        table.add_row(printable(worker.name), printable(worker.host), f'{worker.pid}', times[0], busy, times[1])
    print_table(table, cut=0)


async def groups(
    settings: Settings,
    *,
    waiting: Annotated[bool, typer.Option('--waiting', help='Only groups with waiting tasks.')] = False,
) -> None:
    """List groups with waiting or running tasks, in any order.

    Groups are read in bounded steps while the queue is in use. A group is ready if
    a consumer can take a task; blocked if it has reached its concurrency limit;
    held if it waits for its rate, a retry or a dead letter; and idle if none of its
    tasks waits.
    """
    async with settings.open_known_queue() as queue:
        now, count = await queue.get_server_time(), 0
        async for group in queue.groups():
            if waiting and not group.waiting:
                continue
            if settings.json:
                print_json(group._asdict(), flush=False)
            else:
                if not count:
                    _print_group('group', 'waiting', 'working', 'state', '')
                note = '' if group.since is None else f'for {age(now - group.since)}'
                note = note if group.until is None else f'for {age(group.until - now)} more'
                _print_group(printable(group.name), f'{group.waiting:,}', f'{group.working:,}', group.state, note)
            count += 1
    if not count and not settings.json:
        errors().print('no such groups', style='dim')


def _print_group(name: str, waiting: str, working: str, state: str, note: str) -> None:
    print_line(f'{name:32}  {waiting:>9}  {working:>7}  {state:7}  {note}'.rstrip(), flush=False)


async def tasks(
    settings: Settings,
    status: Annotated[
        Status | None, typer.Option('--status', '-s', show_default=False, help='Only tasks with this status.')
    ] = None,
    older_than: Annotated[float | None, time_option('Only tasks last changed at least this long ago.')] = None,
    newer_than: Annotated[float | None, time_option('Only tasks last changed at most this long ago.')] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            '--limit',
            '-n',
            min=1,
            metavar='N',
            show_default=False,
            help=f'At most N tasks. Defaults to {SCREENFUL} on a terminal.',
        ),
    ] = None,
    *,
    ids: Annotated[bool, typer.Option('--ids', help='Print only the ids, one per line.')] = False,
) -> None:
    """List queued tasks and dead letters, in no particular order.

    Tasks are read in bounded steps while the queue is in use. With
    --status completed, lists tasks whose result is kept. A task changes when it
    is enqueued, delivered, requeued, rejected or completed, by the server's
    clock.
    """
    async with settings.open_known_queue() as queue:
        now = await queue.get_server_time()
        latest = math.inf if older_than is None else now - older_than
        earliest = -math.inf if newer_than is None else now - newer_than
        found = _find(queue, status, earliest, latest)
        shown = _Rows(now)
        if status in WITH_TIMES and not ids:
            found = _read_times(queue, found)
            if status is Status.WORKING:
                shown.holders = Holders(await try_workers(queue))
        if sys.stdout.isatty() and not (settings.json or ids):
            await _show(found, shown, limit or SCREENFUL)
            return
        print_row = shown.print_json if settings.json else _print_id if ids else shown.print
        count = 0
        async for task in found:
            print_row(task)
            count += 1
            if count == limit:
                break
        if not count and not settings.json:
            errors().print('no such tasks', style='dim')


def _print_id(task: TorrelqueTask) -> None:
    print_line(printable(task.id), flush=False)


class _Rows:
    """Prints a table line by line, because it may have millions of lines. ``now`` is the server's time."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._begun = False
        self.holders = Holders(())

    def print_json(self, task: TorrelqueTask) -> None:
        known: dict[str, Any] = {}
        if task.due is not None:
            known = {'due': task.due}
        elif task.deadline is not None:
            known = {'deadline': task.deadline, 'consumer': task.consumer, 'held_by': self.holders.of(task)}
        print_json({**state_fields(task.id, task.state), **known}, flush=False)

    def print(self, task: TorrelqueTask) -> None:
        if not self._begun:
            self._begun = True
            self._print(COLUMNS)
        self._print(self.cells(task))

    @staticmethod
    def _print(cells: Sequence[str]) -> None:
        task_id, status, changed, tries, note = cells
        print_line(f'{task_id:32}  {status:9}  {changed:>7}  {tries:>5}  {note}'.rstrip(), flush=False)

    def cells(self, task: TorrelqueTask) -> tuple[str, ...]:
        state = task.state
        changed = last_change(state)
        ago = '' if changed is None else age(self._now - changed)
        return printable(task.id), name_of(state.status), ago, deliveries(state), self._note(task)

    def _note(self, task: TorrelqueTask) -> str:
        now = self._now
        if task.due is not None:
            return 'due' if task.due <= now else f'due in {age(task.due - now)}'
        if task.deadline is not None:
            holder = self.holders.of(task)
            by = f' by {printable(holder)}' if holder else ''
            left = age(task.deadline - now)
            claim = f'the claim{by} has ended' if task.deadline <= now else f'claimed{by} for {left} more'
            return f'{claim}, {progress(task.state)}' if task.state.progress else claim
        return printable(task.state.reason or '')


async def _find(
    queue: Torrelque, status: Status | None, earliest: float, latest: float
) -> AsyncIterator[TorrelqueTask]:
    """Yield each matching task once, even if the library finds it several times. Only id and state are read."""
    seen: set[str] = set()
    async for task_id, state in queue.tasks(None if status is None else status.meant):
        if task_id not in seen and earliest <= (last_change(state) or 0.0) <= latest:
            seen.add(task_id)
            yield TorrelqueTask(task_id, None, {}, state)


async def _read_times(queue: Torrelque, found: AsyncIterator[TorrelqueTask]) -> AsyncIterator[TorrelqueTask]:
    """Read when the tasks' claims end, or when they are due. Skip tasks that have left the queue."""

    async def read(at: int) -> None:
        with suppress(TorrelqueLookupError):
            read_tasks[at] = await queue.get_task(some[at].id)

    more = True
    while more:
        some = [task async for task in _take(found, PAGE)]
        more = len(some) == PAGE
        read_tasks: dict[int, TorrelqueTask] = {}
        async with anyio.create_task_group() as group:
            for at in range(len(some)):
                group.start_soon(read, at)
        for at in sorted(read_tasks):
            yield read_tasks[at]


async def _take(found: AsyncIterator[TorrelqueTask], count: int) -> AsyncIterator[TorrelqueTask]:
    async for task in found:
        yield task
        count -= 1
        if not count:
            return


async def _show(found: AsyncIterator[TorrelqueTask], shown: _Rows, limit: int) -> None:
    """Show the first tasks found on a terminal, the least recently changed one first."""
    rows: list[TorrelqueTask] = []
    more = False
    async for row in found:
        more = len(rows) == limit
        if more:
            break
        rows.append(row)
    table = make_table(*COLUMNS, right=('changed', 'tries'))
    for task in sorted(rows, key=lambda task: last_change(task.state) or 0.0):
        table.add_row(*shown.cells(task), style=STYLES[task.state.status])
    if rows:
        print_table(table, cut=4)
    remark = f'only {len(rows)} are shown: --limit shows more' if more else '' if rows else 'no such tasks'
    if remark:
        errors().print(remark, style='dim')
