"""Rules left out that matter where primaries fail, nonces and confirmations, or where a slot moves."""

from __future__ import annotations

import pytest

from tests.simulation.moving import MovingSlots
from tests.simulation.mutants import Mutant
from torrelque.core.durability import Confirmer
from torrelque.core.lanes import Lane
from torrelque.core.protocol import Operation
from torrelque.transports.memory.prelude import Record, Run

__all__ = ('MUTANTS',)


def one_nonce_for_all_lanes(patch: pytest.MonkeyPatch) -> None:
    """Lanes have the nonce of their client, not one each."""
    slot = vars(Lane)['nonce']

    def write(self: Lane, nonce: str) -> None:
        slot.__set__(self, nonce and f'{nonce.rpartition(".")[0]}.0')

    patch.setattr(Lane, 'nonce', property(slot.__get__, write))


def nonces_not_compared(patch: pytest.MonkeyPatch) -> None:
    """A lane is known by its number alone."""
    lane_record = Run.lane_record

    def mutant(self: Run) -> Record | None:
        record = lane_record(self)
        return record and record._replace(nonce=self.args[1])

    patch.setattr(Run, 'lane_record', mutant)


def writes_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """A write counts as confirmed when the primary answered."""

    def mutant(self: Confirmer, operation: Operation[object]) -> Operation[tuple[object, str]]:
        return (yield from operation), ''

    patch.setattr(Confirmer, '_confirmed', mutant)


def unconfirmed_taken_for_confirmed(patch: pytest.MonkeyPatch) -> None:
    """It is not looked at how many replicas have the write."""
    patch.setattr(Confirmer, '_judge', lambda *_: '')


def repeats_write_nothing(patch: pytest.MonkeyPatch) -> None:
    """A call that is answered from its record, or settled as done, leaves nothing to wait for."""
    patch.setattr(Run, 'refresh_lane', lambda _: None)


def lanes_left_behind(patch: pytest.MonkeyPatch) -> None:
    """A slot arrives without the records of the lanes."""
    arrive = MovingSlots.arrive

    def mutant(self: MovingSlots, tag: bytes) -> None:
        keyspace = self._world.server._db
        keyspace.delete([key for key in self._world.server.snapshot() if b':lane:' in key])
        arrive(self, tag)

    patch.setattr(MovingSlots, 'arrive', mutant)


def rings_elsewhere_fail_calls(patch: pytest.MonkeyPatch) -> None:
    """A call ends with an error, half done, where the ring of its shard is on another node."""
    ring = Run._ring

    def mutant(self: Run, left: int, event: float | None, *, empty: bool) -> None:
        where = self.db.string_at(self.keys['bell'])
        if where is not None:
            self.db.zset_at(where)
        ring(self, left, event, empty=empty)

    patch.setattr(Run, '_ring', mutant)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'one nonce for all lanes': ('failover', one_nonce_for_all_lanes),
    'nonces not compared': ('failover', nonces_not_compared),
    'writes not waited for': ('failover', writes_not_waited_for),
    'unconfirmed taken for confirmed': ('failover', unconfirmed_taken_for_confirmed),
    'lanes left behind by a slot that moves': ('moves', lanes_left_behind),
    'rings elsewhere fail calls': ('moves-shards', rings_elsewhere_fail_calls),
    'repeats write nothing': ('failover', repeats_write_nothing),
}
"""By name: the world that has to notice, and the mutation."""
