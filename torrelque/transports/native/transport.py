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
from torrelque.errors import TorrelqueTypeError, TorrelqueUsageError, TorrelqueValueError, is_demoted
from torrelque.transports import base
from torrelque.transports.cluster.redirection import to_repeat
from torrelque.transports.native.connection import Breaks
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.listener import NativeListener
from torrelque.transports.native.node import Node
from torrelque.transports.native.options import Credentials, CredentialSource, Options
from torrelque.transports.native.url import Address, Target, parse_url

__all__ = ('NativeTransport', 'connect')


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

    def __init__(self, address: Address, options: Options, dialer: Dialer | None = None) -> None:
        self._address = address
        self._options = options
        self._dialer = dialer or Dialer(address, options)
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
        self._node = Node(
            self._dialer, repeats=True, response_timeout=self._options.response_timeout, start=self._start_soon
        )
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
        deadline = self._deadline() if repeat else 0.0
        replies = await self._node.execute(batch, deadline, Breaks())
        wanted = {index for index, reply in enumerate(replies) if is_demoted(reply)}
        if not (wanted and repeat):
            return replies
        # The address may lead to the new primary: once more, on a new connection.
        places = to_repeat(batch, range(len(batch)), wanted)
        answers = await self._node.execute([batch[place] for place in places], deadline, Breaks())
        again = dict(zip(places, answers, strict=True))
        return [again.get(place, reply) for place, reply in enumerate(replies)]

    def _deadline(self) -> float:
        """Until when a call that begins now may be repeated."""
        return time.monotonic() + self._options.retry_timeout

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a connection of their own, and again, all of them, on another if it breaks."""
        self._usable()
        assert self._node is not None  # noqa: S101 - as it is usable
        deadline = self._deadline()
        replies = await self._node.execute_dedicated(batch, timeout, deadline)
        if any(map(is_demoted, replies)):
            return await self._node.execute_dedicated(batch, timeout, deadline)
        return replies

    async def reconnect(self) -> None:
        self._usable()
        if self.fails_over and self._node is not None:
            await self._node.reconnect()

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        self._usable()
        assert self._node is not None  # noqa: S101 - as it is usable
        reply = await self._node.block(call, timeout)
        return await self._node.block(call, timeout) if is_demoted(reply) else reply

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
    credentials: Credentials | None = None,
    sentinel_user: str | None = None,
    sentinel_password: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    retry_timeout: float = 30.0,
    connect_timeout: float = 5.0,
    response_timeout: float = 8.0,
) -> NativeTransport:
    """Make a client for the server at a URL, connected while its context lasts.

    ::

        async with torrelque.connect('redis://localhost:6379/0') as client:
            queue = torrelque.Torrelque(client, queue='mail')

    It checks its arguments and connects nothing yet. The forms of the URL are:

    - ``redis://[user[:password]@]host[:port][/db]``, with ``rediss://`` for TLS
    - ``unix://[user[:password]@]/path[?db=N]``
    - ``redis+cluster://[user[:password]@]host[:port][,host[:port]...]``, or
      ``rediss+cluster://``: any nodes of a cluster, the others are found
    - ``redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?db=N]``,
      or ``rediss+sentinel://``: the sentinels (port 26379 unless given), which
      are asked before each connection, and the name of the service; user,
      password and database are the server's

    TLS is verified against the system's certificates. The options
    ``ssl_ca_certs`` (authorities to trust in their place), ``ssl_certfile`` and
    ``ssl_keyfile`` (the client's certificate and its key) in the URL name files
    in PEM format.

    Args:
        url: Where the server is.
        credentials: Called for each new connection, returns a user (or None for
            the default one) and a password, or an awaitable of them. They take
            the place of those in the URL. An error that it raises is logged,
            and repeated like an error of the connection.
        sentinel_user: The user for the sentinels themselves, if they have users.
            Also ``sentinel_user`` in the URL.
        sentinel_password: The password for the sentinels themselves. Also
            ``sentinel_password`` in the URL.
        ssl_context: For TLS, in place of what the URL says.
        retry_timeout: How long a call may be repeated when connections break,
            in seconds from its start; with 0 it is sent at most once. At most 300.
        connect_timeout: The longest that one attempt to connect, or a call of
            ``credentials``, may take, in seconds.
        response_timeout: How long the server may be silent while it owes an
            answer, in seconds, before the connection counts as broken.

    Returns:
        The client, to be entered with ``async with``.

    Raises:
        TorrelqueValueError: An argument has a value that cannot be used, or a
            file with certificates cannot be read.
        TorrelqueTypeError: An argument has a wrong type.

    """
    target = parse_url(url)
    if credentials is not None and not callable(credentials):
        raise TorrelqueTypeError(f'credentials: expected a function, not {type(credentials).__name__}')
    options = Options(
        _context(target, ssl_context),
        retry_timeout,
        connect_timeout,
        response_timeout,
        None if credentials is None else CredentialSource(credentials),
    )
    if target.kind != 'sentinel' and (sentinel_user is not None or sentinel_password is not None):
        raise TorrelqueValueError('sentinel_user, sentinel_password: only a redis+sentinel:// URL has sentinels')
    if target.kind == 'cluster':
        from torrelque.transports.cluster.native import ClusterTransport  # noqa: PLC0415 - it is a transport like this

        return ClusterTransport(target.addresses, options)
    if target.kind == 'sentinel':
        from torrelque.transports.native.sentinel import SentinelTransport  # noqa: PLC0415 - it is a transport like this

        return SentinelTransport(
            target.addresses,
            target.service,
            options,
            target.sentinel_user if sentinel_user is None else sentinel_user,
            target.sentinel_password if sentinel_password is None else sentinel_password,
        )
    return NativeTransport(target.addresses[0], options)


def _context(target: Target, given: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if given is None:
        return target.ssl_context()
    if not isinstance(given, ssl.SSLContext):
        raise TorrelqueTypeError(f'ssl_context: expected an ssl.SSLContext, not {given!r}')
    if not target.addresses[0].tls:
        raise TorrelqueValueError('ssl_context: only a rediss:// URL connects with TLS')
    return given
