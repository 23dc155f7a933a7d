"""The transport over redis-py: what the conformance suite cannot see."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import hiredis
import pytest
import redis
import redis.asyncio
import trio
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider

from tests.servers import Server
from tests.transports.custom import OwnConnection
from tests.transports.fake import CUT, SILENCE, Answer, Fake, fake_server
from tests.transports.native_support import Start, ask, call, until, works
from torrelque.core.protocol import Call, Script
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
    TorrelqueTypeError,
    TorrelqueUsageError,
)
from torrelque.transports import connections as timing
from torrelque.transports import redis_py_pool
from torrelque.transports.redis_py import RedisPyTransport

pytestmark = pytest.mark.anyio

ONCE = Retry(NoBackoff(), 0)
Over = Callable[..., AbstractAsyncContextManager[RedisPyTransport]]
ECHO = Script('echo', 'return {KEYS[1], ARGV[1]}', ('key',))


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(('asyncio', {}), id='asyncio'),
        pytest.param(('asyncio', {'use_uvloop': True}), id='asyncio+uvloop'),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return request.param


@asynccontextmanager
async def transport_to(client: Redis) -> AsyncIterator[RedisPyTransport]:
    transport = RedisPyTransport(client)
    try:
        yield transport
    finally:
        await transport.aclose()
        await client.aclose()
        await client.connection_pool.aclose()


def over(server: Server, **settings: Any) -> AbstractAsyncContextManager[RedisPyTransport]:  # noqa: ANN401 - Redis's
    return transport_to(Redis(host='127.0.0.1', port=server.port, **settings))


def over_the_pool(server: Server, **settings: Any) -> AbstractAsyncContextManager[RedisPyTransport]:  # noqa: ANN401 - as above
    """With connections of a class that is not redis-py's own."""
    pool = ConnectionPool(connection_class=OwnConnection, host='127.0.0.1', port=server.port, **settings)
    return transport_to(Redis(connection_pool=pool))


BOTH = pytest.mark.parametrize('over', [over, over_the_pool])


def greets(answer: Callable[[int, list[bytes]], Answer]) -> Callable[[int, list[bytes]], Answer]:
    """A fake server's answers to what redis-py begins with, and otherwise those given."""
    return lambda number, words: b'+OK\r\n' if words[0] == b'CLIENT' else answer(number, words)


def asked(fake: Fake) -> list[tuple[int, bytes]]:
    """On which connection a fake server was asked what."""
    return [(number, words[0]) for number, words in fake.received if words[0] != b'CLIENT']


# Failures -------------------------------------------------------------------------------------------------------------


def silent(fake: Fake) -> RedisPyTransport:
    return RedisPyTransport(Redis(host='127.0.0.1', port=fake.port, protocol=2, socket_timeout=0.05, retry=ONCE))


@pytest.mark.parametrize('count', [1, 2])
async def test_a_silent_server(count: int) -> None:
    async with fake_server(greets(lambda *_: SILENCE), pong=lambda _: SILENCE) as fake:
        transport = silent(fake)
        with pytest.raises(TorrelqueResponseTimeout) as caught:
            await transport.execute([call('GET', 'a')] * count)
        assert isinstance(caught.value, redis.TimeoutError)
        await transport._client.aclose()


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize(
    ('answer', 'code', 'theirs'),
    [
        (b'-LOADING Redis is loading the dataset in memory\r\n', 'LOADING', redis.BusyLoadingError),
        (b'-NOAUTH Authentication required.\r\n', 'NOAUTH', redis.AuthenticationError),
    ],
)
async def test_an_answer_that_ends_the_connection(
    answer: bytes, code: str, theirs: type[Exception], count: int
) -> None:
    async with fake_server(greets(lambda *_: answer)) as fake:
        transport = silent(fake)
        for attempt in (transport.execute([call('GET', 'a')] * count), transport.block(call('GET', 'a'), 1)):
            with pytest.raises(TorrelqueConnectionError) as caught:
                await attempt
            assert isinstance(caught.value, theirs)
            assert isinstance(caught.value, TorrelqueReplyError)
            assert caught.value.code == code
        await transport._client.aclose()


