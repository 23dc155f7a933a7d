"""Connections to one server, for all clients.

A blocking call, a call that waits for replicas and a subscription each need a
dedicated connection. `Leases` lends connections, each to one exchange at a
time, and `PushListener` reads what the server pushes. Over redis-py and coredis
all other calls share one connection (`Connections`). The time-outs apply to every
client whose own settings are not stricter.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import anyio

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError, TorrelqueResponseTimeout, renew
from torrelque.transports import base, spares
from torrelque.transports.repeating import LARGE, demoted, mark_cut, refused_as_too_large

__all__ = (
    'ClientDialer',
    'Connections',
    'Dialer',
    'Later',
    'Leases',
    'Packed',
    'PushListener',
    'StreamListener',
    'is_refused_ping',
    'later_by',
)

CONNECT_TIMEOUT = 8.0
"""Maximum time to connect, in seconds."""

RESPONSE_TIMEOUT = 8.0
"""Maximum time that the server may take to answer, in seconds."""

SLOWEST = 1 << 20
"""Bytes per second. Sending a large batch may take longer by its size divided by this."""

MARGIN = 1.5
"""How much later than requested a blocking call may be answered, in seconds: idle servers notice up to 0.1 s late."""

QUIET = 4.0
"""Seconds of silence after which a listener sends a PING. The answer may take as long again."""

SEND_TIMEOUT = 4.0
"""Maximum time for a listener to send a command, in seconds."""


class Packed(NamedTuple):
    """Encoded calls, their number, and their approximate size in bytes."""

    data: Any
    calls: int
    size: int
    blocks: bool = False
    """Whether the first call blocks. KeyDB runs the calls behind it only when more bytes arrive, such as a PING."""


Later: TypeAlias = Callable[[float, Callable[[], Coroutine[Any, Any, None]]], Callable[[], None]]
"""Runs a function in the background after some seconds. Returns a function that cancels it."""


def later_by(start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object]) -> Later:
    """Return a `Later` that starts tasks with ``start``."""

    def later(seconds: float, function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        scope = anyio.CancelScope()

        async def run() -> None:
            with scope:
                await anyio.sleep(seconds)
                await function()

        start(run)
        return scope.cancel

    return later


class Leased(Protocol):
    """A connection that `Leases` can lend."""

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as this side knows."""
        ...


C = TypeVar('C', bound=Leased)


class Dialer(Protocol[C]):
    """Opens and closes connections to one server."""

    async def open(self) -> C:
        """Connect, without retries. Safe to cancel. Raises TorrelqueConnectionError."""
        ...

    async def close(self, connection: C, /) -> None:
        """Close a connection that this dialer opened, even when cancelled. Safe to repeat."""


class ClientDialer(Dialer[C], Protocol[C]):
    """Opens connections with the settings of the user's client."""

    def listener(self) -> AbstractAsyncContextManager[PushListener]:
        """Open a connection for subscriptions."""
        ...

    def pack(self, batch: Batch, /) -> Packed:
        """Encode calls for :meth:`converse`. Raises TorrelqueTypeError or TorrelqueValueError."""
        ...

    def start(self, connection: C, packed: Packed, seconds: float, then: base.Then, /) -> Callable[[], None] | None:
        """Do what :meth:`converse` does without a waiting task. None if that is not possible."""
        ...

    async def converse(self, connection: C, packed: Packed, seconds: float, /) -> list[Reply]:
        """Send calls in one go, and return their replies. Each may take ``seconds``.

        Raises TorrelqueConnectionError. Safe to cancel: the connection stays in step.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection that this dialer opened. Safe to repeat."""


