"""Calls and answers that are larger than the server allows: only they fail, at once."""

from __future__ import annotations

import time

import anyio
import pytest

from tests.servers import Server
from tests.transports.native_support import Start, call
from tests.transports.outages import Kind, anyio_backend, kind
from torrelque import Torrelque, TorrelqueTooLargeError
from torrelque.core.protocol import Reply
from torrelque.transports import adapt

pytestmark = pytest.mark.anyio
__all__ = ('anyio_backend', 'kind')

LIMIT = 1 << 20
LARGE = b'x' * (2 * LIMIT)
SETTINGS = ['proto-max-bulk-len', 'client-query-buffer-limit']


@pytest.fixture(params=['valkey-9.1', 'redis-6.2'])
def server(request: pytest.FixtureRequest, fresh_server: Start) -> Server:
    return fresh_server(name=request.param)


@pytest.mark.parametrize('setting', SETTINGS)
async def test_only_that_call_fails(kind: Kind, server: Server, setting: str) -> None:
    server.command('CONFIG', 'SET', setting, LIMIT)
    replies: dict[int, Reply] = {}
    async with kind.make(server.url) as client:
        transport = adapt(client)

        async def beside(number: int) -> None:
            (replies[number],) = await transport.execute([call('ECHO', number)])

        start = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(beside, number)
            batch = [call('SET', 'a', 'small'), call('SET', 'b', LARGE), call('SET', 'c', 'small')]
            small, error, last = await transport.execute(batch)
            for number in range(3, 6):
                tasks.start_soon(beside, number)
        assert time.monotonic() - start < 5
        assert (small, last) == (b'OK', b'OK')
        assert isinstance(error, TorrelqueTooLargeError)
        assert error.limit == LIMIT
        assert error.size is not None
        assert error.size >= len(LARGE)
        for said in ('2,097,1', '1,048,576', setting):
            assert said in str(error)
        assert replies == {number: str(number).encode() for number in range(6)}
        assert await transport.execute([call('EXISTS', 'a', 'b', 'c')]) == [2]
        with pytest.raises(TorrelqueTooLargeError):
            await transport.execute_dedicated([call('SET', 'b', LARGE), call('WAIT', 0, 10)], 1)
        await transport.aclose()


async def test_the_limit_is_not_always_known(kind: Kind, server: Server) -> None:
    server.command('CONFIG', 'SET', SETTINGS[1], LIMIT)
    server.command('ACL', 'SETUSER', 'default', '-config')
    async with kind.make(server.url) as client:
        transport = adapt(client)
        (error,) = await transport.execute([call('SET', 'b', LARGE)])
        assert isinstance(error, TorrelqueTooLargeError)
        assert error.limit is None
        for said in ('2,097,1', *SETTINGS):
            assert said in str(error)
        await transport.aclose()


@pytest.mark.parametrize('setting', SETTINGS)
async def test_a_queue_takes_the_small_ones(kind: Kind, server: Server, setting: str) -> None:
    server.command('CONFIG', 'SET', setting, LIMIT)
    errors: list[str] = []
    async with kind.make(server.url) as client, Torrelque(client) as queue:

        async def enqueue(payload: str) -> None:
            try:
                await queue.enqueue(payload)
            except TorrelqueTooLargeError as error:
                errors.append(str(error))

        async with anyio.create_task_group() as tasks:
            for size in (10, 10, 10, len(LARGE), 10, 10, 10):
                tasks.start_soon(enqueue, 'x' * size)
        assert len(errors) == 1
        assert (await queue.get_queue_stats()).pending == 6
        task = await queue.dequeue(5)
        with pytest.raises(TorrelqueTooLargeError):
            await queue.release(task, result='x' * len(LARGE))
        await queue.release(task)


async def test_only_the_call_whose_answer_is_too_large_fails(kind: Kind, server: Server) -> None:
    server.command('CONFIG', 'SET', 'client-output-buffer-limit', 'normal 65536 0 0')
    async with kind.make(server.url) as client:
        transport = adapt(client)
        offender = call('EVAL', f"return string.rep('x', {10 * len(LARGE)})", 0)
        with anyio.fail_after(20):
            before, error, after = await transport.execute([call('ECHO', 'x'), offender, call('ECHO', 'y')])
            assert isinstance(error, TorrelqueTooLargeError)
            assert 'client-output-buffer-limit (normal 65536 0 0' in str(error)
            assert (before, after) == (b'x', b'y')
        await transport.aclose()


async def test_a_claim_asks_for_fewer_tasks_until_they_fit(kind: Kind, server: Server) -> None:
    async with kind.make(server.url) as client, Torrelque(client) as queue:
        payloads = [f'{number} {"x" * 100_000}' for number in range(12)]
        await queue.enqueue_many(payloads)
        server.command('CONFIG', 'SET', 'client-output-buffer-limit', 'normal 500000 0 0')
        got: list[str] = []
        with anyio.fail_after(60):
            while len(got) < len(payloads):
                tasks = await queue.dequeue(10, max_tasks=12)
                assert {task.dequeue_count for task in tasks} == {1}
                got += [task.data for task in tasks]
                await queue.release_many(tasks)
        assert got == payloads


async def test_large_calls_that_the_server_takes(kind: Kind, server: Server) -> None:
    async with kind.make(server.url) as client, Torrelque(client) as queue:
        ids = await queue.enqueue_many(['x' * len(LARGE)] * 4)
        assert [len((await queue.dequeue(5)).data) for _ in ids] == [len(LARGE)] * 4
