"""Rules left out of the claim behind a wait."""

from __future__ import annotations

import math

import pytest

from tests.simulation.mutants import Mutant
from torrelque.core.consumers import Consumers, Look
from torrelque.core.protocol import Operation, Reply
from torrelque.errors import TorrelqueReplyError

__all__ = ('MUTANTS', 'forgotten_when_the_wait_breaks', 'nobody_looks_who_joins')


def forgotten_when_the_wait_breaks(patch: pytest.MonkeyPatch) -> None:
    """A claim that was behind a wait which broke is given up, whether or not the server has done it."""
    block_failed = Consumers.block_failed

    def mutant(self: Consumers, error: Exception) -> None:
        self._behind = None
        block_failed(self, error)

    patch.setattr(Consumers, 'block_failed', mutant)


def not_settled_when_nobody_waits(patch: pytest.MonkeyPatch) -> None:
    """The same where nobody waits any more."""
    go_on = Consumers._go_on

    def mutant(self: Consumers) -> Operation[bool] | None:
        if self._waiters:
            return go_on(self)
        self._left = None
        return None

    patch.setattr(Consumers, '_go_on', mutant)


def one_lane_for_both(patch: pytest.MonkeyPatch) -> None:
    """Who joins while a claim is behind the wait claims on the same lane."""

    def mutant(self: Consumers, _now: float) -> Operation[bool] | None:
        return self._claim_here()

    patch.setattr(Consumers, '_claim_elsewhere', mutant)


def alarms_unheard(patch: pytest.MonkeyPatch) -> None:
    """Nothing happens when an event is due during a wait with a claim behind it."""
    claim_elsewhere = Consumers._claim_elsewhere

    def mutant(self: Consumers, now: float) -> Operation[bool] | None:
        if self._alarm <= now:
            self._alarm = math.inf
        return claim_elsewhere(self, now) if self._look is Look.WANTED else None

    patch.setattr(Consumers, '_claim_elsewhere', mutant)


def nobody_looks_who_joins(patch: pytest.MonkeyPatch) -> None:
    """Who joins during a wait with a claim behind it leaves it at that."""

    def mutant(self: Consumers, now: float) -> Operation[bool] | None:
        return claim_elsewhere(self, now) if self._alarm <= now else None

    claim_elsewhere = Consumers._claim_elsewhere
    patch.setattr(Consumers, '_claim_elsewhere', mutant)


def errors_are_the_claims(patch: pytest.MonkeyPatch) -> None:
    """Waiting callers get an error behind a wait, as of a server that is no longer the primary."""
    unblocked = Consumers.unblocked

    def mutant(self: Consumers, hinted: bool, reply: Reply = None) -> None:
        unblocked(self, hinted, reply)
        if isinstance(reply, TorrelqueReplyError):
            self._left = None
            self.abort(reply)

    patch.setattr(Consumers, 'unblocked', mutant)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'a claim behind a wait not settled': ('cancel', not_settled_when_nobody_waits),
    'one lane for the wait and who joins': ('calm', one_lane_for_both),
    'alarms unheard during a wait': ('calm', alarms_unheard),
    'errors behind a wait told': ('cuts', errors_are_the_claims),
}
"""By name: the world that has to notice, and the mutation. The rest is noticed in `test_waiting`."""
