"""What more shards and more servers cost: ``python -m benchmarks.scale``.

One process enqueues and works off tasks with single calls, 50 at a time, and
then idles, over a cluster of 1, 2 and 3 primaries and a queue of 1, 4 and 16
shards, or as many as you like. Costs are CPU times that the servers and the process account for
themselves, so a busy machine disturbs them little. Layouts take turns, several rounds;
medians, also of the ratios to the first layout with shards within each round.

``--many 1000`` measures instead what an object with as many empty shards on one server
pays: for a survey, an audit, a listing of completed tasks, and a lone task.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar

import anyio

from tests.clusters import Cluster
from tests.servers import start
from torrelque import Torrelque, TorrelqueTaskStatus, connect

T = TypeVar('T')

CALLERS = 50
SLICE = 8.0
IDLE_SLICES = 2
REST = 2.0
"""Seconds over which a node's own doings are measured, what it does without any client: they are taken off."""

WARM = 5 * CALLERS
"""Tasks for each shard or node before it is measured."""

PAYLOAD = {'to': 'someone@example.org', 'template': 'welcome', 'n': 12345}
COMMANDS_OF_AN_IDLE_CONSUMER = ('evalsha', 'bzpopmin')


class Layout(NamedTuple):
    nodes: int
    shards: int | None

    def __str__(self) -> str:
        shards = 'plain' if self.shards is None else f'{self.shards} shards'
        return f'{self.nodes} node{"s"[: self.nodes > 1]}, {shards}'


class Costs(NamedTuple):
    """CPU a task, in microseconds; tasks of the busiest and the idlest node by the mean; commands of an idle slice."""

    server: float
    client: float
    most: float
    least: float
    idle: float


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.scale', description=__doc__)
    parser.add_argument('--server', default='valkey-9.1', help='kind of server, as in tests/servers.py (%(default)s)')
    parser.add_argument('--nodes', type=int, nargs='+', default=[1, 2, 3], help='primaries (1 2 3)')
    parser.add_argument('--shards', type=int, nargs='+', default=[1, 4, 16], help='on each of these (1 4 16)')
    parser.add_argument('--tasks', type=int, default=20_000, help='in each round (%(default)s)')
    parser.add_argument('--rounds', type=int, default=3, help='(%(default)s)')
    parser.add_argument('--no-idle', action='store_true', help='leave out the idle slices, which take 16 s a layout')
    parser.add_argument('--many', type=int, metavar='SHARDS', help='measure a queue of as many shards on one server')
    options = parser.parse_args()
    if options.many:
        _run(_many, options.server, options.many)
        return
    layouts = [Layout(1, None)] if 1 in options.nodes else []
    layouts += itertools.starmap(Layout, itertools.product(options.nodes, options.shards))
    found: dict[Layout, list[Costs]] = {layout: [] for layout in layouts}
    clusters = {nodes: Cluster(options.server, primaries=nodes) for nodes in options.nodes}
    try:
        for number in range(options.rounds):
            for layout in layouts:
                idle = not options.no_idle and not number
                found[layout].append(_run(_measure, clusters[layout.nodes], layout, options.tasks, idle))
                print(layout, json.dumps(found[layout][-1]._asdict()), flush=True)
    finally:
        for cluster in clusters.values():
            cluster.close()
    print(_table(found))


def _run(function: Callable[..., Awaitable[T]], *args: object) -> T:
    return anyio.run(function, *args, backend='asyncio', backend_options={'use_uvloop': True})


async def _many(kind: str, shards: int) -> None:
    """Print the median time, and CPU of both sides, of what a queue object with many shards does."""
    server = start(kind)
    try:
        async with connect(server.url) as client, Torrelque(client, queue='scale', shards=shards) as queue:

            async def completed() -> None:
                async for _ in queue.tasks(status=TorrelqueTaskStatus.COMPLETED):
                    raise AssertionError

            async def lifecycle() -> None:
                await queue.enqueue(PAYLOAD)
                await queue.release(await queue.dequeue())

            acts: dict[str, tuple[int, Callable[[], Awaitable[object]]]] = {
                'survey (dequeue_nowait)': (200, queue.dequeue_nowait),
                'audit': (3, queue.audit),
                'tasks(status=COMPLETED)': (3, completed),
                'enqueue': (500, partial(queue.enqueue, PAYLOAD)),
                'lifecycle of a lone task': (500, lifecycle),
            }
            print(f'| {shards} shards | ms | client CPU, µs | server CPU, µs | server, µs by commandstats | SCANs |')
            print('|---|--:|--:|--:|--:|--:|')
            for name, (times, act) in acts.items():
                await act()
                before, own, times_taken = server.info(), time.process_time(), []
                for _ in range(times):
                    began = time.perf_counter()
                    await act()
                    times_taken.append(time.perf_counter() - began)
                own, after = time.process_time() - own, server.info()
                cpu = sum(
                    float(after[f'used_cpu_{part}']) - float(before[f'used_cpu_{part}']) for part in ('user', 'sys')
                )
                usec, scans = (_grown(before, after, *each) for each in (('evalsha', 'usec'), ('scan', 'calls')))
                print(
                    f'| {name} | {statistics.median(times_taken) * 1e3:.3f} | {own / times * 1e6:.0f} '
                    f'| {cpu / times * 1e6:.0f} | {usec / times:.0f} | {scans / times:.0f} |'
                )
    finally:
        server.close()


