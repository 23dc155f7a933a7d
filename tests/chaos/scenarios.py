"""What happens to workers, servers and connections, and what has to be left of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from tests import servers
from tests.chaos.ledger import Books, Claim, Ledger, read
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.chaos.worker import ENOUGH, Spec, release
from torrelque import Task, Torrelque, TorrelqueTaskStatus, TorrelqueTimeoutError, connect

COMBINATIONS = (('asyncio', 'redis-py'), ('asyncio', 'native'), ('trio', 'coredis'), ('trio', 'native'))
DURABLE = ('--appendonly', 'yes', '--appendfsync', 'always')
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


# The scenarios -------------------------------------------------------------------------------------------------------


def killed_workers(stage: Stage, seconds: float, pause: float = 0.2) -> None:
    """Workers are killed and replaced, whatever they are doing."""
    end = time.monotonic() + seconds
    for _ in range(6):
        stage.start('serve')
    while time.monotonic() < end:
        time.sleep(stage.rng.uniform(0, 2 * pause))
        stage.nursery.kill(stage.rng.choice(stage.nursery.names))
        stage.report.figures['workers killed'] += 1
        stage.start('serve')
    stage.nursery.kill_all()
    stage.settle()


def killed_server(stage: Stage, seconds: float, pause: float = 0.6) -> None:
    """The server is killed under load and comes back with what it acknowledged."""
    end = time.monotonic() + seconds
    for _ in COMBINATIONS:
        stage.start('serve')
    while time.monotonic() < end:
        time.sleep(stage.rng.uniform(0, 2 * pause))
        stage.server.kill()
        stage.report.figures['servers killed'] += 1
        time.sleep(stage.rng.uniform(0, 0.3))
        stage.server.start()
    time.sleep(pause)
    stage.nursery.kill_all()
    stage.settle()


def broken_connections(stage: Stage, seconds: float) -> None:
    """Connections are cut, stalled and half-delivered; what comes late comes even after its sender gave up."""
    with Proxy(stage.server.port, stage.report.seed) as proxy:
        for _ in 2 * COMBINATIONS:
            stage.start('serve', url=proxy.url)
        time.sleep(seconds)
        stage.nursery.kill_all()
        stage.settle()
        stage.report.figures.update(proxy.done)


def cancelled_dequeues(stage: Stage, seconds: float) -> None:
    """Consumers that wait are cancelled as a task comes, at least 500 of them in all.

    Their leases would outlast the test: what one of them kept is not delivered again.
    """
    rounds = 250 + int(50 * seconds)
    queues = [f'{QUEUE}{number}' for number in range(len(COMBINATIONS))]
    names = [stage.start('cancel', queue=queue, lease=LONG_LEASE, rounds=rounds) for queue in queues]
    for name in names:
        stage.nursery.join(name)
        stage.report.figures['cancelled'] += (cancelled := stage.count(name, 'cancelled'))
        assert 0.1 * rounds < cancelled < 0.9 * rounds, f'{name}: {cancelled} of {rounds} were cancelled: no race'
    stage.settle(*queues)


def stopped_workers(stage: Stage, seconds: float, tasks: int = 5) -> None:
    """Workers are stopped (SIGSTOP) past their leases and continued when others have claimed their tasks.

    First with a queue for each, where what it comes back to is known; then at any moment, under load.
    """
    queues = [f'{QUEUE}{number}' for number in range(len(COMBINATIONS))]
    names = [stage.start('hold', queue=queue, rounds=tasks, gate=str(stage.gate)) for queue in queues]
    anyio.run(_outlive, stage, queues, names, tasks)
    stage.report.figures['workers stopped'] += len(names)
    end = time.monotonic() + seconds
    for _ in COMBINATIONS:
        stage.start('serve')
    while time.monotonic() < end:
        name = stage.rng.choice(stage.nursery.names)
        stage.nursery.stop(name)
        time.sleep(stage.rng.uniform(LEASE, 1.5 * LEASE))
        stage.nursery.carry_on(name)
        stage.report.figures['workers stopped'] += 1
        time.sleep(stage.rng.uniform(0, 0.2))
    stage.nursery.kill_all()
    stage.settle(*queues, QUEUE)


async def _outlive(stage: Stage, queues: list[str], names: list[str], tasks: int) -> None:
    """Claim what the stopped workers hold, and hold it while they are continued and try to release it."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(stage.server.url))
        consumers = [await stack.enter_async_context(Torrelque(client, queue=queue)) for queue in queues]
        ledger = stack.enter_context(Ledger(stage.ledgers, 'driver'))
        for consumer in consumers:
            await _enqueue(consumer, tasks, ledger)
        for name in names:
            stage.wait_for(name, 'claimed', tasks)
            stage.nursery.stop(name)
        held = [(consumer, await _claim(consumer, ledger)) for _ in range(tasks) for consumer in consumers]
        stage.gate.touch()
        for name in names:
            stage.nursery.carry_on(name)
            stage.nursery.join(name)
        for consumer, task in held:
            await release(consumer, ledger, task)
    for name in names:
        lost, released = stage.count(name, 'lost'), stage.count(name, 'released')
        if (lost, released) != (tasks, 0):
            stage.report.stale.append(
                f'{name}, stopped for long: {released} releases changed something, {lost} did not'
            )


async def _enqueue(producer: Torrelque, tasks: int, ledger: Ledger) -> None:
    for number in range(tasks):
        ledger.write('enqueuing', task_id := f'{producer.queue}.{number}')
        await producer.enqueue(number, task_id=task_id, task_timeout=LEASE)
        ledger.write('enqueued', task_id)


async def _claim(consumer: Torrelque, ledger: Ledger) -> Task:
    task = await consumer.dequeue(ENOUGH)
    await consumer.extend(task, LONG_LEASE)
    ledger.write('claimed', task.id, task.dequeue_count)
    return task


SCENARIOS: dict[str, Callable[[Stage, float], None]] = {
    function.__name__: function
    for function in (killed_workers, killed_server, broken_connections, cancelled_dequeues, stopped_workers)
}


def play(name: str, seed: int, seconds: float) -> Report:
    """Play a scenario for about so long, then clear up and look; what was violated is in the report."""
    begun = time.monotonic()
    with TemporaryDirectory() as folder, _serving(name) as server, Nursery(Path(folder, 'log')) as nursery:
        stage = Stage(seed, Path(folder), server, nursery)
        SCENARIOS[name](stage, seconds)
        stage.report.seconds = time.monotonic() - begun
        return stage.report


@contextmanager
def _serving(name: str) -> Iterator[servers.Server]:
    server = servers.start('valkey-9.1', *(DURABLE if name == killed_server.__name__ else ()))
    try:
        yield server
    finally:
        server.close()
