"""The native transport: entering, leaving, and using it wrongly."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.servers import Server
from tests.transports.fake import SILENCE, fake_server
from tests.transports.native_support import Start, ask, call, until
from torrelque import Torrelque
from torrelque.core.protocol import Call
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.transports import forks
from torrelque.transports.native import (
    NativeTransport,
    connect,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def waiting(client: NativeTransport) -> AsyncIterator[list[TorrelqueConnectionError]]:
    """A caller in each of the three methods; gives the errors that end them."""
    errors: list[TorrelqueConnectionError] = []
    ready = [anyio.Event() for _ in range(3)]

    async def listen() -> None:
        async with client.listen() as listening:
            ready[2].set()
            await listening.receive()

    async def collect(number: int, call: Callable[[], Any]) -> None:
        ready[number].set() if number < 2 else None
        with pytest.raises(TorrelqueConnectionError) as caught:
            await call()
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(collect, 0, lambda: ask(client, 'GET', 'a'))
        group.start_soon(collect, 1, lambda: client.block(call('BLPOP', 'a', 8), 8))
        group.start_soon(collect, 2, listen)
        for event in ready:
            await event.wait()
        yield errors


async def test_closing_ends_waiting_callers() -> None:
    async with fake_server(lambda _number, _words: SILENCE) as fake, connect(fake.url) as client:
        async with waiting(client) as errors:
            await fake.until_received(2)
            await client.aclose()
            await client.aclose()
        assert len(errors) == 3
        assert all('closed' in str(error) for error in errors)
        with pytest.raises(TorrelqueUsageError, match='closed'):
            await ask(client, 'ECHO', 'x')


async def test_nothing_is_left_behind(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client:
        await ask(client, 'ECHO', 'x')
        await client.block(call('ECHO', 'x'), 1)
    await until(lambda: server.command('CLIENT', 'LIST').count(b'\n') == 1)
    del client
    gc.collect()  # a ResourceWarning would fail the test


async def test_the_body_ends_as_it_would_without_a_client(fresh_server: Start) -> None:
    server = fresh_server()
    with pytest.raises(LookupError, match='bare'):
        async with connect(server.url):
            raise LookupError('bare')
    with anyio.move_on_after(0.05) as scope:
        async with connect(server.url) as client:
            await client.block(call('BLPOP', 'none', 8), 8)
    assert scope.cancelled_caught


async def test_entering_can_be_cancelled(free_tcp_port: int) -> None:
    with anyio.move_on_after(0.1) as scope:
        await connect(f'redis://127.0.0.1:{free_tcp_port}', retry_timeout=300).__aenter__()
    assert scope.cancelled_caught


async def test_use_outside_the_context(fresh_server: Start) -> None:
    client = connect(fresh_server().url)
    uses: Sequence[Callable[[], Any]] = (
        lambda: ask(client, 'ECHO', 'x'),
        lambda: client.block(call('ECHO', 'x'), 1),
        lambda: client.listen().__aenter__(),
    )
    for use in uses:
        with pytest.raises(TorrelqueUsageError, match=r'not connected yet.*async with'):
            await use()
    async with client as entered:
        assert entered is client
        with pytest.raises(TorrelqueUsageError, match='again'):
            await client.__aenter__()
        assert await ask(client, 'ECHO', 'x') == b'x'
    for use in uses:
        with pytest.raises(TorrelqueUsageError, match=r'closed.*async with'):
            await use()
    with pytest.raises(TorrelqueUsageError, match=r'connect\(\) again'):
        await client.__aenter__()


async def test_a_client_is_not_used_in_a_forked_child(fresh_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connect(fresh_server().url) as client:
        uses: Sequence[Callable[[], Any]] = (
            lambda: ask(client, 'ECHO', 'x'),
            lambda: client.block(call('ECHO', 'x'), 1),
        )
        with monkeypatch.context() as patch:
            patch.setattr(forks, 'count', 1)  # a fork of a process that runs an event loop has its own perils
            for use in uses:
                with pytest.raises(TorrelqueUsageError, match='in the child'):
                    await use()
        assert await ask(client, 'ECHO', 'x') == b'x'


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ({'retry_timeout': -1}, 'retry_timeout: expected seconds from 0 up to 300, not -1'),
        ({'retry_timeout': 301}, 'not 301'),
        ({'connect_timeout': 0}, 'connect_timeout: expected seconds above 0'),
        ({'response_timeout': float('nan')}, 'not nan'),
        ({'response_timeout': float('inf')}, 'not inf'),
        ({'ssl_context': ssl.create_default_context()}, 'only a rediss:// URL'),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(TorrelqueValueError) as caught:
        connect('redis://h', **arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize('arguments', [{'retry_timeout': '1'}, {'connect_timeout': True}, {'ssl_context': 1}])
def test_arguments_of_a_wrong_type(arguments: dict[str, Any]) -> None:
    with pytest.raises(TorrelqueTypeError, match=next(iter(arguments))):
        connect('rediss://h', **arguments)


# Without a context ---------------------------------------------------------------------------------------------------


def test_opened_and_closed_by_different_tasks(server: Server) -> None:
    async def main() -> None:
        client = connect(server.url)
        assert await asyncio.create_task(client.aopen()) is client
        queue = Torrelque(client, queue='opened')
        task_id = await queue.enqueue(1)
        assert (await queue.dequeue()).id == task_id
        await asyncio.create_task(queue.aclose())
        await asyncio.create_task(client.aclose())
        await client.aclose()
        with pytest.raises(TorrelqueUsageError, match='closed'):
            await client.execute([Call('PING')])
        with pytest.raises(TorrelqueUsageError, match='was used before'):
            await client.aopen()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_opening_where_there_is_no_server() -> None:
    async def main() -> None:
        client = connect('redis://127.0.0.1:1', retry_timeout=0)
        with pytest.raises(TorrelqueConnectionError, match='cannot connect'):
            await client.aopen()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_opened_and_never_closed(server: Server) -> None:
    async def main() -> None:
        client = await connect(server.url).aopen()
        await client.execute([Call('PING')])

    asyncio.run(main())


def test_opening_that_is_cancelled(server: Server) -> None:
    async def main() -> None:
        client = connect(server.url)
        opening = asyncio.create_task(client.aopen())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        await client.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_trio_needs_the_context(server: Server) -> None:
    async def main() -> None:
        with pytest.raises(TorrelqueUsageError, match='under Trio, open a client with `async with'):
            await connect(server.url).aopen()

    anyio.run(main, backend='trio')
