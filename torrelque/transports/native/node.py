"""All connections to one server: a shared one, and dedicated ones for calls that block."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import anyio

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
    is_demoted,
)
from torrelque.transports.base import Rest, Then, after
from torrelque.transports.connections import later_by
from torrelque.transports.native.blocking import BlockingPool
from torrelque.transports.native.connection import Breaks, pack
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.multiplexer import Multiplexer, Slot, back_off
from torrelque.transports.repeating import to_repeat

__all__ = ('Node',)

LARGE = 2 << 20
"""Size from which a batch gets a dedicated connection, in bytes. There it neither delays other calls nor breaks them.

Merged calls are smaller, so they keep their order.
"""

FEW = 16
"""Maximum number of words in a call with a large word. The core sends large items alone."""

MOST_BREAKS = 5
"""Number of dedicated connections that may break with a call before it fails."""

MOST_SUSPECTS = 4
"""Maximum number of calls that are sent alone at the same time, each on a dedicated connection."""

LIMITS = ('proto-max-bulk-len', 'client-query-buffer-limit', 'client-output-buffer-limit')
"""Settings that make a server close a connection because of the size of a call or of its answer."""


class Node:
    """Sends calls to one server.

    Args:
        dialer: Opens the connections.
        repeats: Repeat calls while the server cannot be reached. Otherwise the caller does, perhaps on another server.
        response_timeout: How long the server may be silent while it owes an answer, in seconds.
        start: Runs a function in the background.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        repeats: bool,
        response_timeout: float,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self.dialer = dialer
        self._repeats = repeats
        self._response_timeout = response_timeout
        later = later_by(start)
        self._pool: BlockingPool = BlockingPool(dialer, dialer.address, later)
        self._apart: BlockingPool = BlockingPool(dialer, dialer.address, later)
        self._multiplexer: Multiplexer = Multiplexer(dialer, response_timeout, self._close_idle)
        self._suspects: anyio.CapacityLimiter = anyio.CapacityLimiter(MOST_SUSPECTS)
        start(self._multiplexer.run)

    async def execute(self, batch: Batch, deadline: float, breaks: Breaks) -> Sequence[Reply]:
        """Send the calls on the shared connection and return their replies. Safe to cancel.

        Calls with which connections broke are then sent alone. If a call breaks
        those connections too, its reply is a TorrelqueTooLargeError.
        """
        return await self._once_more(batch, deadline, await self._execute(batch, deadline, breaks))

    def start(self, batch: Batch, deadline: float, then: Then) -> Callable[[], None] | None:
        """Do what `execute` does without waiting, except for large batches. See `Transport.start`."""
        for call in batch:
            if len(call.args) <= FEW:
                for word in call.args:
                    if type(word) is bytes and len(word) >= LARGE:
                        return None  # checked before packing, so that nothing is packed twice
        data = pack(batch)
        if len(data) >= LARGE:
            return None

        def receive(slot: Slot) -> None:
            if slot.error is None and not (slot.suspected or slot.demoted):
                then(slot.replies)
            else:
                then(partial(self._go_on, batch, deadline, slot))

        slot = Slot(data, len(batch), self._until_when(deadline), Breaks(), receive)
        self._multiplexer.start(slot)
        return slot.abandon

    async def _go_on(self, batch: Batch, deadline: float, slot: Slot) -> Sequence[Reply]:
        """Finish a batch that was sent, and return the replies."""
        if slot.error is not None:
            raise slot.error
        replies = [await self._execute_alone(call, deadline) for call in batch] if slot.suspected else slot.replies
        return await self._once_more(batch, deadline, replies)

    async def _execute(self, batch: Batch, deadline: float, breaks: Breaks) -> Sequence[Reply]:
        data = pack(batch)
        if len(data) < LARGE:
            slot = await self._multiplexer.execute(data, len(batch), self._until_when(deadline), breaks)
            if not slot.suspected:
                return slot.replies
        del data
        return [await self._execute_alone(call, deadline) for call in batch]

    def _until_when(self, deadline: float) -> float:
        return deadline if self._repeats else 0.0

    async def _once_more(self, batch: Batch, deadline: float, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Send calls again that a replica refused. A new connection to the same address may lead to the primary."""
        wanted = {place for place, reply in enumerate(replies) if is_demoted(reply)}
        if not wanted or not self._until_when(deadline):
            return replies
        places = to_repeat(batch, range(len(batch)), wanted)
        answers = await self._execute([batch[place] for place in places], deadline, Breaks())
        again = dict(zip(places, answers, strict=True))
        return [again.get(place, reply) for place, reply in enumerate(replies)]

    async def execute_dedicated(self, batch: Batch, last: float, deadline: float) -> Sequence[Reply]:
        """Send the calls on a dedicated connection. The last one may take ``last`` seconds longer."""
        data = pack(batch)
        breaks = Breaks()

        async def attempt() -> Sequence[Reply]:
            return await self._apart.execute_all(data, len(batch), self._response_timeout, last, breaks=breaks)

        replies = await self._until(attempt, deadline, breaks)
        if any(map(is_demoted, replies)):
            await self._demote()
        return replies or [await self._too_large(len(data), breaks)] * len(batch)

    async def _execute_alone(self, call: Call[Any], deadline: float) -> Reply:
        data = pack((call,))
        breaks = Breaks()

        async def attempt() -> Sequence[Reply]:
            async with self._suspects:
                return await self._apart.execute_all(data, 1, self._response_timeout, breaks=breaks)

        replies = await self._until(attempt, deadline, breaks)
        if replies and type(replies[0]) is not TorrelqueTooLargeError:
            return replies[0]
        return await self._too_large(len(data), breaks, replies[0] if replies else None)

    async def _until(
        self, attempt: Callable[[], Coroutine[Any, Any, Sequence[Reply]]], deadline: float, breaks: Breaks
    ) -> Sequence[Reply]:
        """Repeat an attempt until it succeeds or the deadline passes. Return nothing if each connection broke."""
        failures = 0
        while True:
            before, begun = breaks.alone, time.monotonic()
            try:
                return await attempt()
            except TorrelqueHandshakeError:
                raise
            except TorrelqueConnectionError as error:
                if isinstance(error, TorrelqueResponseTimeout):
                    await self._multiplexer.suspect(begun)
                if breaks.alone >= MOST_BREAKS:
                    return ()
                delay = back_off(failures)
                failures += 1
                if breaks.alone == before and not self._repeats:
                    raise
                if self._multiplexer.closed or time.monotonic() + delay >= deadline:
                    raise
            await anyio.sleep(delay)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        """Run a call that blocks for at most ``timeout`` seconds. Never repeats."""
        (reply,) = await self.block_all((call,), timeout)
        return reply

    async def block_all(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Run a call that blocks, and the calls behind it, in one write. Never repeats."""
        return await self._finish_block(time.monotonic(), partial(self._pool.execute, pack(batch), len(batch), timeout))

    def start_block(self, batch: Batch, timeout: float, then: Then) -> Callable[[], Awaitable[object]] | None:
        """Do what `block_all` does without a waiting task. See `Transport.start_block`."""
        return self._pool.start(
            pack(batch), len(batch), timeout, after(partial(self._finish_block, time.monotonic()), then)
        )

    async def _finish_block(self, begun: float, rest: Rest) -> Sequence[Reply]:
        try:
            replies = await rest()
        except TorrelqueResponseTimeout:
            await self._apart.close_idle()
            await self._multiplexer.suspect(begun)
            raise
        if any(map(is_demoted, replies)):
            await self._demote()
        return replies

    async def reconnect(self) -> None:
        """Use new connections for further calls."""
        await self._multiplexer.reconnect()
        await self._close_idle()

    async def _demote(self) -> None:
        """Use new connections for further calls, because the server is not the primary. One may lead to it."""
        await self._multiplexer.drain()
        await self._close_idle()

    async def _close_idle(self) -> None:
        await self._pool.close_idle()
        await self._apart.close_idle()

    async def aclose(self) -> None:
        """Close every connection. Calls in flight raise TorrelqueConnectionError. Safe to repeat."""
        self._pool.stop()
        self._apart.stop()
        with anyio.CancelScope(shield=True):
            await self._multiplexer.aclose()
            await self.dialer.aclose()

    async def _too_large(self, size: int, breaks: Breaks, answer: object = None) -> TorrelqueTooLargeError:
        """Return the error for a call that is too large, with the server's limits if they are available."""
        limits = await self._limits()
        told = ', '.join(f'{name} {value}' for name, value in limits.items()) or 'its limits are unknown'
        what = f'answered {answer}' if answer else f'closed {breaks.alone} dedicated connections'
        limit = limits.get(LIMITS[0], '')
        return TorrelqueTooLargeError(
            f'{self.dialer.address}: a call of {size:,} bytes, or the answer to it, is too large for the server, '
            f'which {what} ({told})',
            size,
            int(limit) if answer and limit.isdigit() else None,
        )

    async def _limits(self) -> dict[str, str]:
        """Return the server's limits that the user may read."""
        calls = [Call[Reply]('CONFIG GET', args=(name,)) for name in LIMITS]
        try:
            replies = await self._apart.execute_all(pack(calls), len(calls), self._response_timeout)
        except TorrelqueConnectionError:
            return {}
        told = zip(LIMITS, replies, strict=True)
        return {name: reply[1].decode() for name, reply in told if isinstance(reply, list) and reply}
