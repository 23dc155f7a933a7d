"""Commands that maintain or delete a queue."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import anyio
import typer
from rich.text import Text

from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.output import console, counted, print_json, print_line, printable
from torrelque.cli.params import confirm, parse_rate, time_option
from torrelque.cli.settings import Settings
from torrelque.cli.states import limits_text

__all__ = ('audit', 'delete', 'limit', 'pause', 'reshard', 'resume', 'sweep')


class Dead(Enum):
    """Values of ``dead`` in `Torrelque.limit`."""

    HOLD = 'hold'
    PASS = 'pass'  # noqa: S105 - no password


async def pause(
    settings: Settings,
    *,
    reason: Annotated[
        str | None,
        typer.Option('--reason', '-r', metavar='TEXT', show_default=False, help='The reason, shown with the queue.'),
    ] = None,
    lasting: Annotated[float | None, time_option('Resume the queue after this time.', '--for')] = None,
    wait: Annotated[bool, typer.Option('--wait', help='Wait until no task is running.')] = False,
    timeout: Annotated[float | None, time_option('With --wait: stop waiting after this time.')] = None,
) -> None:
    """Pause the queue: consumers get no tasks until it is resumed.

    Running tasks continue, and tasks can be enqueued. The pause survives restarts.
    """
    if timeout is not None and not wait:
        raise Refusal('--timeout needs --wait', Exit.USAGE)
    async with settings.open_known_queue() as queue:
        until = None if lasting is None else await queue.get_server_time() + lasting
        await queue.pause(reason, until=until, wait=wait, timeout=timeout)
    if settings.json:
        print_json({'queue': settings.queue, 'paused': True, 'until': until})
    else:
        idle = '; no task is running' if wait else ''
        print_line(f'paused queue {printable(settings.queue)}{idle}')


async def resume(settings: Settings) -> None:
    """Resume a paused queue. Consumers get tasks again at once."""
    async with settings.open_known_queue() as queue:
        await queue.resume()
    if settings.json:
        print_json({'queue': settings.queue, 'paused': False})
    else:
        print_line(f'resumed queue {printable(settings.queue)}')


async def limit(
    settings: Settings,
    *,
    group: Annotated[
        str | None,
        typer.Option(
            '--group', '-g', metavar='NAME', show_default=False, help="A group; '*' is the default for each group."
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar='N', show_default=False, help='How many tasks may run at once.')
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(metavar='N/TIME', show_default=False, help='How many may start in a time, such as 100/1m.'),
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(metavar='N', show_default=False, help='With --rate: how many may start at once.'),
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option(
            metavar='N', show_default=False, help='With --group: its share, compared with that of other groups.'
        ),
    ] = None,
    ordered: Annotated[
        bool | None,
        typer.Option(
            '--ordered/--unordered', show_default=False, help='With --group: whether one task runs at a time, in order.'
        ),
    ] = None,
    dead: Annotated[
        Dead | None,
        typer.Option(show_default=False, help='With --group: whether dead letters hold the group. Defaults to pass.'),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option('--strict', show_default=False, help='Serve a lower priority only if no higher one waits.'),
    ] = None,
    none: Annotated[bool, typer.Option('--none', help='Remove all limits of the queue, or of the group.')] = False,
) -> None:
    """Set the limits of the queue or of a group, or show them.

    The limits hold for all consumers together, and survive restarts. Each call
    sets all limits: those that it does not name are removed. Running tasks continue.
    What the limits of a group do not name is as in the default of each group.
    """
    options: dict[str, Any] = {
        'concurrency': concurrency,
        'rate': None if rate is None else parse_rate(rate),
        'burst': burst,
        'weight': weight,
        'ordered': ordered,
        'dead': None if dead is None else dead.value,
        'strict': strict,
    }
    given = any(value is not None for value in options.values())
    if given and none:
        raise Refusal('--none goes with no option but --group', Exit.USAGE)
    async with settings.open_known_queue() as queue:
        if given or none:
            await queue.limit(group=group, **options)
        limits = await queue.limits(group)
    if settings.json:
        print_json({'queue': settings.queue, 'group': group, **limits._asdict()})
    else:
        of = '' if group is None else f', group {printable(group)}'
        print_line(f'queue {printable(settings.queue)}{of}: {limits_text(limits) or "no limits"}')


async def sweep(settings: Settings) -> None:
    """Return stale and due tasks to pending; end expired ones.

    Waiting consumers of Torrelque 1.0 do this anyway. A sweep also
    returns tasks that consumers of 0.9 left half-claimed; that takes two sweeps.
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
    repair: Annotated[bool, typer.Option('--repair', help='Repair violations where no task can be lost.')] = False,
) -> int:
    """Check the queue's invariants and print the violations.

    Runs in bounded steps while the queue is in use. The exit status is 1 if
    violations remain.
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
        count = counted(left, 'violation')
        print_line(f'{len(violations) - left:,} repaired, {count} left' if repair else count)
    return Exit.NEGATIVE if left else Exit.OK


async def reshard(
    settings: Settings,
    number: Annotated[
        int, typer.Argument(min=1, max=1000, metavar='N', show_default=False, help='The new number of shards.')
    ],
) -> int:
    """Change the number of shards while the queue is in use.

    Queued tasks stay where they are until they are done. The exit status is 1
    while any are left on their former shards: repeat the command with the same
    N until it is 0.
    """
    async with settings.open_queue() as queue:
        if queue.shards is None:
            raise Refusal(f'queue {settings.queue!r} has no shards, or there is none on this server')
        drained = await queue.reshard(number)
    if settings.json:
        print_json({'queue': settings.queue, 'shards': number, 'drained': drained})
    else:
        left = 'no tasks are' if drained else 'some tasks are still'
        print_line(f'queue {printable(settings.queue)} has {counted(number, "shard")}; {left} on former shards')
    return Exit.OK if drained else Exit.NEGATIVE


def delete(
    settings: Settings,
    queue: Annotated[str, typer.Argument(metavar='QUEUE', show_default=False, help='The queue to delete.')],
    *,
    force: Annotated[
        bool, typer.Option('--force', help='Delete its tasks, dead letters and schedules as well.')
    ] = False,
    yes: Annotated[bool, typer.Option('--yes', '-y', help='Do not ask for confirmation.')] = False,
) -> None:
    """Delete a queue and its results, after asking.

    Stop its producers and consumers first. Without --force, a queue with tasks,
    dead letters or schedules is not deleted, and the exit status is 1. It is
    also 1 if you answer no.
    """
    settings = settings.with_options(queue=queue)
    held = '' if yes and force else anyio.run(_held, settings, force)
    if not yes:  # outside the event loop, in which Ctrl-C would wait for the answer
        confirm(f'Delete queue {queue!r}{f" with {held}" if held else ""}?')
    anyio.run(_delete, settings, force)
    if settings.json:
        print_json({'deleted': queue})
    else:
        print_line(f'deleted queue {printable(queue)}')


async def _held(settings: Settings, force: bool) -> str:
    """Return what the queue holds, empty for nothing. Raises Refusal if that prevents the deletion."""
    async with settings.open_known_queue() as queue:
        stats = await queue.get_queue_stats()
    tasks, counts = stats.tasks + stats.rejected, []
    if tasks:
        counts.append(f'{tasks:,} {"task or dead letter" if tasks == 1 else "tasks and dead letters"}')
    if stats.schedules:
        counts.append(counted(stats.schedules, 'schedule'))
    held = ' and '.join(counts)
    if held and not force:
        raise Refusal(f'queue {settings.queue!r} has {held}: --force deletes them as well')
    return held


async def _delete(settings: Settings, force: bool) -> None:
    async with settings.open_known_queue() as queue:
        await queue.delete(force=force)
