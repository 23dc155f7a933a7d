"""What the users of 1.0 do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.simulation.asking import ask, nobody, succeeded
from tests.simulation.clients import Behaviour, Client
from tests.simulation.grouping import lift_groups_at_last, some_line
from tests.simulation.ledger import key_of
from tests.simulation.limiting import lift_at_last
from tests.simulation.operators import operate, redrive_all
from tests.simulation.pausing import resume_at_last
from tests.simulation.scheduling import remove_at_last
from tests.simulation.shards import id_beside
from torrelque.core import operations
from torrelque.core.commands import (
    ADD,
    CANCEL,
    ENQUEUE,
    EXTEND,
    GIVEBACK,
    PROGRESS,
    REJECT,
    RELEASE,
    REQUEUE,
    ClaimedTask,
    Command,
    Item,
    cancel_item,
    claim_item,
    enqueue_item,
    extend_item,
    progress_item,
    reject_item,
    release_item,
    requeue_item,
)
from torrelque.core.models import TorrelqueTaskStatus

__all__ = ('drain', 'inherit', 'live', 'wait_for_work')

EXPIRIES = (1.0, 5.0, 20.0)
"""Seconds within which tasks expire."""

VERBS = (RELEASE, RELEASE, RELEASE, RELEASE, REQUEUE, REJECT, GIVEBACK)


def live(client: Client, name: str) -> Behaviour:
    """Do this and that until the world ends."""
    random = client.random
    acts = (_produce, _produce, *[_consume] * 6, _take, _take, operate, operate, operate, *client.acts)
    yield random.random()
    while not client.stopping and (yield from client.world.choices.turn(name)):
        act = random.choice(acts)
        client.world.tell(f'{name}: {act.__name__}')
        yield from act(client)
        yield random.choice((0, 0.001, 0.5, 3)) * random.random()


def _produce(client: Client) -> Behaviour:
    random = client.random
    payloads = [client.world.new_id().encode() for _ in range(random.choice(client.world.config.at_once))]
    chosen = random.random() < client.world.config.chosen
    while not (yield from _enqueue(client, payloads, chosen=chosen)) and random.random() < 0.7:
        yield random.random()
        if client.stopping:
            return


def _enqueue(client: Client, payloads: Sequence[bytes], *, chosen: bool) -> Any:  # noqa: ANN401 - a behaviour that returns whether it is known to be done
    """Where the ids are not chosen, each try has its own: what is not known to be done may be done twice."""
    random, ledger = client.random, client.world.ledger
    ids, items = [], []
    for payload in payloads:
        ids.append(random.choice(client.world.chosen) if chosen else client.world.new_id())
        delay = random.choice((None, None, None, -1.0, random.uniform(0, 3), random.uniform(0, 25)))
        limit = random.choice((None, None, 1, 2, 3))
        timeout = round(random.choice((2, 10, 40)) * random.uniform(0.5, 1), 3)
        item = enqueue_item(ids[-1], payload, timeout, delay, limit, random.choice((b'', b'{"a":"b"}')))
        replaces = chosen and random.random() < client.world.config.replacing
        expiry = random.choice(EXPIRIES) if random.random() < client.world.config.expiring else 0.0
        more = (
            'replace' if replaces else '',
            f'+{random.random() * expiry:.6f}' if expiry else '',
            random.choice(('', 'reject')),
        )
        line = some_line(client)
        if line[0] and client.world.config.shards:
            ids[-1] = id_beside(client.world, line[0])
            item = (ids[-1].encode(), *item[1:])
        items.append((*item, *more, *line) if any((*more[:2], *line)) else item)
        ledger.enqueues(payload)
    command = ENQUEUE if chosen or client.world.config.shards else ADD
    answers = yield from ask(client, command, items)
    for task_id, payload, answer in zip(ids, payloads, answers or (), strict=False):
        ledger.enqueued(task_id, payload, answer, unique=not chosen, confirmed=client.confirms)
    return answers is not None


def _consume(client: Client) -> Behaviour:
    want, timeout = client.random.choice((1, 1, 2, 5)), client.random.choice((0.01, 1, 5, 20, math.inf))
    ticket = yield client.session.dequeue(want, client.clock() + timeout, nobody)
    if succeeded(client, ticket):
        yield from _work(client, ticket.value)


def _take(client: Client) -> Behaviour:
    want = client.random.choice((1, 3))
    ticket = yield client.session.dequeue_nowait(want, nobody)
    if succeeded(client, ticket):
        yield from _work(client, ticket.value)


def _work(client: Client, tasks: Sequence[ClaimedTask]) -> Behaviour:
    ledger = client.world.ledger
    ledger.delivered(tasks)
    client.held.update(dict.fromkeys(tasks))
    if tasks:
        yield from _handle(client, tasks)
    for task in tasks:
        del client.held[task]


def inherit(client: Client) -> Behaviour:
    """Do to tasks what was meant to be done to them when the process forked."""
    tasks = list(client.held)
    client.world.ledger.inherited(tasks)
    if tasks:
        yield from _handle(client, tasks)


def _handle(client: Client, tasks: Sequence[ClaimedTask]) -> Behaviour:
    random, ledger = client.random, client.world.ledger
    yield random.choice((0, 0.01, 1, 10, 30 if client.world.network.faults.stuck else 1)) * random.random()
    for _ in range(random.choice((0, 0, 1, 2))):
        yield from _act(client, random.choice((EXTEND, PROGRESS)), tasks)
        yield random.random()
    cancelling = client.world.config.cancelling
    if cancelling and random.random() < cancelling:
        yield from ask(client, CANCEL, [cancel_item(random.choice(tasks).receipt.id, 'ask')])
        yield random.random()
        yield from _act(client, EXTEND, tasks)
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
        yield from _act(client, random.choice((*VERBS, EXTEND, PROGRESS)), tasks)
    elif random.random() < 0.05 and not client.world.config.legacy:  # anyone may have it now
        yield from ask(client, RELEASE, [_item(client, RELEASE, tasks[0].receipt.id)])


def _act(client: Client, verb: Command, tasks: Sequence[ClaimedTask]) -> Behaviour:
    if client.random.random() < 0.05:  # a claim may be named twice in one call
        tasks = [*tasks, *tasks]
    answers = yield from ask(client, verb, [_item(client, verb, task.receipt) for task in tasks])
    ledger = client.world.ledger
    if answers is not None:
        for task, answer in zip(tasks, answers, strict=True):
            ledger.answered(task, verb.name, answer, confirmed=client.confirms)
    elif verb not in (EXTEND, PROGRESS):
        for task in tasks:
            ledger.used(task)
            if client.available:  # the call was dropped, perhaps; nobody will make it again
                ledger.abandoned.add(key_of(task))


def _item(client: Client, verb: Command, target: Any) -> Item:  # noqa: ANN401 - a receipt or an id
    random = client.random
    if verb is RELEASE:
        status = random.choice((TorrelqueTaskStatus.COMPLETED, TorrelqueTaskStatus.REJECTED))
        ttl = random.choice((None, 0.5, 100))
        return release_item(target, status, ttl, random.choice((None, b'result')))
    if verb is REQUEUE:
        delay = random.choice((None, None, random.uniform(0, 10)))
        return *requeue_item(target, delay, random.choice((None, 5)), count=random.random() < 0.8)[:-1], _hold(client)
    if verb is REJECT:
        return reject_item(target, 'a reason', client.max_rejected)
    if verb is PROGRESS:
        return progress_item(target, random.randrange(9), None, None)
    if verb is EXTEND:
        return extend_item(target, random.choice((None, 1, 20)))
    return claim_item(target)


def _hold(client: Client) -> str:
    """Whether the group of a task that is requeued waits, or others of an ordered one pass."""
    return client.random.choice(('', '', '', 'group', 'pass')) if client.world.config.groups else ''


def wait_for_work(client: Client) -> Behaviour:
    """Take one task after another and release it at once."""
    while True:
        ticket = yield client.session.dequeue(1, math.inf, nobody)
        if not succeeded(client, ticket):
            return
        client.world.ledger.delivered(ticket.value)
        yield from _act(client, RELEASE, ticket.value)


def drain(client: Client) -> Behaviour:
    """Work everything off; sometimes the dead letters, too."""
    yield from resume_at_last(client)
    yield from lift_at_last(client)
    yield from lift_groups_at_last(client)
    yield from remove_at_last(client)
    if client.random.random() < 0.5:
        yield from redrive_all(client, math.inf)
    for _ in range(2):  # what 0.9 left in dequeueing is returned by the second of two sweeps
        for keys in client.world.keys:
            client.run(operations.sweep(client.world.scripts, keys, client.max_rejected))
        yield 0.5
    while client.world.working_off:
        ticket = yield client.session.dequeue(5, math.inf, nobody)
        if not succeeded(client, ticket):
            return
        client.world.ledger.delivered(ticket.value)
        items = [release_item(task.receipt, TorrelqueTaskStatus.COMPLETED, None, b'') for task in ticket.value]
        yield from ask(client, RELEASE, items)
