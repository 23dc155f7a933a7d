"""Transports that remember, lose, or repeat what they are given."""

from __future__ import annotations

from collections.abc import Sequence

from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.errors import TorrelqueConnectionError
from torrelque.testing import MemoryTransport


class RecordingTransport(MemoryTransport):
    """Remembers the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call[Reply]] = []

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        self.calls += batch
        return await super().execute(batch)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self.calls.append(call)
        return await super().block(call, timeout)


class LosingTransport(MemoryTransport):
    """Loses the replies, or before that the requests, of the next batches with a certain script."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: str = ''
        self.before = False
        self.lost = 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        losing = any(isinstance(call.command, Script) and call.command.name == self.lose for call in batch)
        if not (losing and self.before):
            replies = await super().execute(batch)
            if not losing or isinstance(replies[0], Exception):  # a script that has yet to be loaded did nothing
                return replies
        self.lost += 1
        raise TorrelqueConnectionError('the reply was lost')


class RepeatingTransport(MemoryTransport):
    """Sends everything again, as a client does that did not hear the answer. ``times`` says how often in all."""

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        self.times = times
        self.answers: list[tuple[Call[Reply], list[Reply]]] = []

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        answers = [await super().execute(batch) for _ in range(self.times)]
        for call, *replies in zip(batch, *answers, strict=True):
            self.answers.append((call, replies))
        return answers[-1]
