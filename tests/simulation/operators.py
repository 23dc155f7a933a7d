"""What those do who look after a queue: sweep, cancel, redrive, purge and audit, at any moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation.asking import ask, succeeded
from tests.simulation.clients import Behaviour, Client
from tests.simulation.grouping import be_strict_for_a_while, limit_groups_for_a_while
from tests.simulation.limiting import limit_for_a_while
from tests.simulation.pausing import pause_for_a_while, resume
from tests.simulation.rules import require
from tests.simulation.scheduling import fire, keep, remove
from torrelque.core import operations
from torrelque.core.auditing import Violation, audit
from torrelque.core.commands import (
    CANCEL,
    PURGE,
    REDRIVE,
    Command,
    Item,
    Outcome,
    cancel_item,
    purge_item,
    redrive_item,
)
from torrelque.core.keys import Keys
from torrelque.core.protocol import Batch, Operation
from torrelque.errors import TorrelqueNewerError

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ('RESULT_TTL', 'audit_all_along', 'operate', 'redrive_all', 'unexpected')

RESULT_TTL = 100.0
"""For how long an audit has results kept that would be kept for ever."""

Write = Callable[[str, float], Item]


def operate(client: Client) -> Behaviour:
    """Do one of these."""
    acts = [_cancel, _cancel, _sweep, _redrive, _redrive, _redrive_all, _purge, _purge_old, _audit]
    if client.world.config.pauses:
        acts += [pause_for_a_while, resume]
    if client.world.config.limits:
        acts += [limit_for_a_while] * 3
    if client.world.config.groups:
        acts += [*[limit_groups_for_a_while] * 4, *[be_strict_for_a_while] * 2]
    if client.world.config.schedules:
        acts += [*[keep] * 8, remove, fire, fire]
    yield from client.random.choice(acts)(client)


def _cancel(client: Client) -> Behaviour:
    running = client.random.choice(('', 'end', 'ask')) if client.world.config.cancelling else ''
    yield from ask(client, CANCEL, [cancel_item(client.world.some_id(), running)])


def _sweep(client: Client) -> Behaviour:
    yield from _perform(client, operations.sweep(client.world.scripts, client.some_keys(), client.max_rejected))


def _audit(client: Client) -> Behaviour:
    found = yield from _perform(client, _begin_audit(client.world, client.some_keys()))
    if found is not None:
        _check_audit(client.world, found)


def audit_all_along(world: World) -> None:
    """Audit again and again over a connection that never fails, as few audits get through where most do."""
    if world.ending:
        return
    if world.choices.may('audit'):
        _audit_well(world)
    world.scheduler.after(world.random.expovariate(0.1), lambda: audit_all_along(world))


def _audit_well(world: World) -> None:
    operation = _begin_audit(world, world.some_keys())

    def step(batch: Batch) -> None:
        try:
            following = operation.send([world.execute(call) for call in batch])
        except StopIteration as stop:
            _check_audit(world, stop.value)
        except TorrelqueNewerError:
            require(world.config.later, 'told of a later version')
        else:
            world.scheduler.after(
                world.random.choice((0.002, 0.05, 1)) * world.random.random(), lambda: step(following)
            )

    step(next(operation))


def _begin_audit(world: World, keys: Keys) -> Operation[list[Violation]]:
    return audit(world.scripts, keys, RESULT_TTL, repair=world.random.random() < 0.5)


def _check_audit(world: World, found: list[Violation]) -> None:
    world.ledger.tally['audits'] += 1
    require(not unexpected(world, found), 'an audit found what is not so', found)


def unexpected(world: World, found: list[Violation]) -> list[Violation]:
    """What an audit finds, but that features are forgotten where counters were lost."""
    are_lost = any(rules.counters_lost for rules in world.rules.parts)
    return [each for each in found if not (are_lost and each.kind == 'ignored')]


# Dead letters: those with given ids, or all up to an age, as in torrelque/engine/dead_letters.py


def _redrive(client: Client) -> Behaviour:
    yield from _do_to_some(client, REDRIVE, redrive_item)


def _redrive_all(client: Client) -> Behaviour:
    yield from redrive_all(client, client.random.choice((1, 2, 5, math.inf)))


def redrive_all(client: Client, limit: float) -> Behaviour:
    """Redrive up to this number of dead letters, the oldest first."""
    yield from _do_to_oldest(client, REDRIVE, redrive_item, 0.0, limit)


def _purge(client: Client) -> Behaviour:
    yield from _do_to_some(client, PURGE, purge_item)


def _purge_old(client: Client) -> Behaviour:
    age = client.random.choice((0, 5, 30)) * client.random.random()
    yield from _do_to_oldest(client, PURGE, purge_item, age, client.random.choice((1, 3, math.inf)))


def _do_to_some(client: Client, verb: Command, write: Write) -> Behaviour:
    ids, keys = [client.world.some_id() for _ in range(client.random.choice((1, 1, 3)))], client.some_keys()
    known = yield from _perform(client, operations.rejected_before(keys, math.inf, 20))
    if known:
        ids += client.random.sample(known, min(len(known), 2))
    if client.random.random() < 0.5:  # `redrive` and `purge` refuse unknown ids, of which some may be known by then
        found = yield from _perform(client, operations.are_rejected(keys, ids))
        ids = [task_id for task_id, is_known in zip(ids, found or (), strict=found is not None) if is_known]
    if ids:
        # A time in the past is that of an old list of them, some of which have been redriven and rejected again.
        before = client.random.choice((math.inf, client.world.server_time() - 5 * client.random.random()))
        answers = yield from ask(client, verb, [write(task_id, before) for task_id in ids])
        client.world.ledger.tally[f'{verb.name} of ids'] += (answers or []).count(Outcome.OK)


def _do_to_oldest(client: Client, verb: Command, write: Write, age: float, most: float) -> Behaviour:
    keys = client.some_keys()
    now = yield from _perform(client, operations.server_time(keys))
    done = 0
    while now is not None and done < most:
        ids = yield from _perform(client, operations.rejected_before(keys, now - age, int(min(3, most - done))))
        answers = (yield from ask(client, verb, [write(task_id, now - age) for task_id in ids])) if ids else None
        if not answers or Outcome.OK not in answers:
            return
        done += answers.count(Outcome.OK)
        require(done <= most, 'more than the limit', verb.name, done, most)
        client.world.ledger.tally[f'{verb.name} of all'] += answers.count(Outcome.OK)


def _perform(client: Client, operation: Operation[Any]) -> Any:  # noqa: ANN401 - a behaviour that returns a result
    """The result; None if it was cancelled, or failed."""
    ticket = yield client.perform(operation)
    return ticket.value if succeeded(client, ticket) else None