async def test_a_wrong_password(fresh_server: Start) -> None:
    server = fresh_server('--requirepass', 'secret')
    async with over(server, password='wrong', retry=ONCE) as transport:
        for attempt in (transport.execute([call('PING')]), transport.block(call('PING'), 1)):
            with pytest.raises(redis.AuthenticationError) as caught:
                await attempt
            assert isinstance(caught.value, TorrelqueConnectionError)
            assert getattr(caught.value, 'code', '') in {'WRONGPASS', 'NOAUTH'}


async def test_credentials_that_expire_on_an_open_connection() -> None:
    def answer(number: int, words: list[bytes]) -> Answer:
        expired = number == 1 and len(asked(fake)) > 1
        return b'-NOAUTH Authentication required.\r\n' if expired else b'$1\r\na\r\n'

    async with (
        fake_server(greets(answer)) as fake,
        transport_to(Redis(host='127.0.0.1', port=fake.port, protocol=2, retry=ONCE)) as transport,
    ):
        for _ in range(3):
            assert await ask(transport, 'GET', 'a') == b'a'
        assert asked(fake) == [(1, b'GET'), (1, b'GET'), (2, b'GET'), (2, b'GET')]


async def test_the_clients_retries_are_used() -> None:
    answers = [b'$1\r\na\r\n', CUT, CUT]
    async with fake_server(greets(lambda *_: answers.pop())) as fake:
        client = Redis(
            host='127.0.0.1',
            port=fake.port,
            protocol=2,
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[redis.ConnectionError],
        )
        async with transport_to(client) as transport:
            assert await ask(transport, 'GET', 'a') == b'a'
            assert [word for _, word in asked(fake)] == [b'GET'] * 3  # once more anyhow, and then as often as that says


async def test_the_idle_connections_go_with_one_that_broke() -> None:
    async with (
        fake_server(greets(lambda _, words: CUT if words[0] == b'DEL' else b'$1\r\na\r\n')) as fake,
        transport_to(Redis(host='127.0.0.1', port=fake.port, protocol=2, retry=ONCE)) as transport,
    ):
        await asyncio.gather(*(transport.block(call('GET', 'a'), 1) for _ in range(3)))
        before = {number for number, word in asked(fake) if word == b'GET'}
        assert len(before) == 3
        assert isinstance(await ask(transport, 'DEL', 'a'), TorrelqueTooLargeError)
        for attempt in (ask(transport, 'GET', 'a'), transport.block(call('GET', 'a'), 1)):
            assert await attempt == b'a'
            assert asked(fake)[-1][0] not in before


async def test_calls_without_a_task_that_waits(server: Server) -> None:
    async with over(server) as transport:
        outcomes: list[Any] = []
        assert transport.start([call('PING')], outcomes.append) is None  # connecting takes a task
        await ask(transport, 'PING')
        for batch in ([call('ECHO', 'a'), call('ECHO', 'b')], [call('NOSUCHCOMMAND')]):
            assert transport.start(batch, outcomes.append) is not None
            await until(lambda: bool(outcomes))
            outcome = outcomes.pop()
            outcome = await outcome() if callable(outcome) else outcome
            if batch[0].command == 'ECHO':
                assert outcome == [b'a', b'b']
            else:
                assert isinstance(outcome[0], TorrelqueReplyError)
        await ask(transport, 'PING')
        abandon = transport.start([call('ECHO', 'x')], outcomes.append)
        assert abandon is not None
        abandon()
        assert await ask(transport, 'ECHO', 'y') == b'y'
        assert outcomes == []


