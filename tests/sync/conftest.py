"""A queue for synchronous code on each of two kinds of servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest
import redis

from tests import servers
from torrelque import sync


@pytest.fixture(params=['valkey-9.1', 'redis-6.2'])
def server(request: pytest.FixtureRequest) -> servers.Server:
    try:
        return servers.shared(request.param)
    except servers.MissingServerError as error:
        pytest.skip(str(error))


@pytest.fixture
def client(server: servers.Server) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(server.url)) as client:
        yield client


@pytest.fixture
def queue(client: redis.Redis) -> Iterator[sync.Torrelque]:
    with sync.Torrelque(client, queue=f'sync-{uuid4().hex}') as queue:
        yield queue
