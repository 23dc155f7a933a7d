"""The rights of each role on a cluster are enough there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import quote

import anyio
import pytest

from tests import clusters, servers
from tests.acl.users import PASSWORD, make_user, refusals
from torrelque import Torrelque, TorrelqueTaskStatus, acl, connect

pytestmark = [pytest.mark.anyio, pytest.mark.server]

QUEUE = 'secured'


@pytest.fixture(params=clusters.KINDS)
def cluster(request: pytest.FixtureRequest) -> clusters.Cluster:
    try:
        return clusters.shared(request.param)
    except servers.MissingServerError as error:
        pytest.skip(str(error))


def rules(cluster: clusters.Cluster, role: str) -> list[str]:
    is_new = cluster.name not in clusters.WITHOUT_SHARDED_CHANNELS
    return acl.rules(role, QUEUE, cluster=True, sharded_channels=is_new, selectors=is_new)


@pytest.fixture
async def queues(cluster: clusters.Cluster) -> AsyncIterator[dict[str, Torrelque]]:
    cluster.flush()
    async with AsyncExitStack() as stack:
        of_role = {}
        for role in acl.ROLES:
            for node in cluster.nodes:
                make_user(node, role, rules(cluster, role))
            url = f'redis+cluster://{role}:{quote(PASSWORD, safe="")}@{cluster.hosts}'
            client = await stack.enter_async_context(connect(url))
            of_role[role] = await stack.enter_async_context(Torrelque(client, queue=QUEUE))
        for node in cluster.nodes:
            refusals(node)
        yield of_role


async def test_each_role_can_do_its_work(cluster: clusters.Cluster, queues: dict[str, Torrelque]) -> None:
    watched: list[TorrelqueTaskStatus] = []
    task_id = await queues['producer'].enqueue('data', task_id='a')

    async def watch() -> None:
        async for state in queues['observer'].watch(task_id):
            watched.append(state.status)  # noqa: PERF401 - what came so far counts

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            while not watched:  # noqa: ASYNC110 - the first is the state that was read
                await anyio.sleep(0.005)
            task = await queues['consumer'].dequeue()
            await queues['consumer'].extend(task)
            await queues['consumer'].release(task, result='done')
    assert watched[0] is TorrelqueTaskStatus.PENDING
    assert watched[-1] is TorrelqueTaskStatus.COMPLETED
    assert await queues['consumer'].dequeue_nowait() == []  # which takes the hint away
    assert await queues['operator'].audit() == []
    for role in ('observer', 'consumer'):
        assert (await queues[role].get_queue_stats()).total_completed == 1
    assert set().union(*(refusals(node) for node in cluster.nodes)) == set()


@pytest.mark.parametrize('role', ['producer', 'consumer', 'operator'])
def test_who_publishes_does_so_to_the_shard(role: str) -> None:
    words = acl.rules(role, QUEUE, cluster=True)
    assert '+spublish' in words
    assert '+publish' not in words
    assert '~{secured}:pending' in ' '.join(words)
    assert '+spublish' not in acl.rules(role, QUEUE)
    plain = acl.rules(role, QUEUE, cluster=True, sharded_channels=False)
    assert ('+publish' in plain, '+spublish' in plain, '+asking' in plain) == (True, False, True)
