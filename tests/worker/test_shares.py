"""Which queue gets the next slots: weights, start-time fairness, strict order, reserved slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from torrelque.worker.shares import OVERDUE, STALE, Claim, Share, Shares

WEIGHTS = {'critical': 6.0, 'default': 3.0, 'low': 1.0}


class World:
    """Queues with tasks, and a worker that claims them. A claim is answered at once, and its tasks end at once."""

    def __init__(
        self,
        tasks: Mapping[str, int],
        concurrency: int = 1,
        *,
        strict: bool = False,
        reserve: Mapping[str, int] | None = None,
        weights: Mapping[str, float] = WEIGHTS,
    ) -> None:
        self.tasks = Counter(tasks)
        self.of = {name: Share(weights.get(name, 1.0), (reserve or {}).get(name, 0)) for name in tasks}
        self.names = {share: name for name, share in self.of.items()}
        self.shares = Shares(concurrency, list(self.of.values()), strict=strict)
        self.served: list[str] = []
        self.claims = Counter[str]()
        self.now = 0.0

    def plan(self) -> dict[str, tuple[int, bool]]:
        return {self.names[claim.share]: (claim.many, claim.waits) for claim in self.shares.plan(self.now)}

    def answer(self, name: str, count: int) -> int:
        kept = self.shares.answered(self.of[name], count, self.now)
        self.served += [name] * kept
        self.tasks[name] -= kept
        return kept

    def end(self, name: str, count: int = 1) -> None:
        for _ in range(count):
            self.shares.freed(self.of[name], self.now)

    def play(self, rounds: int, seconds: float = 0.001) -> None:
        """Do rounds of claims, with waits that bring nothing."""
        for _ in range(rounds):
            self.now += seconds
            claims: list[Claim] = self.shares.plan(self.now)
            for claim in claims:
                name = self.names[claim.share]
                self.claims[name] += 1
                if claim.waits:
                    self.shares.withdrawn(claim.share, self.now)
                else:
                    self.end(name, self.answer(name, min(claim.many, self.tasks[name])))


@pytest.mark.parametrize('concurrency', [1, 2, 3, 10, 37])
def test_weights_hold_at_every_moment(concurrency: int) -> None:
    world = World(dict.fromkeys(WEIGHTS, 100_000), concurrency)
    world.play(1000)
    counts = Counter[str]()
    for total, name in enumerate(world.served, 1):
        counts[name] += 1
        for each, weight in WEIGHTS.items():
            assert abs(counts[each] - total * weight / 10) <= concurrency + 2


def test_quick_tasks_are_claimed_in_bulk() -> None:
    """A claim of each queue in each round would cost more than the tasks."""
    world = World(dict.fromkeys(WEIGHTS, 100_000), 10)
    world.play(1000)
    assert sum(world.claims.values()) <= 1010
    counts = Counter(world.served)
    assert all(abs(counts[each] - len(world.served) * weight / 10) <= 12 for each, weight in WEIGHTS.items())


def test_slots_that_are_taken_for_long_are_dealt_one_at_a_time() -> None:
    world = World(dict.fromkeys(WEIGHTS, 100_000), 10)
    world.play(100)
    for _ in range(20):  # from now on, each task takes a second
        served = len(world.served)
        for name, (count, _) in world.plan().items():
            world.answer(name, count)
        world.now += 1
        for name in world.served[served:]:
            world.end(name)
    assert world.plan() == {'critical': (6, False), 'default': (3, False), 'low': (1, False)}


def test_a_long_task_among_quick_ones_is_noticed_before_it_ends() -> None:
    world = World({'a': 10_000, 'b': 10_000}, 4, weights={'a': 1, 'b': 1})
    world.play(50)
    share = world.of['a']
    assert share.is_quick(world.now)
    for name, (count, _) in world.plan().items():
        world.answer(name, count)
    world.now += 10
    held = next(share for share in world.of.values() if share.held)
    assert not held.is_quick(world.now)


def test_weights_need_not_be_whole_numbers() -> None:
    world = World({'a': 10_000, 'b': 10_000}, weights={'a': 0.5, 'b': 0.25})
    world.play(300)
    assert Counter(world.served) == {'a': 200, 'b': 100}


def test_the_share_of_an_empty_queue_goes_to_the_others() -> None:
    world = World({'critical': 0, 'default': 10_000, 'low': 10_000})
    world.play(500, seconds=0.002)
    counts = Counter(world.served)
    assert abs(counts['default'] - 3 * counts['low']) <= 4
    assert world.claims['critical'] <= 1 + 1.0 / STALE, 'and it costs next to nothing'


def test_a_queue_that_was_empty_gets_no_burst_and_need_not_wait() -> None:
    world = World({'critical': 0, 'low': 10_000}, weights={'critical': 1, 'low': 1})
    world.play(1000)
    world.served.clear()
    world.tasks['critical'] = 1000
    world.now += STALE
    world.play(100)
    assert Counter(world.served[:40])['critical'] in (20, 21)
    assert 'critical' in world.served[:2]


def test_in_strict_order_the_first_has_all() -> None:
    world = World({'critical': 7, 'default': 5, 'low': 5}, 2, strict=True)
    world.play(30)
    assert world.served == ['critical'] * 7 + ['default'] * 5 + ['low'] * 5


def test_in_strict_order_each_free_slot_is_offered_from_the_top() -> None:
    world = World({'critical': 0, 'low': 100}, strict=True)
    world.play(10)
    assert set(world.served) == {'low'}
    world.tasks['critical'] = 1
    world.play(2)
    assert world.served[-1] == 'critical' or world.served[-2] == 'critical'


def test_reserved_slots_are_left_free() -> None:
    world = World({'critical': 0, 'low': 100}, 5, reserve={'critical': 2})
    assert world.plan() == {'critical': (4, False), 'low': (1, False)}
    world.answer('critical', 0)
    assert world.answer('low', 1) == 1
    assert world.plan() == {'low': (2, False)}
    world.answer('low', 2)
    assert world.plan() == {'critical': (2, True)}, 'it is waited for, with the slots that only it may take'
    assert world.shares.to_withdraw() == []
    assert world.answer('critical', 2) == 2
    assert world.plan() == {}
    world.end('critical')
    assert world.plan() == {'critical': (1, False)}
    assert [world.shares.most(share) for share in world.of.values()] == [5, 3]


def test_a_queue_may_take_more_than_its_reserve() -> None:
    world = World({'critical': 100, 'low': 100}, 5, reserve={'critical': 2})
    world.play(1)
    assert Counter(world.served) == {'critical': 4, 'low': 1}


def test_while_all_are_empty_all_are_waited_for() -> None:
    world = World(dict.fromkeys(WEIGHTS, 0), 10)
    for name in world.plan():
        world.answer(name, 0)
    assert world.plan() == {'critical': (6, True), 'default': (3, True), 'low': (1, True)}
    assert world.plan() == {}


def test_a_wait_ends_when_no_slot_is_left_and_what_comes_too_late_is_given_back() -> None:
    world = World(dict.fromkeys(WEIGHTS, 0), 1)
    for _ in WEIGHTS:
        for name in world.plan():
            world.answer(name, 0)
    assert world.plan() == dict.fromkeys(WEIGHTS, (1, True))
    assert world.answer('low', 1) == 1
    assert [world.names[share] for share in world.shares.to_withdraw()] == ['critical', 'default']
    assert world.answer('default', 1) == 0
    world.shares.withdrawn(world.of['critical'], world.now)
    assert world.plan() == {}
    world.end('low')
    assert world.plan() == {'default': (1, False)}, 'it is known to have tasks'


def test_a_queue_that_does_not_answer_holds_its_slots_for_a_while_only() -> None:
    world = World({'critical': 10, 'low': 10}, 10, weights={})
    assert world.plan() == {'critical': (5, False), 'low': (5, False)}
    world.answer('low', 5)
    assert world.plan() == {}
    assert world.shares.timer() == OVERDUE
    world.now = OVERDUE
    assert world.plan() == {'low': (5, False)}
    world.answer('low', 5)
    assert world.answer('critical', 5) == 0
    world.end('low', 10)
    assert world.plan() == {'critical': (5, False), 'low': (5, False)}


def test_a_queue_whose_server_is_away_holds_no_slots() -> None:
    world = World({'critical': 10, 'low': 10}, 4, weights={})
    world.plan()
    world.answer('low', 2)
    world.shares.away(world.of['critical'])
    assert world.plan() == {'low': (2, False)}
