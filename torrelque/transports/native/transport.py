"""The transport that needs no other client: anyio's streams, and hiredis to parse and to pack."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueTypeError, TorrelqueUsageError, TorrelqueValueError
from torrelque.transports import base
from torrelque.transports.native.connection import Breaks
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.listener import NativeListener
from torrelque.transports.native.node import Node
from torrelque.transports.native.url import Address, is_of_cluster, is_of_sentinel, parse_sentinel_url, parse_urls

__all__ = ('NativeTransport', 'connect')

LONGEST = 300.0
"""What each time-out may be at most: a call and its repeats must end long before the lanes that guard them expire."""


class NativeTransport(base.Transport):
    """A server, as long as the context lasts: ``async with torrelque.connect(url) as client``.

    Entering connects. :meth:`execute` shares one connection between all tasks
    and repeats what was not answered when that connection breaks;
    :meth:`block` and :meth:`listen` use connections of their own. Can be
    entered once.
    """

    in_order = True
    block_limit = 7.0
    """With the margin for a late answer, a connection that leads nowhere is noticed within 9 seconds."""

    def __init__(
        self,
        address: Address,
        *,
        ssl_context: ssl.SSLContext | None,
        retry_timeout: float,
        connect_timeout: float,
        response_timeout: float,
        dialer: Dialer | None = None,
    ) -> None:
        self._address = address
        self._dialer = dialer or Dialer(address, ssl_context, connect_timeout)
        self._retry_timeout = retry_timeout
        self._response_timeout = response_timeout
        self._node: Node | None = None
        self._group: TaskGroup | None = None
        self._pid = 0
        self._open = False

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self._address} {"open" if self._open else "not open"}>'

    async def __aenter__(self) -> Self:
        """Connect, for as long as a call would be repeated.

        Raises TorrelqueConnectionError, of which TorrelqueRefusedError says
        that user, password or database are wrong.
        """
        if self._group is not None:
            raise TorrelqueUsageError('this client was used before: call connect() again for a new one')
        self._pid = os.getpid()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._open = True
        try:
            await self._start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _start(self) -> None:
        """Begin what serves the callers, and see that the server is there."""
        self._node = Node(self._dialer, repeats=True, response_timeout=self._response_timeout, start=self._start_soon)
        await self.execute((Call('PING'),))

    def _start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._group is not None  # noqa: S101 - as it is usable
        self._group.start_soon(function)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
        if self._group is not None:
            # Told of no error, or the group would wrap it into a group of errors.
            await self._group.__aexit__(None, None, None)

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls on the shared connection and return their replies. Safe to cancel.

        When the connection breaks they are sent again on the next one, unless
        ``retry_timeout`` has passed; then TorrelqueConnectionError is raised.
        """
        return await self._execute(batch, repeat=True)

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        return await self._execute(batch, repeat=False)

    async def _execute(self, batch: Batch, *, repeat: bool) -> Sequence[Reply]:
        self._usable()
        if not batch:
            await anyio.lowlevel.checkpoint()
            return []
        assert self._node is not None  # noqa: S101 - as it is usable
        return await self._node.execute(batch, self._deadline() if repeat else 0.0, Breaks())

    def _deadline(self) -> float:
        """Until when a call that begins now may be repeated."""
        return time.monotonic() + self._retry_timeout

    async def execute_apart(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a connection of their own, and again, all of them, on another if it breaks."""
        self._usable()
        assert self._node is not None  # noqa: S101 - as it is usable
        return await self._node.execute_apart(batch, timeout, self._deadline())

    async def reconnect(self) -> None:
        self._usable()
        if self.fails_over and self._node is not None:
            await self._node.reconnect()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self._usable()
        assert self._node is not None  # noqa: S101 - as it is usable
        return await self._node.block(call, timeout)

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        self._usable()
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[base.Listener]:
        connection = await self._dialer.open()
        try:
            yield NativeListener(connection, self._address)
        finally:
            await self._dialer.close(connection)

    async def aclose(self) -> None:
        """Close every connection; calls under way raise TorrelqueConnectionError. May be repeated."""
        self._open = False
        if self._node is not None:
            await self._node.aclose()
        await self._dialer.aclose()

    def _usable(self) -> None:
        """Raise TorrelqueUsageError unless the context is entered, by this process."""
        if not self._open:
            state = 'not connected yet' if self._group is None else 'closed'
            raise TorrelqueUsageError(
                f'the client is {state}: use it inside its context, `async with torrelque.connect(url) as client:`'
            )
        if os.getpid() != self._pid:
            raise TorrelqueUsageError(
                'the client was connected by the process that this one was forked from: connect() anew in the child'
            )


def connect(
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    retry_timeout: float = 30.0,
    connect_timeout: float = 5.0,
    response_timeout: float = 8.0,
) -> NativeTransport:
    """Give a client for the server at ``url``, connected while its context lasts.

    ::

        async with torrelque.connect('redis://localhost:6379/0') as client:
            queue = torrelque.Torrelque(client, queue='mail')

    ``url`` is one of ``redis://[user[:password]@]host[:port][/db]``, the same
    with ``rediss://`` for TLS, ``unix://[user[:password]@]/path[?db=N]``, and
    for a cluster ``redis+cluster://[user[:password]@]host[:port][,host[:port]...]``
    or ``rediss+cluster://``, with any of its nodes: the others are found.
    For a service that Sentinel watches over it is
    ``redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?db=N]``
    or ``rediss+sentinel://``, with the sentinels (port 26379 unless given), which
    are asked before each connection; user, password and database are the server's.
    TLS is verified against the system's certificates unless ``ssl_context``
    says otherwise.

    The rest is in seconds. ``retry_timeout`` is how long a call may be repeated
    when connections break, counted from its start; with 0 it is sent at most
    once. ``connect_timeout`` limits one attempt to connect.
    ``response_timeout`` is how long the server may be silent while it owes
    an answer, before the connection counts as broken.

    Checks its arguments and connects nothing. Raises TorrelqueValueError or
    TorrelqueTypeError.
    """
    service, addresses = parse_sentinel_url(url) if is_of_sentinel(url) else ('', parse_urls(url))
    _check_seconds('retry_timeout', retry_timeout, zero=True)
    _check_seconds('connect_timeout', connect_timeout)
    _check_seconds('response_timeout', response_timeout)
    if ssl_context is not None:
        if not isinstance(ssl_context, ssl.SSLContext):
            raise TorrelqueTypeError(f'ssl_context: expected an ssl.SSLContext, not {ssl_context!r}')
        if not addresses[0].tls:
            raise TorrelqueValueError('ssl_context: only a rediss:// URL connects with TLS')
    elif addresses[0].tls:
        ssl_context = ssl.create_default_context()
    if is_of_cluster(url):
        from torrelque.transports.native.cluster import ClusterTransport  # noqa: PLC0415 - it is a transport like this

        return ClusterTransport(
            addresses,
            ssl_context=ssl_context,
            retry_timeout=retry_timeout,
            connect_timeout=connect_timeout,
            response_timeout=response_timeout,
        )
    if service:
        from torrelque.transports.native.sentinel import SentinelTransport  # noqa: PLC0415 - it is a transport like this

        return SentinelTransport(
            addresses,
            service,
            ssl_context=ssl_context,
            retry_timeout=retry_timeout,
            connect_timeout=connect_timeout,
            response_timeout=response_timeout,
        )
    return NativeTransport(
        addresses[0],
        ssl_context=ssl_context,
        retry_timeout=retry_timeout,
        connect_timeout=connect_timeout,
        response_timeout=response_timeout,
    )


def _check_seconds(name: str, value: float, *, zero: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TorrelqueTypeError(f'{name}: expected a number of seconds, not {value!r}')
    if not (value >= 0 if zero else value > 0) or value > LONGEST:
        raise TorrelqueValueError(
            f'{name}: expected seconds {"from" if zero else "above"} 0 up to {LONGEST:g}, not {value!r}'
        )
