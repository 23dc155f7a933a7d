"""Verbs that look at queues and change nothing."""

from __future__ import annotations

from torrelque import TorrelqueQueueStats
from torrelque import queues as find_queues
from torrelque.cli.output import age, console, errors, make_table, print_json, print_table, printable
from torrelque.cli.settings import Settings, UnreadableQueueError, read_stats

__all__ = ('queues', 'stats')


async def stats(settings: Settings) -> None:
    """Show how many tasks are where, and totals."""
    async with settings.open_known_queue() as queue:
        counts = await queue.get_queue_stats()
    if settings.json:
        print_json({'queue': settings.queue, **counts._asdict()})
        return
    table = make_table('', 'now', '', 'total', right=('now', 'total'))
    now = {'pending': counts.pending, 'working': counts.working, 'delayed': counts.delayed, 'rejected': counts.rejected}
    ever = [
        ('enqueued', counts.total_enqueued), ('claimed', counts.total_claimed), ('completed', counts.total_completed),
        ('requeued', counts.total_requeued), ('rejected', counts.total_rejected),
    ]  # fmt: skip
    for (name, count), (total_name, total) in zip([*now.items(), ('', None)], ever, strict=True):
        table.add_row(name, '' if count is None else f'{count:,}', total_name, f'{total:,}')
    out = console()
    out.print(f'queue {printable(settings.queue)}')
    out.print(table)
    if counts.oldest_pending_age is not None:
        out.print(f'The oldest pending task was enqueued {age(counts.oldest_pending_age)} ago.')


async def queues(settings: Settings) -> None:
    """List the queues on the server.

    Scans all keys of the database in bounded steps. Queues that only Torrelque
    0.9 has used are not found. What cannot be read as a queue is skipped with a
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
            print_json({'queue': name, **found[name]._asdict()})
        return
    if not found:
        errors().print('no queues', style='dim')
        return
    table = make_table(
        'queue', 'pending', 'working', 'delayed', 'rejected', 'oldest',
        right=('pending', 'working', 'delayed', 'rejected', 'oldest'),
    )  # fmt: skip
    for name in sorted(found):
        counts = found[name]
        numbers = (counts.pending, counts.working, counts.delayed, counts.rejected)
        table.add_row(printable(name), *(f'{number:,}' for number in numbers), age(counts.oldest_pending_age))
    print_table(table, cut=0)
