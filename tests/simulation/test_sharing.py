"""One wait for several queues, and a worker that shares its slots between them, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.simulation import callers, mutants_sharing
from tests.simulation.clients import SCRIPTS
from tests.simulation.configs import NONE, Config
from tests.simulation.shares import SharedWorker
from tests.simulation.sharing import KEYS, Process
from tests.simulation.world import World
from torrelque.core.commands import ENQUEUE, enqueue_item
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Call, blocking_drive
from torrelque.worker.shares import STALE

SOON = 0.007
"""Seconds for a hint to get to the client and a claim to the server, and a lane to be made before the first."""

SLICE = 8.0


class Shop:
    """A process with three queues on a network that works, and what it sends."""

    def __init__(self) -> None:
        self.blocks: list[tuple[float, int]] = []
        """When calls that wait were made, and of how many queues."""
        self.claims: Counter[int] = Counter()
        self.world = World(1, Config(faults=NONE, cancel=0, queues=3), self._trace)
        self.process = Process(self.world, 'p')
        self.world.clients += self.process.members
        self._lanes = [Lanes(SCRIPTS, keys, 'elsewhere') for keys in KEYS]
        execute = self.world.execute

        def watched(call: Call[object]) -> object:
            if call.command is SCRIPTS['claim']:
                self.claims[[keys['pending'] for keys in KEYS].index(call.keys[0])] += 1  # type: ignore[arg-type]  # bytes
            return execute(call)

        self.world.network._execute = watched

    def _trace(self, now: float, text: str) -> None:
        if ' blocks for ' in text:
            self.blocks.append((now, int(text.rpartition(' ')[2])))

    @property
    def now(self) -> float:
        return self.world.scheduler.now

    def run(self, seconds: float) -> None:
        self.world.scheduler.run(self.now + seconds)

    def consume(self) -> None:
        """Have a consumer wait for each queue."""
        for member in self.process.members:
            member.spawn(callers.wait_for_work(member))

    def employ(
        self, concurrency: int, weights: Sequence[float], reserves: Sequence[int] = (0, 0, 0), *, strict: bool = False
    ) -> SharedWorker:
        return SharedWorker(self.process, concurrency, weights, reserves, strict=strict)

    def enqueue(self, queue: int, tasks: int = 1) -> None:
        """As a producer elsewhere does."""
        items = [enqueue_item(self.world.new_id(), b'data', 300, None, None, b'') for _ in range(tasks)]
        call = self._lanes[queue].call('enqueue', ENQUEUE.arguments(items), ENQUEUE.parse)
        blocking_drive(call, lambda batch: [self.world.execute(call) for call in batch])


def seconds_until_begun(shop: Shop, worker: SharedWorker, queue: int) -> float:
    """How long a task of a queue waits for the worker."""
    begin = shop.now
    shop.enqueue(queue)
    shop.run(2)
    return min([moment for moment, of in worker.done if of == queue and moment >= begin], default=shop.now) - begin


def test_an_idle_process_has_one_blocked_call() -> None:
    shop = Shop()
    shop.consume()
    shop.run(1)
    shop.blocks.clear()
    shop.claims.clear()
    shortest = min(member.session._consumers._longest_slice for member in shop.process.members) * 0.85
    shop.run(40 * SLICE)
    assert {queues for _, queues in shop.blocks} == {3}
    assert len(shop.blocks) <= 40 * SLICE / shortest + 1
    assert max(shop.claims.values()) <= len(shop.blocks) + 1


@pytest.mark.parametrize('first', range(3))
def test_a_task_of_any_queue_is_taken_at_once(first: int) -> None:
    shop = Shop()
    worker = shop.employ(2, (6, 3, 1))
    shop.run(3)
    for queue in (first, (first + 1) % 3, (first + 2) % 3, first):
        assert seconds_until_begun(shop, worker, queue) < SOON
        shop.run(1)


def crowd_after_a_task(shop: Shop) -> list[int]:
    """Of how many queues the calls are that follow the slice after a task for one of the queues."""
    shop.consume()
    shop.run(3)
    shop.enqueue(1)
    shop.run(1.1 * SLICE)
    shop.blocks.clear()
    shop.run(3 * SLICE)
    return [queues for _, queues in shop.blocks]


def test_calls_become_one_after_a_slice() -> None:
    assert set(crowd_after_a_task(Shop())) == {3}


def test_calls_that_do_not_become_one_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants_sharing.each_queue_waits_alone(monkeypatch)
    assert 3 not in crowd_after_a_task(Shop())


def begun_with_backlogs(weights: Sequence[float], *, strict: bool = False) -> list[int]:
    """Of which queues a worker begins tasks, one after the other, while all have some."""
    shop = Shop()
    for queue in range(3):
        shop.enqueue(queue, 60)
    worker = shop.employ(3, weights, strict=strict)
    while len(worker.done) < 60:
        shop.run(1)
    return [queue for _, queue in worker.done[:60]]


def test_queues_have_shares_by_their_weights() -> None:
    begun = begun_with_backlogs((6, 3, 1))
    for at in range(0, 60, 10):
        counts = Counter(begun[at : at + 10])
        assert all(abs(counts[queue] - share) <= 1 for queue, share in enumerate((6, 3, 1))), begun


def test_the_first_queue_goes_first_in_strict_order() -> None:
    assert set(begun_with_backlogs((1, 1, 1), strict=True)) == {0}


def test_weights_and_order_that_do_not_count_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        mutants_sharing.weights_do_not_count(patch)
        assert Counter(begun_with_backlogs((6, 3, 1)))[0] < 25
    mutants_sharing.strict_is_by_weight(monkeypatch)
    assert set(begun_with_backlogs((1, 1, 1), strict=True)) == {0, 1, 2}


def test_a_reserved_slot_is_free_at_once() -> None:
    shop = Shop()
    worker = shop.employ(3, (1, 1, 1), (1, 0, 0))
    worker._longest = 20.0
    for queue in (1, 2):
        shop.enqueue(queue, 50)
    shop.run(1)
    for _ in range(4):
        assert seconds_until_begun(shop, worker, 0) < SOON
        while worker._held[0]:
            shop.run(0.1)


def seconds_beside_plenty() -> float:
    """For how long a task waits while the worker has enough to do with another queue."""
    shop = Shop()
    worker = shop.employ(2, (1, 1, 1))
    worker._longest = 0.1
    for _ in range(3):
        shop.enqueue(2, 250)
    shop.run(0.5)
    waited = seconds_until_begun(shop, worker, 0)
    assert len(shop.world.server.shards[2].pending()) > 0
    return waited


def test_a_task_beside_plenty_in_another_queue_has_its_turn() -> None:
    assert seconds_beside_plenty() < STALE + 0.1 + SOON


def test_a_queue_that_is_forgotten_while_busy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants_sharing.an_empty_queue_is_not_looked_at_while_busy(monkeypatch)
    assert seconds_beside_plenty() > 0.4
