"""A scenario about who may run, how many and how fast, and what is cancelled, while workers are killed.

The server publishes each transition of a task, in the order in which they happened. What the driver did is published
among them. So the journal can say of each delivery whether it was permitted at that moment.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio

from tests.chaos.stage import COMBINATIONS, QUEUE, Stage
from tests.servers import Client, Server
from torrelque import Torrelque, TorrelqueLookupError, connect

__all__ = ('LEAST', 'WORKING', 'Driver', 'Journal', 'controlled_flow', 'drive', 'listening')

WORKING, PENDING, CANCELLED = '1', '0', 'cancelled'
MARKS = f'{QUEUE}:marks'
LEAST = 2
"""How often everything is done, however short the run."""


class Journal:
    """Judges transitions in their order. Marks say what the driver has done, or is about to undo.

    Attributes:
        violations: Deliveries that were not permitted, and signs of life of tasks that were ended.
        removed: Tasks that were cancelled.
        figures: How much was seen.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.removed: set[str] = set()
        self.figures: Counter[str] = Counter()
        self._working: set[str] = set()
        self._ended: set[str] = set()
        self._asked: set[str] = set()
        self._lift()
        self._paused = False

    def _lift(self) -> None:
        self._slots: int | None = None
        self._rate: tuple[int, float, int] | None = None
        self._begun, self._delivered, self._returned = 0.0, 0, 0

    def mark(self, text: str) -> None:
        """Note what the driver did: the first word says what."""
        what, *words = text.split()
        match what:
            case 'paused' | 'resuming':
                self._paused = what == 'paused'
            case 'slots':
                self._slots = int(words[0])
            case 'rate':  # deliveries, seconds, burst, and when the driver set it
                self._rate = int(words[0]), float(words[1]), int(words[2])
                self._begun, self._delivered, self._returned = float(words[3]), 0, 0
            case 'lifting':
                self._lift()
            case 'ended':
                self._ended.add(words[0])
            case 'asked':
                self._asked.add(words[0])
        self.figures[what] += 1

    def transition(self, task_id: str, status: str, moment: float) -> None:
        """Judge one. ``moment`` is when it was heard of, which is after it happened."""
        if task_id in self._ended:
            self.violations.append(f'{task_id}: {status} after it was ended')
        was_working = task_id in self._working
        self._working.discard(task_id)
        if status == WORKING:
            self._working.add(task_id)
            self._deliver(task_id, moment)
        elif status == PENDING and was_working:
            self._returned += 1  # which may have been no delivery, if it was given back
        elif status == CANCELLED:
            self.removed.add(task_id)

    def _deliver(self, task_id: str, moment: float) -> None:
        self._delivered += 1
        if self._paused:
            self.violations.append(f'{task_id}: delivered during a pause')
        if task_id in self._asked:
            self.violations.append(f'{task_id}: delivered again although it was asked to end')
        if self._slots is not None and len(self._working) > self._slots:
            self.violations.append(f'{task_id}: {len(self._working)} at once, the limit is {self._slots}')
        if self._rate is not None:
            count, seconds, burst = self._rate
            most = burst + self._returned + (moment - self._begun) * count / seconds
            if self._delivered > most:
                self.violations.append(f'{task_id}: {self._delivered} deliveries, {most:.1f} are permitted')


@contextmanager
def listening(server: Server, journal: Journal) -> Iterator[Callable[[], set[str]]]:
    """Write the journal. What is yielded returns the tasks that were removed, up to the moment when it is called."""
    heard = threading.Semaphore(0)
    prefix = f'{QUEUE}:task:'
    with server.client() as client:
        client.command('PSUBSCRIBE', f'{prefix}*', MARKS)
        client.receive()  # the answer about the second

        def listen() -> None:
            while True:
                _, _, channel, data = client.receive()
                name, text = channel.decode(), data.decode()
                if name != MARKS:
                    journal.transition(name.removeprefix(prefix), text.split()[1], time.monotonic())
                elif text == 'heard':
                    heard.release()
                elif text == 'end':
                    return
                else:
                    journal.mark(text)

        thread = threading.Thread(target=listen, daemon=True)

        def removed() -> set[str]:
            server.command('PUBLISH', MARKS, 'heard')
            assert heard.acquire(timeout=10)
            return journal.removed

        thread.start()
        yield removed
        server.command('PUBLISH', MARKS, 'end')
        thread.join(10)
        assert not thread.is_alive()


