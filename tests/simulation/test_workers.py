"""What the worlds bring about, and workers in worlds where little happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from tests.simulation.callers import wait_for_work
from tests.simulation.clients import SCRIPTS, Client
from tests.simulation.configs import CONFIGS, NONE, Config
from tests.simulation.network import name_of
from tests.simulation.server import KEYS
from tests.simulation.workers import Worker
from tests.simulation.world import World
from torrelque.core.commands import ENQUEUE, enqueue_item
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Batch, Operation, Reply, blocking_drive

OPERATORS = {'audits', 'redrive of ids', 'redrive of all', 'purge of ids', 'purge of all'}
USERS = {'delivered', 'delivered again', 'enqueued once more', 'came too late'}
WORKERS = {'renewed', *(f'{verb} by a worker' for verb in ('release', 'requeue', 'reject', 'giveback'))}


@pytest.mark.parametrize(
    ('config', 'wanted'),
    [
        ('cuts', OPERATORS | USERS),
        ('workers', WORKERS | USERS | {'audits', 'lost by a worker', 'removed beyond a cap'}),
        ('crew', {*WORKERS, 'removed beyond a cap'}),
        ('forks', {'inherited'}),
    ],
)
def test_what_the_worlds_bring_about(config: str, wanted: set[str]) -> None:
    tally: Counter[str] = Counter()
    for seed in range(15):
        world = World(seed, CONFIGS[config])
        world.run()
        tally += world.ledger.tally + Counter({'removed beyond a cap': world.rules.trimmed})
    assert wanted <= tally.keys()


class Shop:
    """A world in which nothing happens by itself, and what its clients send."""

    def __init__(self, **accidents: float) -> None:
        self.world = World(1, Config(faults=NONE, cancel=0, accidents=accidents))
        self.sent: list[Counter[str]] = []  # names of the calls of each batch
        self._lanes = Lanes(SCRIPTS, KEYS, 'elsewhere')
        send = self.world.network.send

        def noting(batch: Batch, receive: Callable[[Sequence[Reply]], object]) -> None:
            self.sent.append(Counter(name_of(call) for call in batch))
            send(batch, receive)

        self.world.network.send = noting  # type: ignore[method-assign]  # to look at it

    def client(self, name: str) -> Client:
        client = Client(self.world, name)
        self.world.clients.append(client)
        return client

    def enqueue(self, count: int, timeout: float) -> None:
        words = [enqueue_item(f'id-{number}', b'%d' % number, timeout, None, None, b'') for number in range(count)]
        self._drive(self._lanes.call('enqueue', ENQUEUE.arguments(words), ENQUEUE.parse))

    def _drive(self, operation: Operation[object]) -> None:
        blocking_drive(operation, lambda batch: [self.world.execute(call) for call in batch])

    def run(self, seconds: float) -> None:
        self.world.scheduler.run(self.world.scheduler.now + seconds)

    def tasks(self) -> int:
        return len(list(self.world.server.tasks()))


def test_outcomes_travel_with_the_next_claim() -> None:
    shop = Shop()
    shop.enqueue(20, 10)
    Worker(shop.client('c'), 1, lambda: 0.5)
    shop.run(60)
    outcomes = [batch for batch in shop.sent if batch['release'] or batch['requeue'] or batch['reject']]
    assert len(outcomes) >= 20
    assert all(batch['claim'] for batch in outcomes[1:])  # the first waits until its lane is made


def test_renewals_of_one_moment_are_one_call() -> None:
    shop = Shop()
    shop.enqueue(5, 10)
    Worker(shop.client('c'), 5, lambda: 60)
    shop.run(50)
    extended = [batch for batch in shop.sent if batch['extend']]
    assert shop.world.ledger.tally['renewed'] == 5 * len(extended) > 30
    assert not shop.world.ledger.tally['lost by a worker']


def test_a_worker_claims_what_it_can_start() -> None:
    shop = Shop()
    shop.enqueue(10, 10)
    Worker(shop.client('c'), 3, lambda: 4)
    for _ in range(40):
        shop.run(0.1)
        assert len(shop.world.server.working()) <= 3


def test_a_stopped_worker_gives_back_what_it_has_in_hand_uncounted() -> None:
    shop = Shop()
    shop.enqueue(3, 10)
    worker = Worker(shop.client('c'), 3, lambda: 60)
    shop.run(12)
    worker.stop(2)
    shop.run(1.9)
    assert len(shop.world.server.working()) == 3
    shop.run(0.2)
    assert len(shop.world.server.pending()) == 3
    views = [shop.world.server.view(task_id) for task_id in shop.world.server.pending()]
    assert [view.dequeue_count for view in views] == [0, 0, 0]
    assert not worker.busy


@pytest.mark.parametrize('seconds', [5.0, 40.0], ids=['done by then', 'still at it'])
def test_a_worker_paused_beyond_its_leases_changes_nothing(seconds: float) -> None:
    shop = Shop(pause=1.0)  # that is, leases may be lost
    shop.enqueue(3, 10)
    paused = shop.client('paused')
    Worker(paused, 3, lambda: seconds)
    shop.run(1)
    assert len(shop.world.server.working()) == 3
    paused.pause(30)
    shop.client('other').spawn(wait_for_work(shop.world.clients[-1]))
    shop.run(28)
    assert shop.tasks() == 0
    before = shop.world.server.snapshot()
    shop.run(20)
    tally = shop.world.ledger.tally
    assert tally['lost by a worker'] == 3
    assert not tally['release by a worker']
    kept = [key for key in before if key not in shop.world.server.snapshot()]
    assert all(b'lane' in key or key == KEYS['timer'] for key in kept)
