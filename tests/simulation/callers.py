"""What the users of 1.0 do."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

from tests.simulation.clients import CANCELLED, SCRIPTS, Behaviour, Client
from tests.simulation.ledger import key_of
from tests.simulation.rules import require
from tests.simulation.server import KEYS
from torrelque.core import operations
from torrelque.core.merging import Ticket
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.core.verbs import (
    CANCEL,
    ENQUEUE,
    EXTEND,
    GIVEBACK,
    REJECT,
    RELEASE,
    REQUEUE,
    Answer,
    ClaimedTask,
    Item,
    Verb,
    cancel_item,
    claim_item,
    enqueue_item,
    extend_item,
    reject_item,
    release_item,
    requeue_item,
)  # fmt: skip
from torrelque.errors import TorrelqueConnectionError, TorrelqueTimeoutError

__all__ = ('CHOSEN', 'drain', 'live', 'wait_for_work')

CHOSEN = tuple(f'chosen-{number}' for number in range(4))
"""Ids that callers choose, again and again."""

VERBS = (RELEASE, RELEASE, RELEASE, RELEASE, REQUEUE, REJECT, GIVEBACK)


def _nobody() -> None:
    """A caller sets its own wake when it waits for the ticket."""


def _ask(client: Client, verb: Verb, items: Sequence[Item]) -> Generator[Ticket, Any, list[Answer] | None]:
    """The answers; None if it was cancelled, or failed."""
    ticket = yield client.session.submit(verb, items, _nobody)
    return ticket.value if _succeeded(client, ticket) else None


def _succeeded(client: Client, ticket: Any) -> bool:  # noqa: ANN401 - a ticket, or CANCELLED
    """Whether there is an answer. Where there is none, it is for a reason that callers may be told."""
    if ticket is CANCELLED:
        return False
    error = ticket.error
    if isinstance(error, TorrelqueConnectionError):
        require(client.world.config.faults.lose + client.world.config.faults.unblock > 0, 'failed without a reason')
    elif error is not None and not client.stopping:
        require(isinstance(error, TorrelqueTimeoutError), 'a caller was told', error)
    return error is None


def live(client: Client, name: str) -> Behaviour:
    """Do this and that until the world ends."""
    random = client.random
    acts = (_produce, _consume, _consume, _consume, _take, _cancel, _sweep)
    yield random.random()
    while not client.stopping and (yield from client.world.choices.turn(name)):
        act = random.choice(acts)
        client.world.tell(f'{name}: {act.__name__}')
        yield from act(client)
        yield random.choice((0, 0.001, 0.5, 3)) * random.random()


def _produce(client: Client) -> Behaviour:
    random = client.random
    items, chosen = [], random.random() < 0.2
    ids = []
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        task_id = random.choice(CHOSEN) if chosen else client.world.new_id()
        ids.append((task_id, client.world.new_id().encode()))
        delay = random.choice((None, None, None, -1.0, random.uniform(0, 3), random.uniform(0, 25)))
        limit = random.choice((None, None, 1, 2, 3))
        timeout = round(random.choice((2, 10, 40)) * random.uniform(0.5, 1), 3)
        items.append(enqueue_item(task_id, ids[-1][1], timeout, delay, limit, random.choice((b'', b'{"a":"b"}'))))
    answers = yield from _ask(client, ENQUEUE, items)
    for (task_id, payload), answer in zip(ids, answers or (), strict=answers is not None):
        client.world.ledger.enqueued(task_id, payload, answer, unique=not chosen)


def _consume(client: Client) -> Behaviour:
    want, timeout = client.random.choice((1, 1, 2, 5)), client.random.choice((0.01, 1, 5, 20, math.inf))
    ticket = yield client.session.dequeue(want, client.clock() + timeout, _nobody)
    if _succeeded(client, ticket):
        yield from _work(client, ticket.value, want)


def _take(client: Client) -> Behaviour:
    want = client.random.choice((1, 3))
    ticket = yield client.session.dequeue_nowait(want, _nobody)
    if _succeeded(client, ticket):
        yield from _work(client, ticket.value, want)


def _work(client: Client, tasks: Sequence[ClaimedTask], want: int) -> Behaviour:
    random, ledger = client.random, client.world.ledger
    ledger.delivered(tasks)
    if not tasks:
        return
    yield random.choice((0, 0.01, 1, 10, 30 if client.world.network.faults.stuck else 1)) * random.random()
    for _ in range(random.choice((0, 0, 1, 2))):
        yield from _act(client, EXTEND, tasks)
        yield random.random()
    if random.random() < 0.05:
        ledger.abandoned.update(key_of(task) for task in tasks)
        return
    if random.random() < 0.5:
        yield from _act(client, random.choice(VERBS), tasks)
    else:
        for task in tasks:
            yield from _act(client, random.choice(VERBS), [task])
    if random.random() < 0.2:  # the receipts are stale now
        yield random.random() * 2
        yield from _act(client, random.choice((*VERBS, EXTEND)), tasks)
    elif random.random() < 0.05 and not client.world.config.legacy:  # whoever has it now
        yield from _ask(client, RELEASE, [_item(client, RELEASE, tasks[0].receipt.id)])


def _act(client: Client, verb: Verb, tasks: Sequence[ClaimedTask]) -> Behaviour:
    answers = yield from _ask(client, verb, [_item(client, verb, task.receipt) for task in tasks])
    ledger = client.world.ledger
    if answers is not None:
        for task, answer in zip(tasks, answers, strict=True):
            ledger.answered(task, verb.name, answer)
    elif verb is not EXTEND:
        for task in tasks:
            ledger.used(task)
            if client.available:  # the call was dropped, perhaps; nobody will make it again
                ledger.abandoned.add(key_of(task))


def _item(client: Client, verb: Verb, target: Any) -> Item:  # noqa: ANN401 - a receipt or an id
    random = client.random
    if verb is RELEASE:
        status = random.choice((TorrelqueTaskStatus.COMPLETED, TorrelqueTaskStatus.REJECTED))
        ttl = random.choice((None, 0.5, 100))
        return release_item(target, status, ttl, b'' if ttl is None else b'result')
    if verb is REQUEUE:
        return requeue_item(target, random.choice((None, None, random.uniform(0, 10))), random.choice((None, 5)))
    if verb is REJECT:
        return reject_item(target, 'a reason')
    if verb is EXTEND:
        return extend_item(target, random.choice((None, 1, 20)))
    return claim_item(target)


def _cancel(client: Client) -> Behaviour:
    known = client.world.some_id()
    if known is not None:
        yield from _ask(client, CANCEL, [cancel_item(known)])


def _sweep(client: Client) -> Behaviour:
    if client.random.random() < 0.3:
        client.run(operations.sweep(SCRIPTS, KEYS))
    yield 0.1


def wait_for_work(client: Client) -> Behaviour:
    """Take one task after another and release it at once."""
    while True:
        ticket = yield client.session.dequeue(1, math.inf, _nobody)
        if not _succeeded(client, ticket):
            return
        client.world.ledger.delivered(ticket.value)
        yield from _act(client, RELEASE, ticket.value)


def drain(client: Client) -> Behaviour:
    """Work everything off."""
    for _ in range(2):  # what 0.9 left in dequeueing is returned by the second of two sweeps
        client.run(operations.sweep(SCRIPTS, KEYS))
        yield 0.5
    while client.world.working_off:
        ticket = yield client.session.dequeue(5, math.inf, _nobody)
        if not _succeeded(client, ticket):
            return
        client.world.ledger.delivered(ticket.value)
        items = [release_item(task.receipt, TorrelqueTaskStatus.COMPLETED, None, b'') for task in ticket.value]
        yield from _ask(client, RELEASE, items)