async def test_a_pool_that_is_used_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_py_pool, 'POOL_TIMEOUT', 0.1)
    async with over_the_pool(server, max_connections=1, retry=ONCE) as transport:
        async with transport._client.pipeline() as pipeline:
            await pipeline.watch('k')  # holds the one connection there may be
            with pytest.raises(TorrelqueConnectionError) as caught:
                await ask(transport, 'PING')
            assert isinstance(caught.value, redis.ConnectionError)
            assert await transport.block(call('PING'), 1) == b'PONG'
        assert await ask(transport, 'PING') == b'PONG'


# Cancellation ---------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_cancellation_by_asyncio_is_never_lost(server: Server, over: Over) -> None:
    chance = random.Random(7)
    async with over(server) as transport:
        await ask(transport, 'PING')
        lost = 0
        for _ in range(300):
            done: list[bytes] = []

            async def caller(done: list[bytes] = done) -> None:
                done.append(await ask(transport, 'ECHO', 'x'))

            task = asyncio.ensure_future(caller())
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            before = len(done)
            task.cancel()
            await asyncio.wait([task])
            lost += not before and not task.cancelled()
        assert lost == 0
        assert await ask(transport, 'ECHO', 'last') == b'last'


# Block ----------------------------------------------------------------------------------------------------------------


async def test_a_kept_connection_that_was_cut_is_not_used(fresh_server: Start) -> None:
    server = fresh_server()
    async with over(server) as transport:
        assert await transport.block(call('ECHO', 'x'), 1) == b'x'
        server.command('CLIENT', 'KILL', 'TYPE', 'normal')
        ((_, kept),) = transport._servers()._leases._spares._kept
        await until(lambda: not kept.usable)
        assert await transport.block(call('ECHO', 'y'), 1) == b'y'


async def test_what_cannot_be_connected_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, 'CONNECT_TIMEOUT', 0.1)
    async with fake_server(greets(lambda *_: SILENCE)) as fake:
        client = Redis(host='127.0.0.1', port=fake.port, db=7, protocol=2)
        async with transport_to(client) as transport:
            with pytest.raises(TorrelqueConnectionError, match=r'no connection within 0\.1 s') as caught:
                await transport.block(call('ECHO', 'x'), 1)
            assert isinstance(caught.value, redis.TimeoutError)


async def test_no_file_can_be_opened() -> None:
    class NoFile(redis.asyncio.Connection):
        def __init__(self, **_: object) -> None:  # as redis-py's own, which reads a file of its version
            raise OSError(24, 'Too many open files')

    async with transport_to(Redis(connection_pool=ConnectionPool(connection_class=NoFile))) as transport:
        for calling in (transport.execute([call('ECHO', 'x')]), transport.block(call('ECHO', 'x'), 1)):
            with pytest.raises(TorrelqueConnectionError, match='Too many open files') as caught:
                await calling
            assert isinstance(caught.value, redis.ConnectionError)


# Other ways to connect ------------------------------------------------------------------------------------------------


async def test_credentials_databases_and_unix_sockets_carry_over(fresh_server: Start) -> None:
    server = fresh_server('--requirepass', 'secret')
    provider = UsernamePasswordCredentialProvider('default', 'secret')
    for client in (
        Redis(port=server.port, credential_provider=provider, db=3),
        Redis(unix_socket_path=str(server.socket), password='secret', db=3, client_name='mine'),
        Redis.from_url(f'{server.url}/3'),
        Redis(connection_pool=BlockingConnectionPool.from_url(f'{server.url}/3', max_connections=1)),
    ):
        async with transport_to(client) as transport:
            await works(transport)
        await client.connection_pool.aclose()
        assert server.info('keyspace')['db3'].startswith('keys=1')


