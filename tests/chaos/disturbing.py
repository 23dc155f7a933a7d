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


async def fail_over(cluster: Cluster, load: Load, key: str, place: int, lag: float) -> None:
    """Kill the primary that serves the key; ``lag`` seconds before its replica stops to listen, if it is not 0.

    ``place`` is the load's that the key is of. Ends when that works, and confirms again.
    """
    findings = load.findings
    old = await run_sync(cluster.owner_of, key)
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
        findings.figures['of them with a replica that lagged'] += 1
    old.kill()
    findings.figures['primaries killed'] += 1
    with anyio.fail_after(ENOUGH):
        while (new := await run_sync(cluster.owner_of, key)) is old or not leads(new):  # noqa: ASYNC110 - as in `until`
            await anyio.sleep(0.01)
        promoted = time.monotonic()
        findings.add_failover(begun, promoted)
        await has_resumed(load, place, 'fail-over', begun, promoted)
        await run_sync(old.start)  # only with its replica back can anything be confirmed
        await until(lambda: replicas_of(new) > 0)
        ready = time.monotonic()
        await until(lambda: load.confirmed_at[place] > ready, 0.005)


async def move_slot(cluster: Cluster, load: Load, key: str, place: int, rng: random.Random) -> None:
    """Move the key's slot to another primary, some keys at a time, while the load goes on."""
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
