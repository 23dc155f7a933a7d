"""The native transport over a cluster, told strange things: a fake node answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.transports.fake import CUT, SILENCE, Fake, fake_server
from torrelque.core.protocol import Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueHandshakeError, TorrelqueReplyError
from torrelque.transports.base import Message
from torrelque.transports.native import NativeTransport, connect

pytestmark = pytest.mark.anyio

GET: Call[Reply] = Call('GET', ('key',))
FOUND = b'$5\r\nfound\r\n'
DOWN = b'-CLUSTERDOWN The cluster is down\r\n'


def slots(port: int, host: bytes = b'$-1\r\n', more: bytes = b'') -> bytes:
    count = 4 if more else 3
    return b'*1\r\n*3\r\n:0\r\n:16383\r\n*%d\r\n%b:%d\r\n$2\r\nid\r\n%b' % (count, host, port, more)


@asynccontextmanager
async def answering(*answers: bytes | None, told: Callable[[int], bytes] = slots) -> AsyncIterator[Fake]:
    """A node that serves all slots, and answers one after the other; the last one for ever."""
    left = list(answers)

    def answer(_: int, words: list[bytes]) -> bytes | None:
        if words == [b'CLUSTER', b'SLOTS']:
            return told(fake.port)
        return left.pop(0) if len(left) > 1 else left[0]

    async with fake_server(answer) as fake:
        yield fake


def reach(fake: Fake, retry_timeout: float = 30.0) -> NativeTransport:
    return connect(fake.url.replace('redis://', 'redis+cluster://'), retry_timeout=retry_timeout)


@asynccontextmanager
async def node(
    *answers: bytes | None, told: Callable[[int], bytes] = slots, retry_timeout: float = 30.0
) -> AsyncIterator[tuple[Fake, NativeTransport]]:
    """The same, and a client of it."""
    async with answering(*answers, told=told) as fake, reach(fake, retry_timeout) as client:
        yield fake, client


@pytest.mark.parametrize(
    'told',
    [
        slots,
        lambda port: slots(port, b'$0\r\n\r\n'),
        lambda port: slots(port, b'$1\r\n?\r\n'),
        lambda port: slots(port, b'$1\r\n?\r\n', b'*2\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n'),
        lambda port: slots(port, b'$9\r\n127.0.0.1\r\n'),
    ],
)
async def test_where_a_node_is(told: Callable[[int], bytes]) -> None:
    async with node(FOUND, told=told) as (_, client):
        assert list(await client.execute([GET])) == [b'found']


async def test_a_node_that_was_not_told_is_where_the_one_asked_is() -> None:
    async with answering(FOUND) as other:
        async with node(b'-MOVED 12539 :%d\r\n' % other.port, FOUND) as (_, client):
            assert list(await client.execute([GET])) == [b'found']
        async with node(b'-ASK 12539 :%d\r\n' % other.port) as (_, client):
            assert list(await client.execute([GET])) == [b'found']
        assert [words for _, words in other.received][-2:] == [[b'ASKING'], [b'GET', b'key']]


async def test_a_cluster_that_is_down_for_a_while() -> None:
    async with node(DOWN, DOWN, FOUND) as (_, client):
        assert list(await client.execute([GET])) == [b'found']


async def test_a_cluster_that_stays_down() -> None:
    async with node(DOWN, retry_timeout=0.1) as (_, client):
        (reply,) = await client.execute([GET])
        assert isinstance(reply, TorrelqueReplyError)
        assert reply.code == 'CLUSTERDOWN'


async def test_what_broke_is_sent_again_unless_that_is_not_wanted() -> None:
    async with node(CUT, CUT, FOUND) as (_, client):
        assert list(await client.execute([GET])) == [b'found']
    async with node(CUT, FOUND, retry_timeout=0) as (fake, client):
        with pytest.raises(TorrelqueConnectionError, match='closed the connection'):
            await client.execute([GET])
        assert [words for _, words in fake.received].count([b'GET', b'key']) == 1


@pytest.mark.parametrize(
    ('answer', 'says'),
    [(b'-NOPERM no permissions\r\n', 'NOPERM'), (b'-ERR cluster support disabled\r\n', 'not a node of a cluster')],
)
async def test_entering_is_refused(answer: bytes, says: str) -> None:
    async with answering(FOUND, told=lambda _: answer) as fake:
        with pytest.raises(TorrelqueHandshakeError, match=says):
            await reach(fake).__aenter__()


async def test_a_node_that_serves_nothing_is_asked_until_the_time_is_over() -> None:
    async with answering(FOUND, told=lambda _: b'*0\r\n') as fake:
        with pytest.raises(TorrelqueConnectionError, match='no node that serves slots'):
            await reach(fake, retry_timeout=0.1).__aenter__()


async def test_a_server_without_sharded_channels() -> None:
    unknown = b'-ERR unknown command `SSUBSCRIBE`, with args beginning with: `news`, \r\n'
    standing = b'*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n'
    async with node(unknown, standing) as (fake, client), client.listen() as listener:
        await listener.subscribe(b'news')
        assert await listener.receive() == Message(b'news', None)
        assert [words for _, words in fake.received][-2:] == [[b'SSUBSCRIBE', b'news'], [b'SUBSCRIBE', b'news']]


async def test_closing_ends_waiting_callers() -> None:
    errors: list[TorrelqueConnectionError] = []

    async def collect(call: Callable[[], object]) -> None:
        with pytest.raises(TorrelqueConnectionError) as caught:
            await call()  # type: ignore[misc]  # each of them is asynchronous
        errors.append(caught.value)

    async def listen() -> None:
        async with client.listen() as listener:
            await listener.subscribe(b'news')
            await listener.receive()

    async with node(SILENCE) as (fake, client), anyio.create_task_group() as tasks:
        tasks.start_soon(collect, lambda: client.execute([GET]))
        tasks.start_soon(collect, lambda: client.block(Call('BLPOP', ('key',), (8,)), 8))
        tasks.start_soon(collect, listen)
        await fake.until_received(4)
        await client.aclose()
        await client.aclose()
    assert len(errors) == 3