class Leases(Generic[C]):
    """Lends a connection to one exchange at a time, and keeps it for the next one only if it is in step.

    It keeps as many as were recently in use at the same time; see `Spares`.

    Args:
        dialer: Opens and closes the connections.
        later: Runs the function that closes unused connections, in the background.
    """

    def __init__(self, dialer: Dialer[C], later: Later) -> None:
        self._dialer = dialer
        self._later = later
        self._spares: spares.Spares[C] = spares.Spares()
        self._away: set[C] = set()  # from `take_idle`
        self._cancel: Callable[[], None] | None = None
        self._stopped = False

    async def lend(
        self,
        exchange: Callable[[C], Awaitable[list[Reply]]],
        *,
        fresh: bool = False,
        keep: bool = True,
        given: C | None = None,
    ) -> list[Reply]:
        """Run an exchange on a connection, and return its replies.

        The connection is closed if the exchange fails or is cancelled, or if the
        server answered that it is now a replica or that a call is too large.

        Args:
            exchange: Sends commands on the connection and reads all their replies, once.
            fresh: Use a new connection.
            keep: Keep the connection afterwards.
            given: A connection from `take_idle` to use.

        Raises:
            TorrelqueConnectionError: The connection failed. Idle connections are closed too, because they are probably
                broken as well.
        """
        connection = given or await (self._dialer.open() if fresh else self._take())
        self._away.discard(connection)
        try:
            replies = await exchange(connection)
        except BaseException as error:
            await self._dialer.close(connection)
            if isinstance(error, TorrelqueConnectionError):
                await self.close_idle()
            raise
        if demoted(replies):
            await self.close_idle()
            keep = False
        if keep and connection.usable and not self._stopped and not refused_as_too_large(replies):
            self._keep(connection)
        else:
            await self._dialer.close(connection)
        return replies

    async def _take(self) -> C:
        while connection := self._spares.take():
            if connection.usable:
                return connection
            await self._dialer.close(connection)
        return await self._dialer.open()

    def take_idle(self) -> C | None:
        """Return an idle connection, if there is one that is usable, for `give_back`, `drop` or `lend`."""
        connection = self._spares.take()
        if connection is not None and not connection.usable:
            self._spares.put(connection)  # for a task to close
            return None
        if connection is not None:
            self._away.add(connection)
        return connection

    def give_back(self, connection: C) -> bool:
        """Keep a connection from `take_idle` that is in step. If this returns False, a task passes it to `lend`."""
        if self._cancel is None or not connection.usable or self._stopped:
            return False  # only a task can start the timer, or close the connection
        self.put_back(connection)
        return True

    def put_back(self, connection: C) -> None:
        """Put back a connection from `take_idle` that was not used."""
        self._away.discard(connection)
        self._spares.put(connection)

    async def drop(self, connection: C) -> None:
        """Close a connection from `take_idle`."""
        self._away.discard(connection)
        await self._dialer.close(connection)

    def _keep(self, connection: C) -> None:
        self._spares.put(connection)
        if self._cancel is None:
            self._cancel = self._later(spares.KEEP / 4, self._expire)

    async def _expire(self) -> None:
        for connection in self._spares.take_unused():
            await self._dialer.close(connection)
        self._cancel = self._later(spares.KEEP / 4, self._expire) if self._spares or self._away else None

    async def close_idle(self) -> None:
        """Close the idle connections."""
        while connection := self._spares.take():
            await self._dialer.close(connection)

    def stop(self) -> None:
        """Stop keeping connections. The dialer closes those that remain."""
        self._stopped = True
        self._spares = spares.Spares()
        self.stop_timer()

    def stop_timer(self) -> None:
        """Cancel the background timer, until a connection is kept again."""
        if self._cancel is not None:
            self._cancel()
            self._cancel = None


class _SharedConnection(Generic[C]):
    """The connection that all calls share. If it is lost, one attempt to reconnect serves all waiting callers."""

    def __init__(self, dialer: Dialer[C]) -> None:
        self._dialer = dialer
        self._connection: C | None = None
        self._turn = anyio.Lock()
        self._failures = 0
        self._failure: TorrelqueConnectionError | None = None

    @property
    def current(self) -> C | None:
        """The connection; None if it is not open."""
        return self._connection if self._connection is not None and self._connection.usable else None

    async def get(self) -> C:
        if self._connection is not None and self._connection.usable:
            return self._connection
        failures = self._failures
        async with self._turn:
            if self._connection is not None and self._connection.usable:
                return self._connection
            if self._failure is not None and self._failures > failures:
                raise renew(self._failure)
            try:
                self._connection = await self._dialer.open()
            except TorrelqueConnectionError as error:
                self._failures += 1
                self._failure = error
                raise
            return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await self._dialer.close(self._connection)


