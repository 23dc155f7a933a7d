"""What flow control costs: the lifecycle of a task on a queue that uses a feature, beside that of a plain task.

All take turns in one process with one server, so other load on the machine disturbs all alike. To measure another
feature, add it to `FEATURES`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

import anyio

import torrelque
from benchmarks.metering import Meter, ServerInfo
from benchmarks.plan import PIP
from benchmarks.rows import Settings, call_for
from benchmarks.systems import make_payload
from tests import servers
from torrelque import EnqueueItem, Task, Torrelque

__all__ = ('FEATURES', 'Feature', 'measure', 'table')

TURNS, QUICK_TURNS = 40, 8
SETTINGS = {'seconds': 0.3, 'warm_up': 0.05}
MANY = 1_000_000
"""A limit that is never reached."""

FEW_GROUPS, BLOCKED = 10, 100_000
"""Groups that are served, and groups with waiting tasks beside them that are not."""


async def nothing(_: Torrelque) -> None:
    """Leave the queue as it is."""


async def release(queue: Torrelque, task: Task) -> None:
    await queue.release(task)


async def end(queue: Torrelque, task: Task) -> None:
    await queue.cancel(task.id, running='end')


async def ask(queue: Torrelque) -> None:
    await queue.enqueue('a')
    task = await queue.dequeue()
    await queue.cancel(task.id, running='ask')
    await queue.giveback(task)


async def limit_each(queue: Torrelque) -> None:
    for group in range(FEW_GROUPS):
        await queue.limit(group=f'{group}', concurrency=MANY)


async def block_groups(queue: Torrelque) -> None:
    """Add groups at their limit, unless an earlier turn did."""
    counts = (await queue.get_queue_stats()).groups
    if counts is None or not counts.blocked:
        await limit_each(queue)
        await queue.limit(group='*', concurrency=0)
        for _ in range(4):  # claims look for groups that the new limit concerns, while there are none
            await queue.dequeue_nowait()
        await queue.enqueue_many([EnqueueItem('x', group=f'blocked-{number}') for number in range(BLOCKED)])


@dataclass(frozen=True)
class Feature:
    """One row of the table.

    Attributes:
        name: What the row is called.
        prepare: Called with the new queue.
        options: Keyword arguments of each ``enqueue``.
        numbered: Whether the caller chooses the ids.
        groups: Over how many groups the tasks are spread.
        finish: What the consumer does with a task.
        database: The server's database, which keeps what it has from turn to turn unless it is 0.
        against: Another row, with which the server's CPU is compared below the table.
    """

    name: str
    prepare: Callable[[Torrelque], Awaitable[object]] = nothing
    options: Mapping[str, Any] = field(default_factory=dict)
    numbered: bool = False
    groups: int = 0
    finish: Callable[[Torrelque, Task], Awaitable[object]] = release
    database: int = 0
    against: str = ''


FEATURES: Sequence[Feature] = (
    Feature('a plain task'),
    Feature('an id of its own', numbered=True),
    Feature('`replace=True`', numbered=True, options={'replace': True}),
    Feature('`expires_in=3600`', options={'expires_in': 3600}),
    Feature('`limit(concurrency=)`', lambda queue: queue.limit(concurrency=MANY)),
    Feature('`limit(rate=)`', lambda queue: queue.limit(rate=(MANY, 1))),
    Feature('both limits', lambda queue: queue.limit(concurrency=MANY, rate=(MANY, 1))),
    Feature("after a `cancel(running='ask')`", ask),
    Feature("ended by `cancel(running='end')`", finish=end),
    Feature("`priority='high'`", options={'priority': 'high'}),
    Feature('`group=`, 1,000 groups', groups=1000),
    Feature(
        "the same with `limit(group='*', concurrency=)`",
        lambda queue: queue.limit(group='*', concurrency=MANY),
        groups=1000,
    ),
    Feature(
        "the same with `limit(group='*', ordered=True)`",
        lambda queue: queue.limit(group='*', ordered=True),
        groups=1000,
    ),
    Feature(f'the same, {FEW_GROUPS} groups with limits', limit_each, groups=FEW_GROUPS),
    Feature(
        f'the same beside {BLOCKED:,} blocked groups',
        block_groups,
        groups=FEW_GROUPS,
        database=1,
        against=f'the same, {FEW_GROUPS} groups with limits',
    ),
    Feature('a plain task beside a schedule', lambda queue: queue.schedule('hourly', task={}, every=3600)),
)
"""The first is what the others are compared with. No limit is reached: what is measured is looking at it."""

Result = dict[str, float]


async def _lifecycles(url: str, info: ServerInfo, feature: Feature, settings: Settings) -> Result:
    """As the row lifecycle-single."""
    task, numbers = make_payload(), count()
    async with torrelque.connect(f'{url}/{feature.database}') as client, Torrelque(client) as queue:
        await feature.prepare(queue)

        async def call() -> int:
            number = next(numbers)
            task_id = f'{number}' if feature.numbered else None
            group = f'{number % feature.groups}' if feature.groups else None
            await queue.enqueue(task, task_id=task_id, group=group, **feature.options)
            await feature.finish(queue, await queue.dequeue())
            return 1

        return await call_for(settings, call, Meter(info))


def measure(
    turns: int, features: Sequence[Feature] = FEATURES, settings: Settings = SETTINGS
) -> dict[str, list[Result]]:
    """Measure each feature once in each turn, in one direction and then in the other."""
    found: dict[str, list[Result]] = {feature.name: [] for feature in features}
    server = servers.start(PIP)
    try:
        with ServerInfo(server.url) as info:
            for turn in range(turns):
                for feature in features if turn % 2 else reversed(features):
                    info.flush()
                    arguments = server.url, info, feature, settings
                    result = anyio.run(_lifecycles, *arguments, backend_options={'use_uvloop': True})
                    found[feature.name].append(result)
    finally:
        server.close()
    return found


def table(found: Mapping[str, Sequence[Result]]) -> str:
    """Return what was measured as a table in Markdown. Ratios are the medians of those within each turn."""
    plain = next(iter(found.values()))
    lines = [
        '| task | tasks a second | client CPU, µs | x plain | server CPU, µs | x plain |',
        '|---|--:|--:|--:|--:|--:|',
    ]
    for name, results in found.items():
        cells = [f'{median(result["rate"] for result in results):,.0f}']
        for part in ('client_us', 'server_us'):
            cells.append(f'{median(result[part] for result in results):.1f}')
            cells.append(f'{median(new[part] / old[part] for new, old in zip(results, plain, strict=True)):.2f}')
        lines.append(f'| {name} | {" | ".join(cells)} |')
    for feature in FEATURES:
        if feature.against and feature.name in found:
            pairs = zip(found[feature.name], found[feature.against], strict=True)
            ratio = median(new['server_us'] / old['server_us'] for new, old in pairs)
            name = feature.name.removeprefix('the same ')
            lines += ['', f'A task in a group {name} costs the server {ratio:.2f} times as much as without them.']
    return '\n'.join(lines) + '\n'
