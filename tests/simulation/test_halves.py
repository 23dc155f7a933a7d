"""Half of a queue: a primary fails while its slot moves, and its replica runs scripts where the payloads have left.

Whatever is done meanwhile, no id is dropped: it is in a collection, or set aside. Once the payloads are back an audit
brings the tasks back.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import anyio
import pytest

from torrelque import EnqueueItem, Task, Torrelque, TorrelqueLeaseLostError
from torrelque.core.keys import Keys
from torrelque.testing import MemoryServer, MemoryTransport, VirtualClock
from torrelque.transports.memory import claims

pytestmark = pytest.mark.anyio

KEYS = Keys.of_queue('{q}')
COLLECTIONS = ('pending', 'working', 'delayed', 'rejected', 'missing')


class OnCluster(MemoryTransport):
    """A node of a cluster; its channels and scripts are those of one server."""

    on_cluster = True


class Half:
    """A queue, whose payloads are now and then on another node."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.transport = OnCluster(clock=self.clock)
        self.payloads: dict[bytes, bytes] = {}
        self.hidden = False
        self.ids: set[bytes] = set()
        self.held: list[Task] = []

    @property
    def server(self) -> MemoryServer:
        return self.transport.server

    def hide(self) -> None:
        value = self.server._db._values.pop(KEYS['tasks'], {})
        assert isinstance(value, dict)
        self.payloads, self.hidden = value, True

    def bring_back(self) -> None:
        self.server._db.hset(KEYS['tasks'], self.payloads)
        self.hidden = False

    def check(self) -> None:
        keys = self.server.snapshot()
        found: set[bytes] = set()
        for name in COLLECTIONS:
            content: Any = keys.get(KEYS[name], ('none', (), None))[1]  # a list or a dict
            found.update(content)
        assert self.ids <= found, self.ids - found

    async def step(self, queue: Torrelque) -> None:
        choice = self.random.randrange(8)
        if choice == 0 and not self.hidden:
            items = [
                EnqueueItem(n, 5, self.random.choice((None, None, 3))) for n in range(self.random.randrange(1, 30))
            ]
            self.ids.update(str(task_id).encode() for task_id in await queue.enqueue_many(items))
        elif choice <= 3:
            self.held += await queue.dequeue_nowait(max_tasks=self.random.randrange(1, 10))
        elif choice == 4 and self.held and not self.hidden:
            task = self.held.pop(self.random.randrange(len(self.held)))
            with suppress(TorrelqueLeaseLostError):
                await queue.release(task)
                self.ids.discard(task.id.encode())
        elif choice == 5:
            await self.clock.advance(self.random.choice((0.1, 4, 10)))
        elif choice == 6:
            await queue.sweep()
        elif self.hidden:
            self.bring_back()
            if self.random.random() < 0.5:
                await queue.audit(repair=True)
        else:
            self.hide()
            if self.random.random() < 0.3:
                await queue.audit(repair=True)


async def run_all() -> int:
    return sum([await run(seed) for seed in range(40)])


async def run(seed: int) -> int:
    """How many ids were set aside at the end."""
    half = Half(seed)
    async with Torrelque(half.transport, queue='q') as queue:
        for _ in range(60):
            await half.step(queue)
            half.check()
        aside = len(half.server._db.zset_at(KEYS['missing']))
        if half.hidden:
            kinds = {found.kind for found in await queue.audit()}
            assert 'missing' in kinds or not aside, 'an audit reports them'
            half.bring_back()
        await queue.audit(repair=True)
        assert await queue.audit() == []
        await half.clock.advance(20)
        got: set[bytes] = set()
        with anyio.fail_after(20):
            while tasks := await queue.dequeue_nowait(max_tasks=50):
                got.update(task.id.encode() for task in tasks)
                for task in tasks:
                    await queue.release(task)
        assert got == half.ids
    return aside


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_no_id_is_dropped(anyio_backend: str) -> None:
    del anyio_backend
    assert await run_all() > 20


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_it_is_noticed_if_some_are(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del anyio_backend
    monkeypatch.setattr(claims, 'set_aside', lambda *_: None)
    with pytest.raises(AssertionError):
        await run_all()
