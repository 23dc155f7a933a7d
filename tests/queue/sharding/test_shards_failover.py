"""One of a cluster's servers dies, and with it some of the shards, until its replica stands in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from tests import servers
from tests.clusters import Cluster
from torrelque import Durability, Torrelque, TorrelqueConnectionError, TorrelqueReplyError, connect
from torrelque.core.sharding.layout import home_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One for all, since it is the servers that fail."""
    return 'asyncio'


async def test_consumers_and_producers_outlast_it() -> None:
    try:
        cluster = Cluster('valkey-9.1', replicas=1)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    got: list[int] = []

    async def consume(queue: Torrelque) -> None:
        while len(got) < 24:
            task = await queue.dequeue()
            await queue.release(task)
            got.append(task.data)
        group.cancel_scope.cancel()

    url = f'redis+cluster://{cluster.hosts}'
    try:
        async with connect(url) as one, connect(url) as other:
            durability = Durability(replicas=1)
            async with (
                Torrelque(one, queue='email', shards=6, durability=durability, failover_timeout=30) as producer,
                Torrelque(other, queue='email', shards=6, failover_timeout=30) as consumer,
            ):
                for number in range(12):
                    await producer.enqueue(number)
                assert (await producer.get_queue_stats()).pending == 12
                cluster.primaries[0].kill()
                plain = Torrelque(one, queue='email', shards=6, failover_timeout=30)
                with anyio.fail_after(45):
                    async with anyio.create_task_group() as group:
                        group.start_soon(consume, consumer)
                        for number in range(12, 24):
                            await plain.enqueue(number)
                await plain.aclose()
    finally:
        cluster.close()
    assert set(got) == set(range(24))  # a claim that was not replicated may be made again


def id_of(shard: int, number: int, shards: int) -> str:
    """The id of a task of one shard."""
    return next(name for at in range(1000) if home_of(name := f'{number}-{at}', shards) == shard)


@contextmanager
def partial_cluster() -> Iterator[Cluster]:
    """One that goes on serving the slots that it can."""
    try:
        cluster = Cluster('valkey-9.1', '--cluster-require-full-coverage', 'no')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        cluster.close()


def shards_of_slot(cluster: Cluster, total: int) -> dict[int, int]:
    return {shard: cluster.slot_of(f'{{email:{shard}}}:pending') for shard in range(total)}


@pytest.mark.parametrize('failover_timeout', [0, 1])
async def test_a_slot_that_nobody_serves_keeps_nobody_from_the_other_shards(
    failover_timeout: float, caplog: pytest.LogCaptureFixture
) -> None:
    with partial_cluster() as cluster:
        slots = shards_of_slot(cluster, 6)
        lost = next(shard for shard in range(6) if slots[shard] != cluster.slot_of('{email}:counters'))
        options: dict[str, Any] = {'queue': 'email', 'shards': 6, 'failover_timeout': failover_timeout}
        url = f'redis+cluster://{cluster.hosts}'
        async with (
            connect(url, retry_timeout=1) as one,
            connect(url, retry_timeout=1) as other,
            Torrelque(one, **options) as producer,
            Torrelque(other, **options) as consumer,
        ):
            assert (await producer.get_queue_stats()).tasks == 0
            assert await consumer.dequeue_nowait() == []
            for node in cluster.nodes:
                node.command('CLUSTER', 'DELSLOTS', slots[lost])
            with anyio.fail_after(40):
                ids = [await producer.enqueue(number) for number in range(12)]
                ids += [str(each) for each in await producer.enqueue_many(range(12, 24))]
                assert all(home_of(task_id, 6) != lost for task_id in ids)
                with pytest.raises((TorrelqueConnectionError, TorrelqueReplyError)):
                    await producer.enqueue('own', task_id=id_of(lost, 0, 6))
                got = [await consumer.dequeue(timeout=20) for _ in range(12)]
                while len(got) < 24:
                    got += await consumer.dequeue_nowait(max_tasks=24)
                assert {task.id for task in got} == set(ids)
                await consumer.release_many(got)
            said = [record.getMessage() for record in caplog.records if 'do not answer' in record.getMessage()]
            assert 1 <= len(said) <= 2  # once by each, the consumer perhaps later
            assert all(f'Shards [{lost}] of queue' in each for each in said)
            owner = cluster.owner_of('{email}:counters')
            for node in cluster.nodes:
                if node is owner:
                    node.command('CLUSTER', 'ADDSLOTS', slots[lost])
            with anyio.fail_after(40):
                while not any('answer again' in record.getMessage() for record in caplog.records):
                    await producer.enqueue('more')
                    await anyio.sleep(0.05)
                while home_of(await producer.enqueue('more'), 6) != lost:
                    pass
                back = set[int]()
                while lost not in back:
                    task = await consumer.dequeue(timeout=20)
                    back.add(home_of(task.id, 6))
