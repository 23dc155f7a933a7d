"""A stream over a Unix socket.

anyio's own stream has a race on asyncio: if a receive is cancelled at the moment
when bytes arrive, it sets the result of a finished future, and the event loop logs
an error. Waiting for the bare socket avoids that.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

__all__ = ('UnixStream', 'connect_unix')

T = TypeVar('T')


async def connect_unix(path: str) -> UnixStream:
    """Connect. Safe to cancel. Raises OSError."""
    raw = socket.socket(socket.AF_UNIX)
    raw.setblocking(False)  # noqa: FBT003 - the standard library's
    try:
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                raw.connect(path)
            except BlockingIOError:  # the server's backlog is full
                await anyio.sleep(0.005)
            else:
                return UnixStream(raw)
    except BaseException:
        raw.close()
        raise


class UnixStream(ByteStream):
    """A stream over a Unix socket. One task may receive while another sends."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint_if_cancelled()
        data = await self._when(anyio.wait_readable, partial(self._raw.recv, max_bytes))
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        left = memoryview(item)
        while left:
            sent = await self._when(anyio.wait_writable, partial(self._raw.send, left))
            left = left[sent:]

    async def send_eof(self) -> None:
        self._raw.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        if self._raw.fileno() >= 0:
            anyio.notify_closing(self._raw)
            self._raw.close()
        await anyio.lowlevel.checkpoint()

    async def _when(self, ready: Callable[[socket.socket], Awaitable[None]], act: Callable[[], T]) -> T:
        while True:
            if self._raw.fileno() < 0:
                raise anyio.ClosedResourceError
            try:
                return act()
            except BlockingIOError:
                await ready(self._raw)
            except OSError as error:
                raise anyio.BrokenResourceError from error
