"""Primaries of a cluster are killed in turn under load, and come back as replicas.

``python -m tests.chaos.failovers``. Each primary holds a queue, which producers and consumers use over a client of the
whole cluster. What was confirmed by the replica must outlive the primary; what was only acknowledged may be lost with
it, and is counted.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio

from tests.clusters import Cluster
from tests.servers import Server
from torrelque import (
    Durability,
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueDurabilityError,
    TorrelqueLeaseLostError,
    TorrelqueReplyError,
    connect,
)

ENOUGH = 60.0
LEASE = 5.0
RESUMED_IN = 2.0
"""Seconds after the promotion in which work has to resume."""

CONFIRMED_IN = 0.5
"""Seconds that a replica has to confirm a write; a call repeated after a fail-over may wait for it in vain once."""

TROUBLE = (TorrelqueConnectionError, TorrelqueReplyError)


@dataclass
class Findings:
    """What was done, and what came of it."""

    figures: Counter[str] = field(default_factory=Counter)
    confirmed: set[str] = field(default_factory=set)
    """Enqueued, and the replica has it."""
    acknowledged: set[str] = field(default_factory=set)
    """Enqueued without an error, or with one that says that only the confirmation is missing."""
    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    """Tasks whose release is confirmed."""
    handled: Counter[str] = field(default_factory=Counter)
    after_the_end: list[str] = field(default_factory=list)
    audited: list[str] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    """Seconds from each promotion to the next task that was dequeued from that queue."""

    @property
    def lost(self) -> list[str]:
        return sorted(self.confirmed - self.handled.keys())

    @property
    def unconfirmed_lost(self) -> int:
        return len(self.acknowledged - self.confirmed - self.handled.keys())

    @property
    def strange(self) -> list[str]:
        return sorted(self.handled.keys() - self.begun)

    def __str__(self) -> str:
        figures = ', '.join(f'{name} {number}' for name, number in sorted(self.figures.items()))
        resumed = ', '.join(f'{seconds:.2f}' for seconds in self.resumed)
        return (
            f'{len(self.confirmed)} enqueueings confirmed, {len(self.acknowledged - self.confirmed)} unconfirmed of '
            f'which {self.unconfirmed_lost} were lost, {len(self.handled)} tasks handled, '
            f'{sum(self.handled.values()) - len(self.handled)} more than once; {figures}; '
            f'work resumed after {resumed} s (limit {RESUMED_IN:g}); confirmed and lost {len(self.lost)}, '
            f'delivered after a confirmed release {len(self.after_the_end)}, never enqueued {len(self.strange)}, '
            f'found by audits {len(self.audited)}'
        )

    @property
    def violations(self) -> list[str]:
        return [
            *(f'{each}: confirmed, and lost' for each in self.lost),
            *(f'{each}: delivered after its release was confirmed' for each in self.after_the_end),
            *(f'{each}: handled, but never enqueued' for each in self.strange),
            *self.audited,
        ]

    @property
    def exceeded(self) -> list[str]:
        return [f'work resumed only after {each:.2f} s' for each in self.resumed if each > RESUMED_IN]


class Load:
    """One queue's producers and consumers."""

    def __init__(self, name: str, findings: Findings, rng: random.Random) -> None:
        self.name = name
        self.producing = True
        self._findings = findings
        self._rng = rng
        self._number = 0
        self.confirmed_at = self.dequeued_at = 0.0

    async def produce(self, queue: Torrelque) -> None:
        found = self._findings
        while self.producing:
            self._number += 1
            task_id = f'{self.name}.{self._number}'
            found.begun.add(task_id)
            try:
                await queue.enqueue(self._number, task_id=task_id, task_timeout=LEASE)
            except TorrelqueDurabilityError:
                found.acknowledged.add(task_id)
                found.figures['enqueueings that were not confirmed in time'] += 1
            except TROUBLE:
                found.figures['enqueueings that failed'] += 1
            else:
                found.acknowledged.add(task_id)
                found.confirmed.add(task_id)
                self.confirmed_at = time.monotonic()
            await anyio.sleep(self._rng.uniform(0, 0.02))

    async def consume(self, queue: Torrelque) -> None:
        while True:
            try:
                task = await queue.dequeue()
            except TROUBLE:
                self._findings.figures['dequeueings that failed'] += 1
                await anyio.sleep(0.05)
            else:
                await self._handle(queue, task)

    async def _handle(self, queue: Torrelque, task: Task) -> None:
        found = self._findings
        if task.id in found.ended:
            found.after_the_end.append(task.id)
        found.handled[str(task.id)] += 1
        self.dequeued_at = time.monotonic()
        await anyio.sleep(self._rng.uniform(0, 0.01))
        try:
            await queue.release(task)
        except TorrelqueDurabilityError:
            found.figures['releases that were not confirmed in time'] += 1
        except TorrelqueLeaseLostError:
            found.figures['claims lost with a primary'] += 1
        except TROUBLE:
            found.figures['releases that failed'] += 1
        else:
            found.ended.add(str(task.id))


