"""A cluster where the slot of the queue moves from node to node: clocks differ, calls are refused, nothing is lost.

A script names keys of which some are never there, so that no node runs it while they are on their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.simulation.failing import FailingNetwork, Receive
from tests.simulation.nodes import Nodes
from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueReplyError

__all__ = ('MovingNetwork', 'MovingSlot')

ON_ITS_WAY = 'TRYAGAIN Multiple keys request during rehashing of slot'
ELSEWHERE = 'MOVED 7 10.0.0.2:7000'


class MovingSlot(Nodes):
    """``term`` counts the nodes that had the slot. In place of what failed a primary it is moved."""

    moving = False

    @property
    def down(self) -> bool:
        """Whether no node serves it, as it is on its way."""
        return self.moving

    def fail(self, *, up_to_date: bool = True) -> None:
        """No primary fails: the slot begins to move, unless it already does."""
        world = self._world
        if not self.moving and world.choices.may('move'):
            world.tell('the slot begins to move')
            self.moving = True
            world.scheduler.after(self._draw_outage(), self.arrive)

    def arrive(self) -> None:
        """All of it is on the other node now."""
        world = self._world
        self.moving = False
        self.term += 1
        self.skew = self._draw_skew()
        world.tell(f'the slot has moved, the clock is off by {self.skew:.3f} s')
        world.ledger.tally['moves'] += 1
        self._end_waits()


class MovingNetwork(FailingNetwork):
    """Each node answers, also when it has the slot no more."""

    nodes: MovingSlot

    def _run(self, batch: Batch, replies: list[Reply], receive: Receive | None) -> None:
        self._go_on(batch, [], receive, self.nodes.term, wrote=False)

    def _is_broken(self, term: int) -> bool:
        return False

    def _answer(self, call: Call[Any], replies: Sequence[Reply], batch: Batch, term: int) -> Reply:
        refusal = ELSEWHERE if term != self.nodes.term else ON_ITS_WAY if self.nodes.moving else None
        if refusal is None or not call.keys:
            return super()._answer(call, replies, batch, term)
        self._tell_of(f'refused ({refusal})', [call])
        return TorrelqueReplyError(refusal)
