"""One of a cluster's servers dies, and with it some of the shards, until its replica stands in."""

from __future__ import annotations

import anyio
import pytest

from tests import servers
from tests.clusters import Cluster
from torrelque import Durability, Torrelque, connect

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
