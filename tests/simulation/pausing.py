"""Those who pause and resume the queue, and what has to hold meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.simulation import shards
from tests.simulation.asking import ask, succeeded
from tests.simulation.clients import Behaviour, Client
from tests.simulation.rules import require
from torrelque.core import flow
from torrelque.core.commands import Item, Outcome
from torrelque.core.sharding import layout as sharding

__all__ = ('Pauses', 'change', 'pause_for_a_while', 'resume', 'resume_at_last')


class Pauses:
    """What is known of pauses from their callers, whatever is recorded where."""

    def __init__(self) -> None:
        self._under_way = 0
        self._until = -math.inf  # on the server's clock

    def begin(self) -> None:
        """Somebody pauses the queue or resumes it: until it is answered, that may be done or not."""
        self._until = -math.inf
        self._under_way += 1

    def answered(self, until: float) -> None:
        """Unless another is under way or begins, the queue is paused until then for sure."""
        self._under_way -= 1
        self._until = -math.inf if self._under_way else until

    def forget(self) -> None:
        """A record was lost."""
        self._until = -math.inf

    def check(self, taken: Sequence[bytes], now: float) -> None:
        """Nobody is given a task while the queue is paused."""
        require(not taken or now >= self._until, 'claimed though the queue is paused', taken)


def change(client: Client, item: Item) -> Any:  # noqa: ANN401 - a behaviour that returns the answers, if there are any
    """Change what is recorded of pauses and limits, on all shards."""
    world = client.world
    answers = yield from ask(client, flow.FLOW, [item])
    if answers and world.config.shards:
        assert isinstance(client, shards.ShardedClient)
        copying = sharding.copy_flow(world.scripts, shards.records_of(world), client.layout.total)
        ticket = yield client.perform(copying)
        if not succeeded(client, ticket):
            return None
    return answers


def _do(client: Client, item: Item) -> Any:  # noqa: ANN401 - a behaviour that returns whether it is done
    world = client.world
    world.pauses.begin()
    answers = yield from change(client, item)
    if not answers:
        return False
    act, *end = item
    world.pauses.answered(float(end[0]) if end and answers == [Outcome.OK] else -math.inf)
    world.ledger.tally[str(act)] += 1
    return True


def pause_for_a_while(client: Client) -> Behaviour:
    """Pause the queue, until a time or until it is resumed here, or by others if this client is no more."""
    random, end = client.random, math.inf
    if random.random() < 0.5:
        end = client.world.server_time() + random.choice((0.5, 5, 15)) * (0.3 + random.random())
    yield from _do(client, ('pause', f'{end:.6f}', random.choice((b'', b'a reason'))))
    if end == math.inf or random.random() < 0.3:
        yield random.choice((0.01, 1, 4)) * random.random()
        while not (client.stopping or (yield from _do(client, flow.RESUME))):
            yield random.random()


def resume(client: Client) -> Behaviour:
    """Resume it, whether or not it is paused."""
    yield from _do(client, flow.RESUME)


def resume_at_last(client: Client) -> Behaviour:
    """Calls of which nobody waits for the answer any more do nothing after that."""
    while client.world.config.pauses and not (yield from _do(client, flow.RESUME)):
        yield 1.0
