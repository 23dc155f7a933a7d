"""Verbs that keep a queue in order."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from torrelque.cli.exits import Exit
from torrelque.cli.output import console, print_json, print_line, printable
from torrelque.cli.settings import Settings

__all__ = ('audit', 'sweep')


async def sweep(settings: Settings) -> None:
    """Return stale and due tasks to pending.

    Consumers of Torrelque 1.0 do that by themselves when they wait. It also
    returns what consumers of 0.9 left half-claimed; that takes two sweeps.
    """
    async with settings.open_known_queue() as queue:
        stale, due, abandoned = await queue.sweep()
    if settings.json:
        print_json({'stale': stale, 'due': due, 'abandoned': abandoned})
    else:
        print_line(f'returned to pending: {stale:,} stale, {due:,} due, {abandoned:,} abandoned by 0.9')


async def audit(
    settings: Settings,
    *,
    repair: Annotated[
        bool, typer.Option('--repair', help='Repair what can be repaired without losing a task.')
    ] = False,
) -> int:
    """Check that everything in the queue is as it should be.

    Runs while the queue is used, in bounded steps. Exit status 1 if something
    is not as it should be and was not repaired.
    """
    async with settings.open_known_queue() as queue:
        violations = await queue.audit(repair=repair)
    left = sum(not violation.repaired for violation in violations)
    out = console()
    for found in violations:
        if settings.json:
            fields = ('kind', 'key', 'task_id', 'detail', 'repaired')
            print_json({name: getattr(found, name) for name in fields})
            continue
        line = Text(f'{found.kind:9} ', style='green' if found.repaired else 'red')
        line.append(printable(found.key), style='bold')
        line.append(f': {printable(found.detail)}', style='default')
        line.append(' (repaired)' if found.repaired else '')
        out.print(line, soft_wrap=True)
    if not settings.json:
        count = f'{left:,} violation{"" if left == 1 else "s"}'
        print_line(f'{len(violations) - left:,} repaired, {count} left' if repair else count)
    return Exit.NEGATIVE if left else Exit.OK
