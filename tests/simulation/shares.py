"""Workers over several queues, which share their slots, as `torrelque.Worker` has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.simulation.asking import nobody
from tests.simulation.clients import CANCELLED, Behaviour, Caller, Client
from tests.simulation.ledger import key_of
from tests.simulation.rules import require
from tests.simulation.scheduler import Event
from tests.simulation.sharing import Process, QueueClient
from torrelque.core.commands import (
    GIVEBACK,
    RELEASE,
    REQUEUE,
    ClaimedTask,
    Command,
    Item,
    claim_item,
    release_item,
    requeue_item,
)
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.worker.shares import Claim, Share, Shares

__all__ = ('SharedWorker', 'employ')

AWAY = 0.5
"""Seconds after which a claim that failed is made again."""


def employ(client: Client, name: str) -> Behaviour:
    """Have one worker after the other, each for a while."""
    assert isinstance(client, QueueClient)
    random, process = client.random, client.process
    while not client.stopping and (yield from client.world.choices.turn(name)):
        concurrency = random.choice((1, 2, 3, 6))
        weights = [random.choice((1, 1, 3, 6)) for _ in process.members]
        reserves = [random.choice((0, 0, 1)) for _ in process.members]
        while sum(reserves) >= concurrency:
            reserves = [0] * len(reserves)
        worker = SharedWorker(process, concurrency, weights, reserves, strict=random.random() < 0.3)
        left = random.choice((5, 20, 60)) * random.random()
        while left > 0 and not client.stopping:
            yield min(left, 2.0)
            left -= 2.0
        worker.cancel()
        while worker.busy:
            yield 0.5


class SharedWorker:
    """As many slots as tasks are handled at once, which its queues share."""

    def __init__(
        self,
        process: Process,
        concurrency: int,
        weights: Sequence[float],
        reserves: Sequence[int],
        *,
        strict: bool = False,
        longest: float = 2.0,
    ) -> None:
        self.done: list[tuple[float, int]] = []
        """When tasks were begun, and of which queue."""
        self._process = process
        self._concurrency = concurrency
        self._reserves = reserves
        self._longest = longest
        self._ledger = process.world.ledger
        self._random = process.world.random
        self._queues = [Share(*each) for each in zip(weights, reserves, strict=True)]
        self._shares = Shares(concurrency, self._queues, strict=strict)
        self._claims: dict[Share, Caller] = {}
        self._held = [0] * len(self._queues)
        self._timer: Event | None = None
        self._stopping = False
        process.workers.append(self)
        self._plan()

    @property
    def busy(self) -> bool:
        return bool(self._claims or sum(self._held))

    def may_take(self, number: int) -> bool:
        """Whether there is a slot for a task of a queue."""
        others = sum(max(0, reserve - held) for reserve, held in self._others(number))
        return not self._stopping and self._concurrency - sum(self._held) > others

    def _others(self, number: int) -> list[tuple[int, int]]:
        pairs = list(zip(self._reserves, self._held, strict=True))
        return pairs[:number] + pairs[number + 1 :]

    def cancel(self) -> None:
        """Claim nothing more. What is handled is finished."""
        self._stopping = True
        if self in self._process.workers:
            self._process.workers.remove(self)
        for caller in list(self._claims.values()):
            caller.cancel()

    def _now(self) -> float:
        return self._process.clock()

    def _plan_soon(self) -> None:
        self._process.later(0, self._plan)

    def _plan(self) -> None:
        if self._stopping:
            return
        for claim in self._shares.plan(self._now()):
            client = self._process.members[self._queues.index(claim.share)]
            self._claims[claim.share] = client.spawn(self._claim(client, claim), steady=True)
        for share in self._shares.to_withdraw():
            if share in self._claims:
                self._claims[share].cancel()
        if self._timer is not None:
            self._timer.cancel()
        if (until := self._shares.timer()) < math.inf:
            self._timer = self._process.later(until - self._now() + 1e-6, self._plan)

    # Claiming ------------------------------------------------------------------

    def _claim(self, client: QueueClient, claim: Claim) -> Behaviour:
        yield 0.0  # until it is known as one of the claims
        tasks = yield from self._ask(client, claim)
        del self._claims[claim.share]
        if tasks is None:
            self._shares.withdrawn(claim.share, self._now())
        else:
            self._take(client, claim.share, tasks)
        self._plan_soon()

    def _ask(self, client: QueueClient, claim: Claim) -> Any:  # noqa: ANN401 - a behaviour that returns tasks, or None
        waits, many = claim.waits, claim.many
        while not self._stopping:
            session = client.session
            ticket = yield session.dequeue(many, math.inf, nobody) if waits else session.dequeue_nowait(many, nobody)
            if ticket is CANCELLED:
                return None
            if ticket.error is None:
                self._ledger.delivered(ticket.value)
                return ticket.value
            if client.stopping:
                return None
            self._shares.away(claim.share)
            self._plan_soon()
            yield AWAY * self._random.random()
            waits, many = False, max(1, self._shares.room(claim.share))
        return None

    def _take(self, client: QueueClient, share: Share, tasks: Sequence[ClaimedTask]) -> None:
        kept = 0 if self._stopping else self._shares.answered(share, len(tasks), self._now())
        for task in tasks[:kept]:
            self._held[client.number] += 1
            self._check(client.number)
            self.done.append((self._process.world.scheduler.now, client.number))
            client.spawn(self._handle(client, share, task), steady=True)
        for task in tasks[kept:]:
            client.spawn(self._end(client, task, GIVEBACK), steady=True)

    def _check(self, number: int) -> None:
        """No more tasks than slots, and none in a slot that is reserved for another queue."""
        require(sum(self._held) <= self._concurrency, 'more tasks than slots', self._held)
        most = self._concurrency - sum(reserve for reserve, _ in self._others(number))
        require(self._held[number] <= most, 'a reserved slot was taken', self._held, self._reserves)

    # Handling ------------------------------------------------------------------

    def _handle(self, client: QueueClient, share: Share, task: ClaimedTask) -> Behaviour:
        yield self._random.choice((0, 0.01, 0.1, 1)) * self._random.random() * self._longest
        self._held[client.number] -= 1
        self._shares.freed(share, self._now())
        self._plan_soon()
        yield from self._end(client, task, self._random.choice((RELEASE, RELEASE, RELEASE, REQUEUE)))

    def _end(self, client: QueueClient, task: ClaimedTask, verb: Command) -> Behaviour:
        ticket = yield from client.submit(verb, [_item(verb, task)])
        if ticket is CANCELLED or ticket.error is not None:
            self._ledger.used(task)
            self._ledger.abandoned.add(key_of(task))
        else:
            self._ledger.answered(task, verb.name, ticket.value[0])


def _item(verb: Command, task: ClaimedTask) -> Item:
    if verb is REQUEUE:
        return requeue_item(task.receipt, 1.0, None)
    if verb is GIVEBACK:
        return claim_item(task.receipt)
    return release_item(task.receipt, TorrelqueTaskStatus.COMPLETED, None, b'')
