"""The native transport: blocking calls and subscriptions, on connections of their own."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from tests.servers import Server
from tests.transports.fake import PONG, SILENCE, echo, fake_server
from tests.transports.native_support import Start, ask, block_together, blocked, call, connections, until
from torrelque.core.protocol import Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
)
from torrelque.transports import connections as timing
from torrelque.transports import spares
from torrelque.transports.base import Listener, Message
from torrelque.transports.native import connect

pytestmark = pytest.mark.anyio


async def test_block_waits_wakes_and_reuses_its_connection(server: Server) -> None:
    replies: list[Reply] = []

    async def wait() -> None:
        replies.append(await client.block(call('BLPOP', 'list', 8), 8))

    async with connect(server.url) as client:
        assert await client.block(call('BZPOPMIN', 'none', '0.01'), 0.01) is None
        own = await client.block(call('CLIENT ID'), 1)
        assert own == await client.block(call('CLIENT ID'), 1)
        assert own != await ask(client, 'CLIENT ID')
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until(lambda: blocked(server) == 1)
            assert await ask(client, 'LPUSH', 'list', 'x') == 1  # is not held up
        assert replies == [[b'list', b'x']]
        error = await client.block(call('LPUSH', 'list'), 1)
        assert isinstance(error, TorrelqueReplyError)
        assert await client.block(call('CLIENT ID'), 1) == own


async def test_a_cancelled_block_closes_its_connection(server: Server) -> None:
    async with connect(server.url) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.block, call('BLPOP', 'list', 8), 8)
            await until(lambda: blocked(server) == 1)
            group.cancel_scope.cancel()
        await until(lambda: blocked(server) == 0)
        await ask(client, 'LPUSH', 'list', 'x')
        assert await client.block(call('BLPOP', 'list', 8), 8) == [b'list', b'x']


async def test_as_many_connections_are_kept_as_were_in_use(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client:
        assert await block_together(client, server, 40) == await block_together(client, server, 40)


async def test_connections_that_nobody_uses_any_more_are_closed(
    fresh_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, 'KEEP', 0.2)
    server = fresh_server()
    async with connect(server.url) as client:
        for _ in range(2):
            await block_together(client, server, 20)
            await until(lambda: connections(server) == 1)


async def test_a_broken_block_raises_and_is_not_repeated(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client:

        async def fail() -> None:
            with pytest.raises(TorrelqueConnectionError, match='closed the connection'):
                await client.block(call('BLPOP', 'list', 8), 8)

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(fail)
            await until(lambda: blocked(server) == 2)
            server.command('CLIENT', 'KILL', 'TYPE', 'normal')
        assert await ask(client, 'ECHO', 'x') == b'x'
        assert await client.block(call('ECHO', 'x'), 1) == b'x'


async def test_one_broken_idle_connection_stands_for_all(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.block, call('BLPOP', 'list', 8), 8)
            await until(lambda: blocked(server) == 3)
            await ask(client, 'LPUSH', 'list', 1, 2, 3)
        server.restart()
        with pytest.raises(TorrelqueConnectionError):
            await client.block(call('ECHO', 'x'), 1)
        assert await client.block(call('ECHO', 'x'), 1) == b'x'


async def test_a_block_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, 'MARGIN', 0.1)
    async with (
        fake_server(lambda number, words: SILENCE if number == 2 else echo(number, words)) as fake,
        connect(fake.url) as client,
    ):
        with pytest.raises(TorrelqueResponseTimeout, match=r'no answer for 0\.15 s'):
            await client.block(call('ECHO', 'x'), 0.05)
        assert await client.block(call('ECHO', 'x'), 0.05) == b'x'
        assert [number for number, _ in fake.received] == [2, 3]


async def subscribed(listening: Listener, *channels: bytes) -> None:
    for channel in channels:
        await listening.subscribe(channel)
    assert [await listening.receive() for _ in channels] == [Message(channel, None) for channel in channels]


async def test_listen(server: Server) -> None:
    async with connect(server.url) as client, client.listen() as listening:
        await subscribed(listening, b'a', b'b\xff')
        assert await client.execute([call('PUBLISH', 'a', '1'), call('PUBLISH', b'b\xff', b'\x00')]) == [1, 1]
        assert await listening.receive() == Message(b'a', b'1')
        assert await listening.receive() == Message(b'b\xff', b'\x00')
        await listening.unsubscribe(b'a')
        await listening.unsubscribe(b'unknown')
        await until(lambda: server.command('PUBLISH', 'a', 'lost') == 0)
        await subscribed(listening, b'c')
        await ask(client, 'PUBLISH', 'b\xff'.encode('latin-1'), '2')
        assert await listening.receive() == Message(b'b\xff', b'2')
    await until(lambda: server.command('PUBLISH', 'c', 'none') == 0)


async def test_a_listener_sees_its_connection_go(server: Server) -> None:
    async with connect(server.url) as client, client.listen() as listening:
        await subscribed(listening, b'a')
        server.command('PUBLISH', 'a', 'last')
        server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
        assert await listening.receive() == Message(b'a', b'last')
        with pytest.raises(TorrelqueConnectionError):
            await listening.receive()
        assert await ask(client, 'ECHO', 'x') == b'x'


async def test_a_listener_that_may_not(fresh_server: Start) -> None:
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'me', 'on', '>p', '~*', '+@all', 'resetchannels', '&mine')
    async with connect(f'redis://me:p@127.0.0.1:{server.port}') as client, client.listen() as listening:
        await listening.subscribe(b'theirs')
        with pytest.raises(TorrelqueReplyError) as caught:
            await listening.receive()
        assert caught.value.code == 'NOPERM'
        await subscribed(listening, b'mine')


@pytest.mark.parametrize('rights', ['+@all', '-ping'])
async def test_a_quiet_listener_asks_whether_the_server_is_there(
    fresh_server: Start, monkeypatch: pytest.MonkeyPatch, rights: str
) -> None:
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'me', 'on', '>p', '~*', '&*', '+@all', rights)

    def asked() -> bool:
        said = server.info('commandstats').get('cmdstat_ping', 'calls=0,rejected_calls=0')
        numbers = dict(each.split('=') for each in said.split(','))
        return int(numbers['calls']) + int(numbers['rejected_calls']) > 6

    async with connect(f'redis://me:p@127.0.0.1:{server.port}') as client, client.listen() as listening:
        await subscribed(listening, b'a')
        monkeypatch.setattr(timing, 'QUIET', 0.05)
        received: list[Message] = []
        async with anyio.create_task_group() as group:

            async def receive() -> None:
                received.append(await listening.receive())

            group.start_soon(receive)
            await until(asked)
            monkeypatch.setattr(timing, 'QUIET', 8.0)
            server.command('PUBLISH', 'a', 'at last')
        assert received == [Message(b'a', b'at last')]


async def test_a_listener_does_not_wait_for_a_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, 'QUIET', 0.05)
    async with (
        fake_server(echo, pong=lambda number: PONG if number == 1 else SILENCE) as fake,
        connect(fake.url) as client,
    ):
        fake.pong = _once(2)
        async with client.listen() as listening:
            with pytest.raises(TorrelqueResponseTimeout, match='silent'):
                await listening.receive()


def _once(connection: int) -> Callable[[int], bytes | None]:
    """Answer the handshake of that connection, and nothing after it."""
    answers = [PONG]
    return lambda number: SILENCE if number == connection and not answers else (answers.pop() if number == 2 else PONG)
