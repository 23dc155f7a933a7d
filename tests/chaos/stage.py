"""A server, workers and their ledgers; and at the end what has to be left of it all."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import anyio

from tests import servers
from tests.chaos.crews import ENOUGH, Spec, release
from tests.chaos.ledger import Books, Claim, Ledger, read
from tests.chaos.nursery import Nursery
from torrelque import Torrelque, TorrelqueTaskStatus, TorrelqueTimeoutError, connect

COMBINATIONS = (('asyncio', 'redis-py'), ('asyncio', 'native'), ('trio', 'coredis'), ('trio', 'native'))
QUEUE = 'chaos'
LEASE = 1.0
LONG_LEASE = 600.0
"""Longer than any scenario: whoever strands a task with it is found out."""

EXPIRING = (b'lane:', b'task:', b'timer')
LASTING = (b'counters', b'epoch')


@dataclass
class Report:
    """What a scenario did to the queue and found."""

    seed: int
    seconds: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    stranded: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        return [*self.lost, *self.duplicates, *self.stranded, *self.stale, *self.miscounted]

    def __str__(self) -> str:
        found = {'lost': len(self.lost), 'duplicates': len(self.duplicates), 'stranded': len(self.stranded)}
        figures = ', '.join(f'{name} {number}' for name, number in {**self.figures, **found}.items())
        return f'seed {self.seed}, {self.seconds:.1f} s: {figures}'


class Stage:
    """A server, workers, their ledgers, and seeded randomness."""

    def __init__(self, seed: int, folder: Path, server: servers.Server, nursery: Nursery) -> None:
        self.report = Report(seed)
        self.rng = random.Random(seed)
        self.server = server
        self.nursery = nursery
        self.ledgers = folder / 'ledgers'
        self.ledgers.mkdir()
        self.gate = folder / 'gate'
        self._numbers = count()

    def start(
        self, crew: str, *, url: str = '', queue: str = QUEUE, lease: float = LEASE, rounds: int = 0, gate: str = ''
    ) -> str:
        """Start one worker, each next one on the next client and loop; its name."""
        number = next(self._numbers)
        loop, client = COMBINATIONS[number % len(COMBINATIONS)]
        name = f'w{number}-{loop}-{client}'
        folder, seed = str(self.ledgers), self.report.seed
        url = url or self.server.url
        self.nursery.start(Spec(name, loop, client, url, queue, folder, seed, crew, lease, rounds, gate))
        return name

    def wait_for(self, name: str, event: str, times: int = 1) -> None:
        """Until a worker's ledger has so many entries of a kind. Raises AssertionError if that does not happen."""
        deadline = time.monotonic() + ENOUGH
        while self.count(name, event) < times:
            if time.monotonic() > deadline:
                self.nursery.kill(name)  # tells if it failed
                raise AssertionError(f'{name} did not write {event} {times} times')
            time.sleep(0.02)

    def count(self, name: str, event: str) -> int:
        """How many entries of a kind a worker's ledger has."""
        return sum(each == event for each, _, _ in read(self.ledgers / name))

    def settle(self, *queues: str) -> None:
        """One healthy consumer gets each queue to itself; then the books are compared with what is left."""
        results: dict[str, Claim] = {}
        for queue in queues or (QUEUE,):
            with Ledger(self.ledgers, f'drain-{queue}') as ledger:
                try:
                    results |= anyio.run(self._drain, queue, ledger)
                except TimeoutError:
                    self.report.stranded.append(f'{queue} was not drained in {ENOUGH} s: {self._left(queue)}')
                else:
                    self._check_keys(queue)
        books = Books.read(self.ledgers)
        self.report.figures |= Counter(
            tasks=len(books.enqueued),
            unsure=len(books.attempted - books.enqueued),
            claims=books.events['claimed'],
            redeliveries=books.redeliveries,
            refused=books.events['lost'],
        )
        self.report.lost = books.lost(results)
        self.report.duplicates += books.duplicates(results)

    async def _drain(self, queue: str, ledger: Ledger) -> dict[str, Claim]:
        with anyio.fail_after(ENOUGH):
            async with connect(self.server.url) as client, Torrelque(client, queue=queue) as consumer:
                while any((await consumer.get_queue_stats())[:4]):  # tasks, pending, working, delayed
                    try:
                        tasks = await consumer.dequeue(2 * LEASE, max_tasks=100)
                    except TorrelqueTimeoutError:
                        continue
                    for task in tasks:
                        ledger.write('claimed', task.id, task.dequeue_count)
                        await release(consumer, ledger, task)
                await consumer.dequeue_nowait()
                stats = await consumer.get_queue_stats()
                completed = TorrelqueTaskStatus.COMPLETED
                results = {task_id: tuple(state.result) async for task_id, state in consumer.tasks(completed)}
        if not stats.total_enqueued == stats.total_completed == len(results):
            self.report.miscounted.append(f'{len(results)} tasks were released, but the queue counted {stats}')
        return results

    def _left(self, queue: str) -> dict[str, object]:
        return {
            'pending': self.server.command('LRANGE', f'{queue}:pending', 0, -1),
            'working': self.server.command('ZRANGE', f'{queue}:working', 0, -1, 'WITHSCORES'),
            'delayed': self.server.command('ZRANGE', f'{queue}:delayed', 0, -1, 'WITHSCORES'),
        }

    def _check_keys(self, queue: str) -> None:
        """Nothing but counters, epoch and what expires."""
        prefix = f'{queue}:'.encode()
        with self.server.client() as client:
            for key in client.command('KEYS', prefix + b'*'):
                rest = key.removeprefix(prefix)
                if rest not in LASTING and not (rest.startswith(EXPIRING) and client.command('PTTL', key) != -1):
                    self.report.stranded.append(f'the key {key!r} was left behind')
