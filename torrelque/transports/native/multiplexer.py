"""One connection shared by everything that does not block.

Callers append what they want to send to a queue and wait. One task sends what
has gathered since it last did, in one go; another hands the replies out in the
order of the requests. While nothing is in flight, a caller sends its own batch, and
so a turn of the event loop earlier. When the connection breaks, the requests that were not
answered go back to the front of the queue, for the next connection.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import anyio

from torrelque.core.backoff import Backoff
from torrelque.core.protocol import Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
    is_demoted,
    renew,
)
from torrelque.transports.native.blocking import LAST_WORDS
from torrelque.transports.native.connection import Breaks, Connection
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.oneshot import oneshot_maker

__all__ = ('Multiplexer', 'back_off')

BACKOFF = Backoff(0.05, 0.5)
"""Pauses between attempts to connect."""

LOOKS = 8
"""How many times in a response time-out the watchdog looks whether something moved."""

SUSPICIOUS = 2
"""Connections that break over a batch before it is no longer sent together with others."""


class Slot:
    """One batch's place in the order of requests, and the replies it has so far."""

    __slots__ = (
        'abandoned', 'breaks', 'count', 'data', 'deadline', 'demoted', 'done', 'error', 'replies', 'suspected',
    )  # fmt: skip

    def __init__(
        self, data: bytes, count: int, deadline: float, breaks: Breaks, done: Callable[[Slot], object]
    ) -> None:
        self.data: bytes = data
        self.count: int = count
        self.deadline: float = deadline
        self.breaks: Breaks = breaks
        self.done: Callable[[Slot], object] = done
        self.replies: list[Reply] = []
        self.error: TorrelqueConnectionError | None = None
        self.demoted: bool = False
        """A reply says that the server is not the primary."""
        self.suspected: bool = False
        """It may be what breaks the connection, so it is not sent beside others any more."""
        self.abandoned: bool = False
        """Its caller was cancelled: it is not sent (again), and its replies are dropped."""

    def fail(self, error: TorrelqueConnectionError) -> None:
        self.error = cast('TorrelqueConnectionError', renew(error))
        self.end()

    def end(self) -> None:
        if not self.abandoned:
            self.done(self)

    def abandon(self) -> None:
        self.abandoned = True


