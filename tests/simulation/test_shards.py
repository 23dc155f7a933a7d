"""The same figures for a queue of 16 shards: nobody polls, no task waits, whatever shard it is on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation import callers, pausing
from tests.simulation.configs import NONE, Config
from tests.simulation.mutants_shards import shards_never_looked_at_while_busy
from tests.simulation.shards import KEYS, MAIN, SCRIPTS, ShardedClient, keys_of
from tests.simulation.world import World
from torrelque.core import flow
from torrelque.core.commands import Outcome, enqueue_in, enqueue_item
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Call, Script, blocking_drive
from torrelque.core.sharding import consumers as spread
from torrelque.core.sharding.layout import nonce_of, read_layout
from torrelque.core.sharding.session import ShardedSession

SHARDS = 16

SOON = 0.009
"""Seconds for a ring to get to a client, a lane to be made if it has none on the shard yet, and a claim to go out."""

SLICE = 8.0


class Queue:
    """Consumers that wait for 16 shards on one server or two, and when which shard's tasks were claimed."""

    def __init__(self, clients: int, callers_each: int, servers: int = 1) -> None:
        self.claims: list[tuple[float, int]] = []  # when, and of which shard, once for each task
        self.surveys = self.waits = 0
        self.world = World(1, Config(faults=NONE, cancel=0, shards=(SHARDS,)), self._trace)
        self.world.servers = servers
        for number in range(clients):
            client = ShardedClient(self.world, f'c{number}')
            self.world.clients.append(client)
            for _ in range(callers_each):
                client.spawn(callers.wait_for_work(client))
        layout, _ = blocking_drive(read_layout(MAIN), self.world.server.execute)
        assert layout is not None
        self.generation = layout.generation
        self._lanes = [
            Lanes(SCRIPTS, keys, nonce_of('elsewhere', shard)) for shard, keys in enumerate(keys_of(self.world))
        ]
        execute = self.world.execute

        def watched(call: Call[object]) -> object:
            reply = execute(call)
            if isinstance(call.command, Script) and call.command.name == 'claim':
                assert isinstance(reply, list)
                shard = [keys['pending'] for keys in KEYS].index(call.keys[0])  # type: ignore[arg-type]  # it is encoded
                self.claims += [(self.now, shard)] * ((len(reply) - 4) // 4)
            self.surveys += isinstance(call.command, Script) and call.command.name == 'survey'
            return reply

        self.world.network._execute = watched

    def _trace(self, _now: float, text: str) -> None:
        self.waits += ' blocks for ' in text

    @property
    def now(self) -> float:
        return self.world.scheduler.now

    def run(self, seconds: float) -> None:
        self.world.scheduler.run(self.now + seconds)

    def enqueue(self, shard: int, *delays: float | None) -> None:
        """As a producer elsewhere does."""
        items = [enqueue_item(self.world.new_id(), b'data', 300, delay, None, b'') for delay in delays]
        verb = enqueue_in(int(self.generation))
        answers = blocking_drive(
            self._lanes[shard].call('enqueue', verb.arguments(items), verb.parse),
            lambda batch: [self.world.execute(call) for call in batch],
        )
        assert answers == [Outcome.NEW] * len(delays)

    def taken(self, shard: int) -> list[float]:
        """When tasks of a shard were claimed."""
        return [moment for moment, of_shard in self.claims if of_shard == shard]


@pytest.fixture(
    params=[(1, 1, 1), (1, 20, 2), (20, 1, 1), (20, 1, 2), (20, 5, 1)],
    ids=lambda each: f'{each[0]}x{each[1]} on {each[2]}',
)
def make(request: pytest.FixtureRequest) -> Callable[[], Queue]:
    """Some clients with some consumers each."""
    return lambda: Queue(*request.param)


def test_a_pending_task_is_taken_at_once_on_whatever_shard(make: Callable[[], Queue]) -> None:
    queue = make()
    queue.run(0.5)
    late = []
    for shard in range(SHARDS):
        begin = queue.now
        queue.enqueue(shard, None)
        queue.run(1.3)
        late.append(queue.taken(shard)[-1] - begin)
    assert max(late) < SOON
    assert len(queue.claims) == SHARDS


def test_a_task_is_taken_at_once_when_its_shard_is_resumed(make: Callable[[], Queue]) -> None:
    """By a copy of the record, which rings where the clients wait."""
    queue = make()
    client = queue.world.clients[0]
    client.spawn(pausing.change(client, flow.pause_item(None, None)))
    queue.run(2)
    queue.enqueue(SHARDS - 1, None)
    queue.run(1)
    assert not queue.claims
    client.spawn(pausing.change(client, flow.RESUME))
    queue.run(1)
    assert len(queue.claims) == 1


def test_delayed_tasks_are_taken_each_when_it_is_due(make: Callable[[], Queue]) -> None:
    queue = make()
    queue.run(2)
    due = {shard: queue.now + delay for shard, delay in enumerate(0.5 + 1.37 * shard for shard in range(SHARDS))}
    for shard, moment in due.items():
        queue.enqueue(shard, moment - queue.now)
    queue.run(1.37 * SHARDS + 1)
    late = [moment - due[shard] for moment, shard in queue.claims]
    assert len(late) == SHARDS
    assert 0 <= min(late) <= max(late) < SOON


def test_tasks_of_all_shards_are_worked_off_by_all_consumers(make: Callable[[], Queue]) -> None:
    queue = make()
    queue.run(3)
    begin = queue.now
    for shard in range(SHARDS):
        queue.enqueue(shard, *[None] * 5)
    queue.run(2)
    assert len(queue.claims) == 5 * SHARDS
    assert max(moment for moment, _ in queue.claims) - begin < 5 * SHARDS * 2 * SOON


def seconds_beside_plenty() -> float:
    """For how long a task waits on one shard, while the only consumer has enough to do with another."""
    queue = Queue(1, 1)
    for _ in range(4):
        queue.enqueue(0, *[None] * 250)
    queue.run(1)
    begin = queue.now
    queue.enqueue(7, None)
    queue.run(2)
    assert queue.taken(0)[-1] > begin + 1.5
    return min(queue.taken(7), default=queue.now) - begin


def test_a_task_beside_plenty_on_another_shard_has_its_turn() -> None:
    assert seconds_beside_plenty() < spread.FAIRNESS + 2 * SOON


def test_shards_that_are_never_looked_at_while_busy_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    shards_never_looked_at_while_busy(monkeypatch)
    assert seconds_beside_plenty() > 1


@pytest.mark.parametrize('servers', [1, 2])
@pytest.mark.parametrize('callers_each', [1, 100])
def test_an_idle_object_sends_a_wait_and_a_survey_a_slice_to_each_server(callers_each: int, servers: int) -> None:
    queue = Queue(1, callers_each, servers)
    queue.run(1)
    queue.surveys = queue.waits = 0
    session = queue.world.clients[0].session
    assert isinstance(session, ShardedSession)
    shortest = session._consumers._longest_slice * 0.85
    queue.run(40 * SLICE)
    slices = servers * (40 * SLICE / shortest + 1)
    assert queue.waits <= slices
    assert queue.surveys <= queue.waits + servers
    assert not queue.claims