class Driver:
    """Pauses, limits and cancels, and kills workers meanwhile."""

    def __init__(self, stage: Stage, queue: Torrelque, marks: Client) -> None:
        self.stage = stage
        self.queue = queue
        self._marks = marks
        self.rng: random.Random = stage.rng

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        turn = 0
        while turn < LEAST * len(self.deeds) or time.monotonic() < end:
            await self.deeds[turn % len(self.deeds)]()
            turn += 1

    @property
    def deeds(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What is done in turn."""
        return self.pause, self._limit, self._limit_rate, self.cancel

    async def live_on(self, longest: float) -> None:
        """Let the workers work for a while; one of them is killed and replaced."""
        await anyio.sleep(self.rng.uniform(0, longest))
        self.stage.nursery.kill(self.rng.choice(self.stage.nursery.names))
        self.stage.report.figures['workers killed'] += 1
        self.stage.serve()
        await anyio.sleep(self.rng.uniform(0, longest))

    def mark(self, text: str) -> None:
        self._marks.command('PUBLISH', MARKS, text)

    async def pause(self) -> None:
        await self.queue.pause('chaos')
        self.mark('paused')
        await self.live_on(0.05)
        self.mark('resuming')
        await self.queue.resume()

    async def _limit(self) -> None:
        for slots in self.rng.sample((1, 2, 3, 8), 2):
            await self.queue.limit(concurrency=slots)
            self.mark(f'slots {slots}')
            await self.live_on(0.1)
            self.mark('lifting')
        await self.queue.limit()

    async def _limit_rate(self) -> None:
        count, burst = self.rng.choice(((10, 1), (100, 5), (400, 40)))
        begun = time.monotonic()
        await self.queue.limit(rate=(count, 1), burst=burst)
        self.mark(f'rate {count} 1 {burst} {begun}')
        await self.live_on(0.1)
        self.mark('lifting')
        await self.queue.limit()

    async def cancel(self) -> None:
        for _ in range(5):
            held = self._marks.command('ZRANGE', f'{QUEUE}:working', 0, -1)
            for task_id in self.rng.sample([each.decode() for each in held], min(3, len(held))):
                asked = self.rng.random() < 0.5
                try:
                    was_held = await self.queue.cancel(task_id, running='ask' if asked else 'end')
                except TorrelqueLookupError:  # released meanwhile
                    continue
                self.mark(f'{"asked" if asked and was_held else "ended"} {task_id}')
            await self.live_on(0.02)


def controlled_flow(stage: Stage, seconds: float) -> None:
    """The queue is paused and resumed, limited and not, and running tasks are cancelled, while workers are killed."""
    journal = Journal()
    with listening(stage.server, journal) as removed:
        for _ in COMBINATIONS:
            stage.serve()
        stage.until_all_work()
        anyio.run(drive, stage, seconds)
        stage.nursery.kill_all()
        stage.settle(removed=removed)
    stage.report.figures.update(journal.figures)
    stage.report.uncontrolled += journal.violations


async def drive(stage: Stage, seconds: float, driver: Callable[[Stage, Torrelque, Client], Driver] = Driver) -> None:
    """Have a driver at work."""
    async with connect(stage.server.url) as client, Torrelque(client, queue=QUEUE) as queue:
        with stage.server.client() as marks:
            await driver(stage, queue, marks).run(seconds)
