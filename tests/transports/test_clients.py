"""What every transport does, whichever client it is over: redis-py, coredis or the native connection."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import anyio
import coredis
import coredis.exceptions
import pytest
import redis.asyncio
from coredis.retry import NoRetryPolicy
from redis import exceptions as redis_exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import Connection

from tests.servers import Server
from tests.transports.custom import OwnConnection
from tests.transports.fake import PONG, SILENCE, Answer, as_keydb, fake_server, nudged
from tests.transports.native_support import Start, ask, block_together, blocked, call, connections, until
from tests.transports.settings import LOOPS
from torrelque import connect
from torrelque.core.protocol import Call, Reply, Script
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTypeError,
    renew,
)
from torrelque.testing.conformance.support import block_and
from torrelque.transports import adapt, spares
from torrelque.transports import connections as timing
from torrelque.transports.base import Listener, Message, Transport
from torrelque.transports.coredis import CoredisTransport

pytestmark = pytest.mark.anyio

ECHO = Script('echo', 'return {KEYS[1], ARGV[1]}', ('key',))
REFUSING = Script('refusing', "return redis.error_reply('NOLANE spent')", ())
NESTED: Call[Reply] = call('EVAL', "return {1, redis.error_reply('MINE alone'), {'a\\255', {false}}}", 0)
HELLO = b'%3\r\n+version\r\n+6.0.0\r\n+proto\r\n:3\r\n+id\r\n:1\r\n'


# The clients ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def redis_py(port: int, **options: Any) -> AsyncIterator[Transport]:  # noqa: ANN401 - redis-py's
    options.setdefault('retry', Retry(NoBackoff(), 0))
    async with aclosing(redis.asyncio.Redis(host='127.0.0.1', port=port, **options)) as client:
        yield adapt(client)


@asynccontextmanager
async def redis_py_pool(port: int, **options: Any) -> AsyncIterator[Transport]:  # noqa: ANN401 - as above
    """With connections of a class that is not redis-py's own."""
    options.setdefault('retry', Retry(NoBackoff(), 0))
    pool = redis.asyncio.ConnectionPool(connection_class=OwnConnection, host='127.0.0.1', port=port, **options)
    async with aclosing(pool):
        yield adapt(redis.asyncio.Redis(connection_pool=pool))


@asynccontextmanager
async def with_coredis(port: int, **options: Any) -> AsyncIterator[Transport]:  # noqa: ANN401 - coredis's
    options.setdefault('retry_policy', NoRetryPolicy())
    client: coredis.Redis[Any] = coredis.Redis(host='127.0.0.1', port=port, **options)
    async with client:
        yield adapt(client)


@asynccontextmanager
async def native(port: int, username: str = '', password: str = '', **_: Any) -> AsyncIterator[Transport]:  # noqa: ANN401 - others'
    async with connect(f'redis://{username}:{password}@127.0.0.1:{port}', retry_timeout=0) as client:
        yield client


CLIENTS: dict[str, Any] = {
    'redis_py': redis_py,
    'redis_py-pool': redis_py_pool,
    'coredis': with_coredis,
    'native': native,
}
OURS: dict[str, type[Exception]] = dict.fromkeys(
    ('connection', 'timeout', 'reply', 'refused', 'type', 'script', 'unknown', 'any'), Exception
)
OF_REDIS_PY: dict[str, type[Exception]] = {
    'connection': redis.ConnectionError,
    'timeout': redis.TimeoutError,
    'reply': redis.ResponseError,
    'refused': redis_exceptions.NoPermissionError,
    'type': redis.ResponseError,
    'script': redis_exceptions.NoScriptError,
    'unknown': redis.ResponseError,
    'any': redis.RedisError,
}
OF_COREDIS: dict[str, type[Exception]] = {
    'connection': coredis.exceptions.ConnectionError,
    'timeout': TimeoutError,
    'reply': coredis.exceptions.ResponseError,
    'refused': coredis.exceptions.AuthorizationError,
    'type': coredis.exceptions.WrongTypeError,
    'script': coredis.exceptions.NoScriptError,
    'unknown': coredis.exceptions.UnknownCommandError,
    'any': coredis.exceptions.RedisError,
}


