"""The native transport over a cluster: who it can enter, slots that move, primaries that die."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tests import clusters, servers
from tests.clusters import Cluster, Move, calls_of
from tests.transports.fake import fake_server
from tests.transports.native_support import Start, until
from torrelque import Torrelque
from torrelque.core.protocol import Call, Reply
from torrelque.core.scripts import load
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueReplyError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.transports.native import NativeTransport, connect

pytestmark = pytest.mark.anyio

KEY = '{moving}:key'


@pytest.fixture(scope='module', params=['asyncio', 'trio'])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture(scope='module', params=clusters.KINDS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    try:
        return clusters.shared(request.param)
    except servers.MissingServerError as error:
        pytest.skip(str(error))


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[NativeTransport]:
    cluster.flush()
    async with connect(f'redis+cluster://{cluster.hosts}') as client:
        yield client


def call(command: str, *args: str | bytes | int, key: str = KEY) -> Call[Reply]:
    return Call(command, (key,), args)


# Entering ------------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_no_cluster_is_told(fresh_server: Start) -> None:
    server = fresh_server()
    with pytest.raises(TorrelqueHandshakeError, match='not a node of a cluster'):
        async with connect(server.url.replace('redis://', 'redis+cluster://')):
            pass


async def test_another_database_is_refused() -> None:
    with pytest.raises(TorrelqueValueError, match='only the database 0, not 2'):
        connect('redis+cluster://localhost/2')


async def test_one_seed_that_is_there_is_enough(cluster: Cluster) -> None:
    client = connect(f'redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[1].port}')
    async with client:
        for number in range(20):
            key = f'seed {number}'
            assert list(await client.execute([call('SET', 'x', key=key), call('GET', key=key)])) == [b'OK', b'x']
    with pytest.raises(TorrelqueUsageError, match='closed'):
        await client.execute([call('GET')])


async def test_no_node_is_there() -> None:
    with pytest.raises(TorrelqueConnectionError, match='cannot connect'):
        async with connect('redis+cluster://127.0.0.1:1', retry_timeout=0.1):
            pass


async def test_a_node_without_a_host_is_where_the_one_asked_is() -> None:
    def answer(_: int, words: list[bytes]) -> bytes:
        if words[0] == b'CLUSTER':
            return b'*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$-1\r\n:%d\r\n$2\r\nid\r\n' % fake.port
        return b'$1\r\nx\r\n'

    async with fake_server(answer) as fake, connect(fake.url.replace('redis://', 'redis+cluster://')) as client:
        assert list(await client.execute([call('GET')])) == [b'x']


# Moving slots --------------------------------------------------------------------------------------------------------


async def test_try_again_is_the_reply_when_the_time_is_over(cluster: Cluster) -> None:
    async with connect(f'redis+cluster://{cluster.hosts}', retry_timeout=0.2) as client:
        await client.execute([call('SET', 'a'), call('SET', 'b', key='{moving}:gone')])
        move = Move(cluster, KEY)
        try:
            move.carry('{moving}:gone')
            (reply,) = await client.execute([Call('MGET', (KEY, '{moving}:gone'))])
            assert isinstance(reply, TorrelqueReplyError)
            assert reply.code == 'TRYAGAIN'
        finally:
            move.finish()
        assert list(await client.execute([Call('MGET', (KEY, '{moving}:gone'))])) == [[b'a', b'b']]


async def test_a_claim_that_meets_a_state_that_has_left_writes_nothing(
    cluster: Cluster, client: NativeTransport
) -> None:
    """A node runs a script while its slot leaves if all the keys that it declares are still there."""
    async with Torrelque(client, queue='moving') as queue:
        await queue.enqueue('to be rejected')
        await queue.reject(await queue.dequeue(), reason='unwanted')
        await queue.enqueue('held')
        await queue.dequeue()
        await queue.enqueue('later', delay=600)
        ids = [str(await queue.enqueue(number)) for number in range(10)]
        declared = [queue.keys[name] for name in load(on_cluster=True)['claim'].keys]
        for key in declared:
            await client.execute([call('SET', '', 'NX', key=key)])
        move = Move(cluster, KEY)
        try:
            assert move.source.command('EXISTS', *declared) == len(declared)
            move.carry(*(queue.keys['task'] + f':{task_id}' for task_id in ids[1::2]))
            keys, pending = move.keys(), move.source.command('LRANGE', queue.keys['pending'], 0, -1)
            claimed: list[str] = []

            async def claim() -> None:
                claimed.extend(str(task.id) for task in await queue.dequeue_nowait(max_tasks=10))

            async with anyio.create_task_group() as tasks:
                with calls_of(move.source, 'evalsha', failed=True) as count:
                    tasks.start_soon(claim)
                    await until(lambda: count() > 2)
                assert not claimed
                assert move.keys() == keys
                assert move.source.command('LRANGE', queue.keys['pending'], 0, -1) == pending
                move.finish()
        finally:
            move.finish()
        assert claimed == ids
