"""A server, workers and their ledgers; and at the end what has to be left of it all."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import anyio

from tests import servers
from tests.chaos.crews import ENOUGH, Spec, note_claim, release
from tests.chaos.ledger import Books, Claim, Ledger, Reader, read
from tests.chaos.nursery import Nursery
from torrelque import Torrelque, TorrelqueTaskStatus, TorrelqueTimeoutError, connect

COMBINATIONS = (
    ('asyncio', 'redis-py'), ('asyncio', 'native'), ('trio', 'coredis'), ('trio', 'native'),
    ('asyncio+uvloop', 'redis-py'), ('asyncio+uvloop', 'native'), ('asyncio', 'coredis'), ('asyncio+uvloop', 'coredis'),
)  # fmt: skip
SKEWS = (-600.0, 0.0, 600.0)
"""By how many seconds workers' clocks are wrong, in turn."""
QUEUE = 'chaos'
SLOWEST = 10.0
"""How long a script may hold the server, in milliseconds."""

LEASE = 1.0
LONG_LEASE = 600.0
"""Longer than any scenario, so a stranded task is noticed."""

EXPIRING = (b'lane:', b'task:', b'timer', b'workers')
LASTING = (b'counters', b'epoch', b'groups:arrivals', b'groups:idle', b'groups:limits')