class Kind(NamedTuple):
    """A client, and the event loop that it is used on."""

    client: str
    loop: str

    @asynccontextmanager
    async def over(self, port: int, **options: Any) -> AsyncIterator[Transport]:  # noqa: ANN401 - the client's
        made: AbstractAsyncContextManager[Transport] = CLIENTS[self.client](port, **options)
        async with made as transport:
            yield transport
            await transport.aclose()

    @property
    def errors(self) -> dict[str, type[Exception]]:
        """The client's own classes of errors, which ours are as well."""
        return {'coredis': OF_COREDIS, 'native': OURS}.get(self.client, OF_REDIS_PY)

    def __str__(self) -> str:
        return '/'.join(self)


KINDS = [
    Kind('redis_py', 'asyncio'),
    Kind('redis_py', 'asyncio+uvloop'),
    Kind('redis_py-pool', 'asyncio'),
    Kind('coredis', 'asyncio'),
    Kind('coredis', 'trio'),
    Kind('native', 'asyncio'),
    Kind('native', 'asyncio+uvloop'),
    Kind('native', 'trio'),
]
NOT_POOLED = pytest.mark.parametrize('kind', [kind for kind in KINDS if kind.client != 'redis_py-pool'], ids=str)


RETRYING = {'retry': Retry(NoBackoff(), 5)}
RESPONSES = [{'protocol': protocol, 'decode_responses': decode} for protocol in (2, 3) for decode in (False, True)]


def with_settings(kinds: Sequence[Kind] = KINDS, **of_client: Sequence[dict[str, Any]]) -> pytest.MarkDecorator:
    """Each kind with its client's usual settings, and with these."""
    cases = [(kind, each) for kind in kinds for each in ({}, *of_client.get(kind.client.replace('-', '_'), ()))]
    return pytest.mark.parametrize(('kind', 'settings'), cases, ids=_named)


def _named(value: Kind | dict[str, Any]) -> str:
    if isinstance(value, Kind):
        return str(value)
    return ','.join(name if name == 'retry' else f'{name}={each}' for name, each in value.items()) or 'usual'


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def anyio_backend(kind: Kind) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[kind.loop]


def greeted(words: list[bytes]) -> Answer:
    """What a fake server answers to what clients begin with."""
    return {b'CLIENT': b'+OK\r\n', b'HELLO': HELLO}.get(words[0])


# Replies --------------------------------------------------------------------------------------------------------------


DECODED = {'encoding': 'latin-1', 'decode_responses': True}


@with_settings(
    redis_py=[{**DECODED, **each} for each in RESPONSES],
    redis_py_pool=[{**DECODED, **each} for each in RESPONSES],
    coredis=[DECODED],
)
async def test_replies_do_not_depend_on_the_settings(kind: Kind, settings: dict[str, Any], server: Server) -> None:
    async with kind.over(server.port, **settings) as transport:
        assert await ask(transport, 'HSET', 'h', b'\xff', 'gr\u00fc\u00df') == 1
        server.command('ZADD', 'z', '1.5', 'm')
        batch = [
            call('HGETALL', 'h'),  # a map in RESP3, and a callback of redis-py's
            call('HGET', 'h', 'none'),
            call('ZRANGE', 'z', 0, -1, 'WITHSCORES'),
            call('PING'),
            call('EVAL', 'return {1, {KEYS[1], false}, ARGV[1]}', 1, b'\xfe', 7),
            call('SET', 'k', 'v'),
            call('CONFIG GET', 'maxmemory'),
        ]
        together = list(await transport.execute(batch))
        alone = [(await transport.execute([each]))[0] for each in batch]
        for replies in (together, alone):
            assert replies[0] == [b'\xff', 'gr\u00fc\u00df'.encode()]
            assert replies[2] == ([[b'm', b'1.5']] if pairs_scores(kind, settings) else [b'm', b'1.5'])
            assert [replies[1], replies[3], replies[5]] == [None, b'PONG', b'OK']
            assert replies[4] == [1, [b'\xfe', None], b'7']
            assert replies[6] == [b'maxmemory', b'0']
        assert type(await ask(transport, 'INFO', 'server')) is bytes
        assert await transport.block(call('BZPOPMIN', 'z', 1), 1) == [b'z', b'm', b'1.5']


