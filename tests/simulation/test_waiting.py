"""No polling and no waiting, in figures: idle consumers beside a task, on a network that works."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.simulation import callers
from tests.simulation.clients import SCRIPTS, Behaviour, Client
from tests.simulation.configs import NONE, Config
from tests.simulation.mutants_behind import forgotten_when_the_wait_breaks, nobody_looks_who_joins
from tests.simulation.mutants_flow import hints_during_a_pause, the_end_of_a_pause_missed
from tests.simulation.mutants_waiting import every_waiter_keeps_the_timer, hint_left_over
from tests.simulation.network import _Blocked
from tests.simulation.server import KEYS
from tests.simulation.world import World
from torrelque.core.claiming import claim
from torrelque.core.commands import ENQUEUE, RELEASE, Item, Outcome, enqueue_item, release_item
from torrelque.core.consumers import MOST_BEHIND
from torrelque.core.flow import FLOW, RESUME
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.core.protocol import Call, Operation, blocking_drive
from torrelque.core.session import Session
from torrelque.transports.memory.prelude import Run

T = TypeVar('T')

SOON = 0.005
"""Seconds: 2 ms, and what a claim needs to get to the server and a hint to the client."""

SLICE = 8.0


class Queue:
    """Consumers that wait, and when the server gave them what."""

    def __init__(self, clients: int, callers_each: int, behind: float = 1) -> None:
        self.claims: list[tuple[float, int]] = []  # when, and how many tasks it took
        self.waits = 0
        self.world = World(1, Config(faults=NONE, cancel=0, behind=behind), self._trace)
        self.clients = [Client(self.world, f'c{number}') for number in range(clients)]
        self.world.clients += self.clients
        for client in self.clients:
            for _ in range(callers_each):
                client.spawn(callers.wait_for_work(client))
        self.lanes = Lanes(SCRIPTS, KEYS, 'elsewhere')
        execute = self.world.execute

        def watched(call: Call[object]) -> object:
            reply = execute(call)
            if call.command is SCRIPTS['claim']:
                self.claims.append((self.world.scheduler.now, (len(reply) - 4) // 4))
            return reply

        self.world.network._execute = watched

    def _trace(self, now: float, text: str) -> None:
        self.waits += ' blocks for ' in text

    @property
    def now(self) -> float:
        return self.world.scheduler.now

    def run(self, seconds: float) -> None:
        self.world.scheduler.run(self.now + seconds)

    def enqueue(self, *delays: float | None, timeout: float = 300) -> None:
        """As a producer elsewhere does."""
        items = [enqueue_item(self.world.new_id(), b'data', timeout, delay, None, b'') for delay in delays]
        args = ENQUEUE.arguments(items)
        assert Outcome.EXISTING not in self.drive(self.lanes.call('enqueue', args, ENQUEUE.parse))

    def claim(self) -> None:
        """As somebody elsewhere does who is never heard of again."""
        assert len(self.drive(claim(self.lanes, 1, 0, Lane(), self.now)).tasks) == 1

    def pause(self, end: float = math.inf) -> None:
        """As an operator does; the end is on the world's clock."""
        self._change(('pause', f'{self.world.beginning + end:.6f}', b''))

    def resume(self) -> None:
        self._change(RESUME)

    def _change(self, item: Item) -> None:
        assert self.drive(self.lanes.call('flow', FLOW.arguments([item]), FLOW.parse)) == [Outcome.OK]

    def drive(self, operation: Operation[T]) -> T:
        return blocking_drive(operation, lambda batch: [self.world.execute(call) for call in batch])

    def taken(self) -> list[float]:
        """When a task was claimed, once for each."""
        return [moment for moment, count in self.claims for _ in range(count)]


@pytest.fixture(
    params=[(1, 1, 0), (1, 1, 1), (1, 20, 0), (1, 20, 1), (1, 100, 1), (20, 1, 1), (100, 1, 0), (10, 10, 1)],
    ids=lambda each: f'{each[0]}x{each[1]}, {each[2]} behind',
)
def make(request: pytest.FixtureRequest) -> Callable[[], Queue]:
    """Some clients with some consumers each."""
    return lambda: Queue(*request.param)


def test_a_pending_task_is_taken_at_once(make: Callable[[], Queue]) -> None:
    queue = make()
    for pause in (0.5, 3, 20):
        queue.run(pause)
        begin = queue.now
        queue.enqueue(None)
        queue.run(1)
        assert queue.taken()[-1] - begin < SOON
    assert len(queue.taken()) == 3


@pytest.mark.parametrize('delay', [0.02, 1, 9.99, 10.01, 25])
def test_a_delayed_task_is_taken_when_it_is_due(make: Callable[[], Queue], delay: float) -> None:
    queue = make()
    queue.run(2)
    due = queue.now + delay
    queue.enqueue(delay)
    queue.run(delay + 1)
    (moment,) = queue.taken()
    assert 0 <= moment - due < SOON