@dataclass
class Measure:
    """What was measured, and the most that it may be; in milliseconds."""

    limit: float
    values: list[float] = field(default_factory=list)

    @property
    def exceeded(self) -> bool:
        return max(self.values) > self.limit

    def __str__(self) -> str:
        values = sorted(self.values)
        half, most = values[len(values) // 2], values[int(len(values) * 0.99)]
        text = f'{values[-1]:.1f} ms of {self.limit:.0f} (p50 {half:.1f}, p99 {most:.1f}, {len(values)} measured)'
        return f'{text} EXCEEDED' if self.exceeded else text


@dataclass
class Report:
    """What a scenario did to the queue and found."""

    seed: int
    seconds: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)
    measures: dict[str, Measure] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    stranded: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)
    uncontrolled: list[str] = field(default_factory=list)
    audited: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        faults = self.lost, self.duplicates, self.stranded, self.stale, self.miscounted, self.uncontrolled, self.audited
        return [each for found in faults for each in found]

    @property
    def exceeded(self) -> list[str]:
        return [f'{name}: {measure}' for name, measure in self.measures.items() if measure.exceeded]

    def measure(self, name: str, seconds: float, limit: float) -> None:
        """Note how long something took; ``limit`` in milliseconds."""
        self.measures.setdefault(name, Measure(limit)).values.append(seconds * 1000)

    def __str__(self) -> str:
        found = {
            'lost': len(self.lost), 'duplicates': len(self.duplicates), 'stranded': len(self.stranded),
            'stale effects': len(self.stale), 'miscounted': len(self.miscounted),
            'not permitted': len(self.uncontrolled), 'found by audits': len(self.audited),
        }  # fmt: skip
        figures = ', '.join(f'{name} {number}' for name, number in {**self.figures, **found}.items())
        measures = ''.join(f'\n    {name}: {measure}' for name, measure in self.measures.items())
        return f'seed {self.seed}, {self.seconds:.1f} s: {figures}{measures}'


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
        self.groups: Sequence[str] = ()
        """To which workers enqueue."""
        self._numbers = count()
        self._turns = -1

    def start(
        self,
        crew: str,
        *,
        url: str = '',
        queue: str = QUEUE,
        lease: float = LEASE,
        rounds: int = 0,
        gate: str = '',
        consumers: int = 0,
        objects: int = 1,
    ) -> str:
        """Start one worker, each next one on the next client and loop; its name."""
        number = next(self._numbers)
        loop, client = COMBINATIONS[number % len(COMBINATIONS)]
        name = f'w{number}-{loop}-{client}'
        folder, seed = str(self.ledgers), self.report.seed
        url = url or self.server.url
        skew = SKEWS[number % len(SKEWS)]
        self.report.figures['clocks off by ten minutes'] += skew != 0
        self.nursery.start(
            Spec(
                name, loop, client, url, queue, folder, seed, crew, lease, rounds, gate, consumers, objects, skew,
                self.groups,
            )
        )  # fmt: skip
        return name

    def serve(self, **more: str) -> str:
        """Start one that produces and consumes: by hand and with a Worker, in turn."""
        self._turns += 1
        return self.start(('serve', 'work')[self._turns // len(COMBINATIONS) % 2 ^ self._turns % 2], **more)  # type: ignore[arg-type]  # each is a string

    def wait_for(self, name: str, event: str, times: int = 1) -> None:
        """Wait until a worker's ledger has that many entries of a kind. Raises AssertionError if it never has."""
        deadline = time.monotonic() + ENOUGH
        while self.count(name, event) < times:
            if time.monotonic() > deadline:
                self.nursery.kill(name)  # tells if it failed
                raise AssertionError(f'{name} did not write {event} {times} times')
            time.sleep(0.02)

    def count(self, name: str, event: str) -> int:
        """How many entries of a kind a worker's ledger has."""
        return sum(each == event for each, *_ in read(self.ledgers / name))

    def favour_server(self) -> None:
        """So that a script's time is its own, not that of the many processes here that want the machine, too."""
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self.server.pid, -10)

    def until_all_work(self) -> float:
        """How long it takes from now until each process has enqueued or claimed something."""
        begun = time.monotonic()
        waiting = {name: Reader(self.ledgers / name) for name in self.nursery.names}
        last = begun
        while waiting:
            assert time.monotonic() < begun + ENOUGH, f'{", ".join(waiting)} did nothing in {ENOUGH} s'
            for name, reader in list(waiting.items()):
                for event, _, _, moment in reader.news():
                    if event in ('enqueued', 'claimed') and moment > begun:
                        last = max(last, moment)
                        del waiting[name]
                        break
            time.sleep(0.005)
        return last - begun

    def note_slow_scripts(self) -> None:
        """Have the server tell its slowest scripts, which it forgets when it is killed.

        Their times are those of a clock on the wall: what the server waited for a busy processor is in them.
        """
        waited = Path(f'/proc/{self.server.pid}/schedstat')
        if waited.exists():
            self.report.figures['ms the server waited for a processor'] += int(waited.read_text().split()[1]) // 10**6
        for _, _, microseconds, words, *_ in self.server.command('SLOWLOG', 'GET', -1):
            if words[0].upper() in (b'EVALSHA', b'EVAL'):
                self.report.measure('slowest script', microseconds / 1e6, SLOWEST)
        self.server.command('SLOWLOG', 'RESET')

    def settle(self, *queues: str, removed: Callable[[], Collection[str]] = tuple) -> None:
        """One healthy consumer gets each queue to itself; then the books are compared with what is left.

        ``removed``: returns the tasks that were cancelled; called when the queues are drained.
        """
        results: dict[str, Claim] = {}
        self.note_slow_scripts()
        for queue in queues or (QUEUE,):
            with Ledger(self.ledgers, f'drain-{queue}') as ledger:
                try:
                    results |= anyio.run(self._drain, queue, ledger, removed)
                except TimeoutError:
                    self.report.stranded.append(f'{queue} was not drained in {ENOUGH} s: {self._left(queue)}')
                else:
                    self.check_keys(queue)
        books = Books.read(self.ledgers)
        self.report.figures |= Counter(
            tasks=len(books.enqueued),
            unsure=len(books.attempted - books.enqueued),
            claims=books.events['claimed'],
            redeliveries=books.redeliveries,
            refused=books.events['lost'],
        )
        gone = removed()
        self.report.lost = [task_id for task_id in books.lost(results) if task_id not in gone]
        self.report.duplicates += books.duplicates(results)
        self.report.duplicates += [f'{each}: cancelled, but released' for each in gone if each in books.released]

    async def _drain(self, queue: str, ledger: Ledger, removed: Callable[[], Collection[str]]) -> dict[str, Claim]:
        with anyio.fail_after(ENOUGH):
            async with connect(self.server.url) as client, Torrelque(client, queue=queue) as consumer:
                await self.audit(consumer)
                while any((await consumer.get_queue_stats())[:4]):  # tasks, pending, working, delayed
                    try:
                        tasks = await consumer.dequeue(2 * LEASE, max_tasks=100)
                    except TorrelqueTimeoutError:
                        continue
                    for task in tasks:
                        note_claim(ledger, task)
                        await release(consumer, ledger, task)
                await consumer.dequeue_nowait()
                stats = await consumer.get_queue_stats()
                await self.audit(consumer)
                completed = TorrelqueTaskStatus.COMPLETED
                results = {task_id: tuple(state.result) async for task_id, state in consumer.tasks(completed)}
        if not stats.total_enqueued - len(removed()) == stats.total_completed == len(results):
            self.report.miscounted.append(f'{len(results)} tasks were released, but the queue counted {stats}')
        return results

    async def audit(self, queue: Torrelque) -> None:
        """Have the queue checked as it is."""
        self.report.figures['audits'] += 1
        # A hint is left until somebody looks, and the clients of those who looked have been killed.
        self.report.audited += [str(found) for found in await queue.audit()]

    def _left(self, queue: str) -> dict[str, object]:
        return {
            'pending': self.server.command('LRANGE', f'{queue}:pending', 0, -1),
            'working': self.server.command('ZRANGE', f'{queue}:working', 0, -1, 'WITHSCORES'),
            'delayed': self.server.command('ZRANGE', f'{queue}:delayed', 0, -1, 'WITHSCORES'),
        }

    def check_keys(self, queue: str) -> None:
        """Nothing but counters, epoch and what expires."""
        prefix = f'{queue}:'.encode()
        with self.server.client() as client:
            for key in client.command('KEYS', prefix + b'*'):
                rest = key.removeprefix(prefix)
                if rest not in LASTING and not (rest.startswith(EXPIRING) and client.command('PTTL', key) != -1):
                    self.report.stranded.append(f'the key {key!r} was left behind')
