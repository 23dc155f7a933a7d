"""What each process did, written down as it went, so that it outlives the process."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

Event = Literal[
    'enqueuing',
    'enqueued',
    'claimed',
    'fenced',
    'releasing',
    'released',
    'requeued',
    'lost',
    'unknown',
    'cancelled',
    'back',
    'ready',
]
"""The -ing ones are written before the call is sent; ``unknown`` is a call that ended with a connection error.

``fenced`` counts the fence of the claim before it, ``cancelled`` and ``back`` microseconds: how far from an enqueue,
and how long until the task was available again.
"""

Claim = tuple[str, int]
"""Who claimed, and which delivery it was. The result of every released task is the claim that released it."""


class Ledger:
    """One process's own file. A line is one write, so it is whole, or not there."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, event: Event, task_id: str = '', count: int = 0) -> None:
        os.write(self._file, f'{json.dumps([event, task_id, count, time.monotonic()])}\n'.encode())


@dataclass
class Books:
    """All ledgers of a folder, read together."""

    events: Counter[str] = field(default_factory=Counter)
    attempted: set[str] = field(default_factory=set)
    enqueued: set[str] = field(default_factory=set)
    claims: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    releasing: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    released: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    requeued: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    fences: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, folder: Path) -> Self:
        books = cls()
        for path in sorted(folder.iterdir()):
            for event, task_id, count, _ in read(path):
                books.add(event, task_id, (path.name, count))
        return books

    def add(self, event: str, task_id: str, claim: Claim) -> None:
        self.events[event] += 1
        match event:
            case 'enqueuing':
                self.attempted.add(task_id)
            case 'enqueued':
                self.enqueued.add(task_id)
            case 'claimed':
                self.claims[task_id].append(claim)
            case 'fenced':
                self.fences[task_id].append(claim[1])
            case 'releasing':
                self.releasing[task_id].append(claim)
            case 'released':
                self.released[task_id].append(claim)
            case 'requeued':
                self.requeued[task_id].append(claim)

    @property
    def redeliveries(self) -> int:
        return sum(count > 1 for claims in self.claims.values() for _, count in claims)

    def lost(self, results: dict[str, Claim]) -> list[str]:
        """Tasks whose enqueuing was acknowledged and that nobody released, if the queue is empty."""
        return sorted(self.enqueued - results.keys())

    def duplicates(self, results: dict[str, Claim]) -> list[str]:
        """What stale claims, and calls that came late or twice, have done. ``results`` is what the server says."""
        found = [f'{task_id}: released, never enqueued' for task_id in results.keys() - self.attempted]
        for task_id, final in results.items():
            found += [f'{task_id}: {problem}' for problem in self._problems(task_id, final)]
        return found

    def _problems(self, task_id: str, final: Claim) -> list[str]:
        claims, released = self.claims[task_id], self.released[task_id]
        problems = []
        if len({count for _, count in claims}) < len(claims):
            problems.append(f'one delivery went to two consumers: {claims}')
        if any(count > final[1] for _, count in claims):
            problems.append(f'released by {final}, but claimed later: {claims}')
        if any(count >= final[1] for _, count in self.requeued[task_id]):
            problems.append(f'released by {final}, but requeued as {self.requeued[task_id]}')
        if final not in self.releasing[task_id]:
            problems.append(f'released by {final}, who never asked for it')
        if released not in ([], [final]):
            problems.append(f'released by {final}, but acknowledged to {released}')
        return problems


Entry = tuple[str, str, int, float]
"""Event, task, delivery, and when it was written, on the one monotonic clock that processes share."""


def read(path: Path) -> list[Entry]:
    """The entries of one ledger; none if it was not begun."""
    return Reader(path).news()


class Reader:
    """A ledger that is read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def news(self) -> list[Entry]:
        """What was written since this was last asked for."""
        if not self._path.exists():
            return []
        with self._path.open('rb') as file:
            file.seek(self._offset)
            whole, end, _ = file.read().rpartition(b'\n')  # the last line may be being written
        self._offset += len(whole) + len(end)
        return [tuple(json.loads(line)) for line in whole.splitlines()]