def test_delayed_tasks_are_taken_each_when_it_is_due(make: Callable[[], Queue]) -> None:
    queue = make()
    queue.run(2)
    delays = (5.0, 1.0, 3.0, 3.05, 7.5, 30.0, 0.5)
    due = sorted(queue.now + delay for delay in delays)
    for delay in delays:
        queue.enqueue(delay)
    queue.run(32)
    assert len(queue.taken()) == len(due)
    assert all(0 <= moment - at < SOON for moment, at in zip(sorted(queue.taken()), due, strict=True))


def test_an_earlier_task_that_comes_later_is_taken_when_it_is_due(make: Callable[[], Queue]) -> None:
    queue = make()
    begin = queue.now
    queue.enqueue(6.0)
    queue.run(2)
    queue.enqueue(1.0)
    queue.run(5)
    assert [round(moment - begin, 2) for moment in queue.taken()] == pytest.approx([3.0, 6.0], abs=0.01)


def test_a_claim_whose_holder_died_is_taken_when_its_lease_ends(make: Callable[[], Queue]) -> None:
    queue = make()
    queue.enqueue(None, timeout=7)
    queue.claim()
    stale = queue.now + 7
    queue.run(10)
    assert 0 <= queue.taken()[-1] - stale < SOON


def test_who_minds_the_timer_may_go() -> None:
    queue = Queue(20, 1)
    queue.enqueue(5.0)
    queue.run(4)
    due = queue.now + 1
    for client in queue.clients[:19]:
        for caller in list(client.callers):
            caller.cancel()
        queue.run(0.04)
    queue.run(2)
    first, *_, last = queue.taken() * 2
    assert 0 <= first - due < SOON
    assert last - due < 0.1  # claims behind the waits of those who left took it first, and gave it back


def test_consumers_whose_time_runs_out_all_along() -> None:
    queue = Queue(5, 0)
    for client in queue.clients:
        for timeout in (0.3, 0.7, 0.9, 1.3):
            client.spawn(wait_again_and_again(client, timeout))
    queue.run(1)
    due = queue.now + 4.2
    queue.enqueue(4.2)
    queue.run(6)
    assert 0 <= queue.taken()[0] - due < SOON


def wait_again_and_again(client: Client, timeout: float) -> Behaviour:
    while True:
        ticket = yield client.session.dequeue(1, client.clock() + timeout, lambda: None)
        if ticket.error is None:
            return


def test_many_tasks_wake_as_many_as_needed() -> None:
    queue = Queue(20, 1)
    queue.run(3)
    begin = queue.now
    queue.enqueue(*[None] * 20)
    queue.run(1)
    assert len(queue.taken()) == 20
    assert max(queue.taken()) - begin < 0.1


@pytest.mark.parametrize('behind', [0, 1])
@pytest.mark.parametrize('callers_each', [1, 100])
def test_an_idle_object_sends_a_wait_and_a_claim_a_slice(callers_each: int, behind: float) -> None:
    queue = Queue(1, callers_each, behind)
    queue.run(1)
    queue.claims.clear()
    queue.waits = 0
    session = queue.clients[0].session
    assert isinstance(session, Session)
    shortest = session._consumers._longest_slice * 0.85
    queue.run(40 * SLICE)
    slices = 40 * SLICE / shortest
    assert queue.waits <= slices
    assert len(queue.claims) <= queue.waits + 1


def test_idle_objects_beside_a_far_event_claim_no_more() -> None:
    queue = Queue(10, 10)
    queue.enqueue(1000.0)
    queue.run(1)
    queue.claims.clear()
    queue.run(10 * SLICE)
    assert len(queue.claims) <= 10 * 10 * 8 / 2  # the shortest slice is over two seconds


def claims_for_a_near_event(behind: float) -> tuple[int, int]:
    """Before it is due, and then."""
    queue = Queue(100, 1, behind)
    queue.run(1)
    queue.claims.clear()
    queue.enqueue(1.9)
    queue.run(1.8)
    before = len(queue.claims)
    queue.run(0.2)
    return before, len(queue.claims) - before


@pytest.mark.parametrize('behind', [0, 1])
def test_idle_objects_beside_a_near_event_do_not_fight_for_its_timer(behind: float) -> None:
    before, then = claims_for_a_near_event(behind)
    assert before < 100
    assert then < 5


def test_a_timer_that_every_waiter_keeps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    every_waiter_keeps_the_timer(monkeypatch)
    _, then = claims_for_a_near_event(0)
    assert then > 10


