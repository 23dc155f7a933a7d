"""One connection to a server: bytes go out, replies come in, every failure is a TorrelqueConnectionError."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import cast

import anyio
import hiredis
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from torrelque.core.protocol import Arg, Batch, Reply
from torrelque.errors import (
    TURNED_AWAY,
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.transports.native.unix import connect_unix
from torrelque.transports.native.url import Address

__all__ = ('Connection', 'Dialer', 'pack', 'pack_words')

CHUNK = 256 * 1024
"""The most that is received, or handed to the stream to send, at once. Each piece counts as progress."""

STREAM_ERRORS = (
    OSError,
    anyio.BrokenResourceError,
    anyio.BusyResourceError,  # TLS renegotiating in both directions at once
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)
NOTHING = object()

pack_words: Callable[[tuple[Arg, ...]], bytes] = cast('Callable[[tuple[Arg, ...]], bytes]', hiredis.pack_command)
"""One command as it goes over the wire. Its published type allows one word only."""


def pack(batch: Batch) -> bytes:
    """The calls as they go over the wire."""
    try:
        if len(batch) == 1:
            return pack_words(tuple(batch[0].words()))
        return b''.join([pack_words(tuple(call.words())) for call in batch])
    except TypeError:
        words = [word for call in batch for word in call.words()]
        bad = [word for word in words if type(word) is not int and not isinstance(word, bytes | str)]
        raise TorrelqueTypeError(f'every word of a command must be bytes, str or int, not {bad[:1]}') from None
    except UnicodeEncodeError as error:
        raise TorrelqueValueError(f'a word of a command cannot be encoded as UTF-8: {error}') from None


class Connection:
    """An open stream and its parser. One task may send while another receives."""

    __slots__ = ('_address', '_parser', '_plain', '_socket', '_stream', 'progress')

    def __init__(self, stream: ByteStream, address: Address) -> None:
        self._stream = stream
        self._plain = isinstance(stream, SocketStream)
        self._socket: socket.socket | None = None  # another handle of a plain stream's, once it is needed
        self._address = address
        self._parser = hiredis.Reader(
            protocolError=lambda message: TorrelqueConnectionError(f'{address}: {message}'),
            replyError=TorrelqueReplyError,
            notEnoughData=NOTHING,
        )
        self.progress: int = 0
        """Goes up whenever bytes went either way: how a silent server is told from a slow one."""

    async def send(self, data: bytes) -> None:
        """Send it all. When cancelled, part of it may be on its way: close the connection."""
        try:
            if len(data) <= CHUNK:
                await self._stream.send(data)
                self.progress += 1
                return
            for start in range(0, len(data), CHUNK):
                await self._stream.send(data[start : start + CHUNK])
                self.progress += 1
        except STREAM_ERRORS as error:
            raise self.broken(error) from error

    def send_now(self, data: bytes) -> int:
        """Send what the system takes at once, without a turn of the event loop; how many bytes that was, maybe none.

        Only while all that `send` was given has been sent.
        """
        if not self._plain:
            return 0
        try:
            if self._socket is None:
                raw = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
                self._socket = socket.fromfd(raw.fileno(), raw.family, raw.type)
            count = self._socket.send(data[:CHUNK])
        except OSError:  # there is no room, or it is broken: then `receive` will say so
            return 0
        self.progress += 1
        return count

    async def receive(self) -> list[Reply]:
        """Wait for replies and return all that are complete. Cancelling loses nothing."""
        gets = self._parser.gets
        replies: list[Reply] = []
        while not replies:
            try:
                data = await self._stream.receive(CHUNK)
            except STREAM_ERRORS as error:
                raise self.broken(error) from error
            self.progress += 1
            self._parser.feed(data)
            while (reply := gets()) is not NOTHING:
                replies.append(reply)
        return replies

    def broken(self, error: Exception) -> TorrelqueConnectionError:
        return TorrelqueConnectionError(f'{self._address}: {_reason(error)}')

    async def aclose(self) -> None:
        """Close at once, also when cancelled. May be repeated."""
        if self._socket is not None:
            self._socket.close()
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)


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
            if self._ssl_context is None:
                return await anyio.connect_tcp(address.host, address.port)
            # RESP tells where a reply ends, so TLS's closing handshake would add nothing.
            return await anyio.connect_tcp(
                address.host, address.port, ssl_context=self._ssl_context, tls_standard_compatible=False
            )
        except ssl.SSLError as error:
            lasting = not isinstance(error, ssl.SSLEOFError)
            kind = TorrelqueHandshakeError if lasting else TorrelqueConnectionError
            raise kind(f'{address}: {_reason(error)}') from error
        except (*STREAM_ERRORS, UnicodeError) as error:  # UnicodeError: a host that is no valid name
            raise TorrelqueConnectionError(f'{address}: cannot connect: {_reason(error)}') from error

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


def _reason(error: BaseException) -> str:
    """What went wrong, in the words of the innermost error that has some."""
    if isinstance(error, anyio.EndOfStream):
        return 'the server closed the connection'
    if isinstance(error, anyio.ClosedResourceError):
        return 'the connection was closed'
    if isinstance(error.__cause__, OSError):
        return _reason(error.__cause__)
    if isinstance(error.__cause__, ExceptionGroup):
        return '; '.join(_reason(each) for each in error.__cause__.exceptions)
    return str(error) or type(error).__name__
