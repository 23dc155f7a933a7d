"""What the worlds in which primaries fail bring about, and a replica that lags, step by step."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.configs import CONFIGS, NONE
from tests.simulation.history import LedgerOfReplicas, RulesOfReplicas
from tests.simulation.rules import Violation
from tests.simulation.world import World
from torrelque.core.commands import ENQUEUE, Answer, Outcome, enqueue_item
from torrelque.core.durability import Confirmer, Durability
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Batch, Reply, blocking_drive
from torrelque.errors import TorrelqueDurabilityError

WORLDS = 15
LOST = {'acknowledged enqueues lost', 'acknowledged ends lost', 'delivered, but forgotten'}
CONFIRMED = {f'{what} {how}' for what in ('enqueues', 'ends') for how in ('confirmed', 'not confirmed in time')}


def test_what_the_worlds_bring_about() -> None:
    tally: Counter[str] = Counter()
    for seed in range(WORLDS):
        world = World(seed, CONFIGS['failover'])
        world.run()
        tally += world.ledger.tally
    assert tally.keys() >= LOST | CONFIRMED | {'delivered again', 'came too late', 'audits'}
    assert tally['fail-overs'] > 5 * WORLDS
    assert tally['acknowledged enqueues lost'] < tally['enqueues acknowledged'] / 2


def test_what_schedules_do_again() -> None:
    again = 0
    for seed in range(WORLDS):
        world = World(seed, CONFIGS['schedules-failover'])
        world.run()
        (rules,) = world.rules.parts
        assert rules.on_fire is not None
        again += rules.on_fire.again
    assert again > 0


class Shop:
    """A server in a world in which nothing happens by itself."""

    def __init__(self) -> None:
        self.world = World(1, CONFIGS['failover'])
        rules, ledger = self.world.rules, self.world.ledger
        assert isinstance(rules, RulesOfReplicas)
        assert isinstance(ledger, LedgerOfReplicas)
        self.rules, self.ledger = rules, ledger
        client = self.world.make_client('c')
        self._lanes: Lanes = client.sessions[0].lanes

    def enqueue(self, task_id: str, *, confirmed: bool) -> None:
        item = enqueue_item(task_id, b'data', 300.0, None, None, b'')
        (outcome,) = blocking_drive(
            self._lanes.call('enqueue', ENQUEUE.arguments([item]), ENQUEUE.parse), self._execute
        )
        self.tell(task_id, outcome, confirmed=confirmed)

    def tell(self, task_id: str, outcome: Answer, *, confirmed: bool) -> None:
        """The caller of an enqueue learns the outcome."""
        self.ledger.enqueued(task_id, b'data', outcome, unique=True, confirmed=confirmed)

    def _execute(self, batch: Batch) -> list[Reply]:
        return [self.world.execute(call) for call in batch]


def test_what_the_replica_did_not_have_is_lost_and_counted() -> None:
    shop = Shop()
    shop.enqueue('t0', confirmed=True)
    facts = shop.rules.keep(0.0)
    shop.enqueue('t1', confirmed=False)
    shop.ledger.failed_over(facts)
    assert shop.ledger.tally['acknowledged enqueues lost'] == 1
    assert shop.rules.shadow.keys() == {b't0'}


def test_a_confirmed_enqueue_must_not_be_lost() -> None:
    shop = Shop()
    facts = shop.rules.keep(0.0)
    shop.enqueue('t0', confirmed=True)
    with pytest.raises(Violation, match='a confirmed enqueue was lost'):
        shop.ledger.failed_over(facts)


def test_what_was_written_and_not_confirmed_may_be_lost_also_before_the_caller_is_told() -> None:
    shop = Shop()
    facts = shop.rules.keep(0.0)
    shop.enqueue('t0', confirmed=False)
    shop.ledger.failed_over(facts)
    shop.tell('t0', TorrelqueDurabilityError('not heard of', 't0'), confirmed=True)
    assert shop.ledger.tally['enqueues not confirmed in time'] == 1
    with pytest.raises(Violation, match='a confirmed enqueue was lost'):
        shop.tell('t0', Outcome.NEW, confirmed=True)


def test_an_enqueue_is_acknowledged_by_its_own_record_only() -> None:
    shop = Shop()
    shop.enqueue('t0', confirmed=False)
    with pytest.raises(Violation, match='acknowledged what was never enqueued'):
        shop.tell('t1', Outcome.NEW, confirmed=False)


def test_a_wait_tells_of_what_its_connection_wrote() -> None:
    """As servers do: after no write, all replicas have it at once."""
    world = World(1, CONFIGS['failover'])
    world.network.faults = NONE
    client = world.make_client('c')
    confirmer = Confirmer(
        Durability(replicas=1, timeout=1.0), client.sessions[0].lanes._scripts, client.sessions[0].lanes._keys
    )
    probe = confirmer._wait(0, 1)
    wait = confirmer._wait(1, 1000)
    mint = client.sessions[0].lanes.script('mint', ('n',), bool)
    told: list[tuple[float, Reply]] = []
    for batch in ((probe,), (wait,), (mint, wait)):
        world.network.send(batch, lambda replies: told.append((world.scheduler.now, replies[-1])))
        world.scheduler.run()
    (_, first), (second_at, second), (third_at, third) = told
    assert (first, second, third) == (1, 1, 0)  # nothing is replicated here
    assert third_at - second_at > 1.0