def pairs_scores(kind: Kind, settings: dict[str, Any]) -> bool:
    """Whether the connection speaks RESP3, which has a list of pairs where RESP2 has a flat list."""
    return kind.client == 'coredis' or (
        kind.client == 'redis_py-pool' and settings.get('protocol', int(Connection().protocol)) == 3  # type: ignore[no-untyped-call]
    )


@with_settings(redis_py=RESPONSES, redis_py_pool=RESPONSES, coredis=[{'decode_responses': True}])
async def test_errors_are_values_of_both_families(kind: Kind, settings: dict[str, Any], server: Server) -> None:
    server.command('ACL', 'SETUSER', 'me', 'on', 'nopass', '~*', '&*', '+@all', '-flushall')
    server.command('SCRIPT', 'FLUSH')
    server.command('SCRIPT', 'LOAD', REFUSING.source)
    server.command('HSET', 'h', 'a', 'b')
    batch = [
        call('LPUSH', 'h', 'x'),
        Call[Reply](ECHO, ('k',), ('a',)),
        Call[Reply](REFUSING),
        call('FLUSHALL'),
        call('NOSUCHCOMMAND'),
    ]
    async with kind.over(server.port, username='me', password='x', **settings) as transport:
        together = [*await transport.execute([*batch, call('HGET', 'h', 'a')])]
        assert together.pop() == b'b'
        alone = [(await transport.execute([each]))[0] for each in batch]
        blocked = [await transport.block(each, 1) for each in batch]
    for errors in (together, alone, blocked):
        assert [error.code for error in errors] == ['WRONGTYPE', 'NOSCRIPT', 'NOLANE', 'NOPERM', 'ERR']
        for error, theirs in zip(errors, ('type', 'script', 'reply', 'refused', 'unknown'), strict=True):
            assert isinstance(error, TorrelqueReplyError)
            assert isinstance(error, kind.errors[theirs])
            assert isinstance(error, kind.errors['any'])
            assert 'pipeline' not in str(error)
            assert renew(error).__dict__ == error.__dict__


async def test_errors_within_a_reply(kind: Kind, server: Server) -> None:
    async with kind.over(server.port) as transport:
        for batch in ([NESTED], [call('PING'), NESTED]):
            one, error, rest = (await transport.execute(batch))[-1]
            assert (one, rest) == (1, [b'a\xff', [None]])
            assert isinstance(error, TorrelqueReplyError)
            assert isinstance(error, kind.errors['reply'])
            assert error.code == 'MINE'


async def test_words_that_cannot_be_sent(kind: Kind, server: Server) -> None:
    async with kind.over(server.port) as transport:
        with pytest.raises(TorrelqueTypeError, match='None'):
            await transport.execute([call('SET', 'k', 'v'), call('SET', 'k', None)])  # type: ignore[arg-type]
        if kind.client != 'native':  # which sends numbers of all kinds
            with pytest.raises(TorrelqueTypeError, match=r'1\.5'):
                await transport.execute([call('SET', 'k', 'v'), call('SET', 'k', 1.5)])  # type: ignore[arg-type]
        assert await ask(transport, 'EXISTS', 'k') == 0


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2])
async def test_a_server_that_is_gone(kind: Kind, fresh_server: Start, count: int) -> None:
    server = fresh_server()
    async with kind.over(server.port) as transport:
        await ask(transport, 'PING')
        server.kill()
        for attempt in (
            partial(transport.execute, [call('PING')] * count),
            partial(transport.execute, [call('PING')] * count),
            partial(transport.block, call('PING'), 1),
        ):
            with pytest.raises(TorrelqueConnectionError) as caught:
                await attempt()
            assert isinstance(caught.value, kind.errors['connection'])
        with pytest.raises(TorrelqueConnectionError):
            async with transport.listen():
                pass
        server.start()
        assert list(await transport.execute([call('PING')] * count)) == [b'PONG'] * count
        assert await transport.block(call('PING'), 1) == b'PONG'


