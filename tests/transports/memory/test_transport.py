"""The transport in memory."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from torrelque import (
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueTimeoutError,
)
from torrelque.core.protocol import Arg, Call, Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.testing import MemoryServer, MemoryTransport, VirtualClock
from torrelque.transports.base import Message

pytestmark = pytest.mark.anyio

START = 1_700_000_000.0


def call(command: str, *args: Arg) -> Call[Reply]:
    return Call(command, args=args)


WAIT: Call[Reply] = Call('BZPOPMIN', (b'z',), ('8.000',))


async def test_real_time_by_default() -> None:
    transport = MemoryTransport()
    assert await transport.block(Call('BZPOPMIN', (b'z',), ('0.010',)), 0.01) is None
    async with Torrelque(transport) as queue:
        await queue.enqueue('x', delay=0.02)
        with anyio.fail_after(10):
            _, data = await queue.dequeue()
        assert data == 'x'
        with pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(0.01)


async def test_can_be_cancelled_and_lets_others_run(transport: MemoryTransport) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await transport.execute([call('SET', 'k', 'v')])
    assert scope.cancelled_caught
    assert await transport.execute([call('EXISTS', 'k')]) == [0]

    turns: list[str] = []

    async def other() -> None:
        await checkpoint()
        turns.append('other')

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(2):
            await transport.execute([call('PING')])
        turns.append('caller')
    assert turns == ['other', 'caller']


async def test_queues_share_tasks_where_they_share_the_server(clock: VirtualClock) -> None:
    server = MemoryServer(clock.time)
    one, other = MemoryTransport(clock=clock, server=server), MemoryTransport(clock=clock, server=server)
    async with Torrelque(one) as producer, Torrelque(one) as same, Torrelque(other) as consumer:
        await producer.enqueue(1)
        await producer.enqueue(2)
        assert [(await queue.dequeue()).data for queue in (same, consumer)] == [1, 2]
    async with Torrelque(MemoryTransport(clock=clock)) as stranger:
        assert (await stranger.get_queue_stats()).working == 0


async def test_a_cancelled_wait_takes_nothing(transport: MemoryTransport) -> None:
    with anyio.move_on_after(0):
        await transport.block(WAIT, 8)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transport.block, WAIT, 8)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    await transport.execute([call('ZADD', 'z', 0, 'hint')])
    assert await transport.block(WAIT, 8) == [b'z', b'hint', b'0']


async def test_only_one_command_blocks(transport: MemoryTransport) -> None:
    reply = await transport.block(Call('BLPOP', (b'l',), (1,)), 1)
    assert isinstance(reply, TorrelqueReplyError)


async def test_a_listener_hears_until_it_is_left(transport: MemoryTransport) -> None:
    async with transport.listen() as listener:
        await listener.subscribe(b'c')
        assert await listener.receive() == Message(b'c', None)
        await listener.subscribe(b'c')
        assert await listener.receive() == Message(b'c', None)
        await transport.execute([call('PUBLISH', 'c', 'once')])
        await listener.unsubscribe(b'c')
        await listener.unsubscribe(b'unknown')
        await transport.execute([call('PUBLISH', 'c', 'unheard')])
        await listener.subscribe(b'd')
        assert [await listener.receive() for _ in range(2)] == [Message(b'c', b'once'), Message(b'd', None)]
    with pytest.raises(TorrelqueConnectionError):
        await listener.receive()
    with pytest.raises(TorrelqueConnectionError):
        await listener.subscribe(b'e')
    assert await transport.execute([call('PUBLISH', 'd', 'x')]) == [0]