async def run(cluster: Cluster, seconds: float, seed: int) -> Findings:
    """Kill one primary after the other for so long, or at least one; then work off what is left."""
    findings, rng = Findings(), random.Random(seed)
    names = [_queue_on(cluster, primary) for primary in cluster.primaries]
    loads = [Load(name, findings, rng) for name in names]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(f'redis+cluster://{cluster.hosts}'))
        queues = [
            await stack.enter_async_context(
                Torrelque(client, queue=name, durability=Durability(replicas=1, timeout=CONFIRMED_IN))
            )
            for name in names
        ]
        group = await stack.enter_async_context(anyio.create_task_group())
        for load, queue in zip(loads, queues, strict=True):
            group.start_soon(load.produce, queue)
            for _ in range(3):
                group.start_soon(load.consume, queue)
        end = time.monotonic() + seconds
        turn = 0
        while not turn or time.monotonic() < end:
            await anyio.sleep(rng.uniform(0.5, 1.5))
            await _fail_over(cluster, loads[turn % len(loads)], findings, rng.choice((0.0, rng.uniform(0.2, 2.0))))
            turn += 1
        for load in loads:
            load.producing = False
        with anyio.fail_after(ENOUGH):
            for queue in queues:
                while any((await queue.get_queue_stats())[:4]):  # noqa: ASYNC110 - as below
                    await anyio.sleep(0.1)
        for queue in queues:
            findings.audited += [str(each) for each in await queue.audit() if each.kind != 'leftover']
        group.cancel_scope.cancel()
    return findings


def _queue_on(cluster: Cluster, primary: Server) -> str:
    return next(name for name in (f'q{number}' for number in range(1000)) if cluster.owner_of(f'{{{name}}}') is primary)


async def _fail_over(cluster: Cluster, load: Load, findings: Findings, lag: float) -> None:
    """Kill the primary that the load uses; ``lag`` seconds before its replica stops to listen, if it is not 0."""
    key = f'{{{load.name}}}'
    old = await anyio.to_thread.run_sync(cluster.owner_of, key)
    if lag:
        replica = _replica_of(cluster, old)
        os.kill(replica.pid, signal.SIGSTOP)
        # Its connection too, or it would read what lies in there when it goes on.
        await anyio.to_thread.run_sync(old.command, 'CLIENT', 'KILL', 'TYPE', 'replica')
        await anyio.sleep(lag)
        old.kill()
        os.kill(replica.pid, signal.SIGCONT)
        findings.figures['of them with a replica that lagged'] += 1
    old.kill()
    findings.figures['primaries killed'] += 1
    with anyio.fail_after(ENOUGH):
        while (new := await anyio.to_thread.run_sync(cluster.owner_of, key)) is old or not _leads(new):  # noqa: ASYNC110 - the cluster tells nobody
            await anyio.sleep(0.01)
        promoted = time.monotonic()
        while load.dequeued_at < promoted:  # noqa: ASYNC110 - the load is not to know of this
            await anyio.sleep(0.005)
        resumed = load.dequeued_at
        await anyio.to_thread.run_sync(old.start)  # only with its replica back can anything be confirmed
        while not _has_replica(new):  # noqa: ASYNC110 - as above
            await anyio.sleep(0.01)
        ready = time.monotonic()
        while load.confirmed_at < ready:  # noqa: ASYNC110 - as above
            await anyio.sleep(0.005)
    findings.resumed.append(resumed - promoted)


def _replica_of(cluster: Cluster, primary: Server) -> Server:
    return next(node for node in cluster.nodes if node.info('replication').get('master_port') == str(primary.port))


def _leads(server: Server) -> bool:
    return server.info('replication')['role'] == 'master'


def _has_replica(server: Server) -> bool:
    return any(
        value.endswith('state=online') or 'state=online,' in value
        for name, value in server.info('replication').items()
        if name.startswith('slave') and name[5:].isdigit()
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.chaos.failovers', description=__doc__)
    parser.add_argument('--seconds', type=float, default=60, help='how long to go on (60)')
    parser.add_argument('--seed', type=int, default=random.randrange(1_000_000))
    parser.add_argument('--server', default='valkey-9.1')
    arguments = parser.parse_args()
    cluster = Cluster(arguments.server, '--appendonly', 'yes', replicas=1)
    try:
        print(f'seed {arguments.seed}', flush=True)
        findings = anyio.run(run, cluster, arguments.seconds, arguments.seed)
    finally:
        cluster.close()
    print(findings, *findings.violations, *findings.exceeded, sep='\n')
    return int(bool(findings.violations or findings.exceeded))


if __name__ == '__main__':
    sys.exit(main())
