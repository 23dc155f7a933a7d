"""Reads that are asked for at the same time are one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
import redis.asyncio

from tests.queue.transports import RecordingTransport
from tests.servers import Server
from torrelque import (
    ReleaseItem,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTaskState,
)
from torrelque.core.protocol import Batch, Call, Reply
from torrelque.engine.reads import MOST_TOGETHER, MOST_UNDER_WAY
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


class Batches(RecordingTransport):
    """Remembers the sizes of batches; those while ``held`` wait until `let_go`. ``fail`` is raised once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.held = False
        self.fail: Exception | None = None
        self._go = anyio.Event()

    async def execute(self, batch: Batch) -> list[Reply]:
        self.sizes.append(len(batch))
        if self.held:
            await self._go.wait()
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        return list(await super().execute(batch))

    def let_go(self) -> None:
        self.held = False
        self._go.set()


async def many(queue: Torrelque, ids: Sequence[Any]) -> list[TorrelqueTaskState]:
    states: list[TorrelqueTaskState] = []

    async def read(task_id: str) -> None:
        states.append(await queue.get_task_state(task_id))

    async with anyio.create_task_group() as tasks:
        for task_id in ids:
            tasks.start_soon(read, task_id)
    return states


@pytest.mark.parametrize('entered', [True, False])
async def test_states_that_are_asked_for_at_once(entered: bool) -> None:
    transport = Batches()
    async with Torrelque(transport, queue='q') as producer:
        ids = await producer.enqueue_many(range(600))
        transport.sizes.clear()
        assert len(await many(producer if entered else Torrelque(transport, queue='q'), ids)) == 600
        assert sorted(transport.sizes) == [100, MOST_TOGETHER, MOST_TOGETHER]


async def test_tasks_that_are_asked_for_at_once() -> None:
    transport = Batches()
    async with Torrelque(transport, queue='q') as queue:
        ids = await queue.enqueue_many(range(50))
        transport.sizes.clear()
        found: list[object] = []

        async def read(task_id: Any) -> None:  # noqa: ANN401 - an id
            found.append((await queue.get_task(task_id)).data)

        async with anyio.create_task_group() as tasks:
            for task_id in ids:
                tasks.start_soon(read, task_id)
        assert sorted(found) == list(range(50))  # type: ignore[type-var]
        assert transport.sizes == [200]


async def test_each_gets_its_own_answer() -> None:
    transport = Batches()
    transport.server.execute([Call('SET', args=('q:task:odd', 'no hash'))])
    outcomes: dict[str, object] = {}
    async with Torrelque(transport, queue='q') as queue:
        await queue.enqueue('a', task_id='known')

        async def read(task_id: str) -> None:
            try:
                outcomes[task_id] = (await queue.get_task_state(task_id)).revision
            except (TorrelqueLookupError, TorrelqueReplyError) as error:
                outcomes[task_id] = type(error)

        async with anyio.create_task_group() as tasks:
            for task_id in ('known', 'unknown', 'odd', 'known'):
                tasks.start_soon(read, task_id)
    assert outcomes == {'known': 1, 'unknown': TorrelqueLookupError, 'odd': TorrelqueReplyError}


async def test_a_failure_is_told_to_all_and_the_next_call_is_made() -> None:
    transport = Batches()
    errors: list[Exception] = []
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        transport.fail = TorrelqueConnectionError('lost')

        async def read() -> None:
            with pytest.raises(TorrelqueConnectionError, match='lost') as caught:
                await queue.get_task_state(task_id)
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(read)
        assert len({id(error) for error in errors}) == 5
        assert (await queue.get_task_state(task_id)).revision == 1


async def test_callers_who_are_cancelled_do_not_take_others_along() -> None:
    transport = Batches()
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        for cancelled in range(6):
            transport.held, transport._go = True, anyio.Event()
            scopes = [anyio.CancelScope() for _ in range(6)]
            answered: list[int] = []

            async def read(number: int, scopes: list[anyio.CancelScope], answered: list[int]) -> None:
                with scopes[number]:
                    await queue.get_task_state(task_id)
                    answered.append(number)

            with anyio.fail_after(ENOUGH):
                async with anyio.create_task_group() as tasks:
                    for number in range(6):
                        tasks.start_soon(read, number, scopes, answered)
                    for _ in range(5):
                        await anyio.lowlevel.checkpoint()
                    for scope in scopes[: cancelled + 1]:
                        scope.cancel()
                    await anyio.lowlevel.checkpoint()
                    transport.let_go()
            assert sorted(answered) == list(range(cancelled + 1, 6))
        reads = queue._engine._reads
        assert (len(reads._waiting), reads._leaders, reads._gathering) == (0, 0, False)


async def test_few_are_under_way_and_the_rest_gathers() -> None:
    transport = Batches()
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        transport.sizes.clear()
        transport.held = True
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(queue.get_task_state, task_id)
                    for _ in range(4):
                        await anyio.lowlevel.checkpoint()
                assert len(transport.sizes) == MOST_UNDER_WAY
                transport.let_go()
        assert transport.sizes == [1] * MOST_UNDER_WAY + [50 - MOST_UNDER_WAY]


async def test_cancelled_at_any_moment() -> None:
    transport = MemoryTransport()
    async with Torrelque(transport, queue='q') as queue:
        task_id = await queue.enqueue('a')
        for turns in range(8):

            async def read() -> None:
                await queue.get_task_state(task_id)

            with anyio.fail_after(ENOUGH):
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(read)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                await read()


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_200_waits_and_states_over_a_default_pool(server: Server) -> None:
    client = redis.asyncio.Redis.from_url(server.url)
    async with client, Torrelque(client, queue='q') as queue:
        ids: list[Any] = await queue.enqueue_many(range(200))
        before = int(server.info('stats')['total_connections_received'])
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                for task_id in ids:
                    tasks.start_soon(queue.wait, task_id)
                    tasks.start_soon(queue.get_task_state, task_id)
                for _ in range(4):
                    claimed = await queue.dequeue(max_tasks=50)
                    await queue.release_many([ReleaseItem(task, 1) for task in claimed])
        used = int(server.info('stats')['total_connections_received']) - before
        assert used < 30
