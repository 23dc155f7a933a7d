"""The transport over coredis: what the conformance suite cannot see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import coredis
import pytest
from anyio.abc import TaskGroup
from coredis import exceptions
from coredis.connection import (
    BaseConnection,
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)
from coredis.credentials import UserPassCredentialProvider
from coredis.retry import ConstantRetryPolicy, NoRetryPolicy

from tests.servers import Server
from tests.transports.fake import CUT, SILENCE, Answer, fake_server
from tests.transports.native_support import Start, ask, blocked, call, until, works
from torrelque.core.protocol import Call, Script
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTypeError,
    TorrelqueUsageError,
)
from torrelque.transports import connections as timing
from torrelque.transports import coredis as adapter
from torrelque.transports.coredis import CoredisTransport, TakenConnection

pytestmark = pytest.mark.anyio

ECHO = Script('echo', 'return {KEYS[1], ARGV[1]}', ('key',))
HELLO = b'%3\r\n+version\r\n+6.0.0\r\n+proto\r\n:3\r\n+id\r\n:1\r\n'


@asynccontextmanager
async def transport_to(client: coredis.Redis[Any]) -> AsyncIterator[CoredisTransport]:
    async with client:
        transport = CoredisTransport(client)
        try:
            yield transport
        finally:
            await transport.aclose()


def over(server: Server, **settings: Any) -> AbstractAsyncContextManager[CoredisTransport]:  # noqa: ANN401 - Redis's
    return transport_to(coredis.Redis(host='127.0.0.1', port=server.port, **settings))


async def test_connections_on_asyncio_are_taken_over(server: Server, anyio_backend_name: str) -> None:
    async with over(server) as transport:
        connection = await transport._connections._dialer.open()
        assert isinstance(connection, TakenConnection) == (anyio_backend_name == 'asyncio')
        await transport._connections._dialer.close(connection)


def over_port(port: int, **settings: Any) -> AbstractAsyncContextManager[CoredisTransport]:  # noqa: ANN401 - as above
    return transport_to(coredis.Redis(host='127.0.0.1', port=port, **settings))


def greets(answer: Callable[[int, list[bytes]], Answer]) -> Callable[[int, list[bytes]], Answer]:
    """A fake server's answers to what coredis begins with, and otherwise those given."""
    return lambda number, words: HELLO if words[0] == b'HELLO' else answer(number, words)


# Life -----------------------------------------------------------------------------------------------------------------


async def test_a_client_that_is_not_entered(server: Server) -> None:
    client = coredis.Redis(host='127.0.0.1', port=server.port)
    transport = CoredisTransport(client)
    for _ in range(2):
        for attempt in (partial(ask, transport, 'PING'), partial(transport.block, call('PING'), 1)):
            with pytest.raises(TorrelqueUsageError, match='within `async with client:`'):
                await attempt()
        async with client:
            assert await ask(transport, 'PING') == b'PONG'
            assert await transport.block(call('PING'), 1) == b'PONG'


async def test_closing_closes_what_it_opened(fresh_server: Start) -> None:
    server = fresh_server()
    async with over(server) as transport:
        await transport._client.ping()
        await ask(transport, 'PING')
        await transport.block(call('PING'), 1)
        assert server.command('CLIENT', 'LIST').count(b'\n') == 1 + 3
        await transport.aclose()
        await until(lambda: server.command('CLIENT', 'LIST').count(b'\n') == 1 + 1)
        assert await transport._client.ping() == b'PONG'
        assert await ask(transport, 'PING') == b'PONG'
    await until(lambda: server.command('CLIENT', 'LIST').count(b'\n') == 1)


# Failures -------------------------------------------------------------------------------------------------------------


async def test_calls_under_way_as_the_server_goes(fresh_server: Start) -> None:
    server = fresh_server()
    async with over(server, retry_policy=NoRetryPolicy()) as transport:

        async def fail() -> None:
            with pytest.raises(TorrelqueConnectionError) as caught:
                await transport.execute([call('PING'), call('BLPOP', 'list', 0), call('PING')])
            assert isinstance(caught.value, exceptions.ConnectionError)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(fail)
            await until(lambda: blocked(server) == 1)
            server.kill()


