"""First in, first out: every list that consumers get side by side is in the order of the queue."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests import servers
from tests.transports.settings import CLIENTS, LOOPS, Setting
from torrelque import Torrelque, TorrelqueTimeoutError

pytestmark = [pytest.mark.anyio, pytest.mark.server]

CONSUMERS, LIST, TASKS = 10, 50, 6000


@pytest.fixture(
    params=[
        Setting(client, loop, 'valkey-9.1')
        for client in ('native', 'redis_py', 'coredis')
        for loop in CLIENTS[client].loops
    ],
    ids=str,
)
def setting(request: pytest.FixtureRequest) -> Setting:
    chosen: Setting = request.param
    return chosen


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


async def test_lists_are_in_order(setting: Setting) -> None:
    try:
        server = servers.shared(setting.server)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    server.flush()
    lists: list[list[int]] = []
    async with CLIENTS[setting.client].make(server) as client, Torrelque(client) as queue:
        await queue.enqueue_many(range(TASKS))

        async def consume() -> None:
            while True:
                try:
                    tasks = await queue.dequeue(0.5, max_tasks=LIST)
                except TorrelqueTimeoutError:
                    return
                lists.append([task.data for task in tasks])
                await queue.release_many(tasks)

        async with anyio.create_task_group() as consumers:
            for _ in range(CONSUMERS):
                consumers.start_soon(consume)
    assert sorted(number for each in lists for number in each) == list(range(TASKS))
    assert [each for each in lists if each != sorted(each)] == []
