"""The rights of each role on a queue with shards are enough, and those that come with shards are needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import quote

import anyio
import pytest

from tests import clusters, servers
from tests.acl.users import PASSWORD, has_selectors, make_user, password_url, refusals
from tests.servers import Server
from torrelque import Torrelque, TorrelqueReplyError, TorrelqueTaskStatus, TorrelqueValueError, acl, connect
from torrelque.core.keys import shard_name
from torrelque.core.protocol import Call
from torrelque.core.schedules import hold_item
from torrelque.core.sharding.layout import home_of
from torrelque.engine.placing import ShardedSchedules

pytestmark = [pytest.mark.anyio, pytest.mark.server]

QUEUE = 'secured'
KINDS = ('valkey-9.1', 'redis-6.2', 'cluster')


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def nodes(kind: str) -> Sequence[Server]:
    try:
        if kind != 'cluster':
            server = servers.shared(kind)
            server.start()
            return [server]
        return clusters.shared('valkey-9.1').nodes
    except servers.MissingServerError as error:
        pytest.skip(str(error))


@asynccontextmanager
async def opened(nodes: Sequence[Server], role: str, shards: int = 3) -> AsyncIterator[Torrelque]:
    if len(nodes) == 1:
        url = password_url(nodes[0], role) if role else nodes[0].url
    else:
        user = f'{role}:{quote(PASSWORD, safe="")}@' if role else ''
        url = f'redis+cluster://{user}{",".join(f"127.0.0.1:{node.port}" for node in nodes)}'
    async with connect(url) as client, Torrelque(client, queue=QUEUE, shards=shards) as queue:
        yield queue


def all_refusals(nodes: Sequence[Server]) -> set[tuple[str, str]]:
    return set().union(*(refusals(node) for node in nodes))


def rules(nodes: Sequence[Server], role: str) -> list[str]:
    return acl.rules(role, QUEUE, selectors=has_selectors(nodes[0]), cluster=len(nodes) > 1, shards=True)


async def test_each_role_can_do_its_work(nodes: Sequence[Server]) -> None:
    for node in nodes:
        node.flush()
        for role in acl.ROLES:
            make_user(node, role, rules(nodes, role))
    all_refusals(nodes)
    seen: list[TorrelqueTaskStatus] = []
    async with AsyncExitStack() as stack:
        producer, consumer, observer, operator = [
            await stack.enter_async_context(opened(nodes, role)) for role in acl.ROLES
        ]
        task_id = await producer.enqueue('data', task_id='a')

        async def watch() -> None:
            async for state in observer.watch(task_id):
                seen.append(state.status)  # noqa: PERF401 - what came so far counts

        async def consume() -> None:
            for _ in range(8):
                task = await consumer.dequeue()
                await consumer.extend(task)
                await consumer.release(task, result='done')

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                while not seen:  # noqa: ASYNC110 - the first is the state that was read
                    await anyio.sleep(0.005)
                group.start_soon(consume)
                for number in range(6):
                    await producer.enqueue(number)
                await producer.enqueue('later', delay=0.05)
        assert seen[-1] is TorrelqueTaskStatus.COMPLETED
        assert (await observer.get_queue_stats()).total_completed == 8
        assert await consumer.get_queue_stats()
        await producer.enqueue_many(range(4))
        for task in await consumer.dequeue_nowait(max_tasks=2):
            await consumer.reject(task, 'why')
        assert await operator.redrive() == 2
        assert await operator.sweep() == (0, 0, 0)
        assert await operator.audit() == []
        await operator.limit(group='*', concurrency=1)
        await producer.enqueue_many(range(2), group='g')
        (grouped,) = [task for task in await consumer.dequeue_nowait(max_tasks=9) if task.group]
        assert [info.state async for info in observer.groups()] == ['blocked']
        await operator.limit(group='*')
        await consumer.giveback(grouped)
        await operator.limit(group='g', weight=2)
        assert await operator.reshard(5) is False  # results are where they were
        assert (await observer.get_task_state('a')).result == 'done'
        await producer.enqueue('data', task_id='b')
        assert len(await consumer.dequeue_nowait(max_tasks=9)) == 3
        await consumer.requeue('b')
        await operator.cancel('b')
        await _move_a_schedule(nodes, consumer, operator)
    elsewhere = {('operator', f'{QUEUE}:delayed'), ('operator', f'{{{QUEUE}}}:delayed')}
    assert all_refusals(nodes) <= elsewhere  # the audit looks for tasks that were added without shards


async def _move_a_schedule(nodes: Sequence[Server], consumer: Torrelque, operator: Torrelque) -> None:
    """As a consumer does, when it finds that a move was interrupted, and an operator."""
    async with opened(nodes, '', shards=5) as queue:
        await queue.schedule('s', 1, every=3600, group='g')
        schedules, name = queue._schedules, shard_name(QUEUE, home_of('g', 5))
        assert isinstance(schedules, ShardedSchedules)
        places = await schedules._look('s', 0)
        await schedules._submit(hold_item('s', max(place.rank for place in places), 1 << 52), home_of('g', 5))
        await queue._transport.execute([Call('ZADD', (f'{name}:schedules',), (1, 's'))])
        assert await consumer.dequeue_nowait() == []
        with anyio.fail_after(20):
            while any(place.is_held for place in await schedules._look('s', 0)):  # noqa: ASYNC110 - only servers know
                await anyio.sleep(0.01)
    await operator.reshard(4)
    await operator.unschedule('s')


async def test_an_observer_opens_no_new_queue(nodes: Sequence[Server]) -> None:
    for node in nodes:
        node.flush()
        make_user(node, 'observer', rules(nodes, 'observer'))
    async with opened(nodes, 'observer') as queue:
        with pytest.raises(TorrelqueReplyError) as caught:
            await queue.get_queue_stats()
    assert caught.value.code == 'NOPERM'
    all_refusals(nodes)


def test_names_with_braces_are_refused() -> None:
    with pytest.raises(TorrelqueValueError, match='braces'):
        acl.rules('producer', '{email}', shards=True)
    assert '~{email:*}:pending' in acl.rules('producer', 'email', shards=True)