class Multiplexer:
    """Sends batches from many tasks over one connection, and repeats them over the next one if it breaks.

    ``response_timeout`` is how long the server may be silent while it owes an
    answer, in seconds. ``on_break`` is called when a connection broke.
    """

    def __init__(self, dialer: Dialer, response_timeout: float, on_break: Callable[[], Awaitable[None]]) -> None:
        self._dialer = dialer
        self._response_timeout = response_timeout
        self._on_break = on_break
        self._queue: list[Slot] = []
        self._sent: deque[Slot] = deque()
        self._work = anyio.Event()
        # A cancellation from outside ends the body of the client's context, whose clean-up may still need the server.
        self._scope = anyio.CancelScope(shield=True)
        self._finished = anyio.Event()
        self._started = self._closed = False
        self._failures = 0
        self._make_once = oneshot_maker()
        self._connection: Connection | None = None
        self._draining = False
        """The server is not the primary: the connection is closed once it has answered what it owes."""
        self._rest = b''  # the unsent rest of a caller's own batch

    @property
    def closed(self) -> bool:
        return self._closed

    async def execute(self, data: bytes, count: int, deadline: float, breaks: Breaks) -> Slot:
        """Send a batch of ``count`` calls, until ``deadline`` also again, and return it with its replies.

        It is ``suspected`` if it may be this batch which breaks connections, as it was
        under way on `SUSPICIOUS` that broke, or if a call of it is too large:
        send each on a connection of its own. Safe to cancel. Raises
        TorrelqueConnectionError when the time to repeat it is over.
        """
        once = self._make_once()
        slot = Slot(data, count, deadline, breaks, lambda _slot: once.set())
        self.start(slot)
        try:
            await once.wait()
        except BaseException:
            slot.abandon()
            raise
        if slot.error is not None:
            raise slot.error
        return slot

    def start(self, slot: Slot) -> None:
        """The same without waiting: ``slot.done`` is called at its end, unless it is abandoned before."""
        if self._closed:
            raise self._dialer.closed()
        if (
            self._connection is None
            or self._draining
            or self._sent
            or self._queue
            or not self._send_now(self._connection, slot)
        ):
            self._queue.append(slot)
            self._work.set()

    def _send_now(self, connection: Connection, slot: Slot) -> bool:
        count = connection.send_now(slot.data)
        if not count:
            return False
        self._sent.append(slot)
        if count < len(slot.data):
            self._rest = slot.data[count:]
            self._work.set()
        return True

    async def run(self) -> None:
        """Serve the callers until :meth:`aclose`. Connects only when there is something to send."""
        self._started = True
        try:
            with self._scope:
                while not self._closed:
                    await self._until_work()
                    connection = await self._connect()
                    if connection is not None:
                        await self._serve(connection)
        finally:
            self._fail_all(self._dialer.closed())
            self._finished.set()

    async def reconnect(self) -> None:
        """Break the connection; what it owes an answer to goes over the next one."""
        if self._connection is not None:
            await self._dialer.close(self._connection)

    async def drain(self) -> None:
        """Break the connection once it has answered what it owes."""
        if self._sent and self._connection is not None:
            self._draining = True
        else:
            await self.reconnect()

    async def suspect(self, since: float) -> None:
        """Break the connection if nothing has arrived on it since then: another one turned out to lead nowhere."""
        if self._connection is not None and self._connection.heard < since:
            await self.reconnect()

    async def aclose(self) -> None:
        """Stop. Callers that still wait get TorrelqueConnectionError. Safe to repeat."""
        self._closed = True
        self._scope.cancel()
        if self._started:
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

    async def _until_work(self) -> None:
        while not (self._rest or (self._queue and not self._draining)):
            self._work = anyio.Event()
            await self._work.wait()

    # Connecting

    async def _connect(self) -> Connection | None:
        """A new connection, or None when no batch is left that has time to wait for one."""
        while self._queue:
            await anyio.sleep(self._delay())
            try:
                return await self._dialer.open()
            except TorrelqueHandshakeError as error:
                self._fail_all(error)
            except TorrelqueConnectionError as error:
                self._failures += 1
                self._queue = _survivors(self._queue, error)
        return None

    def _delay(self) -> float:
        return max(0.0, min(back_off(self._failures), self._queue[0].deadline - time.monotonic()))

    def _fail_all(self, error: TorrelqueConnectionError) -> None:
        slots = [*self._sent, *self._queue]
        self._sent.clear()
        self._queue.clear()
        for slot in slots:
            slot.fail(error)

    # Serving

    async def _serve(self, connection: Connection) -> None:
        """Use the connection until it breaks, then put back what it did not answer."""
        self._failures += 1  # until it has answered something
        causes: list[TorrelqueConnectionError] = []
        self._connection = connection
        try:
            async with anyio.create_task_group() as group:
                for work in (self._write, self._read, self._watch):
                    group.start_soon(_until_broken, work, connection, causes, group.cancel_scope)
        finally:
            self._connection = None
            self._draining = False
            self._rest = b''
            await self._dialer.close(connection)
        if connection.cut:
            for slot in self._sent:
                slot.breaks.beside += 1
        self._queue[:0] = _survivors(self._sent, causes[0])
        self._sent.clear()
        await self._on_break()

    async def _write(self, connection: Connection) -> None:
        while True:
            await self._until_work()
            try:
                # Nothing that was sent is kept in a variable here: the next work may be long in coming.
                await connection.send(self._take())
            except TorrelqueConnectionError:
                await anyio.sleep(LAST_WORDS)  # what the server said before it closed the connection may arrive yet
                raise

    def _take(self) -> bytes:
        """What is to be sent now."""
        slots = [slot for slot in self._queue if not slot.abandoned]
        self._queue.clear()
        self._sent.extend(slots)
        rest, self._rest = self._rest, b''
        return slots[0].data if len(slots) == 1 and not rest else b''.join([rest, *[slot.data for slot in slots]])

    async def _read(self, connection: Connection) -> None:
        while True:
            self._hand_out(await connection.receive())
            if self._draining and not self._sent:
                raise TorrelqueConnectionError(f'{self._dialer.address}: the server is not the primary')

    def _hand_out(self, replies: list[Reply]) -> None:
        for reply in replies:
            if not self._sent:
                raise TorrelqueConnectionError(f'{self._dialer.address}: an unexpected reply: {reply!r:.100}')
            slot = self._sent[0]
            slot.replies.append(reply)
            if isinstance(reply, TorrelqueReplyError):
                slot.demoted = slot.demoted or is_demoted(reply)
                self._draining = self._draining or slot.demoted
                slot.suspected = slot.suspected or isinstance(reply, TorrelqueTooLargeError)
            if len(slot.replies) == slot.count or slot.suspected:
                self._sent.popleft()
                if not self._draining:
                    self._failures = 0
                slot.end()

    async def _watch(self, connection: Connection) -> None:
        still, progress = 0, -1
        while still < LOOKS:
            await anyio.sleep(self._response_timeout / LOOKS)
            still = still + 1 if self._sent and connection.progress == progress else 0
            progress = connection.progress
        raise TorrelqueResponseTimeout(f'{self._dialer.address}: no answer for {self._response_timeout:g} s')


def back_off(failures: int) -> float:
    """Seconds until the next attempt: none at first."""
    return BACKOFF.pause(failures, random.random)


async def _until_broken(
    work: Callable[[Connection], Awaitable[None]],
    connection: Connection,
    causes: list[TorrelqueConnectionError],
    scope: anyio.CancelScope,
) -> None:
    try:
        await work(connection)
    except TorrelqueConnectionError as error:
        causes.append(error)
        scope.cancel()


def _survivors(slots: Sequence[Slot], error: TorrelqueConnectionError) -> list[Slot]:
    """Return the slots that may be sent (again); the callers of the others get the error."""
    now = time.monotonic()
    survivors = []
    for slot in slots:
        if slot.abandoned:
            continue
        if now >= slot.deadline:
            slot.fail(error)
        elif slot.breaks.beside >= SUSPICIOUS:
            slot.suspected = True
            slot.end()
        else:
            slot.replies.clear()
            survivors.append(slot)
    return survivors
