"""Opens connections to a server, and authenticates on them."""

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
from torrelque.transports.native.options import Options
from torrelque.transports.native.unix import connect_unix
from torrelque.transports.native.url import Address
from torrelque.transports.tls import diagnose, failed_handshake, reason_of

__all__ = ('Dialer',)

TCP_OPTIONS = {
    # Seconds, and a number of probes. With these the system notices a lost server within about 9 s.
    'TCP_KEEPIDLE': 5,
    'TCP_KEEPALIVE': 5,  # the name of the first one on macOS
    'TCP_KEEPINTVL': 2,
    'TCP_KEEPCNT': 2,
    # Maximum number of unsent bytes in the system. With more, the bytes sent would not show the real progress.
    'TCP_NOTSENT_LOWAT': 128 * 1024,
}
"""TCP options. Those that the operating system lacks are skipped."""

PLAIN = 'the server does not use TLS at this port (redis://)'
NEEDS_CERTIFICATE = 'set ssl_certfile and ssl_keyfile in the URL, or load a certificate into ssl_context'


class Dialer:
    """Opens connections to one address. `aclose` closes those that are still open."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self._options = options
        self._timeout = options.connect_timeout
        self._open: set[Connection] = set()
        self._closed = False

    async def open(self) -> Connection:
        """Connect and authenticate once, within the connect time-out. Safe to cancel.

        If the server refuses credentials from a callback, the callback is called a second time.

        Raises:
            TorrelqueHandshakeError: The failure is permanent.
            TorrelqueConnectionError: Any other failure.
        """
        try:
            return await self._open_once()
        except TorrelqueRefusedError:
            if self._options.credentials is None:
                raise
        return await self._open_once()  # the credentials may just have been rotated

    async def _open_once(self) -> Connection:
        user, password = await self._credentials()
        connection: Connection | None = None
        try:
            with anyio.fail_after(self._timeout):
                connection = Connection(await self._dial(), self.address)
                self._open.add(connection)
                await self._shake_hands(connection, user, password)
            self._check_open()
        except BaseException as error:
            if connection is not None:
                await self.close(connection)
            if isinstance(error, TimeoutError):
                raise await self._too_late(reached=connection is not None) from None
            if isinstance(error, TorrelqueConnectionError):
                await self._explain(error, connection)
            raise
        return connection

    async def close(self, connection: Connection) -> None:
        """Close a connection that this dialer opened."""
        self._open.discard(connection)
        await connection.aclose()

    async def aclose(self) -> None:
        """Close every connection. Waiting callers get TorrelqueConnectionError. Safe to repeat."""
        self._closed = True
        while self._open:
            await self._open.pop().aclose()

    def closed(self) -> TorrelqueConnectionError:
        return TorrelqueConnectionError(f'{self.address}: the transport was closed')

    def _check_open(self) -> None:
        if self._closed:
            raise self.closed()

    async def _credentials(self) -> tuple[str | None, str | None]:
        if self._options.credentials is None:
            return self.address.user, self.address.password
        return await self._options.credentials.get(self._timeout)

    # Connecting

    async def _dial(self) -> ByteStream:
        address = self.address
        try:
            if address.path:
                return await connect_unix(address.path)
            stream: ByteStream = await anyio.connect_tcp(address.host, address.port)
        except PermissionError as error:
            if address.path:
                raise TorrelqueHandshakeError(
                    f'{address}: permission denied: this user may not connect to the socket'
                ) from error
            raise TorrelqueConnectionError(f'{address}: cannot connect: {reason(error)}') from error
        except UnicodeError as error:
            raise TorrelqueHandshakeError(f'{address}: not a valid name of a host: {error}') from error
        except STREAM_ERRORS as error:
            raise TorrelqueConnectionError(f'{address}: cannot connect: {reason(error)}') from error
        _set_options(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - not Django's
        context = self._options.ssl_context
        return stream if context is None else await self._encrypt(stream, context)

    async def _encrypt(self, stream: ByteStream, context: ssl.SSLContext) -> ByteStream:
        try:
            # In RESP the end of a reply is known, so TLS's closing handshake would add nothing.
            return await TLSStream.wrap(
                stream, hostname=self.address.host, ssl_context=context, standard_compatible=False
            )
        except BaseException as error:
            await anyio.aclose_forcefully(stream)
            if isinstance(error, (*STREAM_ERRORS, ssl.CertificateError)):
                why = reason_of(error)
                if why:
                    raise self._untrusted(why) from error
                raise TorrelqueConnectionError(f'{self.address}: cannot connect: {reason(error)}') from error
            raise

    def _untrusted(self, why: str) -> TorrelqueHandshakeError:
        if 'wrong version number' in why or 'record layer failure' in why:
            why = PLAIN
        elif 'certificate required' in why:
            why = f'{why}: {NEEDS_CERTIFICATE}'
        return TorrelqueHandshakeError(failed_handshake(str(self.address), why))

    async def _explain(self, error: TorrelqueConnectionError, connection: Connection | None) -> None:
        """Raise TorrelqueHandshakeError if TLS is the reason why the connection was closed before any answer."""
        address = self.address
        if connection is None or not connection.cut or connection.answered or address.path:
            return
        why = reason_of(error, connected=True)
        why = why or await diagnose(address.host, address.port, self._options.ssl_context)
        if why:
            raise self._untrusted(why) from error

    async def _too_late(self, *, reached: bool) -> TorrelqueConnectionError:
        if reached:
            return TorrelqueResponseTimeout(f'{self.address}: connected, but no answer within {self._timeout:g} s')
        if self._options.ssl_context is not None and await self._answers_without_tls():
            return self._untrusted(PLAIN)
        return TorrelqueConnectionError(f'{self.address}: no connection within {self._timeout:g} s')

    async def _answers_without_tls(self) -> bool:
        """Return whether the server answers without TLS. Such a server does not answer a TLS handshake."""
        with anyio.move_on_after(1):
            try:
                async with await anyio.connect_tcp(self.address.host, self.address.port) as stream:
                    await stream.send(b'PING\r\n')
                    return (await stream.receive())[:1] in (b'+', b'-')
            except STREAM_ERRORS:
                return False
        return False

    # Authenticating

    async def _shake_hands(self, connection: Connection, user: str | None, password: str | None) -> None:
        hello: list[tuple[Arg, ...]] = []
        if password is not None:
            hello.append(('AUTH', password) if user is None else ('AUTH', user, password))
        if self.address.db:
            hello.append(('SELECT', self.address.db))
        hello.append(('PING',))
        await connection.send(b''.join([pack_words(words) for words in hello]))
        replies: list[Reply] = []
        while len(replies) < len(hello):
            replies += await connection.receive()
            for words, reply in zip(hello, replies, strict=False):
                if isinstance(reply, TorrelqueReplyError):
                    self._check_answer(str(words[0]), reply)

    def _check_answer(self, command: str, error: TorrelqueReplyError) -> None:
        """Raise an error unless the connection can be used despite this answer."""
        message = f'{self.address}: {command} was answered: {error}'
        if error.code in ('LOADING', 'BUSY') or TURNED_AWAY in str(error):
            raise TorrelqueConnectionError(message)
        # Other errors (NOPERM, MISCONF, MASTERDOWN) may concern only this PING, not the user's calls.
        if command != 'PING' or error.code in ('NOAUTH', 'DENIED'):
            raise TorrelqueRefusedError(message, error.code)


def _set_options(raw: socket.socket) -> None:
    """Make the operating system probe idle connections. This also keeps them alive behind a NAT."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