TIMED = [{**RETRYING, 'socket_timeout': seconds} for seconds in (5, None)]


@with_settings([*KINDS, Kind('redis_py-pool', 'asyncio+uvloop')], redis_py=TIMED, redis_py_pool=TIMED)
async def test_cancelled_callers(kind: Kind, settings: dict[str, Any], server: Server) -> None:
    """No caller gets another's reply, and each that was cancelled before its end ends so, also on Python 3.11."""
    ended: list[bool] = []
    chance = random.Random(7)
    async with kind.over(server.port, **settings) as transport:

        async def caller(number: int, seconds: float) -> None:
            with anyio.move_on_after(seconds) as scope:
                for step in range(30):
                    word = f'{number} {step}'
                    assert await transport.execute([call('ECHO', word), call('ECHO', number)]) == [
                        word.encode(), str(number).encode()
                    ]  # fmt: skip
                    assert await ask(transport, 'ECHO', word) == word.encode()
            ended.append(scope.cancelled_caught)

        for _ in range(6):
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(caller, number, chance.uniform(0, 0.05))
        assert len(ended) == 300
        assert any(ended)
        assert await ask(transport, 'ECHO', 'last') == b'last'


# Block ----------------------------------------------------------------------------------------------------------------


@with_settings(
    [kind for kind in KINDS if kind.client != 'redis_py-pool'],
    redis_py=[{'socket_timeout': 0.1}, {'socket_timeout': None}, {'single_connection_client': True}, {'protocol': 3}],
    coredis=[{'stream_timeout': 0.1}, {'max_idle_time': 1, 'noevict': True}],
)
async def test_block_waits_wakes_and_reuses_its_connection(
    kind: Kind, settings: dict[str, Any], server: Server
) -> None:
    replies: list[Reply] = []
    seconds = 1.2 if 'max_idle_time' in settings else 0.3 if settings else 0.01
    if server.version.startswith('6.'):  # it cannot be told not to evict a client
        settings = {name: each for name, each in settings.items() if name != 'noevict'}
    async with kind.over(server.port, **settings) as transport:

        async def wait() -> None:
            replies.append(await transport.block(call('BLPOP', 'list', 8), 8))

        assert await transport.block(call('BZPOPMIN', 'none', str(seconds)), seconds) is None
        own = await transport.block(call('CLIENT ID'), 1)
        assert own == await transport.block(call('CLIENT ID'), 1)
        assert own != await ask(transport, 'CLIENT ID')
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until(lambda: blocked(server) == 1)
            assert await ask(transport, 'LPUSH', 'list', b'\xff') == 1  # is not held up
        assert replies == [[b'list', b'\xff']]
        error = await transport.block(call('LPUSH', 'list'), 1)
        assert isinstance(error, TorrelqueReplyError)
        assert await transport.block(call('CLIENT ID'), 1) == own


async def test_a_cancelled_block_closes_its_connection(kind: Kind, server: Server) -> None:
    async with kind.over(server.port) as transport:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.block, call('BLPOP', 'list', 8), 8)
            await until(lambda: blocked(server) == 1)
            tasks.cancel_scope.cancel()
        await until(lambda: blocked(server) == 0)
        assert b'cmd=blpop' not in server.command('CLIENT', 'LIST')
        await ask(transport, 'LPUSH', 'list', 'x')
        assert await transport.block(call('BLPOP', 'list', 8), 8) == [b'list', b'x']


