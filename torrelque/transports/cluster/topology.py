"""Which node of a cluster serves which slot."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import NamedTuple

import anyio

from torrelque.core.protocol import Arg, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    is_unavailable,
)
from torrelque.transports.cluster.slots import SLOTS, slot_of

__all__ = ('CLUSTER_SLOTS', 'Endpoint', 'SlotTopology', 'Topology')

CLUSTER_SLOTS: Call[Reply] = Call('CLUSTER SLOTS')


class Endpoint(NamedTuple):
    """The address of a node."""

    host: str
    port: int

    def __str__(self) -> str:
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


class Topology(ABC):
    """The primaries of a cluster by slot.

    Once they are marked as stale, the next caller that needs them reads them again.
    One read serves all waiting callers.
    """

    def __init__(self) -> None:
        self._stale = True
        self._reading = self.make_lock()
        self._failed: set[Endpoint] = set()
        self._informed: Endpoint | None = None
        self.version: int = 0
        """Increases each time the slots are read."""
        self.on_read: Callable[[frozenset[Endpoint]], Awaitable[None]] = _ignore
        """Called with the primaries each time the slots are read."""

    @staticmethod
    def make_lock() -> AbstractAsyncContextManager[None, bool | None]:
        """Return a lock for reading the slots."""
        return anyio.Lock()

    async def owner(self, slot: int | None) -> Endpoint:
        """Return the primary of a slot, or any primary for None. Raises TorrelqueConnectionError if there is none."""
        if self._stale:
            async with self._reading:
                if self._stale:  # otherwise another caller has just read them
                    primaries = await self.read()
                    self._stale = False
                    self._failed.clear()
                    self._informed = None
                    self.version += 1
                    await self.on_read(primaries)
        owner = self.known_owner(slot)
        if owner is None:
            self._stale = True
            raise self.unowned(slot)
        return owner

    def mark_stale(
        self, version: int | None = None, *, failed: Endpoint | None = None, informed: Endpoint | None = None
    ) -> None:
        """Make the next caller read the slots again. Safe to repeat.

        Args:
            version: The version that turned out to be stale. Nothing happens if the slots have been read since then.
                None for the latest.
            failed: A node that did not answer. It is asked last.
            informed: A node that probably knows the current slots. It is asked first.
        """
        if version is None or version == self.version:
            self._stale = True
            self._informed = informed or self._informed
            if failed is not None:
                self._failed.add(failed)

    async def nodes(self) -> list[Arg]:
        """Return a key for each primary that serves slots."""
        await self.owner(None)
        owners = {owner for owner in map(self.known_owner, range(SLOTS)) if owner is not None}
        keys: dict[Endpoint, Arg] = {}
        for number in count():
            owner = self.known_owner(slot_of(number))
            if owner is not None:
                keys.setdefault(owner, str(number))
            if len(keys) == len(owners):
                break
        return list(keys.values())

    @abstractmethod
    async def read(self) -> frozenset[Endpoint]:
        """Read which node serves which slot, and return the primaries. Raises TorrelqueConnectionError."""

    @abstractmethod
    def known_owner(self, slot: int | None) -> Endpoint | None:
        """Return the primary of a slot, or any primary for None, as of the last time the slots were read."""

    @abstractmethod
    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        """Return the error to raise if no node serves a slot."""

    def resolve(self, host: str, port: int, asked: Endpoint) -> Endpoint:
        """Return the node that ``asked`` named. If the host is empty, it is that of ``asked``."""
        return Endpoint(host or asked.host, port)


class SlotTopology(Topology):
    """Asks nodes with CLUSTER SLOTS: first the seeds, later all known nodes.

    Args:
        seeds: The nodes to ask first.
        ask: Asks a node for its slots, and returns its reply. Raises TorrelqueConnectionError.
        as_theirs: Combines an error with the client's type of error.
    """

    def __init__(
        self,
        seeds: Iterable[Endpoint],
        ask: Callable[[Endpoint], Awaitable[Reply]],
        as_theirs: Callable[[TorrelqueConnectionError], TorrelqueConnectionError] = lambda error: error,
    ) -> None:
        super().__init__()
        self._seeds = tuple(seeds)
        self._ask = ask
        self._as_theirs = as_theirs
        self._owners: list[Endpoint | None] = [None] * SLOTS
        self._primaries: list[Endpoint] = []
        self._known: set[Endpoint] = set()

    async def read(self) -> frozenset[Endpoint]:
        found = await self._ask_around()
        self._owners = [None] * SLOTS
        for first, last, nodes in found:
            self._owners[first : last + 1] = [nodes[0]] * (last + 1 - first)
        self._primaries = list(dict.fromkeys(nodes[0] for _, _, nodes in found))
        self._known = {node for _, _, nodes in found for node in nodes}
        return frozenset(self._primaries)

    def known_owner(self, slot: int | None) -> Endpoint | None:
        if slot is not None:
            return self._owners[slot]
        return random.choice(self._primaries) if self._primaries else None  # noqa: S311 - no secret

    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        return self._as_theirs(TorrelqueConnectionError(f'no node of the cluster serves slot {slot}'))

    async def _ask_around(self) -> list[tuple[int, int, list[Endpoint]]]:
        """Return the first answer. Without one, raise the last error, preferably a refusal."""
        others = list(self._known)
        random.shuffle(others)
        first = [] if self._informed is None else [self._informed]
        error: TorrelqueConnectionError | None = None
        for node in sorted(dict.fromkeys((*first, *others, *self._seeds)), key=self._failed.__contains__):
            try:
                return self._understand(node, await self._ask(node))
            except TorrelqueConnectionError as failure:
                error = error if isinstance(error, TorrelqueHandshakeError) else failure
        assert error is not None  # noqa: S101 - there is a seed
        raise error

    def _understand(self, asked: Endpoint, reply: Reply) -> list[tuple[int, int, list[Endpoint]]]:
        if isinstance(reply, TorrelqueReplyError):
            raise self._as_theirs(_refusal(asked, reply)) from reply
        if not reply:
            raise self._as_theirs(
                TorrelqueConnectionError(
                    f'no node of the cluster serves slots: {asked} knows of no node that serves slots'
                )
            )
        return [
            (first, last, [self.resolve(*_endpoint(node), asked) for node in nodes]) for first, last, *nodes in reply
        ]


async def _ignore(_primaries: frozenset[Endpoint]) -> None:
    """Default: there are no connections to close."""


def _refusal(asked: Endpoint, reply: TorrelqueReplyError) -> TorrelqueConnectionError:
    said = f'{asked}: CLUSTER SLOTS was answered: {reply}'
    if reply.code == 'NOPERM':
        return TorrelqueRefusedError(said, reply.code)
    if is_unavailable(reply):
        return TorrelqueConnectionError(said)
    return TorrelqueHandshakeError(
        f'{asked}: is not a node of a cluster, connect to it with redis:// or rediss://: {reply}'
    )


def _endpoint(node: Sequence[Reply]) -> tuple[str, int]:
    host, port, *rest = node
    if host == b'?':  # the node does not know its host name; its address may follow
        more = rest[1] if len(rest) > 1 else []
        host = dict(zip(more[::2], more[1::2], strict=False)).get(b'ip')
    return (host or b'').decode(), port
