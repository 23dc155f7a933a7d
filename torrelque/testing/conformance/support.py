"""Helpers and fixtures of the suites."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import anyio
import pytest

from torrelque import Client
from torrelque.core.protocol import Arg, Call, Reply
from torrelque.queue import Torrelque
from torrelque.transports import Transport, adapt
from torrelque.transports.base import Rest

__all__ = (
    'PATIENCE',
    'ClientFactory',
    'OnClient',
    'OnQueue',
    'ask',
    'block_and',
    'call',
    'eventually',
    'unique',
    'unique_key',
)

ClientFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[Client]]
"""Creates a client that lives as long as the context."""

CountBlocked: TypeAlias = Callable[[], Awaitable[int]]

PATIENCE = 20
"""Seconds to wait for something that should happen at once. Long enough for machines under load."""


def unique(prefix: str = 'conformance') -> str:
    """Return a unique name."""
    return f'{prefix}-{uuid4().hex[:16]}'


def unique_key() -> str:
    """Return a unique prefix with a hash tag: keys with this prefix are in one slot of a cluster."""
    return f'{{{unique()}}}'


def call(*words: Arg) -> Call[Reply]:
    """Return a call of a command. On a cluster, it goes to the server of its first argument, taken as a key."""
    return Call(str(words[0]), args=words[1:], near=words[1] if len(words) > 1 else None)


async def ask(transport: Transport, *words: Arg) -> Reply:
    """Execute one command and return its reply."""
    (reply,) = await transport.execute([call(*words)])
    return reply


async def eventually(condition: Callable[[], Awaitable[Any]]) -> None:
    """Poll until a condition holds that no event signals."""
    with anyio.fail_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - see above
            await anyio.sleep(0.005)


def sockets() -> int:
    """Return the number of open sockets of this process; 0 if the system does not report them."""
    count = 0
    for link in Path('/proc/self/fd').glob('*'):
        with suppress(OSError):  # already closed, for example the descriptor of the folder itself
            count += str(link.readlink()).startswith('socket:')
    return count


async def blocked_clients(transport: Transport) -> int:
    """Return the number of clients in blocking calls on all servers; 0 if the servers do not report it."""
    count = 0
    for near in await transport.nodes():
        (reply,) = await transport.execute([Call('INFO', args=('clients',), near=near)])
        found = re.search(rb'^blocked_clients:(\d+)', reply, re.MULTILINE) if isinstance(reply, bytes) else None
        count += int(found[1]) if found else 0
    return count


@asynccontextmanager
async def nothing_left_behind(count_blocked: CountBlocked) -> AsyncIterator[None]:
    """Fail unless event-loop tasks, sockets and blocked clients soon return to their former numbers."""
    blocked_before = await count_blocked()
    # Count them instead of comparing sets: anyio's plugin starts a task for each step of a test.
    sockets_before, tasks_before = sockets(), len(anyio.get_running_tasks())
    yield
    left: list[str] = []

    async def nothing_left() -> bool:
        tasks = anyio.get_running_tasks()
        left[:] = [repr(task) for task in tasks] if len(tasks) > tasks_before else []
        if sockets() > sockets_before:
            left.append(f'{sockets()} sockets in place of {sockets_before}')
        if not left and (blocked := await count_blocked()) > blocked_before:
            left.append(f'{blocked} blocked clients in place of {blocked_before}')
        return not left

    try:
        await eventually(nothing_left)
    except TimeoutError:
        await nothing_left()  # the last check may have been cancelled before it found anything
    assert left == [], 'the test has left something behind'


class OnClient:
    """Fixtures for a client and its transport. Each test must leave nothing behind."""

    pytestmark: pytest.MarkDecorator = pytest.mark.anyio

    @pytest.fixture
    def client_factory(self) -> ClientFactory:
        raise NotImplementedError('define the fixture client_factory, see torrelque.testing.conformance')

    @pytest.fixture
    def count_blocked(self, client_factory: ClientFactory) -> CountBlocked:
        """Return a function that counts the clients in blocking calls on the server."""

        async def count() -> int:
            async with client_factory() as client:
                transport = adapt(client)
                try:
                    return await blocked_clients(transport)
                finally:
                    if transport is not client:
                        await transport.aclose()

        return count

    @pytest.fixture(autouse=True)
    async def leaves_nothing_behind(self, count_blocked: CountBlocked) -> AsyncIterator[None]:
        """Check after each test that it left no event-loop task, socket or blocked client behind."""
        async with nothing_left_behind(count_blocked):
            yield

    @pytest.fixture
    async def client(self, client_factory: ClientFactory) -> AsyncIterator[Client]:
        async with client_factory() as client:
            yield client

    @pytest.fixture
    async def transport(self, client: Client) -> AsyncIterator[Transport]:
        transport = adapt(client)
        yield transport
        if transport is not client:
            await transport.aclose()


class OnQueue(OnClient):
    """Fixture for a new queue, with ``shards`` if set."""

    shards: int | None = None

    def make_queue(self, client: Client, queue: str, **options: Any) -> Torrelque:  # noqa: ANN401 - options have any type
        return Torrelque(client, queue=queue, shards=self.shards, **options)

    @pytest.fixture
    async def queue(self, client: Client) -> AsyncIterator[Torrelque]:
        async with self.make_queue(client, unique()) as queue:
            yield queue


async def block_and(transport: Transport, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
    """Run a call that blocks and one behind it, without a waiting task if the transport can."""
    outcomes: list[Sequence[Reply] | Rest] = []
    over = anyio.Event()

    def receive(outcome: Sequence[Reply] | Rest) -> None:
        outcomes.append(outcome)
        over.set()

    if transport.start_block((call, then), timeout, receive) is None:
        return await transport.block_then(call, then, timeout)
    await over.wait()
    (outcome,) = outcomes
    return await outcome() if callable(outcome) else outcome
