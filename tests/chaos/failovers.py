"""Primaries die and slots move under load: ``python -m tests.chaos.failovers --scenario all``.

Producers, consumers and a worker go on meanwhile, with confirmations and without. What was confirmed by the replicas
must outlive a primary; what was only acknowledged may be lost with it, and is counted. A moving slot may lose nothing.

``kills``
    A queue on each primary of a cluster; they are killed in turn, some while their replica lags.
``slots``
    One queue, whose slot is moved from primary to primary, some keys at a time.
``shards``
    A queue of six shards: the primary of one is killed and the slot of another moved, in turn.
``sentinel``
    A queue on a primary with two replicas, which sentinels watch over; the primary is killed, again and again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from tests.chaos.disturbing import ENOUGH, fail_over, fail_over_watched, heed_sentinels, move_slot
from tests.chaos.findings import Findings, table
from tests.chaos.load import Load, Pair
from tests.clusters import Cluster
from tests.sentinels import FAILOVER_TIMEOUT, SERVICE, Watched
from tests.servers import Server
from torrelque import Client, Durability, Torrelque, connect

CONFIRMED_IN = 0.5
"""Seconds that a replica has to confirm a write; a call repeated after a fail-over may wait for it in vain once."""

SHARDS = 6

Scenario = Callable[[str, float, int], Awaitable[Findings]]


async def kills(server: str, seconds: float, seed: int) -> Findings:
    """Kill one primary after the other for so long, or at least one."""
    findings, rng = Findings(), random.Random(seed)
    with Cluster(server, '--appendonly', 'yes', replicas=1) as cluster:
        names = [_queue_on(cluster, primary) for primary in cluster.primaries]
        loads = [Load(name, findings, rng) for name in names]
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(_clients_of(cluster))
            pairs = [await _queues(stack, clients[:1], name) for name in names]
            async with anyio.create_task_group() as group:
                for load, each in zip(loads, pairs, strict=True):
                    load.start(group, *each)
                end, turn = time.monotonic() + seconds, 0
                while not turn or time.monotonic() < end:
                    await anyio.sleep(rng.uniform(0.5, 1.5))
                    load = loads[turn % len(loads)]
                    lag = rng.choice((0.0, rng.uniform(0.2, 2.0)))
                    await fail_over(cluster, load, 0, lag)
                    turn += 1
                await _clear_up(loads, [each[0].plain for each in pairs])
                group.cancel_scope.cancel()
    return findings


async def slots(server: str, seconds: float, seed: int) -> Findings:
    """Move the slot of one queue for so long, or at least once there and back."""
    findings, rng = Findings(may_lose=False), random.Random(seed)
    with Cluster(server, replicas=1) as cluster:
        load = Load('moving', findings, rng)
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(_clients_of(cluster))
            pairs = await _queues(stack, clients, load.name)
            async with anyio.create_task_group() as group:
                load.start(group, *pairs)
                end, turn = time.monotonic() + seconds, 0
                while turn < 2 or time.monotonic() < end:
                    await anyio.sleep(rng.uniform(0.2, 1.0))
                    await move_slot(cluster, load, 0, rng)
                    turn += 1
                await _clear_up([load], [pairs[0].plain])
                group.cancel_scope.cancel()
    return findings


async def shards(server: str, seconds: float, seed: int) -> Findings:
    """Move the slot of a shard and kill the primary of one for so long, or at least once each."""
    findings, rng = Findings(), random.Random(seed)
    with Cluster(server, '--appendonly', 'yes', replicas=1) as cluster:
        load = Load('spread', findings, rng, SHARDS)
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(_clients_of(cluster))
            pairs = await _queues(stack, clients, load.name, shards=SHARDS)
            async with anyio.create_task_group() as group:
                load.start(group, *pairs)
                end, turn = time.monotonic() + seconds, 0
                while not turn or time.monotonic() < end:
                    await anyio.sleep(rng.uniform(0.2, 1.0))
                    await move_slot(cluster, load, rng.randrange(SHARDS), rng)
                    await anyio.sleep(rng.uniform(0.2, 1.0))
                    await fail_over(cluster, load, rng.randrange(SHARDS), rng.choice((0.0, rng.uniform(0.2, 2.0))))
                    turn += 1
                await _clear_up([load], [pairs[0].plain])
                group.cancel_scope.cancel()
    return findings


async def sentinel(server: str, seconds: float, seed: int) -> Findings:
    """Kill the primary for so long, or at least once.

    Both replicas are to confirm: Sentinel may promote either, whichever it was that confirmed.
    """
    findings, rng = Findings(), random.Random(seed)
    with Watched(server, replicas=2) as watched:
        load = Load('watched', findings, rng)
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(_clients_of_service(watched))
            pairs = await _queues(stack, clients, load.name, replicas=2)
            async with anyio.create_task_group() as group:
                group.start_soon(heed_sentinels, watched, findings)
                load.start(group, *pairs)
                end, turn = time.monotonic() + seconds, 0
                while not turn or time.monotonic() < end:
                    await anyio.sleep(rng.uniform(0.5, 1.5))
                    await fail_over_watched(watched, load)
                    turn += 1
                    if time.monotonic() < end:  # sooner, and a sentinel that did not vote may promote another one, too
                        await anyio.sleep(2 * FAILOVER_TIMEOUT)
                await _clear_up([load], [pairs[0].plain])
                group.cancel_scope.cancel()
    return findings


SCENARIOS: dict[str, Scenario] = {'kills': kills, 'slots': slots, 'shards': shards, 'sentinel': sentinel}


@asynccontextmanager
async def _clients_of(cluster: Cluster) -> AsyncIterator[Sequence[Client]]:
    """The native one, and redis-py's."""
    async with (
        connect(f'redis+cluster://{cluster.hosts}') as native,
        redis.asyncio.RedisCluster(host='127.0.0.1', port=cluster.nodes[0].port) as foreign,
    ):
        yield native, foreign


