"""A server that misbehaves on order: it answers what the test says, cuts connections, or is silent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import hiredis
from anyio.abc import SocketAttribute, SocketStream

PONG = b'+PONG\r\n'
CUT = b''
"""An answer that closes the connection."""

SILENCE = None
"""No answer, now."""

Answer = bytes | None


@dataclass
class Fake:
    """``answer(connection, words)`` is what connection 1, 2... gets for a command; PING is answered otherwise."""

    port: int
    answer: Callable[[int, list[bytes]], Answer]
    pong: Callable[[int], Answer] = lambda _: PONG
    cut_after: dict[int, int] = field(default_factory=dict)
    """How many bytes of answers a connection carries before it is cut in the middle of them."""

    received: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """The commands by connection, without PING."""

    connections: int = 0
    _news: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f'redis://127.0.0.1:{self.port}'

    async def until_received(self, count: int) -> None:
        while len(self.received) < count:
            await self._news.wait()

    async def handle(self, stream: SocketStream) -> None:
        self.connections += 1
        number, reader = self.connections, hiredis.Reader()
        left = self.cut_after.get(number, -1)
        async with stream:
            # A client that sees its connection closed looks whether TLS is expected: that is no command.
            with suppress(
                anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, hiredis.ProtocolError
            ):
                while True:
                    reader.feed(await stream.receive())
                    while (words := reader.gets()) is not False:
                        answer = self._answer(number, words)
                        if answer is None:
                            continue
                        part = answer if left < 0 else answer[:left]
                        await stream.send(part)
                        if len(part) < len(answer) or answer == CUT:
                            return
                        left -= len(part) if left >= 0 else 0

    def _answer(self, number: int, words: list[bytes]) -> Answer:
        if words == [b'PING']:
            return self.pong(number)
        self.received.append((number, words))
        self._news.set()
        self._news = anyio.Event()
        return self.answer(number, words)


@asynccontextmanager
async def fake_server(
    answer: Callable[[int, list[bytes]], Answer],
    *,
    pong: Callable[[int], Answer] = lambda _: PONG,
    cut_after: dict[int, int] | None = None,
) -> AsyncIterator[Fake]:
    """Serve on a free loopback port while the context lasts."""
    async with await anyio.create_tcp_listener(local_host='127.0.0.1') as listener, anyio.create_task_group() as group:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        fake = Fake(port, answer, pong, cut_after or {})
        group.start_soon(listener.serve, fake.handle)
        yield fake
        group.cancel_scope.cancel()


def bulk(data: bytes) -> bytes:
    return b'$%d\r\n%b\r\n' % (len(data), data)


def echo(_: int, words: list[bytes]) -> Answer:
    """What a server does with ECHO."""
    return bulk(words[1])


def as_keydb(number: int, words: list[bytes]) -> Answer:
    """KeyDB runs what is behind a call that blocked only when more bytes arrive, as they do with `nudged`."""
    if words[0] == b'BZPOPMIN':
        return b'*3\r\n' + bulk(b'z') + bulk(b'm') + bulk(b'0')
    return SILENCE if words[0] == b'RPOP' else b'+OK\r\n'


def nudged(connection: int) -> Answer:
    """What a PING brings: on the first connection of a client nothing blocks."""
    return PONG if connection == 1 else bulk(b'a') + PONG