async def test_many_callers_wait_for_one_attempt_to_connect() -> None:
    errors: list[TorrelqueConnectionError] = []
    async with fake_server(lambda *_: CUT) as fake, over_port(fake.port, retry_policy=NoRetryPolicy()) as transport:

        async def fail() -> None:
            with pytest.raises(TorrelqueConnectionError) as caught:
                await ask(transport, 'PING')
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(fail)
        greetings = [words for _, words in fake.received if words[0] == b'HELLO']
        assert len(greetings) == 2  # each caller tries once more
        assert len({id(error) for error in errors}) == 20


async def test_the_clients_retry_policy_is_used() -> None:
    answers = [b'$1\r\na\r\n', CUT]
    policy = ConstantRetryPolicy((exceptions.ConnectionError,), retries=1, delay=0.001)
    async with (
        fake_server(greets(lambda *_: answers.pop())) as fake,
        over_port(fake.port, retry_policy=policy) as transport,
    ):
        assert await ask(transport, 'GET', 'a') == b'a'
        assert fake.connections == 2


@pytest.mark.parametrize('count', [1, 2])
async def test_a_silent_server(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, 'RESPONSE_TIMEOUT', 0.05)
    for settings in ({}, {'stream_timeout': 0.05}):
        async with (
            fake_server(greets(lambda number, _: SILENCE if number == 1 else b'+late\r\n')) as fake,
            over_port(fake.port, retry_policy=NoRetryPolicy(), **settings) as transport,
        ):
            assert list(await transport.execute([call('GET', 'a')] * count)) == [b'late'] * count
            assert fake.connections == 2
        async with (
            fake_server(greets(lambda *_: SILENCE)) as fake,
            over_port(fake.port, retry_policy=NoRetryPolicy(), **settings) as transport,
        ):
            with pytest.raises(TorrelqueResponseTimeout) as caught:
                await transport.execute([call('GET', 'a')] * count)
            assert isinstance(caught.value, TimeoutError)
            assert fake.connections == 2


async def test_what_cannot_be_connected_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, 'CONNECT_TIMEOUT', 0.1)
    async with (
        fake_server(lambda *_: SILENCE) as fake,
        over_port(fake.port, retry_policy=NoRetryPolicy()) as transport,
    ):
        for attempt in (partial(ask, transport, 'PING'), partial(transport.block, call('PING'), 1)):
            with pytest.raises(TorrelqueConnectionError, match=r'no connection within 0\.1 s') as caught:
                await attempt()
            assert isinstance(caught.value, exceptions.ConnectionError)


@pytest.mark.parametrize('count', [1, 2])
async def test_a_server_that_is_loading(count: int) -> None:
    loading = b'-LOADING Redis is loading the dataset in memory\r\n'
    async with fake_server(greets(lambda *_: loading)) as fake, over_port(fake.port) as transport:
        for attempt in (
            partial(transport.execute, [call('GET', 'a')] * count),
            partial(transport.block, call('GET', 'a'), 1),
        ):
            with pytest.raises(TorrelqueConnectionError) as caught:
                await attempt()
            assert isinstance(caught.value, exceptions.BusyLoadingError)
            assert isinstance(caught.value, TorrelqueReplyError)
            assert caught.value.code == 'LOADING'


async def test_a_wrong_password(fresh_server: Start) -> None:
    server = fresh_server('--requirepass', 'secret')
    for settings, code in (({'username': 'default', 'password': 'wrong'}, 'WRONGPASS'), ({}, 'NOAUTH')):
        async with over(server, **settings) as transport:
            for attempt in (partial(ask, transport, 'PING'), partial(transport.block, call('PING'), 1)):
                with pytest.raises(TorrelqueConnectionError) as caught:
                    await attempt()
                assert isinstance(caught.value, exceptions.AuthenticationError)
                assert isinstance(caught.value, TorrelqueReplyError)
                assert caught.value.code == code


# Cancellation ---------------------------------------------------------------------------------------------------------


async def test_cancelled_while_connecting() -> None:
    async with fake_server(lambda *_: SILENCE) as fake, over_port(fake.port) as transport:
        for attempt in (partial(ask, transport, 'PING'), partial(transport.block, call('PING'), 1)):
            with anyio.CancelScope() as scope:

                async def cancel(scope: anyio.CancelScope = scope) -> None:
                    before = len(fake.received)
                    await fake.until_received(before + 1)
                    scope.cancel()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel)
                    await attempt()
            assert scope.cancelled_caught


