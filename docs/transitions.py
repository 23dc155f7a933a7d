"""``python -m docs.transitions``: what each call makes of a task, for the page about the data model.

Each is carried out on a task of each status, over the model of the server; what comes out is the table.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import anyio

from torrelque import Torrelque, TorrelqueError
from torrelque.testing import MemoryTransport, VirtualClock

__all__ = ('render',)

LEASE = 60
Step = Callable[[Torrelque, VirtualClock], Awaitable[object]]


async def _claim(queue: Torrelque, _clock: VirtualClock) -> object:
    return await queue.dequeue_nowait()


async def _enqueue(queue: Torrelque, limit: int | None = None, delay: float | None = None) -> object:
    return await queue.enqueue('payload', task_id='t', task_timeout=LEASE, delay=delay, max_dequeues=limit)


async def _replace(queue: Torrelque, delay: float | None = None) -> object:
    return await queue.enqueue('new', task_id='t', task_timeout=LEASE, delay=delay, replace=True)


async def _claimed(queue: Torrelque) -> str:
    await _enqueue(queue, limit=1)
    (task,) = await queue.dequeue_nowait()
    return str(task.id)


async def _completed(queue: Torrelque) -> None:
    await queue.release(await _claimed(queue), result='done')


async def _rejected(queue: Torrelque) -> None:
    await queue.reject(await _claimed(queue), 'why')


async def _nothing(_queue: Torrelque) -> None:
    pass


STATUSES: Mapping[str, Callable[[Torrelque], Awaitable[object]]] = {
    'none': _nothing,
    'pending': _enqueue,
    'working': _claimed,
    'delayed': lambda queue: _enqueue(queue, delay=LEASE),
    'completed': _completed,
    'rejected': _rejected,
}
"""How a task comes to have a status. One that is worked on may not be delivered again."""

STEPS: Mapping[str, Step] = {
    '`enqueue`': lambda queue, _: _enqueue(queue),
    '`enqueue`, with a delay': lambda queue, _: _enqueue(queue, delay=LEASE),
    '`enqueue`, to replace': lambda queue, _: _replace(queue),
    '`enqueue`, to replace, with a delay': lambda queue, _: _replace(queue, delay=LEASE),
    '`dequeue`': _claim,
    '`extend`': lambda queue, _: queue.extend('t'),
    '`release`': lambda queue, _: queue.release('t'),
    '`release`, with a result': lambda queue, _: queue.release('t', result='done'),
    '`requeue`': lambda queue, _: queue.requeue('t'),
    '`requeue`, with a delay': lambda queue, _: queue.requeue('t', delay=LEASE),
    '`giveback`': lambda queue, _: queue.giveback('t'),
    '`reject`': lambda queue, _: queue.reject('t', 'why'),
    '`cancel`': lambda queue, _: queue.cancel('t'),
    "`cancel`, `running='end'`": lambda queue, _: queue.cancel('t', running='end'),
    '`redrive`': lambda queue, _: queue.redrive('t'),
    '`purge`': lambda queue, _: queue.purge('t'),
    'it is due, or its lease ends': lambda queue, clock: _in_time(queue, clock, limited=False),
    'its lease ends, at its limit': lambda queue, clock: _in_time(queue, clock, limited=True),
}


async def _in_time(queue: Torrelque, clock: VirtualClock, *, limited: bool) -> object:
    """What a sweep does, or a consumer that waits, when the task's time has come."""
    working = (await queue.get_task_state('t')).status.name == 'WORKING'
    if limited and not working:
        return None
    if working and not limited:  # the same, with deliveries left
        await queue.giveback('t')
        await queue.cancel('t')
        await _enqueue(queue)
        await queue.dequeue_nowait()
    await clock.advance(LEASE)
    return await queue.sweep()


async def _status(queue: Torrelque) -> str:
    try:
        return (await queue.get_task_state('t')).status.name.lower()
    except TorrelqueError:
        return 'none'


async def _table() -> dict[str, dict[str, str]]:
    """Step -> status before -> status after."""
    table: dict[str, dict[str, str]] = {}
    for name, step in STEPS.items():
        row = table[name] = {}
        for before, prepare in STATUSES.items():
            clock = VirtualClock()
            async with Torrelque(MemoryTransport(clock=clock)) as queue:
                await prepare(queue)
                assert await _status(queue) == before  # noqa: S101 - else the table would lie
                with suppress(TorrelqueError):  # most are refused in most statuses
                    await step(queue, clock)
                row[before] = await _status(queue)
    return table


def render() -> str:
    """A drawing of the transitions, and the table of all steps and statuses, in Markdown."""
    logger = logging.getLogger('torrelque')
    quiet = logging.NullHandler()
    logger.addHandler(quiet)
    try:
        table = anyio.run(_table)
    finally:
        logger.removeHandler(quiet)
    return f'```text\n{_drawing(table)}```\n\n{_markdown(table)}'


def _drawing(table: Mapping[str, Mapping[str, str]]) -> str:
    """An arrow from each status to each that it can change to, and the steps that do it."""
    drawing = ''
    for before in STATUSES:
        steps: dict[str, list[str]] = {}
        for name, row in table.items():
            if row[before] != before:
                steps.setdefault(row[before], []).append(name.replace('`', ''))
        for number, (after, names) in enumerate(steps.items()):
            start = f'{before:9} --' if number == 0 else f'{"":9} |-'
            drawing += f'{start}-> {after:9}  {"; ".join(names)}\n'
    return drawing


def _markdown(table: Mapping[str, Mapping[str, str]]) -> str:
    lines = [f'| | {" | ".join(STATUSES)} |', f'|---|{"---|" * len(STATUSES)}']
    for name, row in table.items():
        cells = ['' if after == before else f'**{after}**' for before, after in row.items()]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    sys.stdout.write(render())