class Connections(Generic[C]):
    """The connections to one server: a shared one for most calls, and dedicated ones that are lent.

    Args:
        dialer: Opens and closes the connections.
        response_timeout: Maximum time that the server may take to answer, in seconds.
        later: Runs a function in the background.
        shares: Whether a connection can serve several callers at once. If not, each batch gets a dedicated one.
    """

    def __init__(self, dialer: ClientDialer[C], response_timeout: float, later: Later, *, shares: bool = True) -> None:
        self._dialer = dialer
        self._shares = shares
        self._shared = _SharedConnection(dialer)
        self._leases = Leases(dialer, later)
        self.response_timeout: float = response_timeout

    async def ask(self, batch: Batch) -> Sequence[Reply]:
        """Send calls once, on the shared connection, and return their replies.

        Large calls get a dedicated connection, because the server may close it if they
        are too large. It is closed afterwards, to free the memory of its buffers.

        Raises:
            TorrelqueConnectionError: The connection failed. Idle connections are closed too, because they are probably
                broken as well.
        """
        packed = self._dialer.pack(batch)
        if packed.size >= LARGE and any(is_large(call) for call in batch):
            return await self._ask_dedicated(packed, self.response_timeout + packed.size / SLOWEST, keep=False)
        if not self._shares:
            return await self._ask_dedicated(packed, self.response_timeout, keep=True)
        connection = await self._shared.get()
        converse = partial(self._dialer.converse, connection, packed, self.response_timeout)
        return await self._concluded(connection, converse)

    def start(self, batch: Batch, then: base.Then) -> Callable[[], None] | None:
        """Do what :meth:`ask` does without a waiting task. None if nothing was sent because that needs a task."""
        connection = self._shared.current
        if connection is None or not self._shares:
            return None
        packed = self._dialer.pack(batch)
        if packed.size >= LARGE:
            return None

        def receive(first: Sequence[Reply] | base.Rest) -> None:
            then(partial(self._concluded, connection, first) if callable(first) else first)

        return self._dialer.start(connection, packed, self.response_timeout, receive)

    async def _concluded(self, connection: C, converse: base.Rest) -> Sequence[Reply]:
        """Return the replies of a conversation. If it fails, further calls use new connections."""
        try:
            replies = await converse()
        except TorrelqueConnectionError as error:
            mark_cut(error)
            await self._drop(connection)
            raise
        if demoted(replies):
            await self._drop(connection)
        return replies

    async def ask_dedicated(
        self, batch: Batch, seconds: float, *, keep: bool = True, blocks: bool = False
    ) -> Sequence[Reply]:
        """Send calls once, on a dedicated connection, and return their replies.

        Args:
            batch: The calls.
            seconds: How long each call may take.
            keep: Keep the connection for other calls afterwards.
            blocks: Whether the first call blocks.

        Raises:
            TorrelqueConnectionError: The connection failed. If the server was silent, the shared connection is closed
                too, so that the next call does not wait for it in vain.
        """
        return await self._ask_dedicated(self._dialer.pack(batch)._replace(blocks=blocks), seconds, keep=keep)

    def start_block(self, batch: Batch, seconds: float, then: base.Then) -> Callable[[], Awaitable[object]] | None:
        """Send a call that blocks and one behind it, without a waiting task. See `base.Transport.start_block`."""
        packed = self._dialer.pack(batch)._replace(blocks=True)
        connection = self._leases.take_idle()
        if connection is None:
            return None

        def receive(outcome: Sequence[Reply] | base.Rest) -> None:
            if not callable(outcome) and self._leases.give_back(connection):
                then(outcome)
            else:
                converse = outcome if callable(outcome) else partial(_same, outcome)
                then(partial(self._ask_dedicated, packed, seconds, keep=True, given=connection, begun=converse))

        abandon = self._dialer.start(connection, packed, seconds, receive)
        if abandon is None:
            self._leases.put_back(connection)
            return None

        async def close() -> None:
            abandon()
            await self._leases.drop(connection)

        return close

    async def _ask_dedicated(
        self, packed: Packed, seconds: float, *, keep: bool, given: C | None = None, begun: base.Rest | None = None
    ) -> list[Reply]:
        async def exchange(connection: C) -> list[Reply]:
            try:
                if begun is not None:
                    return list(await begun())
                return await self._dialer.converse(connection, packed, seconds)
            except TorrelqueConnectionError as error:
                mark_cut(error)
                raise

        try:
            replies = await self._leases.lend(exchange, keep=keep, given=given)
        except TorrelqueResponseTimeout:
            await self._shared.close()
            raise
        if demoted(replies):
            await self._shared.close()
        return replies

    def listen(self) -> AbstractAsyncContextManager[PushListener]:
        """Open a connection for subscriptions."""
        return self._dialer.listener()

    async def _drop(self, connection: C) -> None:
        await self._dialer.close(connection)
        await self._leases.close_idle()

    async def drop(self) -> None:
        """Use new connections for further calls."""
        await self._shared.close()
        await self._leases.close_idle()

    async def aclose(self) -> None:
        """Close every connection. Further calls open new ones. Safe to repeat."""
        await self._leases.close_idle()
        self._leases.stop_timer()
        await self._dialer.aclose()