@NOT_POOLED
async def test_as_many_connections_are_kept_as_were_in_use(
    kind: Kind, fresh_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fresh_server()
    async with kind.over(server.port, max_connections=2) as transport:
        count = 40 if kind.client == 'native' else 150  # more than the clients' pools have
        assert await block_together(transport, server, count) == await block_together(transport, server, count)
        own = 0
        if isinstance(transport, CoredisTransport):  # the client keeps one
            own = 1
            assert await transport._client.ping() == b'PONG'
        await transport.aclose()
        await until(lambda: connections(server) <= own)
        if kind.client == 'redis_py':
            assert await ask(transport, 'PING') == b'PONG'
    async with kind.over(server.port) as transport:
        await ask(transport, 'PING')
        monkeypatch.setattr(spares, 'KEEP', 0.2)
        for _ in range(2):
            await block_together(transport, server, 20)
            await until(lambda: connections(server) == 1)


@with_settings(redis_py=[RETRYING])
async def test_a_broken_block_raises_and_is_not_repeated(
    kind: Kind, settings: dict[str, Any], fresh_server: Start
) -> None:
    server = fresh_server()
    async with kind.over(server.port, **settings) as transport:

        async def fail() -> None:
            with pytest.raises(TorrelqueConnectionError) as caught:
                await transport.block(call('BLPOP', 'list', 8), 8)
            assert isinstance(caught.value, kind.errors['connection'])

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(fail)
            await until(lambda: blocked(server) == 2)
            server.command('CLIENT', 'KILL', 'TYPE', 'normal')
        assert blocked(server) == 0
        assert await transport.block(call('ECHO', 'x'), 1) == b'x'


async def test_a_block_that_is_not_answered(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, 'MARGIN', 0.1)
    answers = [b'+late\r\n', SILENCE]
    on: list[int] = []

    def answer(number: int, words: list[bytes]) -> Answer:
        if words[0] != b'ECHO':
            return greeted(words)
        on.append(number)
        return answers.pop()

    async with fake_server(answer) as fake, kind.over(fake.port) as transport:
        with pytest.raises(TorrelqueResponseTimeout) as caught:
            await transport.block(call('ECHO', 'x'), 0.05)
        assert isinstance(caught.value, kind.errors['timeout'])
        if kind.client != 'coredis':  # which words it itself
            assert 'no answer for 0.15 s' in str(caught.value)
        assert await transport.block(call('ECHO', 'x'), 0.05) == b'late'
        assert len(set(on)) == 2


# Listen ---------------------------------------------------------------------------------------------------------------


async def subscribed(listener: Listener, *channels: bytes) -> None:
    for channel in channels:
        await listener.subscribe(channel)
    assert [await listener.receive() for _ in channels] == [Message(channel, None) for channel in channels]


@with_settings(redis_py=RESPONSES, coredis=[{'decode_responses': True}])
async def test_listen(kind: Kind, settings: dict[str, Any], server: Server) -> None:
    async with kind.over(server.port, max_connections=1, **settings) as transport:
        async with transport.listen() as listener:
            await subscribed(listener, b'a', b'b\xff')
            published = [call('PUBLISH', 'a', 'text'), call('PUBLISH', b'b\xff', b'\x00\xfe')]
            assert list(await transport.execute(published)) == [1, 1]
            assert await listener.receive() == Message(b'a', b'text')
            assert await listener.receive() == Message(b'b\xff', b'\x00\xfe')
            await listener.unsubscribe(b'a')
            await listener.unsubscribe(b'unknown')
            await until(lambda: server.command('PUBLISH', 'a', 'lost') == 0)
            await subscribed(listener, b'c')
            await ask(transport, 'PUBLISH', b'b\xff', '2')
            assert await listener.receive() == Message(b'b\xff', b'2')
        await until(lambda: server.command('PUBLISH', 'c', 'none') == 0)


async def test_a_listener_sees_its_connection_go_and_does_not_come_back(kind: Kind, server: Server) -> None:
    async with kind.over(server.port) as transport, transport.listen() as listener:
        await subscribed(listener, b'a')
        if kind.client != 'coredis':  # which drops what has arrived
            server.command('PUBLISH', 'a', 'last')
        server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')
        if kind.client != 'coredis':
            assert await listener.receive() == Message(b'a', b'last')
        attempts: list[Any] = [listener.receive, listener.receive, partial(listener.subscribe, b'a')]
        if kind.client in ('native', 'redis_py-pool'):  # where sending tells nothing
            attempts.pop()
        for attempt in attempts:
            with pytest.raises(TorrelqueConnectionError) as caught:
                await attempt()
            assert isinstance(caught.value, kind.errors['connection'])
        assert await ask(transport, 'ECHO', 'x') == b'x'


@pytest.mark.parametrize('rights', ['+@all', '-ping'])
async def test_a_listener_that_may_not(kind: Kind, fresh_server: Start, rights: str) -> None:
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'me', 'on', '>p', '~*', '+@all', rights, 'resetchannels', '&mine')
    async with kind.over(server.port, username='me', password='p') as transport, transport.listen() as listener:

        async def subscribe_in_vain() -> None:
            await listener.subscribe(b'theirs')
            await listener.receive()

        for _ in range(3):
            with pytest.raises(TorrelqueReplyError) as caught:
                await subscribe_in_vain()
            assert isinstance(caught.value, kind.errors['refused'])
            assert caught.value.code == 'NOPERM'
        await subscribed(listener, b'mine')


