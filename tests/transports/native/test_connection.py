"""The native transport: what is too large for the server, and what is kept of what is not."""

from __future__ import annotations

import gc
import tracemalloc

import anyio
import pytest

from tests.servers import Server
from tests.transports.native_support import Start, ask, call, until
from torrelque import Torrelque, TorrelqueTooLargeError
from torrelque.core.protocol import Reply
from torrelque.transports.native import NativeTransport, connect

pytestmark = pytest.mark.anyio

MEBIBYTE = 1 << 20
SOON = 15
"""Seconds; well below the time for which calls are repeated."""


async def neighbours(client: NativeTransport, calls: int = 200) -> list[Reply]:
    """Small calls, some of them at the same time as what is harmful."""
    replies: list[Reply] = []

    async def one(number: int) -> None:
        replies.append(await ask(client, 'ECHO', number))

    for first in range(0, calls, 20):
        async with anyio.create_task_group() as group:
            for number in range(first, first + 20):
                group.start_soon(one, number)
    return replies


async def fails_alone(client: NativeTransport, *words: bytes | str | int) -> TorrelqueTooLargeError:
    """Make a call that is too large beside others, and in a batch with others: only it fails, soon."""
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            group.start_soon(neighbours, client)
            first, offender, last = await client.execute([call('ECHO', 1), call(*words), call('ECHO', 2)])
        assert (first, last) == (b'1', b'2')
        assert isinstance(offender, TorrelqueTooLargeError)
        assert len(await neighbours(client)) == 200
    return offender


@pytest.mark.parametrize('size', [MEBIBYTE + 500_000, 3 * MEBIBYTE, 20 * MEBIBYTE])
async def test_a_payload_above_the_servers_limit(server: Server, fresh_server: Start, size: int) -> None:
    limited = fresh_server('--proto-max-bulk-len', '1mb', name=server.name)
    async with connect(limited.url) as client:
        error = await fails_alone(client, 'SET', 'a', bytes(size))
        assert error.size is not None
        assert error.size > size
        assert f'{error.size:,} bytes' in str(error)
        assert f'proto-max-bulk-len {MEBIBYTE}' in str(error)
        assert error.limit in (MEBIBYTE, None)


async def test_a_request_above_the_servers_buffer(fresh_server: Start) -> None:
    limited = fresh_server('--client-query-buffer-limit', '1mb')
    async with connect(limited.url) as client:
        error = await fails_alone(client, 'SET', 'a', bytes(MEBIBYTE + 800_000))
        assert f'client-query-buffer-limit {MEBIBYTE}' in str(error)


async def test_an_answer_above_the_servers_limit(fresh_server: Start) -> None:
    limited = fresh_server('--client-output-buffer-limit', 'normal 100kb 0 0')
    async with connect(limited.url) as client:
        error = await fails_alone(client, 'EVAL', "return string.rep('x', 5e6)", 0)
        assert 'client-output-buffer-limit normal 102400 0 0' in str(error)


async def test_a_claim_asks_for_fewer_tasks_until_they_fit(fresh_server: Start) -> None:
    limited = fresh_server('--client-output-buffer-limit', 'normal 1mb 0 0')
    async with connect(limited.url) as client, Torrelque(client, queue='q') as queue:
        payloads = [f'{number:04} {"x" * 100_000}' for number in range(60)]
        for payload in payloads:
            await queue.enqueue(payload)
        got: list[str] = []
        with anyio.fail_after(4 * SOON):
            while len(got) < len(payloads):
                tasks = await queue.dequeue(timeout=10, max_tasks=60)
                got += [str(task.data) for task in tasks]
                assert {task.dequeue_count for task in tasks} == {1}
                for task in tasks:
                    await queue.release(task)
        assert got == payloads


async def test_large_calls_do_not_hold_up_small_ones(fresh_server: Start) -> None:
    async with connect(fresh_server().url) as client, anyio.create_task_group() as group:
        group.start_soon(ask, client, 'SET', 'a', bytes(100 * MEBIBYTE))
        assert len(await neighbours(client)) == 200
        await until(lambda: client._node is not None)


async def test_nothing_is_kept_of_what_was_sent_and_received(fresh_server: Start) -> None:
    async def echo() -> None:
        await ask(client, 'ECHO', bytes(MEBIBYTE))

    async def burst() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(echo)

    async with connect(fresh_server().url) as client:
        await ask(client, 'ECHO', 'x')
        tracemalloc.start()
        try:
            await burst()
            await client.block(call('ECHO', bytes(MEBIBYTE)), 1)
            await client.execute_dedicated([call('ECHO', bytes(MEBIBYTE))], 1)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < MEBIBYTE


async def test_of_tasks_that_are_enqueued_together_only_those_too_large_are_refused(fresh_server: Start) -> None:
    limited = fresh_server('--proto-max-bulk-len', '1mb')
    tasks = ['a', 'x' * (MEBIBYTE + 100), 'b', 'x' * (2 * MEBIBYTE), 'c']
    async with connect(limited.url) as client, Torrelque(client, queue='q') as queue:
        with anyio.fail_after(SOON):
            answers = await queue.enqueue_many(tasks)
        assert [isinstance(answer, TorrelqueTooLargeError) for answer in answers] == [False, True, False, True, False]
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as group:
                for task in ('d', 'e', 'f'):
                    group.start_soon(queue.enqueue, task)
                with pytest.raises(TorrelqueTooLargeError, match='proto-max-bulk-len'):
                    await queue.enqueue(tasks[1])
        assert {task.data for task in await queue.dequeue_nowait(max_tasks=10)} == set('abcdef')


async def test_merged_calls_above_the_servers_buffer_are_made_in_parts(fresh_server: Start) -> None:
    limited = fresh_server('--client-query-buffer-limit', '1mb')
    async with connect(limited.url) as client, Torrelque(client, queue='q') as queue:
        with anyio.fail_after(4 * SOON):
            answers = await queue.enqueue_many(['x' * 20_000] * 100)
        assert all(isinstance(answer, str) for answer in answers)
        assert (await queue.get_queue_stats()).tasks == 100
