"""A cluster in which slots move from node to node: clocks differ, calls are refused, shards lose sight of each other.

A script names keys of which some are never there, so that no node runs it while they are on their way. Nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.simulation.failing import FailingNetwork, Receive, nothing
from tests.simulation.network import Network, Told
from tests.simulation.nodes import Nodes
from tests.simulation.server import ObservedKeyspace, ObservedServer
from torrelque.core.keys import Keys
from torrelque.core.protocol import Arg, Batch, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.keyspace import V

if TYPE_CHECKING:
    from tests.simulation.configs import Failovers
    from tests.simulation.world import World

__all__ = ('MovingNetwork', 'MovingServer', 'MovingSlots', 'tag_of')

NODES = 3
ON_ITS_WAY = 'TRYAGAIN Multiple keys request during rehashing of slot'
ELSEWHERE = 'MOVED 7 10.0.0.2:7000'


def tag_of(key: Arg) -> bytes:
    """What a key's slot follows from; nothing if there is one queue without shards."""
    assert isinstance(key, bytes)
    return key[: key.index(b'}') + 1] if key.startswith(b'{') else b''


class Slot:
    """Where a slot is and was, and whether it is on its way."""

    __slots__ = ('moving', 'nodes')

    def __init__(self, node: int) -> None:
        self.nodes = [(0, node)]  # each since when, by the count of all moves
        self.moving = False

    @property
    def node(self) -> int:
        return self.nodes[-1][1]

    def node_at(self, term: int) -> int:
        return next(node for since, node in reversed(self.nodes) if since <= term)


class MovingSlots(Nodes):
    """``term`` counts the moves. In place of what failed a primary a slot moves; each node has its own clock."""

    def __init__(self, world: World, settings: Failovers) -> None:
        super().__init__(world, settings)
        self._slots: dict[bytes, Slot] = {}
        self._clocks = [0.0] * NODES
        assert isinstance(world.server, MovingServer)
        world.server.visit = self._visit

    def slot_of(self, key: Arg) -> Slot:
        tag = tag_of(key)
        slot = self._slots.get(tag)
        if slot is None:
            slot = self._slots[tag] = Slot(self._world.random.randrange(NODES))
        return slot

    def map(self) -> Mapping[bytes, int]:
        """Which node has which slot."""
        return {tag: slot.node for tag, slot in self._slots.items()}

    @property
    def spread(self) -> float:
        return max(self._clocks) - min(self._clocks)

    def is_down(self, key: bytes = b'') -> bool:
        """Whether no node serves it, as it is on its way."""
        return self.slot_of(key).moving

    def _visit(self, call: Call[Any]) -> None:
        """It is the turn of the node that has the keys of this call."""
        if call.keys and call.keys[0] is not None:
            self._turn_to(self.slot_of(call.keys[0]).node)

    def _turn_to(self, node: int) -> None:
        server = self._world.server
        assert isinstance(server, MovingServer)
        self.skew = self._clocks[node]
        server.turn_to(self.skew, lambda key: self.slot_of(key).node == node)

    def begin(self) -> None:
        if not any(self._clocks):
            self._clocks = [self._draw_skew() for _ in range(NODES)]
            self._clocks[0] = self._world.random.choice((self._clocks[0], self.settings.ahead))
        super().begin()

    def _draw_first_skew(self) -> float:
        return self._clocks[0]

    # Moves ---------------------------------------------------------------------

    def fail(self, *, up_to_date: bool = True) -> None:
        """No primary fails: some slot begins to move, unless it already does."""
        world = self._world
        tag = world.random.choice(list(self._slots) or [b''])
        slot = self.slot_of(tag)
        if not slot.moving and world.choices.may('move'):
            world.tell(f'the slot of {tag!r} begins to move')
            slot.moving = True
            world.scheduler.after(self._draw_outage(), lambda: self.arrive(tag))

    def arrive(self, tag: bytes) -> None:
        """All of a slot is on another node now."""
        world, slot = self._world, self.slot_of(tag)
        self.term += 1
        slot.moving = False
        slot.nodes.append((self.term, (slot.node + world.random.randrange(1, NODES)) % NODES))
        world.tell(f'the slot of {tag!r} has moved, the clock is off by {self._clocks[slot.node]:.3f} s')
        world.ledger.tally['moves'] += 1
        self._end_waits(tag)


