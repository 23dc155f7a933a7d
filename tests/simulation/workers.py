"""Workers: their leases, outcomes and ends, as `torrelque.Worker` has them, which is built for event loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

from tests.simulation.asking import nobody
from tests.simulation.clients import CANCELLED, Behaviour, Caller, Client
from tests.simulation.ledger import key_of
from tests.simulation.rules import require
from torrelque import retry
from torrelque.core.commands import (
    EXTEND,
    GIVEBACK,
    REJECT,
    RELEASE,
    REQUEUE,
    ClaimedTask,
    Command,
    Item,
    Outcome,
    claim_item,
    extend_item,
    reject_item,
    release_item,
    requeue_item,
)
from torrelque.core.leases import Leases
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.errors import TorrelqueConnectionError

__all__ = ('Worker', 'employ')

FAILURE = ValueError('a handler failed')


def employ(client: Client, name: str) -> Behaviour:
    """Have one worker after the other, each for a while."""
    random = client.random
    while not client.stopping and (yield from client.world.choices.turn(name)):
        worker = Worker(
            client, random.choice((1, 2, 2, 5)), lambda: random.choice((0, 0.1, 1, 5, 30)) * random.random()
        )
        client.before_closing.append(worker.cancel)
        left = random.choice((5, 20, 60)) * random.random()
        while left > 0 and not client.stopping:
            yield min(left, 2.0)
            left -= 2.0
        worker.stop(random.choice((0, 1, 5)))
        while worker.busy:
            yield 0.5
        client.before_closing.remove(worker.cancel)


class _Job:
    """One delivery: a task in a worker's hands."""

    def __init__(self, task: ClaimedTask) -> None:
        self.task = task
        self.expires = task.expires
        self.lost = False


class _Slot:
    """Room for one task. ``caller`` fills it again and again."""

    caller: Caller
    claiming = False
    job: _Job | None = None