def left_when_drained() -> set[bytes]:
    """The names of the keys that last, after somebody who does not wait has taken all there is."""
    queue = Queue(0, 0)
    queue.enqueue(None)
    queue.claim()
    (task_id,) = queue.world.server.working()
    item = release_item(task_id.decode(), TorrelqueTaskStatus.COMPLETED, None, b'')
    queue.drive(queue.lanes.call('release', RELEASE.arguments([item]), RELEASE.parse))
    assert not queue.drive(claim(queue.lanes, 1, 0, Lane(), queue.now)).tasks
    return {key for key, (_, _, expires) in queue.world.server.snapshot().items() if expires is None}


def test_no_hint_is_left_over() -> None:
    assert left_when_drained() == {KEYS['counters'], KEYS['epoch']}


def test_a_hint_left_over_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    hint_left_over(monkeypatch)
    assert KEYS['wake'] in left_when_drained()


# Pauses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['pending', 'due', 'stale'])
def test_during_a_pause_nothing_is_taken_and_nobody_woken(make: Callable[[], Queue], kind: str) -> None:
    queue = make()
    queue.run(1)
    queue.pause()
    queue.claims.clear()
    begin, waits = queue.now, queue.waits
    if kind == 'stale':
        queue.resume()
        queue.enqueue(None, timeout=2)
        queue.claim()
        queue.pause()
        queue.claims.clear()
    else:
        queue.enqueue(1.0 if kind == 'due' else None)
    queue.run(4 * SLICE)
    assert queue.taken() == []
    idle = len(queue.clients) * (4 * SLICE / (0.85 * 2.5) + 2)  # some have short slices
    assert queue.waits - waits <= idle
    assert len(queue.claims) <= idle + (0 if kind == 'pending' else len(queue.clients) + 2)
    resumed = queue.now
    queue.resume()
    queue.run(1)
    assert [0 <= moment - resumed < SOON for moment in queue.taken()] == [True]
    assert resumed - begin > 3 * SLICE


@pytest.mark.parametrize('seconds', [0.02, 3, 25])
def test_a_pause_ends_when_it_should(make: Callable[[], Queue], seconds: float) -> None:
    assert ended_in_time(make(), seconds)


def ended_in_time(queue: Queue, seconds: float) -> bool:
    queue.run(2)
    end = queue.now + seconds
    queue.pause(end)
    queue.enqueue(None)
    queue.run(seconds + 1)
    return [0 <= moment - end < SOON for moment in queue.taken()] == [True]


def test_the_end_of_a_pause_that_is_missed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    the_end_of_a_pause_missed(monkeypatch)
    assert not ended_in_time(Queue(1, 1), 3)


def test_hints_during_a_pause_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    hints_during_a_pause(monkeypatch)
    queue = Queue(1, 1)
    queue.pause()
    queue.enqueue(None)
    queue.run(1)
    assert queue.waits > 100


# A claim behind the wait ----------------------------------------------------------------------------------------------


def redelivered_after_a_lost_answer(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a consumer gets the task that was claimed behind its wait, though the answer of the wait was lost."""
    queue = Queue(1, 1, behind=1)
    queue.run(1)
    with monkeypatch.context() as patch:
        patch.setattr(_Blocked, '_reply', lambda *_: None)
        queue.enqueue(None)
        queue.run(0.1)
    assert len(queue.taken()) == 1
    queue.run(SLICE + 3)  # the longest patience with a wait
    return not list(queue.world.server.tasks())


def test_a_task_claimed_behind_a_wait_that_broke_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redelivered_after_a_lost_answer(monkeypatch)


def test_a_forgotten_claim_behind_a_wait_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten_when_the_wait_breaks(monkeypatch)
    assert not redelivered_after_a_lost_answer(monkeypatch)


def looked_for_who_joins(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether who joins during a wait gets a task that nobody was hinted of, as 0.9 adds them."""
    queue = Queue(1, 1, behind=1)
    queue.run(1)
    with monkeypatch.context() as patch:
        patch.setattr(Run, 'hint', lambda *_: None)
        queue.enqueue(None)
    queue.run(0.1)
    assert queue.taken() == []
    queue.clients[0].spawn(callers.wait_for_work(queue.clients[0]))
    queue.run(0.1)
    return len(queue.taken()) == 1


def test_who_joins_during_a_wait_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked_for_who_joins(monkeypatch)


def test_that_nobody_looks_who_joins_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_looks_who_joins(monkeypatch)
    assert not looked_for_who_joins(monkeypatch)


def test_a_client_that_vanishes_takes_two_tasks_along_at_most() -> None:
    queue = Queue(1, 10, behind=1)
    queue.run(1)
    queue.clients[0].dead = True  # and its connection stays
    queue.enqueue(*[None] * 5)
    queue.run(20)
    assert queue.claims[-1][1] == len(queue.taken()) == MOST_BEHIND


def test_an_idle_object_sends_its_claims_behind_its_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(1, 3, behind=1)
    queue.run(1)
    queue.claims.clear()
    monkeypatch.setattr(queue.world.network, 'send', None)
    queue.run(10 * SLICE)
    assert len(queue.claims) >= 10