class MovingKeyspace(ObservedKeyspace):
    """The data of all nodes. A script reaches only that of its own; what expires does so wherever it is by then."""

    skew = 0.0
    reaches: Callable[[bytes], bool] | None = None

    def _check(self, key: bytes) -> None:
        if self.reaches is not None and not self.reaches(key):
            raise TorrelqueReplyError('ERR Script attempted to access a non local key in a cluster node')

    def _get(self, key: bytes, kind: type[V]) -> V | None:
        self._check(key)
        return super()._get(key, kind)

    def exists(self, key: bytes) -> bool:
        self._check(key)
        return super().exists(key)

    def put(self, key: bytes, value: bytes, milliseconds: int | None = None) -> None:
        self._check(key)
        super().put(key, value, milliseconds)

    def move_to(self, now: float) -> None:
        super().move_to(now - self.skew)
        self.now = now

    def pexpire(self, key: bytes, milliseconds: int) -> bool:
        with self._common_time():
            return super().pexpire(key, milliseconds)

    def pttl(self, key: bytes) -> int:
        with self._common_time():
            return super().pttl(key)

    @contextmanager
    def _common_time(self) -> Iterator[None]:
        now = self.now
        self.now = now - self.skew
        try:
            yield
        finally:
            self.now = now


class MovingServer(ObservedServer):
    """All nodes of the cluster, one at a time."""

    def __init__(self, clock: Callable[[], float], shards: Sequence[Keys]) -> None:
        super().__init__(clock, shards)
        self._db = self._all = MovingKeyspace(shards)
        self._reaches: Callable[[bytes], bool] | None = None
        self.visit: Callable[[Call[Any]], object] = lambda _: None

    def turn_to(self, skew: float, reaches: Callable[[bytes], bool]) -> None:
        """Be the node whose clock is off by so much, and that has these keys."""
        self._all.skew = skew
        self._reaches = reaches

    def call(self, call: Call[Reply]) -> Reply:
        self.visit(call)
        return super().call(call)

    def _run_script(self, script: Script, call: Call[Reply]) -> Reply:
        self._all.reaches = self._reaches
        try:
            return super()._run_script(script, call)
        finally:
            self._all.reaches = None


class MovingNetwork(FailingNetwork):
    """Each node answers, also for slots that it has no more."""

    @property
    def slots(self) -> MovingSlots:
        assert isinstance(self.nodes, MovingSlots)
        return self.nodes

    def _arrive(self, delay: float, batch: Batch, receive: Receive | None) -> None:
        """It arrives at the node that had the slot when it was sent."""
        term = self.nodes.term
        self.last_arrival = max(self.last_arrival, self._scheduler.now + delay)
        self._scheduler.after(delay, lambda: self._go_on(batch, [], receive, term, wrote=False))

    def _is_broken(self, term: int) -> bool:
        return False

    def _answer(self, call: Call[Any], replies: Sequence[Reply], batch: Batch, term: int) -> Reply:
        slot = self.slots.slot_of(call.keys[0]) if call.keys and call.keys[0] is not None else None
        if slot is None or not (slot.moving or slot.node_at(term) != slot.node):
            return super()._answer(call, replies, batch, term)
        refusal = ON_ITS_WAY if slot.node_at(term) == slot.node else ELSEWHERE
        self._tell_of(f'refused ({refusal})', [call])
        return TorrelqueReplyError(refusal)

    def wait(
        self, key: bytes | Sequence[bytes], seconds: float, receive: Told, behind: Call[Any] | None = None
    ) -> Callable[[], None]:
        """What came before the slot moved is heard of; afterwards nothing comes any more."""
        assert isinstance(key, bytes)
        return nothing if self.nodes.is_down(key) else Network.wait(self, key, seconds, receive, behind)

    def run_behind(self, call: Call[Any], term: int) -> Reply:
        return self._answer(call, [], [call], term)
