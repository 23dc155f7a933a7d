"""The consumers of a queue with shards, driven step by step."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

from tests.core.support import Clock, claimed, end, names, only
from torrelque.core import scripts
from torrelque.core.commands import ClaimedTask
from torrelque.core.keys import Keys, shard_name
from torrelque.core.lanes import Lanes
from torrelque.core.machine import Wait
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Operation
from torrelque.core.sharding.consumers import ShardedConsumers
from torrelque.errors import TorrelqueConnectionError

__all__ = ('GONE', 'KEYS', 'SCRIPTS', 'SHARDS', 'Machine', 'answer', 'found', 'ids')

SCRIPTS = scripts.load(sharded=True)
SHARDS = 4
KEYS = [Keys.of_queue(shard_name('q', shard)) for shard in range(SHARDS)]
GONE = TorrelqueConnectionError('gone')


class Machine:
    """Shards 0 and 1 are on one server, 2 and 3 on another, unless ``places`` says otherwise."""

    def __init__(self, *, spread: bool = True) -> None:
        self.clock = Clock()
        self.returned: list[str] = []
        self.told: list[int] = []
        self.lost: list[tuple[Sequence[int], Exception | None]] = []
        self.places: list[Hashable] = ['a', 'a', 'b', 'b']
        self.spread = ShardedConsumers(
            self._place, self.clock, lambda: 0.0, self._give_back, self.told.append, on_lost=self._lost, spread=spread
        )
        for shard in range(SHARDS):
            self.spread.add(Lanes(SCRIPTS, KEYS[shard], f'n{shard}'), KEYS[shard])

    def _place(self, key: bytes) -> Hashable:
        return self.places[[keys['wake'] for keys in KEYS].index(key)]

    def _lost(self, shards: Sequence[int], error: Exception | None) -> None:
        self.lost.append((shards, error))

    def _give_back(self, tasks: Sequence[ClaimedTask]) -> None:
        self.returned += [task.receipt.id for task in tasks]

    def join(self, want: int = 1, timeout: float = math.inf, *, stays: bool = True) -> Ticket:
        ticket = Ticket((), lambda: None)
        self.spread.join(ticket, want, self.clock.now + timeout, stays=stays)
        return ticket

    def start(self) -> dict[tuple[int, str], tuple[Operation[bool], tuple[Any, ...]]]:
        """What is run now, past minting lanes: by shard and script, the operation and its arguments."""
        running = {}
        for shard, operation in self.spread.start():
            batch = next(operation)
            if names(batch) == ['mint']:
                batch = operation.send([b'7'])
            assert batch[0].keys[0].startswith(shard_name('q', shard).encode())  # type: ignore[union-attr, arg-type]
            name, args = only(batch)
            running[shard, name] = operation, args
        return running

    def survey(self, *findings: str) -> None:
        """Answer the surveys that are due, of all servers in turn."""
        running = self.start()
        surveys = [
            operation
            for (_, name), (operation, _) in sorted(running.items(), key=lambda each: each[0])
            if name == 'survey'
        ]
        assert len(surveys) == len(running) == len(findings)
        for operation, finding in zip(surveys, findings, strict=True):
            assert end(operation, found(finding))

    def rest(self) -> list[Wait]:
        """Nothing is anywhere: the waits that begin."""
        self.survey('0 0', '0 0')
        assert self.spread.start() == []
        return self.spread.waits()


def found(text: str) -> list[Any]:
    """The answer of a survey that found this number of tasks on each shard of a server."""
    each = [f'{place}={finding}' for place, finding in enumerate(text.split()) if finding != '0']
    return [[b'', ' '.join(each).encode()]]


def ids(ticket: Ticket) -> list[str]:
    assert ticket.done
    return [task.receipt.id for task in ticket.value]


def answer(operation: Operation[bool], *task_ids: str, alarm: bytes = b'') -> None:
    assert end(operation, [claimed(*task_ids, alarm=alarm)])