@pytest.mark.parametrize('rights', ['+@all', '-ping'])
async def test_a_quiet_listener_asks_whether_the_server_is_there(
    kind: Kind, fresh_server: Start, monkeypatch: pytest.MonkeyPatch, rights: str
) -> None:
    server = fresh_server()
    server.command('ACL', 'SETUSER', 'me', 'on', '>p', '~*', '&*', '+@all', rights)
    received: list[Message] = []

    def pings() -> int:
        said = server.info('commandstats').get('cmdstat_ping', 'calls=0,rejected_calls=0')
        numbers = dict(each.split('=') for each in said.split(','))
        return int(numbers['calls']) + int(numbers['rejected_calls'])

    async with kind.over(server.port, username='me', password='p') as transport, transport.listen() as listener:
        await subscribed(listener, b'a')
        before = pings()
        monkeypatch.setattr(timing, 'QUIET', 0.05)

        async def receive() -> None:
            received.append(await listener.receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until(lambda: pings() > before + 3)
            monkeypatch.setattr(timing, 'QUIET', 8.0)
            server.command('PUBLISH', 'a', 'at last')
        assert received == [Message(b'a', b'at last')]


async def test_a_listener_does_not_wait_for_a_server_that_is_gone(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, 'QUIET', 0.05)
    async with fake_server(lambda _, words: greeted(words) or PONG) as fake, kind.over(fake.port) as transport:
        handshakes = 2 if kind.client == 'native' else 0  # each of its connections begins with a PING
        pongs = [PONG] * (handshakes - fake.connections) if handshakes else []
        fake.pong = lambda _: pongs.pop() if pongs else SILENCE
        async with transport.listen() as listener:
            with pytest.raises(TorrelqueResponseTimeout) as caught:
                await listener.receive()
            assert isinstance(caught.value, kind.errors['timeout'])
            if kind.client != 'coredis':  # as above
                assert 'not even an answer to PING' in str(caught.value)


@NOT_POOLED
async def test_keydb_is_nudged_to_run_the_call_behind_a_block(kind: Kind) -> None:
    def answer(connection: int, words: list[bytes]) -> Answer:
        return greeted(words) or as_keydb(connection, words)

    pong = nudged if kind.client == 'native' else lambda _: nudged(2)
    async with fake_server(answer, pong=pong) as fake, kind.over(fake.port) as transport:
        with anyio.fail_after(8):
            for _ in range(2):  # the connection is still in step
                replies = await block_and(transport, call('BZPOPMIN', 'z', 8), call('RPOP', 'l'), 8)
                assert replies == [[b'z', b'm', b'0'], b'a']
