"""What is done to a cluster under load: primaries die, slots move."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync

from tests.chaos.findings import Findings, Pause, longest_gap
from tests.chaos.load import Load
from tests.clusters import Cluster, Move
from tests.sentinels import Watched
from tests.servers import Server
from torrelque import TorrelqueConnectionError, TorrelqueReplyError

ENOUGH = 60.0
"""Seconds after which something that has to come is taken for missing."""

MOST_A_STEP = 10
"""Keys of a moving slot that are carried at once, at most."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nothing reports."""
    while not await run_sync(condition):  # noqa: ASYNC110 - as said
        await anyio.sleep(0.005)


async def fail_over(cluster: Cluster, load: Load, place: int, lag: float) -> None:
    """Kill the primary that serves a place; ``lag`` seconds before its replica stops to listen, if it is not 0.

    Ends when that place works, and confirms again.
    """
    key = load.keys[place]
    old = await run_sync(cluster.owner_of, key)
    places = {at for at, each in enumerate(load.keys) if await run_sync(cluster.owner_of, each) is old}

    def is_hit(task_id: str) -> bool:
        return load.owns(task_id, places)

    if lag:
        replica = replica_of(cluster, old)
        os.kill(replica.pid, signal.SIGSTOP)
        # Its connection too, or it would read what lies in there when it goes on.
        await run_sync(old.command, 'CLIENT', 'KILL', 'TYPE', 'replica')
        await anyio.sleep(lag)
        failover = load.findings.begin_failover(is_hit)
        old.kill()
        os.kill(replica.pid, signal.SIGCONT)
        load.findings.figures['of them with a replica that lagged'] += 1
    else:
        failover = load.findings.begin_failover(is_hit)
        old.kill()
    load.findings.figures['primaries killed'] += 1
    with anyio.fail_after(ENOUGH):
        await until(lambda: (new := cluster.owner_of(key)) is not old and leads(new))
        await has_resumed(load, place, 'fail-over', failover.begun, failover.end())
        await run_sync(old.start)  # only with its replica back can anything be confirmed
        new = await run_sync(cluster.owner_of, key)
        await until(lambda: replicas_of(new) > 0)
        await confirms_again(load, place)


async def fail_over_watched(watched: Watched, load: Load) -> None:
    """Kill the primary that sentinels watch over; when another one works it comes back as its replica."""
    old = leader_of(watched)
    assert old is not None
    others = [server for server in watched.servers if server is not old]
    failover = load.findings.begin_failover()
    old.kill()
    load.findings.figures['primaries killed'] += 1
    with anyio.fail_after(ENOUGH):
        await until(lambda: any(map(leads, others)))
        await has_resumed(load, 0, 'fail-over', failover.begun, failover.end())
        await run_sync(rejoin, old, next(filter(leads, others)))
        await until(lambda: leader_of(watched) is not None)
        await confirms_again(load, 0)


async def heed_sentinels(watched: Watched, findings: Findings) -> None:
    """Sentinel may promote a second one while the first goes on: meanwhile claims are of either."""
    while True:
        await anyio.sleep(0.1)
        if await run_sync(two_lead, watched):
            failover = findings.begin_failover()
            await until(lambda: not two_lead(watched))
            findings.doubled.append(failover.end() - failover.begun)


def two_lead(watched: Watched) -> bool:
    """Whether more than one server takes itself for the primary."""
    return sum(map(leads, watched.servers)) > 1


def leader_of(watched: Watched) -> Server | None:
    """The primary, if there is one, all others are in step with it, and all sentinels know it."""
    leaders = [server for server in watched.servers if leads(server)]
    if len(leaders) == 1 and replicas_of(leaders[0]) == len(watched.replicas):
        return leaders[0] if watched.told == {leaders[0].port} else None
    return None


def rejoin(server: Server, primary: Server) -> None:
    """Start it again, as a replica."""
    server.start()
    server.command('REPLICAOF', '127.0.0.1', primary.port)


async def confirms_again(load: Load, place: int) -> None:
    """Wait until an enqueueing is confirmed."""
    ready = time.monotonic()
    await until(lambda: load.confirmed_at[place] > ready)


async def move_slot(cluster: Cluster, load: Load, place: int, rng: random.Random) -> None:
    """Move the slot of a place to another primary, some keys at a time, while the load goes on."""
    key = load.keys[place]
    source = await run_sync(cluster.owner_of, key)
    leaders = await run_sync(lambda: cluster.leaders)
    target = rng.choice([node for node in leaders if node is not source])
    begun = time.monotonic()
    move = await run_sync(Move, cluster, key, target)
    while True:
        carried = await run_sync(move.step, rng.randint(1, MOST_A_STEP))
        load.findings.figures['keys carried'] += carried
        if carried:
            await anyio.sleep(rng.uniform(0, 0.01))
            continue
        try:
            await run_sync(move.finish)
        except TorrelqueReplyError as error:
            if 'hold keys' not in str(error):
                raise
            load.findings.figures['keys that came while a slot was handed over'] += 1
        else:
            break
    arrived = time.monotonic()
    load.findings.figures['slots moved'] += 1
    with anyio.fail_after(ENOUGH):
        await has_resumed(load, place, 'slot', begun, arrived)
        # What is at a primary by MIGRATE is confirmed by no replica of it yet.
        await run_sync(catch_up, target)


async def has_resumed(load: Load, place: int, event: str, begun: float, ended: float) -> None:
    """Wait for the next delivery, and note how long it was missing."""
    moments = load.deliveries[place]
    await until(lambda: bool(moments) and moments[-1] > ended)
    resumed = next(moment for moment in moments if moment > ended) - ended
    load.findings.pauses.append(Pause(event, ended - begun, longest_gap(moments, begun, ended), resumed))


def catch_up(primary: Server) -> None:
    """Wait until a replica has all that the primary has."""
    with primary.client() as client:
        client.command('PUBLISH', 'nobody', '')  # the wait is for the connection's own last write
        if not client.command('WAIT', 1, int(ENOUGH * 1000 / 10)):
            raise TimeoutError(f'no replica of the primary at {primary.port} catches up')


def replica_of(cluster: Cluster, primary: Server) -> Server:
    """Its first one."""
    return next(
        node
        for node in cluster.nodes
        if node.alive and node.info('replication').get('master_port') == str(primary.port)
    )


def leads(server: Server) -> bool:
    """Whether it is there and takes itself for a primary."""
    try:
        return server.info('replication')['role'] == 'master'
    except (OSError, TorrelqueConnectionError):
        return False


def replicas_of(server: Server) -> int:
    """How many replicas are in step with it."""
    return sum(
        'state=online' in value
        for name, value in server.info('replication').items()
        if name.startswith('slave') and name[5:].isdigit()
    )
