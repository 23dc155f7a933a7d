"""Those who set limits, and what has to hold of claims then."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.simulation.clients import Behaviour, Client
from tests.simulation.pausing import change
from tests.simulation.rules import require
from tests.simulation.server import ObservedShard
from torrelque.core import flow

__all__ = ('LimitRules', 'lift_at_last', 'limit_for_a_while')

RATES = (None, None, (1, 0.3), (3, 2), (2, 0.05), (7, 5.0))


class LimitRules:
    """What one shard has to keep to."""

    def __init__(self, shard: ObservedShard) -> None:
        self._shard = shard
        self._revision = b''
        self._deliveries: list[tuple[float, bytes]] = []  # since the limits were set, except those given back

    def check(self, taken: Sequence[bytes], now: float) -> None:
        """No more are claimed at once, and no more in any time, than the limits permit."""
        revision = self._shard.counters.get(b'flow', b'')
        if revision != self._revision:
            self._revision, self._deliveries = revision, []
        share = self._shard.share
        working = self._shard.working()
        require(not taken or len(working) <= share.slots, 'claimed more at once than is permitted', taken, share.slots)
        self._deliveries += [(now, task_id) for task_id in taken]
        if share.interval == math.inf:
            return
        for place, (begin, _) in enumerate(self._deliveries if taken else ()):
            most, count = share.burst + (now - begin) * 1e6 / share.interval, len(self._deliveries) - place
            require(count <= most + 1e-3, 'claimed more in a time than is permitted', begin, now)

    def returned(self, task_id: bytes) -> None:
        """A delivery was none."""
        for place in reversed(range(len(self._deliveries))):
            if self._deliveries[place][1] == task_id:
                del self._deliveries[place]
                return


def limit_for_a_while(client: Client) -> Behaviour:
    """Set limits, of which some are removed again."""
    random = client.random
    rate, concurrency = random.choice(RATES), random.choice((None, 1, 2, 3, 5))
    burst = random.choice((None, 1, 4)) if rate else None
    item = flow.limits_item(concurrency, rate, burst)
    done = yield from change(client, item)
    if done:
        client.world.ledger.tally['limits'] += 1
    if random.random() < 0.5:
        yield random.choice((0.01, 1, 4)) * random.random()
        yield from change(client, flow.limits_item(None, None, None))


def lift_at_last(client: Client) -> Behaviour:
    """Calls of which nobody waits for the answer any more do nothing after that."""
    while (client.world.config.limits or client.world.config.groups) and not (
        yield from change(client, flow.limits_item(None, None, None))
    ):
        yield 1.0
