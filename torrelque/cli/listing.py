"""The verb that lists tasks."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from torrelque import Torrelque, TorrelqueTaskState
from torrelque.cli.output import age, console, errors, make_table, print_json, print_line, printable
from torrelque.cli.settings import Settings
from torrelque.cli.states import STYLES, deliveries, last_change, state_fields
from torrelque.cli.values import TIME, Status, name_of, parse_time

__all__ = ('tasks',)

SCREENFUL = 100
"""Rows that a terminal shows without ``--limit``."""


async def tasks(
    settings: Settings,
    status: Annotated[
        Status | None, typer.Option('--status', '-s', show_default=False, help='Only those with this status.')
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar=TIME, parser=parse_time, show_default=False, help='Only those whose last change is so long ago.'
        ),
    ] = None,
    newer_than: Annotated[
        float | None,
        typer.Option(
            metavar=TIME, parser=parse_time, show_default=False, help='Only those whose last change is no longer ago.'
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            '--limit', '-n', min=1, metavar='N', show_default=False, help=f'At most so many; {SCREENFUL} on a terminal.'
        ),
    ] = None,
    *,
    ids: Annotated[bool, typer.Option('--ids', help='Only the ids, one a line.')] = False,
) -> None:
    """List tasks, in no order, read in bounded steps while the queue goes on.

    All that are queued, and the dead letters; with --status completed those
    whose result is kept. A task's last change is when it was last enqueued,
    delivered, requeued, rejected or completed, by the server's clock.
    """
    async with settings.open_known_queue() as queue:
        now = await queue.get_server_time()
        latest = math.inf if older_than is None else now - older_than
        earliest = -math.inf if newer_than is None else now - newer_than
        found = _find(queue, status, earliest, latest)
        if settings.json or ids:
            count = 0
            async for task_id, state in found:
                if ids:
                    print_line(printable(task_id))
                else:
                    print_json(state_fields(task_id, state))
                count += 1
                if count == limit:
                    break
        else:
            await _show(found, now, limit or (SCREENFUL if sys.stdout.isatty() else None))


async def _find(
    queue: Torrelque, status: Status | None, earliest: float, latest: float
) -> AsyncIterator[tuple[str, TorrelqueTaskState]]:
    """Each that is wanted once, though the library may find it more often."""
    seen: set[str] = set()
    async for task_id, state in queue.tasks(None if status is None else status.meant):
        if task_id not in seen and earliest <= (last_change(state) or 0.0) <= latest:
            seen.add(task_id)
            yield task_id, state


async def _show(found: AsyncIterator[tuple[str, TorrelqueTaskState]], now: float, limit: int | None) -> None:
    rows: list[tuple[str, TorrelqueTaskState]] = []
    more = False
    async for row in found:
        more = len(rows) == limit
        if more:
            break
        rows.append(row)
    table = make_table('id', 'status', 'changed', 'tries', 'note', right=('changed', 'tries'), cut='note')
    for task_id, state in sorted(rows, key=lambda row: last_change(row[1]) or 0.0):
        changed = last_change(state)
        table.add_row(
            printable(task_id),
            name_of(state.status),
            '' if changed is None else age(now - changed),
            deliveries(state),
            printable(state.reason or ''),
            style=STYLES[state.status],
        )
    if rows:
        console().print(table)
    remark = f'only {len(rows)} are shown: --limit shows more' if more else '' if rows else 'no such tasks'
    if remark:
        errors().print(remark, style='dim')
