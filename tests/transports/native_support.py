"""What the tests of the transports share."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from tests.servers import Server
from torrelque.core.protocol import Call, Reply
from torrelque.transports.base import Message, Transport
from torrelque.transports.native import NativeTransport
from torrelque.transports.native.multiplexer import Multiplexer

Start = Callable[..., Server]


def call(*words: bytes | str | int) -> Call[Reply]:
    return Call(str(words[0]), args=words[1:])


async def ask(transport: Transport, *words: bytes | str | int) -> Reply:
    """One command's reply."""
    (reply,) = await transport.execute([call(*words)])
    return reply


async def works(transport: Transport) -> None:
    """Call, block and listen."""
    assert await ask(transport, 'SET', 'k', 'v') == b'OK'
    assert await transport.block(call('GET', 'k'), 1) == b'v'
    async with transport.listen() as listener:
        await listener.subscribe(b'c')
        assert await listener.receive() == Message(b'c', None)


async def until(condition: Callable[[], bool]) -> None:
    """For what only the server knows."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await anyio.sleep(0.01)


def multiplexer_of(client: NativeTransport) -> Multiplexer:
    """What shares one connection between calls, to look inside."""
    assert client._node is not None
    return client._node._multiplexer


def connections(server: Server) -> int:
    """How many there are but for the one that asks."""
    listed: bytes = server.command('CLIENT', 'LIST')
    return listed.count(b'\n') - 1


async def block_together(transport: Transport, server: Server, count: int) -> set[bytes]:
    """Calls that begin to block at once, and end at once; the ids of their connections."""
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(transport.block, call('BLPOP', 'list', 60), 60)  # begun or ended late under load
        await until(lambda: blocked(server) == count)
        lines: list[bytes] = server.command('CLIENT', 'LIST').splitlines()
        server.command('LPUSH', 'list', *range(count))
    return {line.split()[0] for line in lines if b'cmd=blpop' in line}


def blocked(server: Server) -> int:
    return int(server.info('clients')['blocked_clients'])
