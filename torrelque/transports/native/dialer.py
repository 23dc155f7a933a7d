"""Opens connections to a server and introduces itself there."""

from __future__ import annotations

import socket
import ssl

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from torrelque.core.protocol import Arg, Reply
from torrelque.errors import (
    TURNED_AWAY,
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
)
from torrelque.transports.native.connection import STREAM_ERRORS, Connection, pack_words, reason
from torrelque.transports.native.unix import connect_unix
from torrelque.transports.native.url import Address

__all__ = ('Dialer',)

KEEP_ALIVE = {'TCP_KEEPIDLE': 5, 'TCP_KEEPALIVE': 5, 'TCP_KEEPINTVL': 2, 'TCP_KEEPCNT': 2}
"""Seconds, and a number: the system notices within about 9 s that the other end of an idle connection is gone.

Those that a system does not know are left as they are; ``TCP_KEEPALIVE`` is what macOS calls the first one.
"""


class Dialer:
    """Opens connections to one address, and closes those that are still open at the end."""

    def __init__(self, address: Address, ssl_context: ssl.SSLContext | None, timeout: float) -> None:
        self.address = address
        self._ssl_context = ssl_context
        self._timeout = timeout
        self._open: set[Connection] = set()
        self._closed = False

    async def open(self) -> Connection:
        """Connect and introduce oneself, once.

        Raises TorrelqueHandshakeError if that is how it will stay, otherwise
        TorrelqueConnectionError; within the connect time-out. Safe to cancel.
        """
        connection: Connection | None = None
        try:
            with anyio.fail_after(self._timeout):
                connection = Connection(await self._dial(), self.address)
                self._open.add(connection)
                await self._shake_hands(connection)
            self._check_open()
        except BaseException as error:
            if connection is not None:
                await self.close(connection)
            if isinstance(error, TimeoutError):
                raise self._too_late(reached=connection is not None) from None
            raise
        return connection

    async def close(self, connection: Connection) -> None:
        """Close a connection that this dialer opened."""
        self._open.discard(connection)
        await connection.aclose()

    async def aclose(self) -> None:
        """Close every connection; whoever waits for one gets TorrelqueConnectionError."""
        self._closed = True
        while self._open:
            await self._open.pop().aclose()

    def closed(self) -> TorrelqueConnectionError:
        return TorrelqueConnectionError(f'{self.address}: the transport was closed')

    def _check_open(self) -> None:
        if self._closed:
            raise self.closed()

    def _too_late(self, *, reached: bool) -> TorrelqueConnectionError:
        if reached:
            return TorrelqueResponseTimeout(f'{self.address}: connected, but no answer within {self._timeout:g} s')
        return TorrelqueConnectionError(f'{self.address}: no connection within {self._timeout:g} s')

    async def _dial(self) -> ByteStream:
        address = self.address
        try:
            if address.path:
                return await connect_unix(address.path)
            stream: ByteStream = await anyio.connect_tcp(address.host, address.port)
            _keep_alive(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - not Django's
            if self._ssl_context is None:
                return stream
            return await self._encrypt(stream, self._ssl_context)
        except ssl.SSLError as error:
            lasting = not isinstance(error, ssl.SSLEOFError)
            kind = TorrelqueHandshakeError if lasting else TorrelqueConnectionError
            raise kind(f'{address}: {reason(error)}') from error
        except (*STREAM_ERRORS, UnicodeError) as error:  # UnicodeError: a host that is no valid name
            raise TorrelqueConnectionError(f'{address}: cannot connect: {reason(error)}') from error

    async def _encrypt(self, stream: ByteStream, context: ssl.SSLContext) -> ByteStream:
        try:
            # RESP tells where a reply ends, so TLS's closing handshake would add nothing.
            return await TLSStream.wrap(
                stream, hostname=self.address.host, ssl_context=context, standard_compatible=False
            )
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _shake_hands(self, connection: Connection) -> None:
        address = self.address
        hello: list[tuple[Arg, ...]] = []
        if address.password is not None:
            user = () if address.user is None else (address.user,)
            hello.append(('AUTH', *user, address.password))
        if address.db:
            hello.append(('SELECT', address.db))
        hello.append(('PING',))
        await connection.send(b''.join([pack_words(words) for words in hello]))
        replies: list[Reply] = []
        while len(replies) < len(hello):
            replies += await connection.receive()
            for words, reply in zip(hello, replies, strict=False):
                if isinstance(reply, TorrelqueReplyError):
                    self._judge(str(words[0]), reply)

    def _judge(self, command: str, error: TorrelqueReplyError) -> None:
        """Raise unless the connection is usable in spite of this answer."""
        message = f'{self.address}: {command} was answered: {error}'
        if error.code in ('LOADING', 'BUSY') or TURNED_AWAY in str(error):
            raise TorrelqueConnectionError(message)
        # Others (NOPERM, MISCONF, MASTERDOWN) refuse PING, which is our courtesy, and not what the user is here for.
        if command != 'PING' or error.code in ('NOAUTH', 'DENIED'):
            raise TorrelqueRefusedError(message, error.code)


def _keep_alive(raw: socket.socket) -> None:
    """Have the system probe the connection while it is idle, which also reminds a NAT of it."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
