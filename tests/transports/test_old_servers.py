"""Servers that lack a command which the scripts use: every client's caller hears which version is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.transports.fake import Answer, bulk, fake_server
from torrelque import Torrelque, TorrelqueReplyError, connect
from torrelque.core.scripts import load

pytestmark = pytest.mark.anyio

OLD = '# Server\r\nredis_version:6.0.16\r\nredis_git_sha1:0\r\n'
SAID = {
    'redis-6.0': 'ERR Error running script (call to f_1): @user_script:9: @user_script: 9: '
    'Unknown Redis command called from Lua script',
    'redis-7': 'ERR Unknown Redis command called from script script: 1, on @user_script:9.',
    'valkey-9': 'ERR Unknown command called from script script: 1, on @user_script:9.',
}


@asynccontextmanager
async def served(said: str, info: Answer) -> AsyncIterator[str]:
    """The URL of a server that makes lanes, and knows none of the commands of other scripts."""
    mint = load()['mint'].sha.encode()

    def answer(_: int, words: list[bytes]) -> Answer:
        if words[0] == b'INFO':
            return info
        if words[:2] == [b'EVALSHA', mint]:
            return bulk(b'1')
        return b'-%b\r\n' % said.encode() if words[0] == b'EVALSHA' else b'+OK\r\n'

    async with fake_server(answer) as fake:
        yield fake.url


@pytest.mark.parametrize('said', SAID.values(), ids=SAID)
async def test_the_version_that_is_needed_is_named(said: str) -> None:
    async with (
        served(said, bulk(OLD.encode())) as url,
        connect(url) as client,
        Torrelque(client, queue='q') as queue,
    ):
        for call in (queue.dequeue, queue.dequeue_nowait, lambda: queue.enqueue('a')):
            with pytest.raises(TorrelqueReplyError) as caught:
                await call()
            assert str(caught.value).startswith(
                'queues need Redis 6.2 or newer, Valkey or KeyDB, and this server (redis_version 6.0.16) does not know '
            )
            assert said in str(caught.value)


async def test_also_where_the_server_does_not_tell_its_own() -> None:
    async with (
        served(SAID['redis-6.0'], b'-NOPERM this user has no permissions\r\n') as url,
        connect(url) as client,
        Torrelque(client, queue='q') as queue,
    ):
        with pytest.raises(TorrelqueReplyError, match=r'queues need Redis 6\.2 or newer, .* and this server does not'):
            await queue.dequeue()


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_over_redis_py() -> None:
    async with served(SAID['redis-6.0'], bulk(OLD.encode())) as url:
        client = redis.asyncio.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))
        async with client, Torrelque(client, queue='q') as queue:
            with pytest.raises(TorrelqueReplyError, match=r'Redis 6\.2 or newer, .*redis_version 6\.0\.16'):
                await queue.dequeue()