async def test_sentinel(fresh_server: Start) -> None:
    master = fresh_server()
    state: dict[str, str | int] = {
        'name': 'mine', 'ip': '127.0.0.1', 'port': master.port, 'flags': 'master', 'num-other-sentinels': 0
    }  # fmt: skip
    told = b'*1\r\n' + hiredis.pack_command(tuple(word for pair in state.items() for word in pair))  # type: ignore[arg-type]
    async with fake_server(greets(lambda *_: told)) as fake:
        sentinel = redis.asyncio.Sentinel(  # type: ignore[no-untyped-call]
            [('127.0.0.1', fake.port)], sentinel_kwargs={'protocol': 2}
        )
        async with transport_to(sentinel.master_for('mine')) as transport:
            await works(transport)
        assert {word for _, word in asked(fake)} == {b'SENTINEL'}
        for client in sentinel.sentinels:
            await client.aclose()


async def test_another_event_loop(server: Server) -> None:
    """What one loop left is not used in the next. In a thread, as a loop does not run within a loop."""
    client = Redis(port=server.port)
    transport = RedisPyTransport(client)

    async def use() -> int:
        own: int = await transport.block(call('CLIENT ID'), 1)
        assert own == await transport.block(call('CLIENT ID'), 1)
        await transport.aclose()
        return own

    seen = {await anyio.to_thread.run_sync(asyncio.run, use()) for _ in range(2)}
    assert len(seen) == 2
    assert await transport.block(call('CLIENT ID'), 1) not in seen
    await transport.aclose()


# Listen ---------------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_closed_listener_does_not_connect_again(server: Server, over: Over) -> None:
    async with over(server) as transport:
        async with transport.listen() as listener:
            pass
        for attempt in (listener.subscribe(b'a'), listener.unsubscribe(b'a'), listener.receive()):
            with pytest.raises(TorrelqueConnectionError, match='was closed'):
                await attempt


# Pipelines of the user's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('decode_responses', [False, True])
async def test_append_to_a_transaction(server: Server, *, decode_responses: bool) -> None:
    text: Callable[[str], str | bytes] = str if decode_responses else str.encode
    server.command('SCRIPT', 'FLUSH')
    async with over(server, decode_responses=decode_responses) as transport:
        async with transport._client.pipeline() as pipeline:
            pipeline.set('mine', '1')
            transport.append(pipeline, Call(ECHO, ('k',), ('gr\u00fc\u00df',)))
            transport.append(pipeline, Call('HSET', ('h',), ('a', 1)))
            pipeline.incr('mine')
            assert server.command('EXISTS', 'mine') == 0
            assert await pipeline.execute() == [True, [text('k'), text('gr\u00fc\u00df')], 1, 2]
        async with transport._client.pipeline() as pipeline:
            await pipeline.watch('mine')
            with pytest.raises(TorrelqueUsageError, match=r'call its multi\(\) first'):
                transport.append(pipeline, Call(ECHO, ('k',), ('a',)))
            pipeline.multi()  # type: ignore[no-untyped-call]
            transport.append(pipeline, Call(ECHO, ('k',), ('a',)))
            assert await pipeline.execute() == [[text('k'), text('a')]]


@pytest.mark.parametrize('pipeline', ['no pipeline', None, redis.Redis().pipeline(), Redis()])
async def test_append_to_something_else(pipeline: object) -> None:
    with pytest.raises(TorrelqueTypeError, match=r'expected a pipeline of a redis\.asyncio\.Redis, not'):
        RedisPyTransport(Redis()).append(pipeline, Call(ECHO, ('k',), ('a',)))


# Trio -----------------------------------------------------------------------------------------------------------------


def test_trio_is_told_what_to_use() -> None:
    async def use() -> None:
        transport = RedisPyTransport(Redis())
        for attempt in (transport.execute([call('PING')]), transport.block(call('PING'), 1)):
            with pytest.raises(TorrelqueUsageError, match=r'asyncio only.*coredis\.Redis.*torrelque\.connect\(url\)'):
                await attempt
        with pytest.raises(TorrelqueUsageError, match='asyncio only'):
            transport.listen()

    trio.run(use)
