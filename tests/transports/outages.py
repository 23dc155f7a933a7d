"""The clients that users hold, as plain as they come, for tests that every one of them has to pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, NamedTuple

import coredis
import pytest
import redis.asyncio
from coredis.retry import NoRetryPolicy
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.transports.settings import LOOPS
from torrelque import Client


@asynccontextmanager
async def redis_py(url: str, **options: Any) -> AsyncIterator[Client]:  # noqa: ANN401 - redis-py's
    """As its versions before 6 are by default: without retries, without time-outs."""
    settings: dict[str, Any] = {'retry': Retry(NoBackoff(), 0), 'socket_timeout': None, **options}
    client = redis.asyncio.Redis.from_url(url, **settings)
    async with aclosing(client):
        yield client


@asynccontextmanager
async def with_coredis(url: str, **options: Any) -> AsyncIterator[Client]:  # noqa: ANN401 - coredis's
    client: coredis.Redis[Any] = coredis.Redis.from_url(url, **{'retry_policy': NoRetryPolicy(), **options})
    async with client:
        yield client


class Kind(NamedTuple):
    """A client, and the event loop that it is used on."""

    client: str
    loop: str

    def make(self, url: str, **options: Any) -> AbstractAsyncContextManager[Client]:  # noqa: ANN401 - the client's
        return CLIENTS[self.client](url, **options)

    def __str__(self) -> str:
        return '/'.join(self)


CLIENTS: dict[str, Callable[..., AbstractAsyncContextManager[Client]]] = {'redis_py': redis_py, 'coredis': with_coredis}
KINDS = [
    Kind('redis_py', 'asyncio'),
    Kind('redis_py', 'asyncio+uvloop'),
    Kind('coredis', 'asyncio'),
    Kind('coredis', 'trio'),
]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def anyio_backend(kind: Kind) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[kind.loop]
