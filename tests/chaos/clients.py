"""How a process comes by a client of each kind, and what it has to put up with: trouble, and a wrong clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import coredis
import redis.asyncio

from torrelque import Client, TorrelqueConnectionError, TorrelqueReplyError, connect

TROUBLE = (TorrelqueConnectionError, TorrelqueReplyError)
PATIENCE = 1.0
"""How long a client waits for an answer, in seconds."""


@asynccontextmanager
async def redis_py(url: str) -> AsyncIterator[Client]:
    async with redis.asyncio.Redis.from_url(url, socket_timeout=PATIENCE) as client:
        yield client


@asynccontextmanager
async def with_coredis(url: str) -> AsyncIterator[Client]:
    client: coredis.Redis[bytes] = coredis.Redis.from_url(url, stream_timeout=PATIENCE, connect_timeout=PATIENCE)
    async with client:
        yield client


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[Client]]] = {
    'native': lambda url: connect(url, response_timeout=PATIENCE, retry_timeout=2 * PATIENCE),
    'redis-py': redis_py,
    'coredis': with_coredis,
}


def excuse(error: TorrelqueConnectionError | TorrelqueReplyError) -> None:
    """The server is away, or has just come back; anything else is raised."""
    if isinstance(error, TorrelqueReplyError) and error.code != 'LOADING':
        raise error


def shift_clock(seconds: float) -> None:
    """Make the time of day wrong in this process."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1e9)
