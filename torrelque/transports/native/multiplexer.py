"""One connection that all calls share, except those that block.

Callers append their batches to a queue and wait. One task sends everything that
has been queued since it last sent, in one go. Another distributes the replies, in
the order of the requests. While nothing is in flight, a caller sends its batch
directly, which saves a turn of the event loop. When the connection breaks, batches
without an answer go back to the front of the queue, for the next connection.
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
"""How many times per response time-out the watchdog checks for progress."""

SUSPICIOUS = 2
"""Number of connections that break with a batch before it is sent separately."""


class Slot:
    """A batch in the queue of requests, and its replies so far."""

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
        """It may be the cause of broken connections, so it is no longer sent with others."""
        self.abandoned: bool = False
        """Its caller was cancelled. It is not sent (again), and its replies are dropped."""

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

    Args:
        dialer: Opens the connections.
        response_timeout: How long the server may be silent while it owes an answer, in seconds.
        on_break: Called when a connection broke.
    """

    def __init__(self, dialer: Dialer, response_timeout: float, on_break: Callable[[], Awaitable[None]]) -> None:
        self._dialer = dialer
        self._response_timeout = response_timeout
        self._on_break = on_break
        self._queue: list[Slot] = []
        self._sent: deque[Slot] = deque()
        self._work = anyio.Event()
        # Shielded, because the clean-up in the body of the client's context may still call the server when cancelled.
        self._scope = anyio.CancelScope(shield=True)
        self._finished = anyio.Event()
        self._started = self._closed = False
        self._failures = 0
        self._make_once = oneshot_maker()
        self._connection: Connection | None = None
        self._draining = False
        """The server is not the primary, so the connection is closed once it has answered the calls in flight."""
        self._rest = b''  # the unsent rest of a batch that its caller sent

    @property
    def closed(self) -> bool:
        return self._closed

    async def execute(self, data: bytes, count: int, deadline: float, breaks: Breaks) -> Slot:
        """Send a batch, and repeat it until ``deadline`` if connections break. Safe to cancel.

        Args:
            data: The packed calls.
            count: The number of calls.
            deadline: When to stop repeating.
            breaks: Counts the connections that broke.

        Returns:
            The batch with its replies. It is ``suspected`` if it may be what breaks connections, because it was in
            flight on `SUSPICIOUS` that broke, or if a call is too large. Then send each call on a dedicated connection.

        Raises:
            TorrelqueConnectionError: The deadline has passed.
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
        """Do what `execute` does without waiting. ``slot.done`` is called at the end, unless the slot is abandoned."""
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
        """Serve callers until :meth:`aclose`. Connect only when there is something to send."""
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
        """Close the connection. Calls in flight are sent again over the next one."""
        if self._connection is not None:
            await self._dialer.close(self._connection)

    async def drain(self) -> None:
        """Close the connection once it has answered the calls in flight."""
        if self._sent and self._connection is not None:
            self._draining = True
        else:
            await self.reconnect()

    async def suspect(self, since: float) -> None:
        """Close the connection if nothing has arrived on it since then, because another connection was silent."""
        if self._connection is not None and self._connection.heard < since:
            await self.reconnect()

    async def aclose(self) -> None:
        """Stop. Waiting callers get TorrelqueConnectionError. Safe to repeat."""
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
        """Return a new connection; None if no batch is left that has time to wait for one."""
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
        """Use the connection until it breaks. Then put batches without an answer back into the queue."""
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
                # A variable would keep the bytes alive until there is more to send.
                await connection.send(self._take())
            except TorrelqueConnectionError:
                await anyio.sleep(LAST_WORDS)  # the server's last answer may still arrive
                raise

    def _take(self) -> bytes:
        """Return the bytes to send now."""
        slots = [slot for slot in self._queue if not slot.abandoned]
        self._queue.clear()
        self._sent.extend(slots)
        rest, self._rest = self._rest, b''
        return slots[0].data if len(slots) == 1 and not rest else b''.join([rest, *[slot.data for slot in slots]])

    async def _read(self, connection: Connection) -> None:
        await connection.receive_all(self._hand_out)

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
        if self._draining and not self._sent:
            raise TorrelqueConnectionError(f'{self._dialer.address}: the server is not the primary')

    async def _watch(self, connection: Connection) -> None:
        still, progress = 0, -1
        while still < LOOKS:
            await anyio.sleep(self._response_timeout / LOOKS)
            still = still + 1 if self._sent and connection.progress == progress else 0
            progress = connection.progress
        raise TorrelqueResponseTimeout(f'{self._dialer.address}: no answer for {self._response_timeout:g} s')


def back_off(failures: int) -> float:
    """Return the seconds until the next attempt, 0 for the first."""
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
    """Return the slots that may be sent (again). The callers of the others get the error."""
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
