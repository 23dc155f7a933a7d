"""The common part of the transports that use a client of redis-py or coredis."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from anyio.lowlevel import checkpoint

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import is_demoted
from torrelque.transports import base, connections
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error
from torrelque.transports.naming import class_name
from torrelque.transports.repeating import Policy, repeat

__all__ = ('ClientTransport', 'Servers', 'check_primary', 'finish_block')


class Servers(Protocol):
    """The connections to a server, or to the nodes of a cluster."""

    response_timeout: float
    """Maximum time that the server may take to answer, in seconds."""

    def start(self, batch: Batch, then: base.Then, /) -> Callable[[], None] | None:
        """Send calls once, with a callback for the replies. See `torrelque.transports.base.Transport.start`."""
        return None

    async def ask(self, batch: Batch, /) -> Sequence[Reply]:
        """Send calls once, and return their replies. Raises TorrelqueConnectionError. Safe to cancel."""
        ...

    async def ask_dedicated(self, batch: Batch, seconds: float, /, *, keep: bool = True) -> Sequence[Reply]:
        """Send calls once, on a dedicated connection. Each may take ``seconds``. Safe to cancel.

        Raises TorrelqueConnectionError.
        """
        ...

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        """Open a connection for subscriptions."""
        ...

    async def drop(self) -> None:
        """Use new connections for further calls."""

    async def aclose(self) -> None:
        """Close every connection. Further calls open new ones. Safe to repeat."""


def check_primary(replies: Sequence[Reply]) -> Sequence[Reply]:
    """Return the replies. Raises TorrelqueConnectionError if one says that the server is a replica."""
    if is_demoted(replies[0]):
        raise dual_error(TorrelqueAnsweredConnectionError, replies[0])
    return replies


async def finish_block(rest: base.Rest) -> Sequence[Reply]:
    """Return the replies of a block that needs a task to go on, checked."""
    return check_primary(await rest())


class ClientTransport(base.Transport):
    """A transport that uses the settings and retries of the user's client, but opens its own connections.

    Calls share one connection. Each blocking call and each subscription has a
    dedicated one, so they cannot exhaust the client's pool, nor it theirs.
    """

    in_order: bool = True

    def __init__(self, client: object) -> None:
        self._held = client

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._held)}>'

    @abstractmethod
    def _servers(self) -> Servers:
        """Return the connections of the running event loop."""

    @abstractmethod
    def _policy(self) -> Policy:
        """Return the client's retry policy."""

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls and return their replies. Safe to cancel.

        If the connection breaks, they are sent again once, and then as often as
        the client's settings allow.
        """
        servers = self._servers()
        if not batch:
            await checkpoint()
            return []
        return await repeat(batch, servers.ask, self._policy())

    def start(self, batch: Batch, then: base.Then) -> Callable[[], None] | None:
        def receive(first: Sequence[Reply] | base.Rest) -> None:
            then(partial(self._go_on, batch, first) if callable(first) else first)

        return self._servers().start(batch, receive)

    async def _go_on(self, batch: Batch, first: base.Rest) -> Sequence[Reply]:
        """Finish a batch that was started, and return the replies."""
        servers, rest = self._servers(), [first]

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await (rest.pop()() if rest else servers.ask(calls))

        return await repeat(batch, attempt, self._policy())

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a dedicated connection. The server has ``timeout`` seconds longer to answer."""
        servers = self._servers()

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await servers.ask_dedicated(calls, servers.response_timeout + timeout)

        return await repeat(batch, attempt, self._policy(), together=True)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        return check_primary(await self._servers().ask_dedicated((call,), timeout + connections.MARGIN))[0]

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        return self._servers().listen()

    async def reconnect(self) -> None:
        servers = self._servers()
        await checkpoint()
        await servers.drop()

    async def aclose(self) -> None:
        servers = self._servers()
        await checkpoint()
        await servers.aclose()