def _grown(before: dict[str, str], after: dict[str, str], command: str, figure: str) -> int:
    """By how much a figure of a command in `INFO commandstats` has grown."""

    def value(info: dict[str, str]) -> int:
        text = info.get(f'cmdstat_{command}', '')
        return int(dict(each.split('=') for each in text.split(',') if each).get(figure, 0))

    return value(after) - value(before)


async def _measure(cluster: Cluster, layout: Layout, tasks: int, idle: bool) -> Costs:
    cluster.flush()
    commands = float('nan')
    async with (
        connect(f'redis+cluster://{cluster.hosts}') as client,
        Torrelque(client, queue='scale', shards=layout.shards) as queue,
    ):
        await _lifecycles(queue, WARM * max(layout.shards or 1, layout.nodes, 4))  # scripts loaded, lanes made
        at_rest, _, _ = await _used(cluster, lambda: anyio.sleep(REST))
        used, own, seconds = await _used(cluster, lambda: _lifecycles(queue, tasks))
        used = [busy - rest / REST * seconds for busy, rest in zip(used, at_rest, strict=True)]
        mean = statistics.mean(used)
        if idle:
            commands = await _idle(cluster, queue)
    return Costs(sum(used) / tasks * 1e6, own / tasks * 1e6, max(used) / mean, min(used) / mean, commands)


async def _used(cluster: Cluster, act: Callable[[], Awaitable[object]]) -> tuple[list[float], float, float]:
    """Seconds of CPU of each node and of this process, and of time, that something takes."""
    before, own, began = _server_cpu(cluster), time.process_time(), time.monotonic()
    await act()
    seconds, own = time.monotonic() - began, time.process_time() - own
    return [after - earlier for after, earlier in zip(_server_cpu(cluster), before, strict=True)], own, seconds


async def _lifecycles(queue: Torrelque, tasks: int) -> None:
    await _crowd(tasks, lambda: queue.enqueue(PAYLOAD))

    async def work() -> None:
        await queue.release(await queue.dequeue())

    await _crowd(tasks, work)


async def _crowd(times: int, act: Callable[[], Awaitable[object]]) -> None:
    async def many() -> None:
        for _ in range(times // CALLERS):
            await act()

    async with anyio.create_task_group() as group:
        for _ in range(CALLERS):
            group.start_soon(many)


async def _idle(cluster: Cluster, queue: Torrelque) -> float:
    """Commands a slice of one who waits and gets nothing."""
    commands = 0
    async with anyio.create_task_group() as group:
        group.start_soon(queue.dequeue)
        await anyio.sleep(0.5)
        commands -= _commands(cluster)
        await anyio.sleep(SLICE * IDLE_SLICES)
        commands += _commands(cluster)
        group.cancel_scope.cancel()
    return commands / IDLE_SLICES


def _server_cpu(cluster: Cluster) -> list[float]:
    infos = [node.info('cpu') for node in cluster.nodes]
    return [float(info['used_cpu_user']) + float(info['used_cpu_sys']) for info in infos]


def _commands(cluster: Cluster) -> int:
    total = 0
    for node in cluster.nodes:
        stats = node.info('commandstats')
        for name in COMMANDS_OF_AN_IDLE_CONSUMER:
            text = stats.get(f'cmdstat_{name}', 'calls=0,')
            total += int(text.partition('calls=')[2].partition(',')[0])
    return total


def _table(found: dict[Layout, list[Costs]]) -> str:
    heads = ['nodes', 'shards', 'server CPU a task, µs', 'to the first', 'client CPU, µs', 'to the first']
    heads += ['busiest / idlest node', 'commands an idle slice']
    lines = [f'| {" | ".join(heads)} |', '|--:' * len(heads) + '|']
    first = next(each for layout, each in found.items() if layout.shards is not None)
    for layout, rounds in found.items():
        server, client, most, least, idle = (
            statistics.median(values) if name != 'idle' else values[0]
            for name, values in zip(Costs._fields, zip(*rounds, strict=True), strict=True)
        )
        shards = 'plain' if layout.shards is None else layout.shards
        lines.append(
            f'| {layout.nodes} | {shards} '
            f'| {server:.1f} | {_ratio(rounds, first, 0):.2f} x | {client:.1f} | {_ratio(rounds, first, 1):.2f} x '
            f'| {most:.2f} / {least:.2f} | {idle:.1f} |'
        )
    return '\n'.join(lines)


def _ratio(rounds: list[Costs], first: list[Costs], place: int) -> float:
    """The median of the ratios within each round."""
    return statistics.median(mine[place] / other[place] for mine, other in zip(rounds, first, strict=True))


if __name__ == '__main__':
    main()
