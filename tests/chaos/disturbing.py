"""What is done to a cluster under load: primaries die, slots move."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync

from tests.chaos.findings import Pause, longest_gap
from tests.chaos.load import Load
from tests.clusters import Cluster, Move
from tests.sentinels import Watched
from tests.servers import Server
from torrelque import TorrelqueReplyError

ENOUGH = 60.0
"""Seconds after which something that has to come is taken for missing."""

MOST_A_STEP = 10
"""Keys of a moving slot that are carried at once, at most."""


async def until(condition: Callable[[], bool], pause: float = 0.01) -> None:
    """Wait for what nobody tells of."""
    while not condition():  # noqa: ASYNC110 - as said
        await anyio.sleep(pause)


async def fail_over(cluster: Cluster, load: Load, place: int, lag: float) -> None:
    """Kill the primary that serves a place; ``lag`` seconds before its replica stops to listen, if it is not 0.

    Ends when that place works, and confirms again.
    """
    key = load.keys[place]
    old = await run_sync(cluster.owner_of, key)
    hit = {at for at, each in enumerate(load.keys) if await run_sync(cluster.owner_of, each) is old}
    begun = time.monotonic()
    if lag:
        replica = replica_of(cluster, old)
        os.kill(replica.pid, signal.SIGSTOP)
        # Its connection too, or it would read what lies in there when it goes on.
        await run_sync(old.command, 'CLIENT', 'KILL', 'TYPE', 'replica')
        await anyio.sleep(lag)
        begun = time.monotonic()
        old.kill()
        os.kill(replica.pid, signal.SIGCONT)
        load.findings.figures['of them with a replica that lagged'] += 1
    old.kill()
    load.findings.figures['primaries killed'] += 1
    with anyio.fail_after(ENOUGH):
        while (new := await run_sync(cluster.owner_of, key)) is old or not leads(new):  # noqa: ASYNC110 - as in `until`
            await anyio.sleep(0.01)
        promoted = time.monotonic()
        load.findings.add_failover(begun, promoted, lambda task_id: load.owns(task_id, hit))
        await has_resumed(load, place, 'fail-over', begun, promoted)
        await run_sync(old.start)  # only with its replica back can anything be confirmed
        await confirms_again(load, place, new, 1)


async def fail_over_watched(watched: Watched, load: Load) -> None:
    """Kill the primary that sentinels watch over; when another one works it comes back as its replica."""
    servers = [watched.primary, *watched.replicas]
    (old,) = filter(leads, servers)
    begun = time.monotonic()
    old.kill()
    load.findings.figures['primaries killed'] += 1
    with anyio.fail_after(ENOUGH):
        others = [server for server in servers if server is not old]
        while not (promoted := [server for server in others if leads(server)]):  # noqa: ASYNC110 - as in `until`
            await anyio.sleep(0.01)
        new, ended = promoted[0], time.monotonic()
        load.findings.add_failover(begun, ended)
        await has_resumed(load, 0, 'fail-over', begun, ended)
        await run_sync(old.start)
        await run_sync(old.command, 'REPLICAOF', '127.0.0.1', new.port)
        await confirms_again(load, 0, new, len(others))


async def confirms_again(load: Load, place: int, primary: Server, replicas: int) -> None:
    """Wait until so many replicas are in step, and have confirmed something."""
    await until(lambda: replicas_of(primary) == replicas)
    ready = time.monotonic()
    await until(lambda: load.confirmed_at[place] > ready, 0.005)


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
    await until(lambda: bool(moments) and moments[-1] > ended, 0.005)
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
    """Whether it takes itself for a primary."""
    return server.info('replication')['role'] == 'master'


def replicas_of(server: Server) -> int:
    """How many replicas are in step with it."""
    return sum(
        'state=online' in value
        for name, value in server.info('replication').items()
        if name.startswith('slave') and name[5:].isdigit()
    )
