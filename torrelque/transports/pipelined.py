"""A connection that the user's client opens on asyncio, and then hands over. Many callers share it."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import cast

import anyio
import hiredis
from anyio.lowlevel import checkpoint

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueResponseTimeout, renew
from torrelque.transports.native.connection import NOTHING, pack_words

__all__ = ('PipelinedConnection', 'Request')

MOST_UNSENT = 1 << 20
"""Maximum number of unsent bytes of a listener's commands, in case the server does not read."""

MOST_PUSHED = 1000
"""Maximum number of messages that a listener buffers before it stops reading."""


class PipelinedConnection(asyncio.Protocol):
    """A connection that many callers share. The user's client opens it; then this class sends and reads.

    Args:
        address: The server's address, for messages.
        transport: The transport, of which this becomes the protocol.
        ended: Whether the server has closed the connection already.
    """

    def __init__(self, address: str, transport: asyncio.Transport, *, ended: bool) -> None:
        self.address: str = address
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(protocolError=self.lost, replyError=self.reply_error, notEnoughData=NOTHING)
        self._owed: deque[Request] = deque()
        self._outgoing: list[bytes] = []
        self._pushed: deque[Reply] | None = None
        self._news = anyio.Event()
        self._heard = self._loop.time()
        self._watchdog: asyncio.TimerHandle | None = None
        self._failure: TorrelqueConnectionError | None = None
        self.served: bool = False
        """Whether the server has ever executed a call."""
        self._transport = transport
        if ended:
            self.connection_lost(None)
        else:
            self._transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        return self._failure is None

    async def execute(self, data: bytes, count: int, seconds: float, *, blocks: bool = False) -> list[Reply]:
        """Send packed calls and return their replies.

        Args:
            data: The calls.
            count: The number of calls.
            seconds: How long the server may be silent while it owes replies.
            blocks: Whether the first call blocks. If its reply arrives alone, a PING is sent.

        Raises:
            TorrelqueConnectionError: The connection failed.
        """
        answered: asyncio.Future[list[Reply]] = self._loop.create_future()

        def settle(request: Request) -> None:
            if answered.done():  # its caller was cancelled
                return
            if request.error is not None:
                answered.set_exception(request.error)
            else:
                answered.set_result(request.replies)

        self.start(data, count, seconds, settle, blocks=blocks)
        return await answered

    def start(
        self, data: bytes, count: int, seconds: float, done: Callable[[Request], None], *, blocks: bool = False
    ) -> Request:
        """Do what :meth:`execute` does without waiting. Calls ``done`` at the end, unless abandoned."""
        if self._failure is not None:
            raise renew(self._failure)
        if self._owed:
            if not self._outgoing:
                self._loop.call_soon(self._flush)
            self._outgoing.append(data)
        else:
            self._heard = self._loop.time()
            self._transport.write(data)
        request = Request(count, seconds, done)
        request.blocks = blocks
        self._owed.append(request)
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(seconds, self._watch)
        return request

    def _flush(self) -> None:
        data, self._outgoing = b''.join(self._outgoing), []
        if self._failure is None:
            self._transport.write(data)

    def _watch(self) -> None:
        self._watchdog = None
        if not self._owed:
            return
        seconds = self._owed[0].seconds
        left = self._heard + seconds - self._loop.time()
        if left > 0:
            self._watchdog = self._loop.call_later(left, self._watch)
        else:
            self.fail(self.late(f'no answer for {seconds:g} s'))

    # Messages

    def listen(self) -> None:
        """Treat everything that arrives from now on as messages."""
        self._pushed = deque()

    async def send(self, data: bytes) -> None:
        """Send a command whose answer is a message. Raises TorrelqueConnectionError."""
        await checkpoint()
        if self._failure is not None:
            raise renew(self._failure)
        if self._transport.get_write_buffer_size() > MOST_UNSENT:
            raise self.late('the server does not read what is sent to it')
        self._transport.write(data)

    async def arrive(self) -> Reply:
        """Wait for the next message. Raises TorrelqueConnectionError once there are no more."""
        assert self._pushed is not None  # noqa: S101 - it listens
        while not self._pushed:
            if self._failure is not None:
                raise renew(self._failure)
            self._news = anyio.Event()
            await self._news.wait()
        message = self._pushed.popleft()
        if not self._pushed and self._failure is None:
            self._transport.resume_reading()
        return message

    # Called by the event loop

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not NOTHING:
                self._take(reply)
            if self._owed and self._owed[0].blocks and self._owed[0].replies:
                self._nudge(self._owed[0])
        except TorrelqueConnectionError as error:
            self.fail(error)

    def _take(self, reply: Reply) -> None:
        if self._owed:
            request = self._owed[0]
            request.replies.append(reply)
            if isinstance(reply, Exception):
                request.refused = True
            else:
                self.served = True
            if len(request.replies) == request.count:
                self._owed.popleft()
                request.end()
        elif self._pushed is not None:
            self._pushed.append(reply)
            self._news.set()
            if len(self._pushed) > MOST_PUSHED:
                self._transport.pause_reading()
        else:
            raise self.lost(f'an unexpected reply: {reply!r:.100}')

    def _nudge(self, request: Request) -> None:
        """Send a PING. KeyDB runs the calls behind one that blocked only when more bytes arrive."""
        request.blocks = False
        self._transport.write(pack_words(('PING',)))
        self._owed.append(Request(1, request.seconds, lambda _: None))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(self.lost(str(exc or 'the server closed the connection'), exc))

    def fail(self, error: TorrelqueConnectionError) -> None:
        """Close the connection. All waiting callers get the error."""
        if self._failure is None:
            self._failure = error
            self._transport.abort()
            self.release()
            owed, self._owed = self._owed, deque()
            for request in owed:
                request.error = cast('TorrelqueConnectionError', renew(error))
                request.end()
            self._news.set()
            if self._watchdog is not None:
                self._watchdog.cancel()

    async def aclose(self) -> None:
        """Close the connection. Safe to repeat."""
        self.fail(self.lost('the connection was closed'))

    # The client's errors

    @staticmethod
    @abstractmethod
    def reply_error(message: str) -> Exception:
        """Return an error reply as a value."""

    @abstractmethod
    def lost(self, why: str, cause: Exception | None = None) -> TorrelqueConnectionError:
        """Return the error to raise after the connection was lost."""

    @abstractmethod
    def late(self, why: str) -> TorrelqueResponseTimeout:
        """Return the error to raise if the server does not answer or read."""

    def release(self) -> None:
        """Have the client forget the connection, which has failed."""


class Request:
    """The calls of one caller, and the replies so far."""

    __slots__ = ('abandoned', 'blocks', 'count', 'done', 'error', 'refused', 'replies', 'seconds')

    def __init__(self, count: int, seconds: float, done: Callable[[Request], None]) -> None:
        self.count: int = count
        self.seconds: float = seconds
        self.done: Callable[[Request], None] = done
        self.replies: list[Reply] = []
        self.error: TorrelqueConnectionError | None = None
        self.refused: bool = False
        self.abandoned: bool = False
        self.blocks: bool = False

    def end(self) -> None:
        if not self.abandoned:
            self.done(self)

    def abandon(self) -> None:
        self.abandoned = True
