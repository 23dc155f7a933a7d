"""The adapters of clients of a cluster: slots that move, primaries that die, pipelines, who is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import coredis
import pytest

from tests import clusters, servers
from tests.clusters import Cluster, Move, calls_of
from tests.transports.native_support import blocked, until
from tests.transports.settings import CLUSTER_CLIENTS, LOOPS
from torrelque import Client, Durability, Torrelque
from torrelque.core.protocol import Call, Reply, Script
from torrelque.engine.driving import drive
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError, TorrelqueTypeError
from torrelque.transports import adapt
from torrelque.transports.base import Message, Transport
from torrelque.transports.cluster import router as routing

pytestmark = pytest.mark.anyio

KEY = '{moving}:key'

USERS = [('redis_py-cluster', 'asyncio'), ('coredis-cluster', 'asyncio'), ('coredis-cluster', 'trio')]
NATIVE = [('native-cluster', 'asyncio'), ('native-cluster', 'trio')]
OF_USERS = [(*setting, kind) for setting in USERS for kind in ('redis-7.0', 'valkey-9.1')]
CASES = [*OF_USERS, *[(*setting, kind) for setting in NATIVE for kind in clusters.KINDS]]
CLIENTS_OF_USERS = pytest.mark.parametrize('case', OF_USERS, ids='/'.join, indirect=True)


@pytest.fixture(scope='module', params=CASES, ids='/'.join)
def case(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """A client, an event loop, and a kind of cluster."""
    chosen: tuple[str, str, str] = request.param
    return chosen


@pytest.fixture(scope='module')
def anyio_backend(case: tuple[str, str, str]) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[case[1]]


@pytest.fixture
def cluster(case: tuple[str, str, str]) -> Cluster:
    try:
        cluster = clusters.shared(case[2])
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    cluster.flush()
    return cluster


@pytest.fixture
def fragile_cluster() -> Iterator[Cluster]:
    """One with replicas, to kill primaries of."""
    try:
        cluster = Cluster('valkey-9.1', replicas=1)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    yield cluster
    cluster.close()


@pytest.fixture
async def client(case: tuple[str, str, str], cluster: Cluster) -> AsyncIterator[Any]:
    async with CLUSTER_CLIENTS[case[0]].make(cluster) as client:
        yield client


@pytest.fixture
async def transport(client: Client) -> AsyncIterator[Transport]:
    transport = adapt(client)
    yield transport
    await transport.aclose()


def call(command: str, *args: str | bytes | int, key: str = KEY) -> Call[Reply]:
    return Call(command, (key,), args)


# Moving slots --------------------------------------------------------------------------------------------------------


async def test_moved_is_followed_and_the_slots_are_read_once(
    case: tuple[str, str, str], cluster: Cluster, transport: Transport
) -> None:
    await transport.execute([call('SET', 0)])
    move = Move(cluster, KEY)
    move.finish()
    counts = [calls_of(node, 'cluster|slots') for node in cluster.primaries]
    with counts[0] as one, counts[1] as two, counts[2] as three:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(transport.execute, [call('INCR')])
        await transport.execute([call('INCR')])
        read = one() + two() + three()
        assert read <= 3 * 3 if case[0] == 'redis_py-cluster' else read == 1  # redis-py reads them, too
    assert move.target.command('GET', KEY) == b'51'
    assert transport.node_of(KEY.encode()) is not None


async def test_a_script_is_loaded_where_its_call_goes(cluster: Cluster, transport: Transport) -> None:
    await transport.execute([call('SET', 'here')])
    script = Script('got', f"return redis.call('GET', KEYS[1]) -- {KEY} {cluster.owner_of(KEY).port}", ('key',))
    Move(cluster, KEY).finish()
    assert await drive(transport, iter(Call[Reply](script, (KEY,)))) == b'here'


async def test_ask_is_followed_for_that_call_only(cluster: Cluster, transport: Transport) -> None:
    there, gone = KEY, '{moving}:gone'
    await transport.execute([call('SET', 'a', key=there), call('SET', 'b', key=gone)])
    move = Move(cluster, KEY)
    try:
        move.carry(gone)
        script = Script('asked', f"return redis.call('GET', KEYS[1]) -- {move.source.port}", ('key',))
        batch = [call('GET', key=there), call('GET', key=gone), call('INCR', key='{moving}:new')]
        assert list(await transport.execute(batch)) == [b'a', b'b', 1]
        async with anyio.create_task_group() as tasks:  # over several connections

            async def ask() -> None:
                replies = list(await transport.execute(batch))
                assert replies[:2] == [b'a', b'b']

            for _ in range(10):
                tasks.start_soon(ask)
        assert move.target.command('CLUSTER', 'COUNTKEYSINSLOT', move.slot) == 2
        assert await drive(transport, iter(Call[Reply](script, (gone,)))) == b'b'
        assert cluster.owner_of(KEY) is move.source
    finally:
        move.finish()
    assert list(await transport.execute([call('GET', key='{moving}:new')])) == [b'11']


@CLIENTS_OF_USERS
async def test_try_again_is_the_reply_when_the_time_is_over(
    cluster: Cluster, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transport.execute([call('SET', 'a'), call('SET', 'b', key='{moving}:gone')])
    both: Call[Reply] = Call('MGET', (KEY, '{moving}:gone'))
    move = Move(cluster, KEY)
    try:
        move.carry('{moving}:gone')
        with monkeypatch.context() as patch:
            patch.setattr(routing, 'PATIENCE', 0.1)
            (reply,) = await transport.execute([both])
        assert isinstance(reply, TorrelqueReplyError)
        assert reply.code == 'TRYAGAIN'
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                assert list(await transport.execute([both])) == [[b'a', b'b']]

            with calls_of(move.source, 'mget') as count:
                tasks.start_soon(ask)
                await until(lambda: count() > 1)
            move.finish()
    finally:
        move.finish()


async def test_a_wait_goes_on_at_the_other_node(cluster: Cluster, transport: Transport) -> None:
    wake = '{moving}:wake'
    replies: list[Reply] = []

    async def wait() -> None:
        replies.append(await transport.block(Call('BZPOPMIN', (wake,), ('8',)), 8))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        source = cluster.owner_of(wake)
        await until(lambda: bool(blocked(source)))
        move = Move(cluster, KEY)
        move.finish()
        await until(lambda: bool(blocked(move.target)))
        await transport.execute([call('ZADD', 0, 'hint', key=wake)])
    assert replies == [[wake.encode(), b'hint', b'0']]


async def test_a_listener_ends_when_its_slot_moves(cluster: Cluster, transport: Transport) -> None:
    """Unless channels have no slots, and every node publishes to all."""
    channel = b'{moving}:channel'
    has_slots = cluster.name not in clusters.WITHOUT_SHARDED_CHANNELS
    publish: Call[Reply] = Call('SPUBLISH' if has_slots else 'PUBLISH', (channel,), ('news',))
    with anyio.fail_after(20):
        async with transport.listen() as listener:
            await listener.subscribe(channel)
            assert await listener.receive() == Message(channel, None)
            await transport.execute([publish])
            assert await listener.receive() == Message(channel, b'news')
            await listener.unsubscribe(channel)
            await listener.subscribe(channel)
            assert await listener.receive() == Message(channel, None)
            Move(cluster, KEY).finish()
            if not has_slots:
                await transport.execute([publish])
                assert await listener.receive() == Message(channel, b'news')
                return
            with pytest.raises(TorrelqueConnectionError, match='moved'):
                await listener.receive()
        async with transport.listen() as listener:
            await listener.subscribe(channel)
            assert await listener.receive() == Message(channel, None)
            await transport.execute([publish])
            assert await listener.receive() == Message(channel, b'news')


async def test_what_is_executed_apart_moves_as_a_whole(cluster: Cluster, transport: Transport) -> None:
    batch = [call('INCR'), Call[Reply]('WAIT', args=(0, 0))]
    assert list(await transport.execute_dedicated(batch, 0.1)) == [1, 0]
    move = Move(cluster, KEY)
    move.finish()
    with calls_of(move.target, 'wait') as count:
        assert list(await transport.execute_dedicated(batch, 0.1)) == [2, 0]
        assert count() == 1


async def test_a_claim_during_the_move_is_done_once_the_slot_has_arrived(cluster: Cluster, client: Client) -> None:
    async with Torrelque(client, queue='moving') as queue:
        ids = [str(await queue.enqueue(number)) for number in range(10)]
        move = Move(cluster, KEY)
        keys = move.keys()
        claimed: list[str] = []

        async def claim() -> None:
            claimed.extend(str(task.id) for task in await queue.dequeue_nowait(max_tasks=10))

        try:
            move.carry(*(queue.keys['task'] + f':{task_id}' for task_id in ids[::2]))
            async with anyio.create_task_group() as tasks:
                with calls_of(move.source, 'evalsha') as count:
                    tasks.start_soon(claim)
                    await until(lambda: count() > 2)
                assert not claimed
                assert move.keys() == keys
                assert move.source.command('LLEN', queue.keys['pending']) == 10
                move.finish()
        finally:
            move.finish()
        assert claimed == ids
        assert not await queue.audit()


async def test_an_idle_consumer_and_a_watcher_outlive_a_move(cluster: Cluster, client: Client) -> None:
    async with Torrelque(client, queue='moving') as queue:
        results: list[object] = []

        async def consume() -> None:
            task = await queue.dequeue()
            await queue.release(task, result=task.data)

        async def watch() -> None:
            results.append((await queue.wait(later)).result)

        later = await queue.enqueue('later', delay=1.5)
        source = cluster.owner_of(queue.keys['pending'])
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                tasks.start_soon(consume)
                await until(lambda: bool(blocked(source)))
                Move(cluster, KEY).finish()
        assert results == ['later']
        assert cluster.owner_of(KEY) is not source


# Primaries that die --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('case', [(*each, '') for each in (USERS[0], USERS[2], NATIVE[0])], ids='/'.join, indirect=True)
async def test_calls_resume_when_a_replica_was_promoted(case: tuple[str, str, str], fragile_cluster: Cluster) -> None:
    cluster = fragile_cluster
    async with CLUSTER_CLIENTS[case[0]].make(cluster) as client, Torrelque(client, queue='moving') as queue:
        async with Torrelque(client, queue='moving', durability=Durability(replicas=1)) as durable:
            first = await durable.enqueue('before')
        primary = cluster.owner_of(queue.keys['pending'])
        replica = cluster.nodes[cluster.nodes.index(primary) + 3]
        claimed: list[object] = []

        async def consume() -> None:
            claimed.extend([(await queue.dequeue()).data for _ in range(2)])

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                primary.kill()
                tasks.start_soon(consume)
                await queue.enqueue('after')
        assert replica.info('replication')['role'] == 'master'
        assert set(claimed) == {'before', 'after'}
        await queue.release(first)
        assert await queue.get_queue_stats()


# The rest ------------------------------------------------------------------------------------------------------------


async def test_a_key_for_each_node(cluster: Cluster, transport: Transport) -> None:
    keys = [key for key in await transport.nodes() if key is not None]
    assert sorted(cluster.owner_of(str(key)).port for key in keys) == sorted(node.port for node in cluster.primaries)
    assert len({transport.node_of(str(key).encode()) for key in keys}) == len(keys)


@asynccontextmanager
async def piped(client: Any, *, transaction: bool) -> AsyncIterator[Any]:  # noqa: ANN401 - of either package
    """A pipeline, which is executed in the end."""
    pipeline = client.pipeline(transaction=transaction)
    if isinstance(client, coredis.RedisCluster):
        async with pipeline:
            yield pipeline
    else:
        yield pipeline
        await pipeline.execute()


@CLIENTS_OF_USERS
@pytest.mark.parametrize('transaction', [True, False])
async def test_enqueueing_by_a_pipeline(client: Any, *, transaction: bool) -> None:  # noqa: ANN401 - of either package
    async with Torrelque(client, queue='piped') as queue:
        await client.get('{piped}:mine')
        async with piped(client, transaction=transaction) as pipeline:
            pipeline.set('{piped}:mine', '1')
            await queue.enqueue({'in': 'a pipeline'}, pipeline=pipeline)
            assert await queue.dequeue_nowait() == []
        assert [task.data for task in await queue.dequeue_nowait()] == [{'in': 'a pipeline'}]
        assert await client.get('{piped}:mine') in ('1', b'1')


@CLIENTS_OF_USERS
async def test_the_pipelines_of_another_client_are_refused(transport: Transport) -> None:
    with pytest.raises(TorrelqueTypeError, match='expected a pipeline of a'):
        transport.append(object(), call('GET'))


@CLIENTS_OF_USERS
async def test_the_client_stays_open(client: Any, transport: Transport) -> None:  # noqa: ANN401 - as above
    await transport.execute([call('SET', 'x')])
    await transport.aclose()
    assert await client.get(KEY) in ('x', b'x')
