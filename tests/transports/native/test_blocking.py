"""The native transport: blocking calls and subscriptions, on connections of their own."""

from __future__ import annotations

import anyio
import pytest

from tests.transports.native_support import Start, ask, blocked, call, until
from torrelque.errors import (
    TorrelqueConnectionError,
)
from torrelque.transports.native import connect

pytestmark = pytest.mark.anyio


async def test_a_broken_block_raises_and_is_not_repeated(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client:

        async def fail() -> None:
            with pytest.raises(TorrelqueConnectionError, match='closed the connection'):
                await client.block(call('BLPOP', 'list', 8), 8)

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(fail)
            await until(lambda: blocked(server) == 2)
            server.command('CLIENT', 'KILL', 'TYPE', 'normal')
        assert await ask(client, 'ECHO', 'x') == b'x'
        assert await client.block(call('ECHO', 'x'), 1) == b'x'


async def test_one_broken_idle_connection_stands_for_all(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(client.block, call('BLPOP', 'list', 8), 8)
            await until(lambda: blocked(server) == 3)
            await ask(client, 'LPUSH', 'list', 1, 2, 3)
        server.restart()
        with pytest.raises(TorrelqueConnectionError):
            await client.block(call('ECHO', 'x'), 1)
        assert await client.block(call('ECHO', 'x'), 1) == b'x'
