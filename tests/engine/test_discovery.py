"""The queues of a server, and how many shards they have."""

from __future__ import annotations

import logging

import pytest

from torrelque import Torrelque, queues, shards_of
from torrelque.core.protocol import Call
from torrelque.engine import discovery
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _none_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, '_foreign', set())


async def names(transport: MemoryTransport) -> list[str]:
    return sorted([name async for name in queues(transport)])


async def test_queues_with_shards_come_once() -> None:
    transport = MemoryTransport()
    assert await names(transport) == []
    for name, shards in (('mail', None), ('sms', 3), ('a:b', None)):
        async with Torrelque(transport, queue=name, shards=shards) as queue:
            await queue.enqueue_many(range(10))
    assert await names(transport) == ['a:b', 'mail', 'sms']
    assert [await shards_of(transport, name) for name in ('mail', 'sms', 'a:b', 'none')] == [None, 3, None, None]


@pytest.mark.parametrize('name', ['{sms}', 'sms}', '{sms:1}'])
async def test_names_that_no_queue_with_shards_has(name: str) -> None:
    transport = MemoryTransport()
    async with Torrelque(transport, queue='sms', shards=2) as queue:
        await queue.enqueue(1)
    assert await shards_of(transport, name) is None


async def test_foreign_keys_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    transport = MemoryTransport()
    await transport.execute([Call('SET', (b'visits:counters',), (b'5',))])
    with caplog.at_level(logging.WARNING, 'torrelque'):
        assert await names(transport) == await names(transport) == []
    assert [record.message for record in caplog.records] == [
        "Skipped the key b'visits:counters': it is named like the counters of a queue, but holds something else"
    ]


async def test_what_is_remembered_of_foreign_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, 'MOST_FOREIGN', 3)
    transport = MemoryTransport()
    for number in range(10):
        await transport.execute([Call('SET', (b'%d:counters' % number,), (b'5',))])
    await names(transport)
    assert 0 < len(discovery._foreign) <= 3


async def test_a_client_that_is_no_transport_is_left_open() -> None:
    transport = MemoryTransport()
    await shards_of(transport, 'q')
    async with Torrelque(transport, queue='q') as queue:
        await queue.enqueue(1)
