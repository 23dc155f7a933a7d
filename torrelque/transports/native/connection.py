"""One connection to a server. It sends bytes and receives replies. Every failure is a TorrelqueConnectionError."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NoReturn, cast

import anyio
import hiredis
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from torrelque.core.protocol import Arg, Batch, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.transports.native.url import Address
from torrelque.transports.streams import Arrivals

__all__ = ('CHUNK', 'STREAM_ERRORS', 'Breaks', 'Connection', 'pack', 'pack_words', 'reason')

CHUNK = 256 * 1024
"""Maximum number of bytes to receive at once, or to send in one piece."""

PIECE = 64 * 1024
"""Size of the pieces in which more bytes are sent. Each piece counts as progress, even on a slow connection."""

STREAM_ERRORS = (
    OSError,
    anyio.BrokenResourceError,
    anyio.BusyResourceError,  # TLS renegotiating in both directions at once
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)
NOTHING = object()

STEPS = 16
"""A time-out begins again at most this many times in its duration, because that costs more than to receive a reply."""

MOST_WAITING = 1000
"""Maximum number of replies that nobody has received, before the connection stops reading."""

TOO_LARGE = ('ERR Protocol error: invalid bulk length', 'ERR Protocol error: invalid multibulk length')
"""A server's answers to a call that is too large. It then closes the connection."""

pack_words: Callable[[tuple[Arg, ...]], bytes] = cast('Callable[[tuple[Arg, ...]], bytes]', hiredis.pack_command)
"""Encodes one command for the wire. The type that hiredis publishes allows only one word."""


def pack(batch: Batch) -> bytes:
    """Encode calls for the wire. Raises TorrelqueTypeError or TorrelqueValueError."""
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


class Breaks:
    """Counts the connections that broke with a batch: those that it shared, and dedicated ones."""

    __slots__ = ('alone', 'beside')

    def __init__(self) -> None:
        self.beside: int = 0
        self.alone: int = 0


