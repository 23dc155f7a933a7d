"""How long large calls delay others: ``python -m benchmarks.neighbours``.

A caller enqueues one small task after another, 5 ms apart, on the same connection. The table has its latencies alone,
while another task enqueues 100,000 tasks in one call, and while others enqueue payloads of 16 MB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Awaitable, Callable

import anyio

from tests.servers import start
from torrelque import Torrelque, connect

MANY = 100_000
LARGE = 16_000_000
TIMES = 5
PAUSE = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.neighbours', description=__doc__)
    parser.add_argument('--server', default='valkey-9.1', help='kind of server, as in tests/servers.py (%(default)s)')
    parser.add_argument('--asyncio', action='store_true', help="asyncio's own event loop instead of uvloop")
    options = parser.parse_args()
    server = start(options.server)
    try:
        anyio.run(_compare, server.url, backend='asyncio', backend_options={'use_uvloop': not options.asyncio})
    finally:
        server.close()


async def _compare(url: str) -> None:
    small, large = [{'n': number} for number in range(MANY)], 'x' * LARGE
    async with (
        connect(url) as client,
        Torrelque(client, queue='many') as queue,
        Torrelque(client, queue='large') as payloads,
        Torrelque(client, queue='small') as own,
    ):
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            'nothing': lambda: anyio.sleep(1),
            f'{MANY:,} tasks in one call': lambda: queue.enqueue_many(small),
            f'a payload of {LARGE:,} bytes': lambda: payloads.enqueue(large),
            'delivering that payload': payloads.dequeue_nowait,
        }
        print('| beside | takes, ms | p50 of others, ms | p99 | longest |')
        print('|---|--:|--:|--:|--:|')
        for name, act in acts.items():
            taken, latencies = list[float](), list[float]()
            for _ in range(TIMES if 'payload' in name else 1):
                async with anyio.create_task_group() as group:
                    group.start_soon(_watch, own, latencies)
                    began = time.perf_counter()
                    await act()
                    taken.append(time.perf_counter() - began)
                    group.cancel_scope.cancel()
            print(f'| {name} | {statistics.median(taken) * 1e3:.0f} | {_row(latencies)} |')


async def _watch(queue: Torrelque, latencies: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await queue.enqueue('small')
        latencies.append(time.perf_counter() - began)
        await anyio.sleep(PAUSE)


def _row(latencies: list[float]) -> str:
    ordered = sorted(latencies)
    values = (statistics.median(ordered), ordered[len(ordered) * 99 // 100], ordered[-1])
    return ' | '.join(f'{value * 1e3:.1f}' for value in values)


if __name__ == '__main__':
    main()
