"""What the tests of the native transport share."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from tests.servers import Server
from torrelque.core.protocol import Call, Reply
from torrelque.transports.native import NativeTransport

Start = Callable[..., Server]


def call(*words: bytes | str | int) -> Call[Reply]:
    return Call(str(words[0]), args=words[1:])


async def ask(client: NativeTransport, *words: bytes | str | int) -> Reply:
    """One command's reply."""
    (reply,) = await client.execute([call(*words)])
    return reply


async def until(condition: Callable[[], bool]) -> None:
    """For what only the server knows."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await anyio.sleep(0.01)


def blocked(server: Server) -> int:
    return int(server.info('clients')['blocked_clients'])