class Connection:
    """An open stream and its parser. One task may send while another receives."""

    __slots__ = (
        '_address',
        '_arrivals',
        '_arrived',
        '_failure',
        '_finished',
        '_moved',
        '_news',
        '_parser',
        '_plain',
        '_quiet',
        '_scope',
        '_sink',
        '_socket',
        '_stream',
        '_timer',
        'answered',
        'cut',
        'heard',
        'progress',
    )

    def __init__(self, stream: ByteStream, address: Address) -> None:
        self._stream = stream
        self._plain = isinstance(stream, SocketStream)
        self._socket: socket.socket | None = None  # a second handle of a plain stream's socket, once it is needed
        self._address = address
        self._parser = hiredis.Reader(
            protocolError=lambda message: TorrelqueConnectionError(f'{address}: {message}'),
            replyError=_reply_error,
            notEnoughData=NOTHING,
        )
        self._scope: anyio.CancelScope | None = None
        self._quiet = self._moved = 0.0
        self._arrived: list[Reply] = []  # that nobody has received
        self._sink: Callable[[list[Reply]], None] | None = None
        self._news: Callable[[], None] | None = None  # called once, when something has arrived or gone wrong
        self._failure: TorrelqueConnectionError | None = None
        self._finished = False
        self._timer: asyncio.TimerHandle | None = None
        self._arrivals = Arrivals.of(stream, self._take, self._finish)
        self.progress: int = 0
        """Increases whenever bytes move in either direction. It distinguishes a slow server from a silent one."""
        self.heard: float = time.monotonic()
        """When the last bytes arrived."""
        self.answered: bool = False
        """Whether the server has ever sent anything."""
        self.cut: bool = False
        """Whether it broke, as opposed to being closed by `aclose`."""

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as this side knows."""
        return not (self.cut or self._finished)

    async def send(self, data: bytes) -> None:
        """Send all bytes. After a cancellation some may have been sent: close the connection."""
        try:
            if len(data) <= CHUNK:
                await self._stream.send(data)
                self._progressed()
                return
            for start in range(0, len(data), PIECE):
                await self._stream.send(data[start : start + PIECE])
                self._progressed()
        except STREAM_ERRORS as error:
            raise self._broken(error) from error

    def send_now(self, data: bytes) -> int:
        """Send as much as the operating system accepts at once, and return the number of bytes, which may be 0.

        Call it only when no `send` is under way.
        """
        if not self._plain:
            return 0
        try:
            if self._socket is None:
                raw = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
                self._socket = socket.fromfd(raw.fileno(), raw.family, raw.type)
            count = self._socket.send(data[:CHUNK])
        except OSError:  # the buffer is full, or the connection is broken: then `receive` will raise
            return 0
        self.progress += 1
        return count

    def start(self, data: bytes, seconds: float, news: Callable[[], None]) -> bool:
        """Send bytes, and call ``news`` once, when something has arrived or gone wrong, unless `stop` is called before.

        Args:
            data: The bytes.
            seconds: How long the connection may be silent.
            news: The function.

        Returns:
            Whether the bytes were sent. If not, use `send` and `receive` in a task.
        """
        if self._arrivals is None or self._arrived or self._failure is not None or self._finished:
            return False
        self._news = news
        self.watch(seconds)
        self._arrivals.write(data)
        self._progressed()
        return True

    def stop(self) -> None:
        """Do not call the function that was passed to `start`. Close the connection then."""
        self._news = None

    def take_good(self, count: int) -> list[Reply] | None:
        """End what `start` began, if this number of replies has arrived, without an error. Otherwise return None."""
        replies = self._arrived
        refused = [reply for reply in replies if isinstance(reply, TorrelqueReplyError)]
        if len(replies) != count or refused or self._failure is not None:
            return None
        self._arrived = []
        self.watch(0.0)
        return replies

    async def receive(self) -> list[Reply]:
        """Wait for replies that are complete, and return them. Safe to cancel."""
        while not self._arrived:
            await self._wait()
        replies, self._arrived = self._arrived, []
        if self._arrivals is not None and len(replies) > MOST_WAITING:
            self._arrivals.resume()
        return replies

    async def receive_all(self, sink: Callable[[list[Reply]], None]) -> NoReturn:
        """Pass replies to ``sink`` as they arrive, until the connection ends or ``sink`` raises an error."""
        self._sink = sink
        try:
            if self._arrived:
                sink(await self.receive())
            while True:
                await self._wait()
        finally:
            self._sink = None

    async def _wait(self) -> None:
        """Wait for something to arrive, or to go wrong. Raises TorrelqueConnectionError if that has happened."""
        if self._failure is not None:
            raise self._failure
        if self._arrivals is None or self._finished:
            try:
                # A variable would keep the bytes alive until more arrive.
                self._take(await self._stream.receive(CHUNK))
            except STREAM_ERRORS as error:
                raise self._broken(error) from error
        else:
            news = asyncio.get_running_loop().create_future()
            self._news = partial(_wake, news)
            try:
                await news
            finally:
                self._news = None

    def _take(self, data: bytes) -> None:
        """Process bytes that have arrived. Those behind an error are no replies to anything."""
        if self._failure is not None:
            return
        self.heard = time.monotonic()
        self.answered = True
        self._progressed()
        replies = self._arrived
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not NOTHING:
                replies.append(reply)
        except TorrelqueConnectionError as error:
            self._failure = error
        if self._sink is not None:
            self._arrived = []
            try:
                self._sink(replies)
            except TorrelqueConnectionError as error:
                self._failure = error
            if self._failure is None:
                return
        if self._arrivals is not None and len(replies) > MOST_WAITING:
            self._arrivals.pause()
        self._notify()

    def _finish(self) -> None:
        self._finished = True
        self._notify()

    def _notify(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news()

    def fail_if_quiet(self, seconds: float) -> AbstractContextManager[None]:
        """Raise TorrelqueResponseTimeout if no bytes move in either direction for this number of seconds."""
        return self._limit_in_scope(seconds) if self._arrivals is None else _Watch(self.watch, seconds)

    def watch(self, seconds: float) -> None:
        """Begin to fail if no bytes move for this number of seconds; end it with 0. Only for `fail_if_quiet`."""
        self._quiet = seconds
        if not seconds:
            return  # the timer goes on, because the next exchange usually needs it
        loop = asyncio.get_running_loop()
        self._moved = time.monotonic()
        if self._timer is not None and self._timer.when() > loop.time() + seconds:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._quiet:
            return
        left = self._moved + self._quiet - time.monotonic()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)
        elif self._arrivals is not None:
            self._failure = self._silent(self._quiet)
            self._arrivals.abort()  # a task may be sending
            self._notify()

    def _silent(self, seconds: float) -> TorrelqueResponseTimeout:
        return TorrelqueResponseTimeout(f'{self._address}: no answer for {seconds:g} s')

    @contextmanager
    def _limit_in_scope(self, seconds: float) -> Iterator[None]:
        with anyio.move_on_after(seconds) as scope:
            self._scope, self._quiet, self._moved = scope, seconds, time.monotonic()
            try:
                yield
            finally:
                self._scope = None
        if scope.cancelled_caught:
            raise self._silent(seconds)

    def _progressed(self) -> None:
        self.progress += 1
        if self._scope is None:
            self._moved = time.monotonic()
        else:
            elapsed = time.monotonic() - self._moved
            if elapsed > self._quiet / STEPS:
                self._scope.deadline += elapsed
                self._moved += elapsed

    def _broken(self, error: Exception) -> TorrelqueConnectionError:
        if isinstance(self._failure, TorrelqueResponseTimeout):
            return self._failure
        self.cut = self.cut or not isinstance(error, anyio.ClosedResourceError)
        return TorrelqueConnectionError(f'{self._address}: {reason(error)}')

    async def aclose(self) -> None:
        """Close at once, even when cancelled. Safe to repeat."""
        if self._socket is not None:
            self._socket.close()
        if self._timer is not None:
            self._timer.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)


class _Watch:
    """A context in which a connection is watched. It is entered for each exchange, so it is as cheap as possible."""

    __slots__ = ('_seconds', '_watch')

    def __init__(self, watch: Callable[[float], None], seconds: float) -> None:
        self._watch = watch
        self._seconds = seconds

    def __enter__(self) -> None:
        self._watch(self._seconds)

    def __exit__(self, *error: object) -> None:
        self._watch(0.0)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # cancelled together with the waiting task
        future.set_result(None)


def _reply_error(message: str) -> TorrelqueReplyError:
    if message.startswith(TOO_LARGE):
        return TorrelqueTooLargeError(message)
    return TorrelqueReplyError(message)


def reason(error: BaseException) -> str:
    """Return the message of the innermost error that has one."""
    if isinstance(error, anyio.EndOfStream):
        return 'the server closed the connection'
    if isinstance(error, anyio.ClosedResourceError):
        return 'the connection was closed'
    if isinstance(error.__cause__, OSError):
        return reason(error.__cause__)
    if isinstance(error.__cause__, ExceptionGroup):
        return '; '.join(reason(each) for each in error.__cause__.exceptions)
    return str(error) or type(error).__name__
