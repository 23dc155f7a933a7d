"""Your own transport, as small as it can be: a new connection for each batch, on any event loop.

Give it to ``Torrelque`` in place of a client::

    async with Torrelque(PlainTransport('127.0.0.1', 6379)) as queue:
        ...

It has all that the interface asks for and passes the conformance suite. What it
lacks is speed: a good transport keeps its connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import hiredis
from anyio.abc import ByteStream

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError
from torrelque.transports.base import Listener, Message, Transport

PATIENCE = 5.0
"""Seconds that the server may take beyond what it was asked to wait."""

INCOMPLETE = object()


class Connection:
    """Sends commands and parses what comes back; every failure is a TorrelqueConnectionError."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._parser = hiredis.Reader(
            protocolError=TorrelqueConnectionError, replyError=TorrelqueReplyError, notEnoughData=INCOMPLETE
        )

    async def send(self, *commands: Sequence[Arg]) -> None:
        data = b''.join(hiredis.pack_command(tuple(words)) for words in commands)  # type: ignore[arg-type]  # any length
        try:
            await self._stream.send(data)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise TorrelqueConnectionError(f'cannot send: {error!r}') from error

    async def receive(self) -> Reply:
        while (reply := self._parser.gets()) is INCOMPLETE:
            try:
                self._parser.feed(await self._stream.receive())
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
                raise TorrelqueConnectionError(f'the connection broke: {error!r}') from error
        return reply


class PlainListener(Listener):
    """A connection that is subscribed to channels."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = anyio.Lock()  # any task may subscribe, and they must not send at the same time

    async def subscribe(self, channel: bytes) -> None:
        async with self._turn:
            await self._connection.send((b'SUBSCRIBE', channel))

    async def unsubscribe(self, channel: bytes) -> None:
        async with self._turn:
            await self._connection.send((b'UNSUBSCRIBE', channel))

    async def receive(self) -> Message:
        while True:
            match await self._connection.receive():
                case [b'message', bytes(channel), bytes(data)]:
                    return Message(channel, data)
                case [b'subscribe', bytes(channel), _]:
                    return Message(channel, None)
                case TorrelqueReplyError() as error:  # the user may not subscribe to this channel
                    raise error


class PlainTransport(Transport):
    """A server at ``host`` and ``port``."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if not batch:
            await anyio.lowlevel.checkpoint()
            return []
        return await self._exchange(batch, PATIENCE)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        (reply,) = await self._exchange([call], timeout + PATIENCE)
        return reply

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        async with self._connected() as connection:
            yield PlainListener(connection)

    async def _exchange(self, batch: Batch, patience: float) -> list[Reply]:
        try:
            with anyio.fail_after(patience):
                async with self._connected() as connection:
                    await connection.send(*[call.words() for call in batch])
                    return [await connection.receive() for _ in batch]
        except TimeoutError:
            raise TorrelqueConnectionError(f'{self._host}:{self._port} did not answer in time') from None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        try:
            stream = await anyio.connect_tcp(self._host, self._port)
        except OSError as error:
            raise TorrelqueConnectionError(f'cannot connect to {self._host}:{self._port}: {error}') from error
        # Whatever happened, nobody will use this connection again, so there is no step to be out of.
        try:
            yield Connection(stream)
        finally:
            await anyio.aclose_forcefully(stream)
