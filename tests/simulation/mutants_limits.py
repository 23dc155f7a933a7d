"""Rules left out of what limits a queue."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from tests.simulation.mutants import Mutant
from torrelque.core.protocol import Reply
from torrelque.transports.memory import claims, verbs
from torrelque.transports.memory.prelude import Limits, Run, number

__all__ = ('MUTANTS',)


def claims_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """Consumers take as many tasks as are permitted at once, whatever is claimed."""
    allowed = Limits.allowed
    patch.setattr(Limits, 'allowed', lambda self, _: allowed(self, 0))


def stale_claims_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """A claim that takes over stale ones takes as many too many."""
    permitted = Run.permitted
    patch.setattr(Run, 'permitted', lambda self, count, freed=0: permitted(self, count, 2 * freed))


def released_in_silence(patch: pytest.MonkeyPatch) -> None:
    """Nobody hears that a release makes room."""
    patch.setattr(Run, 'summon', lambda _: None)


def ended_in_silence(patch: pytest.MonkeyPatch) -> None:
    """Nobody hears that the end of a claim by a cancellation makes room."""

    def mutant(run: Run) -> Reply:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Run, 'hint', lambda *_, **__: None)
            return verbs.VERBS['cancel'](run)

    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, 'cancel': mutant})


def deliveries_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """The arrival time stays as it is."""
    patch.setattr(Run, 'count_deliveries', lambda *_: None)


def too_large_a_refund(patch: pytest.MonkeyPatch) -> None:
    """What is given back is taken back in full, also the time in which nothing else came."""

    def mutant(self: Run, times: Sequence[bytes]) -> None:
        limits = self.limits()
        if limits.interval and times:
            self._set_arrival(limits.arrival - len(times) * limits.interval)

    patch.setattr(Run, 'uncount_deliveries', mutant)


def cancelled_deliveries_refunded(patch: pytest.MonkeyPatch) -> None:
    """What ends after its cancellation was asked for is taken back as if nobody had worked on it."""
    remove = claims.remove_called_off

    def mutant(run: Run, items: Sequence[claims.Claimed], *, every: bool = False) -> list[claims.Claimed]:
        if not every:
            states = [run.db.hash_at(run.state_key(item.id)) for item in items if item.state.called_off]
            run.uncount_deliveries([fields.get(b'last_dequeue_time', b'') for fields in states])
        return remove(run, items, every=every)

    patch.setattr(claims, 'remove_called_off', mutant)
    patch.setattr(verbs, 'remove_called_off', mutant)


def the_next_delivery_missed(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks when the rate permits the next delivery."""
    allowed = Limits.allowed
    patch.setattr(Limits, 'allowed', lambda self, claimed: (allowed(self, claimed)[0], None))


def the_whole_limit_for_each_shard(patch: pytest.MonkeyPatch) -> None:
    """Each shard takes what is for all of them together."""

    def mutant(_: Limits, text: bytes) -> float | None:
        total = number(text, 0.0)
        return float(math.floor(total)) if total >= 1 else None

    patch.setattr(Limits, '_share', mutant)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'claims do not count for the limit': ('limits', claims_do_not_count),
    'stale claims counted twice': ('limits', stale_claims_counted_twice),
    'released in silence': ('limits', released_in_silence),
    'ended in silence': ('limits', ended_in_silence),
    'a cancelled delivery does not count': ('limits', cancelled_deliveries_refunded),
    'deliveries do not count': ('limits', deliveries_do_not_count),
    'too large a refund': ('limits', too_large_a_refund),
    'the next delivery missed': ('limits', the_next_delivery_missed),
    'the whole limit for each shard': ('limits-shards', the_whole_limit_for_each_shard),
}
"""By name: the world that has to notice, and the mutation."""
