"""What becomes of lanes where a replica that lagged takes over, told on the model of the server."""

from __future__ import annotations

import copy

from torrelque.core.commands import ENQUEUE, enqueue_item
from torrelque.core.keys import Keys
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.protocol import as_is, blocking_drive
from torrelque.core.scripts import load
from torrelque.transports.memory import MemoryServer

SCRIPTS = load()
KEYS = Keys.of_queue('q')
NOW = 1_700_000_000.0


def replica_of(server: MemoryServer, now: float) -> MemoryServer:
    """A server that has all that this one has now, and nothing of what follows."""
    replica = MemoryServer(lambda: now)
    replica._db = copy.deepcopy(server._db)
    return replica


def test_a_number_that_is_given_out_again_to_the_same_client_is_another_lane() -> None:
    fast = MemoryServer(lambda: NOW + 5.0)
    add(Lanes(SCRIPTS, KEYS, 'other'), Lane(), 'seed', fast)  # numbers go on from here on slower clocks, too
    first = replica_of(fast, NOW + 0.5)
    lagging = replica_of(first, NOW + 0.6)
    client, one, other = Lanes(SCRIPTS, KEYS, 'client'), Lane(), Lane()
    add(client, one, 'a', first)  # is lost in the fail-over that follows, as is that the lane was made
    add(client, other, 'b', lagging)
    assert one.number == other.number
    add(client, other, 'c', lagging)
    add(client, one, 'd', lagging)  # was answered as 'c' had been, and not done
    assert sorted(lagging._db.hash_at(KEYS['tasks'])) == [b'b', b'c', b'd', b'seed']


def add(lanes: Lanes, lane: Lane, task_id: str, server: MemoryServer) -> None:
    item = enqueue_item(task_id, b'1', 300.0, None, None, b'')
    args = ENQUEUE.arguments([item])
    assert blocking_drive(lanes.call('enqueue', args, as_is, lane), server.execute) == [b'n']
