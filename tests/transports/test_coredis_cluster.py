"""The adapter of coredis's cluster client, told strange things: fake nodes answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import coredis
import pytest
from coredis.exceptions import RedisError
from coredis.retry import ConstantRetryPolicy, NoRetryPolicy, RetryPolicy

from tests import clusters
from tests.transports.fake import CUT, Answer, Fake, fake_server
from tests.transports.settings import tidy
from torrelque.core.protocol import Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueReplyError,
    TorrelqueTypeError,
    TorrelqueUsageError,
)
from torrelque.transports.base import Message
from torrelque.transports.cluster import router as routing
from torrelque.transports.cluster.coredis import CoredisClusterTransport
from torrelque.transports.repeating import TRIES_OF_ANSWER

pytestmark = pytest.mark.anyio

GET: Call[Reply] = Call('GET', ('key',))
FOUND = b'$5\r\nfound\r\n'
DOWN = b'-CLUSTERDOWN The cluster is down\r\n'
HELLO = b'%3\r\n+version\r\n+6.0.0\r\n+proto\r\n:3\r\n+id\r\n:1\r\n'
BEGINS = (b'HELLO', b'CLUSTER')


@pytest.fixture(scope='module', params=['asyncio', 'trio'])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@asynccontextmanager
async def over(port: int, policy: RetryPolicy | None = None) -> AsyncIterator[CoredisClusterTransport]:
    client: coredis.RedisCluster[bytes] = coredis.RedisCluster(
        '127.0.0.1', port, retry_policy=policy or NoRetryPolicy(), skip_full_coverage_check=True
    )
    try:
        async with client:
            transport = CoredisClusterTransport(client)
            yield transport
            await transport.aclose()
    finally:
        tidy(client)


def slots(port: int, host: bytes = b'$9\r\n127.0.0.1\r\n') -> bytes:
    return b'*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n%b:%d\r\n$2\r\nid\r\n' % (host, port)


@asynccontextmanager
async def answering(
    *answers: Answer, told: Callable[[int], bytes] = slots, first: Callable[[int], bytes] = slots
) -> AsyncIterator[Fake]:
    """A node that serves all slots, and answers one after the other; the last one for ever.

    Of the slots it tells ``first`` who asks first, the client as it is entered, and then what is ``told``.
    """
    left = list(answers)
    asked: list[int] = []

    def answer(number: int, words: list[bytes]) -> Answer:
        if words[0] == b'HELLO':
            return HELLO
        if words[0] == b'CLUSTER':
            asked.append(number)
            return (first if len(asked) == 1 else told)(fake.port)
        if words[0] == b'ASKING':
            return b'+OK\r\n'
        return left.pop(0) if len(left) > 1 else left[0]

    async with fake_server(answer) as fake:
        yield fake


def asked(fake: Fake) -> list[bytes]:
    return [words[0] for _, words in fake.received if words[0] not in BEGINS]


@pytest.mark.parametrize('told', [slots, lambda port: slots(port, b'$0\r\n\r\n'), lambda port: slots(port, b'_\r\n')])
async def test_where_a_node_is(told: Callable[[int], bytes]) -> None:
    async with answering(FOUND, told=told) as fake, over(fake.port) as transport:
        assert list(await transport.execute([GET])) == [b'found']
        assert transport.node_of(b'key') is not None


@pytest.mark.parametrize('answer', [b'-NOPERM no permissions\r\n', b'-ERR cluster support disabled\r\n'])
async def test_a_node_that_refuses_to_tell(answer: bytes) -> None:
    async with answering(FOUND, told=lambda _: answer) as fake, over(fake.port) as transport:
        for _ in range(2):
            with pytest.raises(TorrelqueHandshakeError) as caught:
                await transport.execute([GET])
            assert isinstance(caught.value, RedisError)


async def test_a_node_that_serves_nothing() -> None:
    async with answering(FOUND, told=lambda _: b'*0\r\n') as fake, over(fake.port) as transport:
        with pytest.raises(TorrelqueConnectionError, match='no node of the cluster serves') as caught:
            await transport.execute([GET])
        assert isinstance(caught.value, RedisError)


async def test_a_slot_that_nobody_serves() -> None:
    def told(port: int) -> bytes:
        return b'*1\r\n*3\r\n:0\r\n:1\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n' % port

    async with answering(FOUND, told=told) as fake, over(fake.port) as transport:
        with pytest.raises(TorrelqueConnectionError, match='serves slot 12539'):
            await transport.execute([GET])
        assert len(await transport.nodes()) == 1


async def test_a_node_that_serves_no_slot_yet_is_asked() -> None:
    async with answering(FOUND) as other, answering(b'-ASK 12539 :%d\r\n' % other.port) as fake, over(fake.port) as it:
        assert list(await it.execute([GET])) == [b'found']
        assert asked(other) == [b'ASKING', b'GET']
    async with answering(FOUND) as other, answering(b'-MOVED 12539 :%d\r\n' % other.port) as fake:
        async with over(fake.port) as it:
            assert list(await it.execute([GET])) == [b'found']
        assert asked(other) == [b'GET']


async def test_a_cluster_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(DOWN, DOWN, FOUND) as fake, over(fake.port) as transport:
        assert list(await transport.execute([GET])) == [b'found']
    monkeypatch.setattr(routing, 'PATIENCE', 0.1)
    async with answering(DOWN) as fake, over(fake.port) as transport:
        (reply,) = await transport.execute([GET])
        assert isinstance(reply, TorrelqueReplyError)
        assert reply.code == 'CLUSTERDOWN'
        assert await transport.block(GET, 0.1) is None


async def test_what_broke_is_sent_again_as_the_client_says() -> None:
    twice = ConstantRetryPolicy((RedisError,), retries=2, delay=0.01)
    async with answering(CUT, CUT, CUT, FOUND) as fake, over(fake.port, twice) as transport:
        assert list(await transport.execute([GET])) == [b'found']
    async with answering(CUT, FOUND) as fake, over(fake.port) as transport:
        assert list(await transport.execute([GET])) == [b'found']  # once in any case
    async with answering(CUT) as fake, over(fake.port) as transport:
        with pytest.raises(TorrelqueConnectionError) as caught:
            await transport.execute([GET])
        assert isinstance(caught.value, RedisError)
        assert asked(fake)[: 2 + TRIES_OF_ANSWER] == [b'GET'] * (2 + TRIES_OF_ANSWER)
        assert b'CONFIG' in asked(fake)  # which is not answered either, so it is not the call


async def test_a_node_that_failed_is_asked_last_who_serves_what() -> None:
    def told(_: int) -> bytes:
        replica = b'*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n' % other.port
        return slots(fake.port).replace(b'*1\r\n*3', b'*1\r\n*4') + replica

    async with (
        answering(CUT, told=told) as fake,
        answering(FOUND, told=told, first=told) as other,
        over(fake.port) as transport,
    ):
        tellers: list[int] = []
        for _ in range(2):
            with pytest.raises(TorrelqueConnectionError):
                await transport.execute([GET])
            tellers.append(sum(words[0] == b'CLUSTER' for _, words in fake.received))
        assert len(set(tellers)) == 1
        assert sum(words[0] == b'CLUSTER' for _, words in other.received) == 19


async def test_a_server_without_sharded_channels() -> None:
    unknown = b'-ERR unknown command `SSUBSCRIBE`, with args beginning with: `news`, \r\n'
    standing = b'>3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n'
    async with answering(unknown, standing) as fake, over(fake.port) as transport, transport.listen() as listener:
        await listener.subscribe(b'news')
        assert await listener.receive() == Message(b'news', None)
        assert asked(fake) == [b'SSUBSCRIBE', b'SUBSCRIBE']


async def test_after_the_client_was_left() -> None:
    cluster = clusters.shared('valkey-9.1')
    async with over(cluster.nodes[0].port) as transport:
        await transport.execute([Call('SET', ('key',), ('found',))])
        await transport.reconnect()
        assert list(await transport.execute([GET])) == [b'found']
    with pytest.raises(TorrelqueUsageError, match='not entered'):
        await transport.execute([GET])


async def test_the_pipeline_of_another_client_is_refused() -> None:
    cluster = clusters.shared('valkey-9.1')
    async with over(cluster.nodes[0].port) as transport:
        with pytest.raises(TorrelqueTypeError, match=r'expected a pipeline of a coredis\.RedisCluster'):
            transport.append(coredis.Redis().pipeline(), GET)
