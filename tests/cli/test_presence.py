"""Which workers there are, and which of them holds a task."""

from __future__ import annotations

import pytest

from torrelque import Torrelque, TorrelqueReplyError, TorrelqueTask, WorkerInfo
from torrelque.cli.presence import Holders, read_workers, try_workers
from torrelque.core.models import STATE_FIELDS, make_state
from torrelque.core.protocol import Call
from torrelque.testing import MemoryServer, MemoryTransport

pytestmark = pytest.mark.anyio


def worker(name: str, consumer: str) -> WorkerInfo:
    return WorkerInfo(name, name, 'h', 1, since=1.0, seen=2.0, concurrency=1, running=0, consumer=consumer)


def held_by(consumer: str | None) -> TorrelqueTask:
    state = make_state([b'1', *[None] * (len(STATE_FIELDS) - 1)])
    assert state is not None
    return TorrelqueTask('a', None, {}, state, consumer=consumer)


def test_who_holds_a_task() -> None:
    holders = Holders([worker('a', 'x'), worker('b', 'y'), worker('c', 'y'), worker('b', 'y')])
    assert holders.of(held_by('x')) == 'a'
    assert holders.of(held_by('y')) == 'b or c', 'they share a queue object'
    assert holders.of(held_by('z')) is None
    assert holders.of(held_by(None)) is None
    assert Holders(None).of(held_by('x')) is None


async def test_workers_in_order() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        for name in 'cab':
            await queue.announce(name, name=name, concurrency=1)
        assert [each.name for each in await read_workers(queue)] == ['a', 'b', 'c']


async def test_a_list_that_cannot_be_read() -> None:
    server = MemoryServer()
    server.call(Call('SET', ('trq:workers',), ('x',)))
    async with Torrelque(MemoryTransport(server=server)) as queue:
        assert await try_workers(queue) is None
        with pytest.raises(TorrelqueReplyError, match='WRONGTYPE'):
            await read_workers(queue)
