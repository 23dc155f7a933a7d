"""The native transport: its client is `torrelque.connect`'s."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueUsageError, is_demoted
from torrelque.transports import base, forks
from torrelque.transports.native.connection import Breaks
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.listener import NativeListener
from torrelque.transports.native.node import Node
from torrelque.transports.native.options import Options
from torrelque.transports.native.url import Address

__all__ = ('NativeTransport',)

USED_BEFORE = 'this client was used before: call connect() again for a new one; in synchronous code, use torrelque.sync'


class NativeTransport(base.Transport):
    """A client for one server, connected within its context: ``async with torrelque.connect(url) as client``.

    :meth:`execute` shares one connection between all tasks. When it breaks, calls
    without an answer are repeated. :meth:`block` and :meth:`listen` use dedicated
    connections. The context can be entered only once.
    """

    in_order: bool = True
    queues_behind: bool = True
    block_limit: float = 7.0
    """Including the margin for a late answer, a dead connection is noticed within 9 seconds."""

    def __init__(self, address: Address, options: Options, dialer: Dialer | None = None) -> None:
        self._address = address
        self.database: int = address.db
        self._options = options
        self._dialer = dialer or Dialer(address, options)
        self._node: Node | None = None
        self._group: TaskGroup | None = None
        self._forks = 0
        self._open = False
        self._host: asyncio.Task[None] | None = None
        self._end: asyncio.Event = asyncio.Event()

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self._address} {"open" if self._open else "not open"}>'

    async def __aenter__(self) -> Self:
        """Connect. Attempts are repeated for as long as a call would be.

        Raises:
            TorrelqueUsageError: The client was used before.
            TorrelqueRefusedError: The user, password or database is wrong.
            TorrelqueConnectionError: Connecting failed for another reason.
        """
        if self._group is not None:
            raise TorrelqueUsageError(USED_BEFORE)
        self._forks = forks.count
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
        """Start the background tasks, and check that the server answers."""
        self._node = Node(
            self._dialer, repeats=True, response_timeout=self._options.response_timeout, start=self._start_soon
        )
        await self.execute((Call('PING'),))

    async def aopen(self) -> Self:
        """Connect without ``async with``, on asyncio; `aclose` disconnects.

        Different tasks may call the two, as fixtures, notebooks and the start-up
        hooks of web frameworks do. If this is cancelled, the client is closed.

        Returns:
            The client.

        Raises:
            TorrelqueUsageError: The event loop is Trio's, which runs background tasks
                only in a context: use ``async with``. Or the client was used before.
            TorrelqueConnectionError: As when the context is entered.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise TorrelqueUsageError('under Trio, open a client with `async with torrelque.connect(url)`') from None
        if self._host is not None:
            raise TorrelqueUsageError(USED_BEFORE)
        opened = asyncio.get_running_loop().create_future()
        self._host = asyncio.create_task(self._stay_open(opened))
        try:
            await opened
        except asyncio.CancelledError:
            self._host.cancel()
            raise
        return self

    async def _stay_open(self, opened: asyncio.Future[None]) -> None:
        try:
            async with self:
                if not opened.done():
                    opened.set_result(None)
                await self._end.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    def _start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._group is not None  # noqa: S101 - as it is usable
        self._group.start_soon(function)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
        if self._group is not None:
            # Without the error, because the group would wrap it in an exception group.
            await self._group.__aexit__(None, None, None)

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls on the shared connection and return their replies. Safe to cancel.

        If the connection breaks, they are sent again on the next one.

        Args:
            batch: The calls.

        Returns:
            A reply for each call.

        Raises:
            TorrelqueConnectionError: ``retry_timeout`` has passed.
        """
        return await self._execute(batch, repeat=True)

    def start(self, batch: Batch, then: base.Then) -> Callable[[], None] | None:
        self._usable()
        assert self._node is not None  # noqa: S101 - as it is usable
        return self._node.start(batch, self._deadline(), then)

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        return await self._execute(batch, repeat=False)

    async def _execute(self, batch: Batch, *, repeat: bool) -> Sequence[Reply]:
        self._usable()
        if not batch:
            await anyio.lowlevel.checkpoint()
            return []
        assert self._node is not None  # noqa: S101 - as it is usable
        deadline = self._deadline() if repeat else 0.0
        return await self._node.execute(batch, deadline, Breaks())

    def _deadline(self) -> float:
        """Return when to stop repeating a call that starts now."""
        return time.monotonic() + self._options.retry_timeout

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a dedicated connection. If it breaks, send all of them again on another one."""
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

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        self._usable()
        assert self._node is not None  # noqa: S101 - as it is usable
        return await self._finish_block((call, then), timeout, partial(self._node.block_all, (call, then), timeout))

    def start_block(self, batch: Batch, timeout: float, then: base.Then) -> Callable[[], Awaitable[object]] | None:
        self._usable()
        assert self._node is not None  # noqa: S101 - as it is usable
        return self._node.start_block(batch, timeout, base.after(partial(self._finish_block, batch, timeout), then))

    async def _finish_block(self, batch: Batch, timeout: float, rest: base.Rest) -> Sequence[Reply]:
        replies = await rest()
        if is_demoted(replies[0]) and self._node is not None:
            return await self._node.block_all(batch, timeout)
        return replies

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
        """Close every connection. Calls in flight raise TorrelqueConnectionError. Safe to repeat."""
        if self._host is not None and asyncio.current_task() is not self._host:
            self._end.set()
            await asyncio.wait({self._host})  # the task leaves the context, which calls this method again
            return
        self._open = False
        if self._node is not None:
            await self._node.aclose()
        await self._dialer.aclose()

    def _usable(self) -> None:
        """Raise TorrelqueUsageError unless this process has entered the context."""
        if not self._open:
            state = 'not connected yet' if self._group is None else 'closed'
            raise TorrelqueUsageError(
                f'the client is {state}: use it inside its context, `async with torrelque.connect(url) as client:`, '
                'or after `await client.aopen()`; in synchronous code, use torrelque.sync'
            )
        if forks.count != self._forks:
            raise TorrelqueUsageError(
                'the client was connected before a fork: call connect() again in the child process'
            )
