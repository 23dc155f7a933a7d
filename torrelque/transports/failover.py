"""Repeats calls while a server is failing over, so that callers see no error."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count

import anyio

from torrelque.core.backoff import Backoff
from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.core.wording import counted
from torrelque.errors import TorrelqueConnectionError, is_unavailable
from torrelque.transports.base import Listener, Rest, Then, Transport
from torrelque.transports.repeating import to_repeat

__all__ = ('DEFAULT', 'LONGEST', 'FailoverTransport', 'with_failover')

DEFAULT = 10.0
"""Default time for which calls are repeated on a cluster or through Sentinel, in seconds."""

LONGEST = 300.0
"""Maximum, in seconds. A call and its repeats must end long before the lanes that guard them expire."""

BACKOFF = Backoff(0.05, 0.5)


def with_failover(transport: Transport, timeout: float | None) -> Transport:
    """Return a transport that repeats calls for ``timeout`` seconds. None chooses by the kind of server."""
    if timeout is None:
        timeout = DEFAULT if transport.on_cluster or transport.fails_over else 0.0
    return FailoverTransport(transport, timeout) if timeout else transport


class FailoverTransport(Transport):
    """Repeats calls while a server fails over, for up to ``budget`` seconds from their start."""

    def __init__(self, transport: Transport, budget: float) -> None:
        self.inner = transport
        self.block_limit: float = transport.block_limit
        self.on_cluster: bool = transport.on_cluster
        self.fails_over: bool = transport.fails_over
        self.database: int = transport.database
        self.in_order: bool = transport.in_order
        self.queues_behind: bool = transport.queues_behind
        self.gathering: float = transport.gathering
        self._budget = budget
        self._waits_fail_since: float | None = None
        self._failed_waits = 0

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self._budget:g} s, over {self.inner!r}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls, and repeat those that a server refused because it is failing over. Safe to cancel.

        When a connection breaks, all calls of the last attempt are repeated. Once
        the budget is used up, the last replies are returned, or the
        TorrelqueConnectionError of the last attempt is raised.
        """
        return await self._repeat(batch, self.inner.execute, dedicated=False)

    def start(self, batch: Batch, then: Then) -> Callable[[], None] | None:
        """Like `execute`. Only repeats need a task."""
        begun = self.now()

        def receive(first: Sequence[Reply] | Rest) -> None:
            if callable(first) or any(is_unavailable(reply) for reply in first):
                then(partial(self._go_on, batch, begun, first))
            else:
                self._waits_fail_since = None
                then(first)

        return self.inner.start(batch, receive)

    async def _go_on(self, batch: Batch, begun: float, first: Sequence[Reply] | Rest | None) -> Sequence[Reply]:
        """Return the replies to a batch. ``first`` is the outcome of its first attempt, or finishes that attempt."""

        async def send(calls: Batch) -> Sequence[Reply]:
            nonlocal first
            if first is None:
                return await self.inner.execute(calls)
            given, first = first, None
            return await given() if callable(given) else given

        return await self._repeat(batch, send, dedicated=False, begun=begun)

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Like `execute`, but repeats all calls, because the WAIT at their end applies to those before it."""
        return await self._repeat(batch, lambda calls: self.inner.execute_dedicated(calls, timeout), dedicated=True)

    async def _repeat(
        self,
        batch: Batch,
        send: Callable[[Batch], Awaitable[Sequence[Reply]]],
        *,
        dedicated: bool,
        begun: float | None = None,
    ) -> Sequence[Reply]:
        start = self.now() if begun is None else begun
        replies: list[Reply] = [None] * len(batch)
        places = list(range(len(batch)))
        for tries in count(1):
            try:
                answers = await send([batch[place] for place in places])
            except TorrelqueConnectionError as error:
                if not is_unavailable(error):
                    raise
                if not await self._another(start, tries):
                    self._annotate(error, start, tries)
                    raise
                continue
            for place, answer in zip(places, answers, strict=True):
                replies[place] = answer
            failed = [place for place in places if is_unavailable(replies[place])]
            if not failed:
                self._waits_fail_since = None
                return replies
            await self.inner.reconnect()
            if not await self._another(start, tries):
                for place in failed:
                    self._annotate(replies[place], start, tries)
                return replies
            if not dedicated:
                places = to_repeat(batch, places, failed)
        raise AssertionError  # count() never ends

    async def _another(self, start: float, tries: int) -> bool:
        """Pause before another attempt. Return False at once if no time is left."""
        pause = BACKOFF.pause(tries, random.random)
        if self.now() + pause > start + self._budget:
            return False
        await self._sleep(pause)
        return True

    def _annotate(self, error: object, start: float, tries: int) -> None:
        if isinstance(error, Exception):
            error.add_note(
                f'failover_timeout={self._budget:g}: {counted(tries, "attempt")} in {self.now() - start:.1f} s '
                'failed like this'
            )

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        """Wait as the inner transport does. While the server fails over, return after a pause as if a hint had arrived.

        The claim that follows is repeated like any call. If all waits fail for
        longer than the budget, the failure is raised or returned.
        """
        replies = await self._wait([call], timeout)
        return replies[0]

    async def block_then(self, call: Call[Reply], then: Call[Reply], timeout: float) -> Sequence[Reply]:
        return await self._wait([call, then], timeout)

    def start_block(self, batch: Batch, timeout: float, then: Then) -> Callable[[], Awaitable[object]] | None:
        def receive(outcome: Sequence[Reply] | Rest) -> None:
            if callable(outcome):
                then(partial(self._wait, batch, timeout, outcome))
            else:
                self._waits_fail_since, self._failed_waits = None, 0
                then(outcome)

        return self.inner.start_block(batch, timeout, receive)

    async def _wait(self, calls: Batch, timeout: float, rest: Rest | None = None) -> Sequence[Reply]:
        replies: Sequence[Reply]
        try:
            if rest is not None:
                replies = await rest()
            elif len(calls) == 1:
                replies = [await self.inner.block(calls[0], timeout)]
            else:
                replies = await self.inner.block_then(calls[0], calls[1], timeout)
        except TorrelqueConnectionError as error:
            if not is_unavailable(error) or self._gives_up():
                raise
        else:
            if not any(map(is_unavailable, replies)):
                self._waits_fail_since = None
                self._failed_waits = 0
                return replies
            await self.inner.reconnect()
            if self._gives_up():
                return replies
        self._failed_waits += 1
        await self._sleep(min(timeout, BACKOFF.pause(self._failed_waits, random.random)))
        return [[calls[0].keys[0], b'', b'0'], None]

    def _gives_up(self) -> bool:
        if self._waits_fail_since is None:
            self._waits_fail_since = self.now()
        return self.now() - self._waits_fail_since >= self._budget

    async def _sleep(self, seconds: float) -> None:
        await self.inner.pause(anyio.Event(), self.now() + seconds)

    # Passed on --------------------------------------------------------------------------------------------------------

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        return await self.inner.execute_once(batch)

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        return await self.inner.execute_at_end(batch)

    def node_of(self, key: bytes) -> Hashable:
        return self.inner.node_of(key)

    async def nodes(self) -> Sequence[Arg | None]:
        return await self.inner.nodes()

    async def reconnect(self) -> None:
        await self.inner.reconnect()

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self.inner.listen()

    async def aclose(self) -> None:
        await self.inner.aclose()

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        self.inner.append(pipeline, call)

    def now(self) -> float:
        return self.inner.now()

    async def pause(self, event: anyio.Event, until: float) -> None:
        await self.inner.pause(event, until)
