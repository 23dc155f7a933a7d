"""Workers over real servers, which are killed and come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import coredis
import pytest
import redis.asyncio

from tests.servers import Server
from tests.worker.support import LiveBench
from torrelque import Client, Task, Torrelque, connect, events

pytestmark = pytest.mark.anyio

PATIENCE = 20

Start = Callable[..., Server]


@asynccontextmanager
async def client_of(kind: str, server: Server) -> AsyncIterator[Client]:
    match kind:
        case 'native':
            async with connect(server.url, retry_timeout=0.2) as client:
                yield client
        case 'redis-py':
            async with redis.asyncio.Redis.from_url(server.url) as client:
                yield client
        case _:
            async with coredis.Redis.from_url(server.url) as client:
                yield client


@pytest.fixture(params=['native', 'redis-py', 'coredis'])
def kind(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    """A client. redis-py knows asyncio only."""
    if request.param == 'redis-py' and anyio_backend_name == 'trio':
        return 'native'
    return str(request.param)


async def double(task: Task) -> int:
    return task.data * 2  # type: ignore[no-any-return]  # it is what was enqueued


async def test_tasks_are_done_by_workers_side_by_side(server: Server) -> None:
    async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
        ids = [str(each) for each in await queue.enqueue_many(range(300))]
        first, second = LiveBench(queue), LiveBench(queue)
        with anyio.fail_after(PATIENCE):
            async with first.working(double, 10), second.working(double, 10):
                results = [(await queue.wait(task_id)).result for task_id in ids]
    assert results == [number * 2 for number in range(300)]
    done = [event.task.id for event in first.told(events.Finished) + second.told(events.Finished)]
    assert len(done) == len(set(done)) == 300


async def test_the_server_is_killed_and_comes_back(fresh_server: Start, kind: str) -> None:
    server = fresh_server('--appendonly', 'yes', '--appendfsync', 'always')
    async with client_of(kind, server) as client, Torrelque(client, queue='q') as queue:
        bench = LiveBench(queue)
        with anyio.fail_after(PATIENCE):
            async with bench.working(double, concurrency=5):
                assert (await queue.wait(await queue.enqueue(1))).result == 2
                server.kill()
                await bench.until(events.Disconnected)
                server.start()
                await bench.until(events.Reconnected)
                async with connect(server.url) as fresh, Torrelque(fresh, queue='q') as producer:
                    assert (await producer.wait(await producer.enqueue(2))).result == 4
    assert len(bench.told(events.Disconnected)) == len(bench.told(events.Reconnected)) == 1


async def test_the_server_is_away_when_the_worker_begins(fresh_server: Start, kind: str) -> None:
    server = fresh_server('--appendonly', 'yes', '--appendfsync', 'always')
    async with client_of(kind, server) as client, Torrelque(client, queue='q') as queue:
        task_id = await queue.enqueue(1)
        server.kill()
        bench = LiveBench(queue)
        with anyio.fail_after(PATIENCE):
            async with bench.working(double, concurrency=5):
                await bench.until(events.Disconnected)
                server.start()
                await bench.until(events.Finished)
                assert (await queue.get_task_state(task_id)).result == 2


async def test_a_handler_goes_on_while_the_server_is_away_and_its_result_is_written(fresh_server: Start) -> None:
    server = fresh_server('--appendonly', 'yes', '--appendfsync', 'always')
    back = anyio.Event()

    async def handler(task: Task) -> str:
        server.kill()
        with anyio.move_on_after(0.5):
            await back.wait()
        return 'done'

    async with connect(server.url, retry_timeout=0.2) as client, Torrelque(client, queue='q') as queue:
        bench = LiveBench(queue)
        with anyio.fail_after(PATIENCE):
            async with bench.working(handler, concurrency=2):
                task_id = await queue.enqueue(1)
                await bench.until(events.Disconnected)
                server.start()
                await bench.until(events.Finished)
                state = await queue.get_task_state(task_id)
                assert (state.result, state.dequeue_count) == ('done', 1)


async def test_a_stopped_worker_gives_back_to_another(server: Server) -> None:
    async def stuck(task: Task) -> None:
        await anyio.sleep_forever()

    async with (
        connect(server.url) as client,
        Torrelque(client, queue='q') as queue,
        Torrelque(client, queue='q') as other,
    ):
        task_id = await queue.enqueue(4)
        bench = LiveBench(queue)
        with anyio.fail_after(PATIENCE):
            async with LiveBench(other).working(double) as rival, anyio.create_task_group() as group:
                rival.stop()
                worker = bench.worker(stuck, grace=0.05)
                group.start_soon(worker.run)
                await bench.until(events.Started)
                worker.stop()
            async with LiveBench(other).working(double):
                state = await queue.wait(task_id)
    assert (state.result, state.dequeue_count) == (8, 1)


async def test_a_worker_that_may_not_claim_says_so(fresh_server: Start) -> None:
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'observer', 'on', '>secret', '~*', '&*', '+@all', '-evalsha', '-eval')
    url = server.url.replace('redis://', 'redis://observer:secret@')
    async with connect(url) as client, Torrelque(client, queue='q') as queue:
        with anyio.fail_after(PATIENCE), pytest.raises(Exception, match='NOPERM'):
            await LiveBench(queue).worker(double, concurrency=3).run()


async def test_a_result_that_the_server_takes_for_too_large(fresh_server: Start, kind: str) -> None:
    server = fresh_server('--proto-max-bulk-len', '1mb')

    async def handler(task: Task) -> str:
        return 'x' * (2 << 20) if task.data == 'large' else 'small'

    async with client_of(kind, server) as client, Torrelque(client, queue='q') as queue:
        bench = LiveBench(queue)
        ids = [await queue.enqueue(data) for data in ('small', 'large', 'small')]
        with anyio.fail_after(3 * PATIENCE):  # redis-py may wait 5 s for an answer to what it sent
            async with bench.working(handler, concurrency=3):
                while len(bench.told(events.Finished)) < 3:  # noqa: ASYNC110 - `until` has less patience
                    await anyio.sleep(0.05)
                assert await bench.peek() == (0, 0, 0, 0)
                assert [(await queue.get_task_state(task_id)).result for task_id in ids[::2]] == ['small'] * 2
    assert [event.task.id for event in bench.told(events.ResultDropped)] == [ids[1]]
    assert len(bench.told(events.Started)) == 3
