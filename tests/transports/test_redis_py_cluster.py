"""The adapter of redis-py's cluster client, told strange things: fake nodes answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import redis.asyncio.cluster
from redis.asyncio import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from tests import clusters
from tests.transports.fake import CUT, Answer, Fake, fake_server
from tests.transports.native_support import Start
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
from torrelque.transports.cluster.redis_py import RedisPyClusterTransport
from torrelque.transports.repeating import TRIES_OF_ANSWER

pytestmark = pytest.mark.anyio

GET: Call[Reply] = Call('GET', ('key',))
FOUND = b'$5\r\nfound\r\n'
DOWN = b'-CLUSTERDOWN The cluster is down\r\n'
ONCE = Retry(NoBackoff(), 0)


@pytest.fixture(scope='module')
def anyio_backend() -> str:
    return 'asyncio'


@asynccontextmanager
async def over(port: int, retry: Retry = ONCE, **settings: Any) -> AsyncIterator[RedisPyClusterTransport]:  # noqa: ANN401 - redis-py's
    client = RedisCluster('127.0.0.1', port, retry=retry, protocol=2, **settings)
    transport = RedisPyClusterTransport(client)
    try:
        yield transport
    finally:
        await transport.aclose()
        await client.aclose()


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[Fake]:
    """A node that serves all slots, and answers one after the other; the last one for ever."""
    left = list(answers)

    def answer(_: int, words: list[bytes]) -> Answer:
        if words[0] == b'CLUSTER':
            return b'*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n' % fake.port
        if words[0] in (b'CLIENT', b'ASKING'):
            return b'+OK\r\n'
        if words[0] == b'COMMAND':
            return b'*0\r\n'
        return left.pop(0) if len(left) > 1 else left[0]

    async with fake_server(answer) as fake:
        yield fake


def asked(fake: Fake) -> list[bytes]:
    return [words[0] for _, words in fake.received if words[0] not in (b'CLIENT', b'CLUSTER', b'COMMAND')]


async def test_a_server_that_is_no_cluster_is_told(fresh_server: Start) -> None:
    async with over(fresh_server().port) as transport:
        with pytest.raises(TorrelqueHandshakeError, match='Cluster mode is not enabled') as caught:
            await transport.execute([GET])
        assert isinstance(caught.value, RedisClusterException)


async def test_a_wrong_password_is_told_by_its_code(fresh_server: Start) -> None:
    async with over(fresh_server('--requirepass', 'secret').port) as transport:
        with pytest.raises(TorrelqueConnectionError) as caught:
            await transport.execute([GET])
        assert getattr(caught.value, 'code', None) == 'NOAUTH'


@pytest.mark.parametrize('refused', ['command', 'cluster|slots'])
async def test_rights_that_redis_py_needs(refused: str) -> None:
    cluster = clusters.shared('valkey-9.1')
    for node in cluster.nodes:
        node.command('ACL', 'SETUSER', 'limited', 'reset', 'on', 'nopass', '~*', '+@all', f'-{refused}')
    async with over(cluster.nodes[0].port, username='limited', password='none') as transport:
        with pytest.raises(TorrelqueConnectionError, match=refused) as caught:
            await transport.execute([GET])
        assert getattr(caught.value, 'code', None) == 'NOPERM'


async def test_a_cluster_that_is_not_there() -> None:
    async with over(1) as transport:
        for _ in range(2):
            with pytest.raises(TorrelqueConnectionError, match='cannot be connected') as caught:
                await transport.execute([GET])
            assert isinstance(caught.value, RedisClusterException)


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
        with anyio.fail_after(20):
            assert await transport.block(GET, 0.1) is None


async def test_what_broke_is_sent_again_as_the_client_says() -> None:
    async with answering(CUT, CUT, CUT, FOUND) as fake, over(fake.port, Retry(NoBackoff(), 2)) as transport:
        assert list(await transport.execute([GET, GET])) == [b'found', b'found']
    async with answering(CUT, FOUND) as fake, over(fake.port) as transport:
        assert list(await transport.execute([GET])) == [b'found']  # once in any case
    async with answering(CUT) as fake, over(fake.port) as transport:
        with pytest.raises(TorrelqueConnectionError) as caught:
            await transport.execute([GET])
        assert isinstance(caught.value, RedisConnectionError)
        assert asked(fake)[: 2 + TRIES_OF_ANSWER] == [b'GET'] * (2 + TRIES_OF_ANSWER)
        assert b'CONFIG' in asked(fake)  # which is not answered either, so it is not the call


async def test_a_server_without_sharded_channels() -> None:
    unknown = b'-ERR unknown command `SSUBSCRIBE`, with args beginning with: `news`, \r\n'
    standing = b'*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n'
    async with answering(unknown, standing) as fake, over(fake.port) as transport, transport.listen() as listener:
        await listener.subscribe(b'news')
        assert await listener.receive() == Message(b'news', None)
        assert asked(fake) == [b'SSUBSCRIBE', b'SUBSCRIBE']


async def test_the_last_calls_do_not_open_a_closed_client_again() -> None:
    cluster = clusters.shared('valkey-9.1')
    async with over(cluster.nodes[0].port) as transport:
        with pytest.raises(TorrelqueConnectionError):
            await transport.execute_at_end([GET])
        await transport.execute([Call('SET', ('key',), ('found',))])
        client = transport._client
        await client.aclose()
        assert list(await transport.execute_at_end([GET])) == [b'found']
        assert not any(connection.is_connected for node in client.get_nodes() for connection in node._connections)


async def test_transactions_that_would_go_wrong_are_refused() -> None:
    cluster = clusters.shared('valkey-9.1')
    async with over(cluster.nodes[0].port) as transport:
        client = transport._client
        if not hasattr(
            redis.asyncio.cluster, 'TransactionStrategy'
        ):  # older versions of redis-py have no transactions there
            with pytest.raises(RedisClusterException, match='transaction is deprecated'):
                client.pipeline(transaction=True)
            return
        pipeline = client.pipeline(transaction=True)
        with pytest.raises(TorrelqueUsageError, match='needs the client initialized'):
            transport.append(pipeline, GET)
        await client.initialize()
        await pipeline.watch('key')  # type: ignore[no-untyped-call]
        with pytest.raises(TorrelqueUsageError, match=r'call its multi\(\) first'):
            transport.append(pipeline, GET)
        pipeline.multi()  # type: ignore[no-untyped-call]
        transport.append(pipeline, GET)
        assert len(pipeline) == 1
        await pipeline.reset()  # type: ignore[no-untyped-call]
        with pytest.raises(TorrelqueTypeError, match='expected a pipeline of a redis'):
            transport.append(client, GET)
