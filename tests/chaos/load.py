"""Producers, consumers and a worker of one queue, who write down all that comes of their tasks."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from tests.chaos.clients import TROUBLE
from tests.chaos.findings import Claim, Findings, Outcome
from torrelque import (
    Receipt,
    Task,
    Torrelque,
    TorrelqueDurabilityError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    Worker,
    events,
)
from torrelque.core.keys import shard_name
from torrelque.core.sharding.layout import home_of

LEASE = 5.0
MOST_DELAYED = 1.5
"""Seconds that a task is delayed at most, of those that are."""

CONSUMERS = 3
"""Consumers for each client whose releases are confirmed."""


@dataclass(frozen=True)
class Pair:
    """The same queue, through one client: with confirmations and without."""

    durable: Torrelque
    plain: Torrelque


class Load:
    """One queue's producers and consumers. Its tasks are at one place, or at as many as it has shards."""

    def __init__(
        self,
        name: str,
        findings: Findings,
        rng: random.Random,
        shards: int | None = None,
    ) -> None:
        self.name = name
        self.shards = shards
        self.keys = [f'{{{name}}}'] if shards is None else [shard_name(name, shard) for shard in range(shards)]
        """A key of each place's slot."""
        self.producing = True
        self.deliveries: defaultdict[int, list[float]] = defaultdict(list)
        """When tasks of each place were delivered."""
        self.confirmed_at: defaultdict[int, float] = defaultdict(float)
        """When an enqueueing was confirmed last, at each place."""
        self.findings = findings
        self._rng = rng
        self._number = 0
        self._claims: dict[Receipt, Claim] = {}

    def start(self, group: TaskGroup, *pairs: Pair) -> None:
        """Through each client two producers and some consumers; a worker through the first."""
        for pair in pairs:
            group.start_soon(self._produce, pair.durable)
            group.start_soon(self._produce, pair.plain)
            for _ in range(CONSUMERS):
                group.start_soon(self._consume, pair.durable)
            group.start_soon(self._consume, pair.plain)
        worker = Worker(pairs[0].plain, self._work, concurrency=4, grace=0, on_event=self._hear)
        group.start_soon(worker.run)

    def place_of(self, task_id: str) -> int:
        """Where a task is: its shard."""
        return 0 if self.shards is None else home_of(task_id, self.shards)

    def owns(self, task_id: str, places: Container[int]) -> bool:
        """Whether a task is this load's, and at one of these places."""
        return task_id.startswith(f'{self.name}.') and self.place_of(task_id) in places

    async def _produce(self, queue: Torrelque) -> None:
        found = self.findings
        while self.producing:
            self._number += 1
            task_id = f'{self.name}.{self._number}'
            delay = self._rng.choice((0.0, 0.0, self._rng.uniform(0.05, MOST_DELAYED)))
            found.begun[task_id] = time.monotonic() + delay
            try:
                await queue.enqueue(self._number, task_id=task_id, task_timeout=LEASE, delay=delay)
            except TorrelqueDurabilityError as error:
                found.acknowledged.add(task_id)
                found.fail('enqueue', error)
            except TROUBLE as error:
                found.fail('enqueue', error)
            else:
                found.acknowledged.add(task_id)
                if queue.durability is not None:
                    found.confirmed.add(task_id)
                    self.confirmed_at[self.place_of(task_id)] = time.monotonic()
            await anyio.sleep(self._rng.uniform(0, 0.03))

    async def _consume(self, queue: Torrelque) -> None:
        while True:
            try:
                task = await queue.dequeue()
            except TROUBLE as error:
                self.findings.fail('dequeue', error)
                await anyio.sleep(0.05)
            else:
                claim = self._take(task)
                await anyio.sleep(self._rng.uniform(0, 0.01))
                self.findings.settle(claim, await self._release(queue, task))

    async def _release(self, queue: Torrelque, task: Task) -> Outcome:
        try:
            await queue.release(task)
        except TorrelqueDurabilityError as error:
            self.findings.fail('release', error)
            return 'acknowledged'
        except (TorrelqueLeaseLostError, TorrelqueLookupError) as error:
            self.findings.fail('release', error)
            return 'gone'
        except TROUBLE as error:
            self.findings.fail('release', error)
            return 'unknown'
        return 'acknowledged' if queue.durability is None else 'confirmed'

    def _take(self, task: Task) -> Claim:
        self.deliveries[self.place_of(str(task.id))].append(time.monotonic())
        return self.findings.deliver(task)

    async def _work(self, task: Task) -> None:
        self._claims[task.receipt] = self._take(task)
        await anyio.sleep(self._rng.uniform(0, 0.01))

    def _hear(self, event: events.WorkerEvent) -> None:
        match event:
            case events.Finished(task):
                self._settle(task, 'acknowledged')
            case events.LeaseLost(task):
                self.findings.errors['worker: LeaseLost'] += 1
                self._settle(task, 'gone')
            case events.Unsettled(task, _, error):
                self.findings.fail('worker', error)
                self._settle(task, 'unknown')
            case events.GivenBack(task):
                self._settle(task, 'unknown')
            case events.Disconnected(error):
                self.findings.fail('worker', error)
            case _:
                pass

    def _settle(self, task: Task, outcome: Outcome) -> None:
        if (
            claim := self._claims.pop(task.receipt, None)
        ) is not None:  # None if it was lost before the handler was called
            self.findings.settle(claim, outcome)