@asynccontextmanager
async def _clients_of_service(watched: Watched) -> AsyncIterator[Sequence[Client]]:
    """The native one, and redis-py's."""
    places = [('127.0.0.1', port) for port in watched.ports]
    sentinels = Sentinel(places, socket_timeout=1)  # type: ignore[no-untyped-call]
    foreign = sentinels.master_for(SERVICE, socket_timeout=5)
    async with connect(f'redis+sentinel://{watched.hosts}/{SERVICE}') as native:
        try:
            yield native, foreign
        finally:
            await foreign.aclose()
            for each in sentinels.sentinels:
                await each.aclose()


async def _queues(
    stack: AsyncExitStack, clients: Sequence[Client], name: str, *, replicas: int = 1, shards: int | None = None
) -> list[Pair]:
    durability = Durability(replicas=replicas, timeout=CONFIRMED_IN)
    return [
        Pair(
            await stack.enter_async_context(Torrelque(client, queue=name, durability=durability, shards=shards)),
            await stack.enter_async_context(Torrelque(client, queue=name, shards=shards)),
        )
        for client in clients
    ]


async def _clear_up(loads: Sequence[Load], queues: Sequence[Torrelque]) -> None:
    """Let the consumers work off what is left, and look at what then is."""
    for load in loads:
        load.producing = False
    for load, queue in zip(loads, queues, strict=True):
        with anyio.fail_after(ENOUGH):
            while any((await queue.get_queue_stats())[:4]):  # noqa: ASYNC110 - the server tells nobody
                await anyio.sleep(0.1)
        load.findings.audited += [str(each) for each in await queue.audit()]


def _queue_on(cluster: Cluster, primary: Server) -> str:
    return next(name for name in (f'q{number}' for number in range(1000)) if cluster.owner_of(f'{{{name}}}') is primary)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m tests.chaos.failovers', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--scenario', choices=(*SCENARIOS, 'all'), default='kills', help='what to do (kills)')
    parser.add_argument('--seconds', type=float, default=60, help='how long each scenario goes on (60)')
    parser.add_argument('--seed', type=int, default=random.randrange(1_000_000))
    parser.add_argument('--server', default='valkey-9.1')
    arguments = parser.parse_args()
    print(f'seed {arguments.seed}', flush=True)
    names = SCENARIOS if arguments.scenario == 'all' else [arguments.scenario]
    done = {name: anyio.run(SCENARIOS[name], arguments.server, arguments.seconds, arguments.seed) for name in names}
    print(table(done))
    failures = [f'{name}: {each}' for name, found in done.items() for each in (*found.violations, *found.exceeded)]
    print(*failures, sep='\n')
    return int(bool(failures))


if __name__ == '__main__':
    sys.exit(main())