@pytest.mark.parametrize(
    ('connection', 'address'),
    [
        (TCPConnection(TCPLocation('localhost', 6379)), 'localhost:6379'),
        (UnixDomainSocketConnection(UnixDomainSocketLocation('/run/redis.sock')), '/run/redis.sock'),
        (None, 'the server'),
    ],
    ids=['tcp', 'unix', 'none'],
)
def test_messages_name_the_address(connection: BaseConnection | None, address: str) -> None:
    assert adapter.address_of(connection) == address


# Block ----------------------------------------------------------------------------------------------------------------


async def test_a_full_pool_does_not_hold_up_the_queue(fresh_server: Start) -> None:
    server = fresh_server()
    async with over(server, max_connections=1) as transport, anyio.create_task_group() as tasks:

        async def use_up(tasks: TaskGroup) -> None:
            await transport._client.blpop(['list'], 8)

        tasks.start_soon(use_up, tasks)
        await until(lambda: blocked(server) == 1)
        assert await ask(transport, 'PING') == b'PONG'
        await ask(transport, 'LPUSH', 'list', 'x')


# Other ways to connect ------------------------------------------------------------------------------------------------


async def test_credentials_databases_and_unix_sockets_carry_over(fresh_server: Start) -> None:
    server = fresh_server('--requirepass', 'secret')
    provider = UserPassCredentialProvider('default', 'secret')
    for client in (
        coredis.Redis(host='127.0.0.1', port=server.port, credential_provider=provider, db=3),
        coredis.Redis(unix_socket_path=str(server.socket), password='secret', db=3, client_name='mine'),
        coredis.Redis.from_url(f'{server.url}/3', decode_responses=True),
    ):
        async with transport_to(client) as transport:
            await works(transport)
        assert server.info('keyspace')['db3'].startswith('keys=1')


async def test_sentinel(fresh_server: Start) -> None:
    master = fresh_server()
    told = b'*2\r\n$9\r\n127.0.0.1\r\n+%d\r\n' % master.port
    async with fake_server(greets(lambda *_: told)) as fake:
        sentinel = coredis.Sentinel[bytes]([TCPLocation('127.0.0.1', fake.port)])
        async with sentinel, transport_to(sentinel.primary_for('mine')) as transport:
            await works(transport)


# Listen ---------------------------------------------------------------------------------------------------------------


async def test_a_listener_whose_connection_goes_while_it_subscribes() -> None:
    async with (
        fake_server(greets(lambda *_: CUT)) as fake,
        over_port(fake.port) as transport,
        transport.listen() as listener,
    ):
        for _ in range(2):
            with pytest.raises(TorrelqueConnectionError) as caught:
                await listener.subscribe(b'a')
            assert isinstance(caught.value, exceptions.ConnectionError)
            assert caught.value.__cause__ is not caught.value


# Pipelines of the user's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('decode_responses', [False, True])
async def test_append_to_a_transaction(server: Server, *, decode_responses: bool) -> None:
    text: Callable[[str], str | bytes] = str if decode_responses else str.encode
    server.command('SCRIPT', 'FLUSH')
    async with over(server, decode_responses=decode_responses) as transport:
        async with transport._client.pipeline(transaction=True) as pipeline:
            pipeline.set('mine', '1')
            transport.append(pipeline, Call(ECHO, ('k',), ('gr\u00fc\u00df',)))
            transport.append(pipeline, Call('HSET', ('h',), ('a', 1)))
            pipeline.incr('mine')
            assert server.command('EXISTS', 'mine') == 0
        assert pipeline.results == (True, [text('k'), text('gr\u00fc\u00df')], 1, 2)


@pytest.mark.parametrize('pipeline', ['no pipeline', None, coredis.Redis()])
async def test_append_to_something_else(pipeline: object) -> None:
    with pytest.raises(TorrelqueTypeError, match=r'expected a pipeline of a coredis\.Redis, not'):
        CoredisTransport(coredis.Redis()).append(pipeline, Call(ECHO, ('k',), ('a',)))