async def _same(replies: Sequence[Reply]) -> Sequence[Reply]:
    return replies


class PushListener(base.Listener):
    """A listener on one connection. Answers to its commands arrive among the pushed messages."""

    async def subscribe(self, channel: bytes) -> None:
        await self.ask('SUBSCRIBE', channel)

    async def unsubscribe(self, channel: bytes) -> None:
        await self.ask('UNSUBSCRIBE', channel)

    async def receive(self) -> base.Message:
        while True:
            match await self.next():
                case [b'message', bytes(channel), bytes(data)]:
                    return base.Message(channel, data)
                case [b'subscribe', bytes(channel), _]:
                    return base.Message(channel, None)
                case _:  # the answers to UNSUBSCRIBE and PING
                    pass

    async def knows(self, _command: str) -> bool:
        """Return whether the server knows a command. Clients that need not check in advance return True."""
        return True

    @abstractmethod
    async def ask(self, *words: str | bytes) -> None:
        """Send a command. `next` returns its answer, unless this call raises it.

        Raises TorrelqueConnectionError.
        """

    @abstractmethod
    async def next(self) -> Reply:
        """Wait for the next push, and return it.

        Raises TorrelqueReplyError, and TorrelqueConnectionError, also if the
        server does not answer a PING.
        """


class StreamListener(PushListener):
    """A listener that receives the answer to its PING among the pushed messages."""

    async def next(self) -> Reply:
        for is_last in (False, True):
            with anyio.move_on_after(QUIET):
                reply = await self.arrive()
                if isinstance(reply, TorrelqueReplyError):
                    if is_refused_ping(reply):
                        return b''
                    raise reply
                return reply
            if not is_last:
                await self.ask('PING')
        raise self.silent()

    @abstractmethod
    async def arrive(self) -> Reply:
        """Wait for the next push, without a time limit. Errors are values."""

    @abstractmethod
    def silent(self) -> TorrelqueResponseTimeout:
        """Return the error to raise if the server does not answer a PING."""


def is_large(call: Call[Any]) -> bool:
    """Return whether a value of a call may be larger than the server accepts."""
    return any(len(word) >= LARGE for word in call.words() if not isinstance(word, int))


def is_refused_ping(error: TorrelqueReplyError) -> bool:
    """Return whether the user may not call PING. The refusal still shows that the server is alive."""
    return error.code == 'NOPERM' and "'ping'" in str(error)
