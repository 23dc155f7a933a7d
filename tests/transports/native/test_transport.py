"""The native transport: what a caller asks for, and who it says it is."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

import anyio
import pytest

from tests.servers import Server
from tests.transports.fake import CUT, PONG, echo, fake_server
from tests.transports.native_support import Start, ask, call, multiplexer_of
from torrelque.core.protocol import Call, Reply, Script
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.transports.native import connect

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize('unix', [False, True], ids=['tcp', 'unix'])
async def test_answers_in_order_with_errors_as_values(server: Server, unix: bool) -> None:
    script = Script('nest', "return {1, redis.error_reply('MINE alone'), false, 'é'}", ())
    server.command('SCRIPT', 'FLUSH')
    async with connect(server.unix_url if unix else server.url) as client:
        replies = await client.execute(
            [
                call('SET', 'a', b'\x00\xff'),
                call('GET', 'a'),
                call('LPUSH', 'a', 'x'),
                call('GET', 'none'),
                call('STRLEN', 'a'),
                Call(script),
            ]
        )
        assert replies[:2] == [b'OK', b'\x00\xff']
        assert isinstance(replies[2], TorrelqueReplyError)
        assert replies[2].code == 'WRONGTYPE'
        assert replies[3:5] == [None, 2]
        assert isinstance(replies[5], TorrelqueReplyError)
        assert replies[5].code == 'NOSCRIPT'
        await ask(client, 'SCRIPT LOAD', script.source)
        ((one, error, none, text),) = await client.execute([Call(script)])
        assert (one, none, text) == (1, None, 'é'.encode())
        assert isinstance(error, TorrelqueReplyError)
        assert error.code == 'MINE'
        assert await client.execute([]) == []


async def test_callers_share_a_connection_and_its_writes(fresh_server: Start) -> None:
    server = fresh_server()
    replies: dict[int, Reply] = {}

    async def caller(number: int) -> None:
        replies[number] = (await client.execute([call('ECHO', number), call('ECHO', -number)]))[1]

    async with connect(server.url) as client:
        before = server.info('stats')
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(caller, number)
        after = server.info('stats')
        clients = server.command('CLIENT', 'LIST').count(b'\n')
    assert replies == {number: str(-number).encode() for number in range(200)}
    # A few reads are of the connections that ask for these figures.
    assert int(after['total_reads_processed']) - int(before['total_reads_processed']) < 20
    assert clients == 2


async def test_a_lone_call_is_sent_at_once(fresh_server: Start) -> None:
    server = fresh_server()
    called = False

    async def caller() -> None:
        nonlocal called
        called = True
        await ask(client, 'SET', 'a', 'sent')

    async with connect(server.url) as client, anyio.create_task_group() as group:
        group.start_soon(caller)
        while not called:  # an event would give the writer a turn
            await anyio.lowlevel.checkpoint()
        give_up = time.monotonic() + 10
        while server.command('GET', 'a') != b'sent':  # no other task has had a turn
            assert time.monotonic() < give_up


async def test_what_does_not_fit_at_once_follows_in_order(fresh_server: Start) -> None:
    server = fresh_server()
    payload = os.urandom(1024) * 200  # of which a socket with a small buffer takes a part
    replies: list[Reply] = []

    async def append(value: bytes) -> None:
        replies.append(await ask(client, 'APPEND', 'a', value))

    async with connect(server.url) as client:
        await ask(client, 'PING')
        multiplexer = multiplexer_of(client)
        assert multiplexer._connection is not None
        raw = multiplexer._connection._socket
        assert raw is not None
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        os.kill(server.pid, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            group.start_soon(append, payload)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(append, b'after')
            await anyio.wait_all_tasks_blocked()
            os.kill(server.pid, signal.SIGCONT)
        assert sorted(replies) == [len(payload), len(payload) + 5]  # who is woken first is the event loop's affair
        assert server.command('GET', 'a') == payload + b'after'


async def test_large_payloads(fresh_server: Start) -> None:
    payload = os.urandom(1024) * 1024 * 16
    small: list[Reply] = []

    async def chatter() -> None:
        while True:
            small.append(await ask(client, 'ECHO', 'x'))

    async with connect(fresh_server().url) as client, anyio.create_task_group() as group:
        group.start_soon(chatter)
        await ask(client, 'SET', 'a', payload)
        assert await ask(client, 'GET', 'a') == payload
        group.cancel_scope.cancel()
    assert set(small) == {b'x'}


async def test_cancelled_callers_leave_the_others_in_step(fresh_server: Start) -> None:
    server = fresh_server()
    replies: dict[int, Reply] = {}

    async def caller(number: int) -> None:
        replies[number] = await ask(client, 'ECHO', number)

    async with connect(server.url) as client:
        os.kill(server.pid, signal.SIGSTOP)
        async with anyio.create_task_group() as kept, anyio.create_task_group() as cancelled:
            for number in range(50):
                (cancelled if number % 2 else kept).start_soon(caller, number)
            await anyio.wait_all_tasks_blocked()  # all were sent
            cancelled.start_soon(caller, 51)
            await anyio.lowlevel.checkpoint()
            cancelled.cancel_scope.cancel()
            os.kill(server.pid, signal.SIGCONT)
        assert replies == {number: str(number).encode() for number in range(0, 50, 2)}
        assert await ask(client, 'ECHO', 'after') == b'after'


@pytest.mark.parametrize('bad', [None, True, ['a']])
async def test_a_bad_word_raises_before_anything_is_sent(bad: Any) -> None:  # noqa: ANN401 - bad types are the point
    async with fake_server(echo) as fake, connect(fake.url) as client:
        with pytest.raises(TorrelqueTypeError, match=r'bytes, str or int') as caught:
            await client.execute([call('ECHO', 'fine'), call('ECHO', bad)])
        assert repr(bad) in str(caught.value)
        with pytest.raises(TorrelqueTypeError):
            await client.block(call('ECHO', bad), 1)
        with pytest.raises(TorrelqueValueError, match='UTF-8'):
            await ask(client, 'ECHO', '\ud800')
        assert await ask(client, 'ECHO', 'x') == b'x'
        assert [words for _, words in fake.received] == [[b'ECHO', b'x']]


async def test_user_password_and_database(fresh_server: Start) -> None:
    server = fresh_server('--requirepass', 'p@ss/w:rd%')
    server.command('ACL', 'SETUSER', 'm@x', 'on', '>s p', '~*', '+@all', '-ping')
    here = f'127.0.0.1:{server.port}'
    async with connect(f'redis://:p%40ss%2Fw%3Ard%25@{here}') as client:
        assert await ask(client, 'SET', 'a', 'zero') == b'OK'
        assert await ask(client, 'ACL WHOAMI') == b'default'
    async with connect(f'redis://m%40x:s%20p@{here}/3') as client:  # may not even PING
        assert await ask(client, 'ACL WHOAMI') == b'm@x'
        assert await ask(client, 'GET', 'a') is None
        assert await ask(client, 'SET', 'a', 'three') == b'OK'
        assert await client.block(call('GET', 'a'), 1) == b'three'
    async with connect(f'unix://m%40x:s%20p@{server.socket}?db=3') as client:
        assert await ask(client, 'GET', 'a') == b'three'


@pytest.mark.parametrize(
    ('credentials', 'path', 'code'),
    [('', '', 'NOAUTH'), (':wrong@', '', 'WRONGPASS'), ('nobody:right@', '', 'WRONGPASS'), (':right@', '/99', 'ERR')],
)
async def test_a_refusal_is_raised_at_once(fresh_server: Start, credentials: str, path: str, code: str) -> None:
    server = fresh_server('--requirepass', 'right')
    client = connect(f'redis://{credentials}127.0.0.1:{server.port}{path}', retry_timeout=300)
    with anyio.fail_after(20), pytest.raises(TorrelqueRefusedError) as caught:
        await client.__aenter__()
    assert caught.value.code == code
    assert isinstance(caught.value, TorrelqueConnectionError)
    assert isinstance(caught.value, TorrelqueReplyError)
    assert f'127.0.0.1:{server.port}' in str(caught.value)
    assert 'right' not in str(caught.value)


async def test_a_refusal_of_later_connections(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.unix_url) as client:
        with server.client() as admin:
            admin.command('CONFIG', 'SET', 'requirepass', 'new')
            admin.command('AUTH', 'new')
            admin.command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
        with pytest.raises(TorrelqueRefusedError):
            await ask(client, 'ECHO', 'x')
        with pytest.raises(TorrelqueRefusedError):
            await client.block(call('ECHO', 'x'), 1)
        with pytest.raises(TorrelqueRefusedError):
            async with client.listen():
                pass
        server.password = 'new'
        server.config(requirepass='')
        assert await ask(client, 'ECHO', 'x') == b'x'


@pytest.mark.parametrize(
    'answer',
    [b'-LOADING wait\r\n', b'-BUSY a script\r\n', b'-ERR max number of clients reached\r\n', CUT, b'-LOAD', b'@\r\n'],
)
async def test_a_server_that_is_not_ready_is_tried_again(answer: bytes) -> None:
    async with (
        fake_server(echo, pong=lambda number: PONG if number > 2 else answer) as fake,
        connect(fake.url, connect_timeout=0.2) as client,
    ):
        assert await ask(client, 'ECHO', 'x') == b'x'
        assert fake.connections == 3


async def test_the_system_probes_idle_connections(fresh_server: Start) -> None:
    async with connect(fresh_server().url) as client:
        await ask(client, 'PING')
        raw = multiplexer_of(client)._connection._socket  # type: ignore[union-attr]  # there is one
        assert raw is not None
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
