"""``python -m docs.screenshots [folder]``: the pictures of `torrelque top` in the documentation.

A real server, real queues under a load of some seconds, and the application without a terminal.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from torrelque import EnqueueItem, Torrelque, Transport, connect
from torrelque.cli.top.app import TopApp
from torrelque.embedded import EmbeddedServer

IMAGES = Path(__file__).parent / 'images'
SIZE = 120, 34
SECONDS = 14.0
SHOWN_AS = 'redis://queues.example:6379'


class Load(NamedTuple):
    """What happens to a queue a second; ``swing`` is how much more and less is enqueued in turn."""

    name: str
    enqueued: float
    taken: float
    swing: float = 0.5
    backlog: int = 0
    rejected: float = 0.0
    delayed: float = 0.0
    groups: int = 0


LOADS = (
    Load('email', 140, 150, 0.8, rejected=0.01, delayed=0.1),
    Load('image-thumbnails', 60, 96, 0.3, backlog=900),
    Load('invoices', 12, 14, delayed=0.5),
    Load('search-index', 320, 240, 0.4, backlog=14_000, groups=12),
    Load('webhooks', 90, 120, 1.0, rejected=0.06, delayed=0.25),
)
REASONS = (
    'TimeoutError: no answer within 30 s',
    'HTTPError: 410 Gone from https://shop.example/hooks/orders',
    'ConnectError: [Errno -2] Name or service not known',
    'ValidationError: amount: must not be negative',
)


def make_task(number: int) -> dict[str, object]:
    return {
        'url': 'https://shop.example/hooks/orders',
        'event': 'order.paid',
        'order': {'id': 48_213 + number, 'total': '119.90', 'currency': 'EUR', 'customer': 'Zoë Müller'},
        'sent_at': f'2026-03-0{number % 9 + 1}T10:{number % 60:02d}:07Z',
    }


def group_of(load: Load, number: int) -> str | None:
    return f'shop-{number % load.groups}' if load.groups else None


async def control(client: Transport) -> None:
    """Limit and schedule tasks of one queue, and pause another."""
    busy, paused = Torrelque(client, queue='search-index'), Torrelque(client, queue='invoices')
    await busy.limit(concurrency=60)
    await busy.schedule('nightly', {'kind': 'full'}, cron='30 2 * * *', tz='Europe/Vienna')
    await busy.announce('1', name='indexer-1', concurrency=60, running=12)
    await paused.pause('migration 114')


async def work(queue: Torrelque, load: Load, *, seed: int) -> None:
    """Be the producers and workers of one queue."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    loop = asyncio.get_running_loop()
    await queue.enqueue_many(
        EnqueueItem(make_task(number), group=group_of(load, number)) for number in range(load.backlog)
    )
    begun, last = loop.time(), loop.time() - 0.07
    owed_in = owed_out = 0.0
    number = 0
    while True:
        now = loop.time()
        wave = 1 + load.swing * math.sin((now - begun) * 1.3 + seed) * chance.uniform(0.6, 1)
        owed_in += load.enqueued * wave * (now - last)
        owed_out += load.taken * chance.uniform(0.7, 1.1) * (now - last)
        last = now
        items = []
        for _ in range(int(owed_in)):
            number += 1
            delay = chance.uniform(5, 300) if chance.random() < load.delayed else None
            headers = {'tenant': 'shop-7', 'traceparent': f'00-{chance.getrandbits(128):032x}-00f067aa0ba902b7-01'}
            group = group_of(load, number)
            items.append(EnqueueItem(make_task(number), delay=delay, max_dequeues=5, headers=headers, group=group))
        await queue.enqueue_many(items)
        tasks = await queue.dequeue_nowait(max_tasks=int(owed_out)) if owed_out >= 1 else []
        owed_in, owed_out = owed_in % 1, owed_out % 1
        await asyncio.sleep(0.07)
        failed = [task for task in tasks if chance.random() < load.rejected]
        for task in failed:
            await queue.reject(task, chance.choice(REASONS))
        await queue.release_many(task for task in tasks if task not in failed)


@asynccontextmanager
async def loaded(client: Transport) -> AsyncIterator[None]:
    """Queues at work."""
    workers = [
        asyncio.create_task(work(Torrelque(client, queue=load.name), load, seed=seed))
        for seed, load in enumerate(LOADS)
    ]
    try:
        yield
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


def save(app: TopApp, folder: Path, name: str) -> None:
    svg = re.sub(r'@font-face \{[^}]*\}\s*', '', app.export_screenshot())  # fonts from elsewhere
    (folder / f'{name}.svg').write_text(svg, encoding='utf-8')


async def take(folder: Path) -> None:
    with EmbeddedServer() as server:
        async with connect(server.url) as client, loaded(client):
            app = TopApp(server.url, interval=SECONDS / 120)
            app.server = SHOWN_AS
            async with app.run_test(size=SIZE) as pilot:
                await pilot.pause(SECONDS)
                await control(client)
                await pilot.pause(6.0)
                await pilot.press(*['up'] * len(LOADS), 'down', 'down', 'down')
                await pilot.pause(1.5)
                save(app, folder, 'top')
                await pilot.press('down', 'enter', '4')
                await pilot.pause(1.5)
                save(app, folder, 'top-tasks')
                await pilot.press('down', 'enter')
                await pilot.pause(1.5)
                save(app, folder, 'top-task')


if __name__ == '__main__':
    asyncio.run(take(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