class Worker:
    """As many slots as tasks are handled at once, and what minds the leases. ``seconds``: how long a handler takes."""

    def __init__(self, client: Client, concurrency: int, seconds: Callable[[], float]) -> None:
        self._client = client
        self._ledger = client.world.ledger
        self._random = client.random
        self._seconds = seconds
        self._back_off = retry.exponential(0.05, 2, 0.5, jitter=0.5, rng=client.random.random)
        self._retry = retry.exponential(0.5, 2, 20, attempts=4, rng=client.random.random)
        self._leases: Leases[_Job] = Leases()
        self._next_look = math.inf
        self._stopping = False
        self._slots = [_Slot() for _ in range(concurrency)]
        self._filled = concurrency
        for slot in self._slots:
            slot.caller = client.spawn(self._fill(slot), steady=True)
        self._renewer = client.spawn(self._mind_leases(), steady=True)

    @property
    def busy(self) -> bool:
        return self._filled > 0

    def stop(self, grace: float) -> None:
        """Claim nothing more; after ``grace`` s end the handlers and give their tasks back."""
        self._stopping = True
        for slot in self._slots:
            if slot.claiming:
                slot.caller.cancel()
        self._client.later(grace, self._end_handlers)

    def cancel(self) -> None:
        """End now."""
        self._stopping = True
        self._end_handlers()

    def _end_handlers(self) -> None:
        for slot in self._slots:
            self._end_handler(slot, slot.job)

    @staticmethod
    def _end_handler(slot: _Slot, job: _Job | None) -> None:
        if job is not None and slot.job is job:
            slot.caller.interrupt()

    # Claiming ------------------------------------------------------------------

    def _fill(self, slot: _Slot) -> Behaviour:
        while (job := (yield from self._claim(slot))) is not None:
            if self._stopping:
                self._settle_soon(job, GIVEBACK)
                break
            verb = yield from self._work(slot, job)
            if verb is not None:
                self._settle_soon(job, verb)
        self._filled -= 1
        if not self._filled:
            self._renewer.interrupt()

    def _claim(self, slot: _Slot) -> Any:  # noqa: ANN401 - a behaviour that returns a job, or None at the end
        session = self._client.session
        failures = 0
        while not self._stopping:
            slot.claiming = True
            if failures:  # while the server is away it is asked, not waited on
                ticket = yield session.dequeue_nowait(1, nobody)
            else:
                ticket = yield session.dequeue(1, math.inf, nobody)
            slot.claiming = False
            if ticket is CANCELLED:
                return None
            if ticket.error is None:
                failures = 0
                if ticket.value:
                    (task,) = ticket.value
                    self._ledger.delivered([task])
                    return _Job(task)
                continue
            if self._client.stopping:
                return None
            require(isinstance(ticket.error, TorrelqueConnectionError), 'a worker got', ticket.error)
            failures += 1
            yield self._back_off(failures, ticket.error) or 0.0
        return None

    # Handling ------------------------------------------------------------------

    def _work(self, slot: _Slot, job: _Job) -> Any:  # noqa: ANN401 - a behaviour that returns what to do with the task
        if job.expires <= self._client.clock():
            self._lose(job)
            return None
        slot.job = job
        self._look_at(self._leases.add(job, job.expires, self._client.clock()))
        ended = yield self._seconds()
        slot.job = None
        job.expires = self._leases.remove(job)
        if job.lost:
            return None
        return GIVEBACK if ended is CANCELLED else self._random.choice((RELEASE, RELEASE, RELEASE, REQUEUE, REJECT))

    def _lose(self, job: _Job) -> None:
        if job.lost:
            return
        job.lost = True
        self._ledger.lost(job.task)
        self._client.later(0, lambda: [self._end_handler(slot, job) for slot in self._slots])

    # Leases --------------------------------------------------------------------

    def _mind_leases(self) -> Behaviour:
        while self._filled:
            now = self._client.clock()
            for job in self._leases.expired(now):
                self._lose(job)
            for job in self._leases.due(now):
                self._client.spawn(self._renew(job), steady=True)
            self._next_look = self._leases.timer()
            yield min(3600.0, max(self._next_look - now, 1e-6))

    def _look_at(self, moment: float) -> None:
        if moment < self._next_look:
            self._next_look = moment
            self._client.later(0, self._renewer.interrupt)

    def _renew(self, job: _Job) -> Behaviour:
        sent = self._client.clock()
        ticket = yield self._client.session.submit(EXTEND, [extend_item(job.task.receipt, None)], nobody)
        if ticket is CANCELLED or job not in self._leases:  # what became of it may have been written meanwhile
            return
        if ticket.error is not None:
            self._look_at(self._leases.failed(job, self._client.clock()))
            return
        (answer,) = ticket.value
        self._ledger.answered(job.task, EXTEND.name, answer)
        if isinstance(answer, float):
            self._ledger.tally['renewed'] += 1
            self._look_at(self._leases.renewed(job, sent))
        else:
            self._leases.remove(job)
            self._lose(job)

    # Settling ------------------------------------------------------------------

    def _settle_soon(self, job: _Job, verb: Command) -> None:
        self._client.spawn(self._settle(job, verb), steady=True)

    def _settle(self, job: _Job, verb: Command) -> Behaviour:
        """Write an outcome; while the server is away, try for as long as the lease lasts."""
        verb, item = self._outcome(job, verb)
        for tries in count(1):
            require(not job.lost, 'wrote the outcome of a lost claim', job.task)
            ticket = yield self._client.session.submit(verb, [item], nobody)
            if ticket is CANCELLED:
                break
            if ticket.error is None:
                (answer,) = ticket.value
                self._ledger.answered(job.task, verb.name, answer)
                if answer is not Outcome.OK:
                    self._lose(job)
                else:
                    self._ledger.tally[f'{verb.name} by a worker'] += 1
                return
            self._ledger.used(job.task)
            if self._client.stopping or self._client.clock() >= job.expires:
                break
            require(isinstance(ticket.error, TorrelqueConnectionError), 'a worker got', ticket.error)
            yield self._back_off(tries, ticket.error) or 0.0
        self._ledger.used(job.task)
        self._ledger.abandoned.add(key_of(job.task))

    def _outcome(self, job: _Job, verb: Command) -> tuple[Command, Item]:
        """What is written: of a requeue, what the policy says."""
        receipt = job.task.receipt
        if verb is REQUEUE:
            delay = self._retry(receipt.dequeue_count, FAILURE)
            if delay is not None:
                return REQUEUE, requeue_item(receipt, delay, None)
            verb = REJECT
        if verb is REJECT:
            return REJECT, reject_item(receipt, 'the handler says so', self._client.max_rejected)
        if verb is GIVEBACK:
            return GIVEBACK, claim_item(receipt)
        ttl = self._random.choice((None, 2.0))
        return RELEASE, release_item(receipt, TorrelqueTaskStatus.COMPLETED, ttl, b'' if ttl is None else b'done')
