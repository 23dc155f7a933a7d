"""Sends calls to the primaries that serve them, and follows redirections, for all clients."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from torrelque.core.backoff import Backoff
from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueHandshakeError, TorrelqueReplyError
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.cluster.topology import Endpoint, Topology
from torrelque.transports.repeating import demoted, to_repeat

__all__ = ('ASKING', 'Redirection', 'Router', 'redirected')

BACKOFF = Backoff(0.05, 0.5)
"""Pauses between attempts, in seconds."""

MOST_AT_ONCE = 5
"""Maximum number of redirections in a row that are followed without a pause, even after the time limit."""

PATIENCE = 10.0
"""How long a call is repeated while the cluster cannot serve it, in seconds. A redirected call was not executed."""

ASKING: Call[Reply] = Call('ASKING')
"""Allows the next call on a slot that is still being imported."""


class Redirection(NamedTuple):
    """``code`` is MOVED, ASK, TRYAGAIN or CLUSTERDOWN. The first two name another node."""

    code: str
    host: str = ''
    port: int = 0


def redirected(reply: Reply) -> Redirection | None:
    """Return where or that a call is to be sent again; None if the reply is an answer."""
    if not isinstance(reply, TorrelqueReplyError):
        return None
    if reply.code in ('MOVED', 'ASK'):
        # Some clients remove the first word of the message.
        host, _, port = str(reply).split()[-1].rpartition(':')
        return Redirection(reply.code, host, int(port))
    return Redirection(reply.code) if reply.code in ('TRYAGAIN', 'CLUSTERDOWN') else None


@dataclass(frozen=True, slots=True)
class _Route:
    """Where to send a call: a node, or the owner of the call's slot."""

    node: Endpoint | None = None
    asking: bool = False


TO_OWNER = _Route()


class Router:
    """Sends calls to the primaries that serve them.

    Args:
        topology: Which node serves which slot.
        repeats: Returns whether to send a call again after its connection failed, perhaps to another node. Called
            after each failure, so that closing a transport ends the repeats.
    """

    def __init__(self, topology: Topology, repeats: Callable[[], bool] = lambda: False) -> None:
        self.topology = topology
        self._repeats = repeats

    def now(self) -> float:
        """Return the time on a clock that never goes back, in seconds."""
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Sleep for some seconds."""
        await anyio.sleep(seconds)

    async def route(
        self,
        batch: Batch,
        send: Callable[[Endpoint, Batch], Awaitable[Sequence[Reply]]],
        *,
        seconds: float | None = None,
        together: bool = False,
    ) -> Sequence[Reply]:
        """Return the replies to calls of one slot.

        Redirections are followed, and calls wait while their slot is moving. If that
        takes too long, the redirection is the reply. Safe to cancel.

        Args:
            batch: The calls.
            send: Sends calls to a node once, in one go.
            seconds: How long to repeat; None for `PATIENCE`.
            together: Send all calls again if one is redirected.

        Raises:
            TorrelqueConnectionError: A connection failed, and the calls may not be sent again.
        """
        slot = _slot(batch)
        replies: list[Reply] = [None] * len(batch)
        routes = dict.fromkeys(range(len(batch)), TO_OWNER)
        attempts = _Attempts(self, PATIENCE if seconds is None else seconds)
        while True:
            route = next(iter(routes.values()))
            chosen = to_repeat(batch, range(len(batch)), {index for index in routes if routes[index] == route})
            node, version = route.node, self.topology.version
            try:
                if node is None:
                    node = await self.topology.owner(slot)
                    version = self.topology.version
                answers = await _sent(send, node, [batch[index] for index in chosen], asking=route.asking)
            except TorrelqueConnectionError as error:
                self.topology.mark_stale(version, failed=node)
                if isinstance(error, TorrelqueHandshakeError) or not await self._another(attempts):
                    raise
                routes = dict.fromkeys(routes, TO_OWNER)
                continue
            at_once = True
            for index, answer in zip(chosen, answers, strict=True):
                routes.pop(index, None)
                replies[index] = answer
                redirection = redirected(answer)
                if redirection is not None:
                    routes[index] = self._route_of(redirection, node, version, together=together)
                    at_once = at_once and routes[index].node is not None
            if demoted(answers):
                self.topology.mark_stale(version)
            if not routes or not await attempts.another(at_once=at_once):
                return replies
            if together:
                routes = dict.fromkeys(range(len(batch)), next(iter(routes.values())))

    async def _another(self, attempts: _Attempts) -> bool:
        return self._repeats() and await attempts.pause() and self._repeats()

    async def block(self, call: Call[Reply], timeout: float, send: Callable[[Endpoint], Awaitable[Reply]]) -> Reply:
        """Return the reply to a call that blocks. While its slot is moving, wait as if no message arrived."""
        attempts = _Attempts(self, timeout)
        while True:
            node = await self.topology.owner(_slot((call,)))
            version = self.topology.version
            try:
                # The call carries its own time-out: if it starts late, it ends late.
                reply = await send(node)
            except TorrelqueConnectionError:
                self.topology.mark_stale(version, failed=node)
                raise
            redirection = redirected(reply)
            if redirection is None:
                return reply
            self._route_of(redirection, node, version)
            if not await attempts.pause():
                return None

    def _route_of(self, redirection: Redirection, asked: Endpoint, version: int, *, together: bool = False) -> _Route:
        """Return where a redirected call goes."""
        target: Endpoint | None = None
        if redirection.port:
            target = self.topology.resolve(redirection.host, redirection.port, asked)
        if redirection.code in ('MOVED', 'CLUSTERDOWN'):
            self.topology.mark_stale(version, informed=target)
        asking = redirection.code == 'ASK'
        if target is None or (asking and together):  # sent alone, it might miss keys
            return TO_OWNER
        return _Route(target, asking)


class _Attempts:
    """Pauses between the attempts of one call, until its time is up."""

    def __init__(self, router: Router, seconds: float) -> None:
        self._router = router
        self._deadline = router.now() + seconds
        self._pauses = 0
        self._in_a_row = 0  # redirections since the last pause

    async def another(self, *, at_once: bool) -> bool:
        """Return whether there is another attempt, after a pause unless it may be made ``at_once``."""
        self._in_a_row += 1
        if at_once and self._in_a_row <= MOST_AT_ONCE:
            return True
        self._in_a_row = 0
        return await self.pause()

    async def pause(self) -> bool:
        """Pause before another attempt. Return False at once if no time is left."""
        self._pauses += 1
        delay = BACKOFF.pause(self._pauses, random.random)
        if self._router.now() + delay > self._deadline:
            return False
        await self._router.sleep(delay)
        return True


async def _sent(
    send: Callable[[Endpoint, Batch], Awaitable[Sequence[Reply]]], node: Endpoint, calls: Batch, *, asking: bool
) -> Sequence[Reply]:
    if not asking:
        return await send(node, calls)
    return (await send(node, [each for call in calls for each in (ASKING, call)]))[1::2]


def _slot(batch: Batch) -> int | None:
    """Return the slot of a batch's calls; None if any node can run them."""
    key = next((call.routing_key for call in batch if call.routing_key is not None), None)
    return None if key is None else slot_of(key)
