"""What the suites share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias
from uuid import uuid4

import anyio
import pytest

from torrelque.core.protocol import Arg, Call, Reply
from torrelque.queue import Torrelque
from torrelque.transports import Transport, adapt

__all__ = ('PATIENCE', 'ClientFactory', 'OnClient', 'OnQueue', 'ask', 'call', 'eventually', 'unique', 'unique_key')

ClientFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[object]]
"""Makes a client, which lives as long as the context."""

PATIENCE = 20
"""Seconds after which something that should happen at once has failed; long, for machines under load."""


def unique(prefix: str = 'conformance') -> str:
    """A name that nobody else uses."""
    return f'{prefix}-{uuid4().hex[:16]}'


def unique_key() -> str:
    """The same with a hash tag: what begins with it is in one slot of a cluster."""
    return f'{{{unique()}}}'


def call(*words: Arg) -> Call[Reply]:
    """A command; on a cluster for the server of its first argument, as if that were a key."""
    return Call(str(words[0]), args=words[1:], near=words[1] if len(words) > 1 else None)


async def ask(transport: Transport, *words: Arg) -> Reply:
    """One command's reply."""
    (reply,) = await transport.execute([call(*words)])
    return reply


async def eventually(condition: Callable[[], Awaitable[Any]]) -> None:
    """For what nobody could set an event for."""
    with anyio.fail_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - see above
            await anyio.sleep(0.005)


class OnClient:
    """Fixtures: a client and its transport."""

    pytestmark: pytest.MarkDecorator = pytest.mark.anyio

    @pytest.fixture
    def client_factory(self) -> ClientFactory:
        raise NotImplementedError('define the fixture client_factory, see torrelque.testing.conformance')

    @pytest.fixture
    async def client(self, client_factory: ClientFactory) -> AsyncIterator[object]:
        async with client_factory() as client:
            yield client

    @pytest.fixture
    async def transport(self, client: object) -> AsyncIterator[Transport]:
        transport = adapt(client)
        yield transport
        if transport is not client:
            await transport.aclose()


class OnQueue(OnClient):
    """A fixture: a queue of one's own, over so many ``shards``."""

    shards: int | None = None

    def make_queue(self, client: object, queue: str, **options: Any) -> Torrelque:  # noqa: ANN401 - whatever it takes
        return Torrelque(client, queue=queue, shards=self.shards, **options)

    @pytest.fixture
    async def queue(self, client: object) -> AsyncIterator[Torrelque]:
        async with self.make_queue(client, unique()) as queue:
            yield queue
