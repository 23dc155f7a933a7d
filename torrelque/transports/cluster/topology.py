"""Which node of a cluster serves which slot, as the cluster's nodes tell."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import anyio

from torrelque.core.protocol import Arg, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    is_unavailable,
)
from torrelque.transports.cluster.slots import SLOTS, slot_of
from torrelque.transports.native.connection import pack_words
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.url import Address

__all__ = ('Topology', 'endpoint', 'place')


class Topology:
    """The primaries of a cluster by slot. Read anew when there is doubt, once for all who doubt.

    ``seeds`` are asked first, later every node that was heard of;
    ``on_change`` is called whenever it was read.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        dialer: Callable[[Address], Dialer],
        timeout: float,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._seeds = tuple(seeds)
        self._dialer = dialer
        self._timeout = timeout
        self._on_change = on_change
        self._owners: list[Address | None] = [None] * SLOTS
        self._known: set[Address] = set()
        self._first: Address | None = None
        self._stale = True
        self._reading = anyio.Lock()
        self.primaries: tuple[Address, ...] = ()
        self.version: int = 0
        """Goes up each time the slots were read."""

    async def owner(self, slot: int | None) -> Address:
        """The primary of a slot, or any if it is None.

        Raises TorrelqueConnectionError if no node can say.
        """
        if self._stale:
            await self._read()
        owner = random.choice(self.primaries) if slot is None else self._owners[slot]  # noqa: S311 - no secret
        if owner is None:
            self._stale = True
            raise TorrelqueConnectionError(f'{self.primaries[0]}: no node of the cluster serves slot {slot}')
        return owner

    def known_owner(self, slot: int) -> Address | None:
        """The primary of a slot, as it was when the slots were read last."""
        return self._owners[slot]

    def mark_stale(self, version: int, ask: Address | None = None) -> None:
        """What was read as ``version`` turned out to be wrong; the next one who wants to know reads anew.

        ``ask`` is a node that probably knows.
        """
        if version == self.version:
            self._stale = True
            self._first = ask or self._first

    async def nodes(self) -> list[Arg]:
        """The name of a key for each primary that serves slots."""
        await self.owner(None)
        names: dict[Address, Arg] = {}
        number = 0
        while len(names) < len(self.primaries):
            owner = self._owners[slot_of(number)]
            if owner is not None:
                names.setdefault(owner, str(number))
            number += 1
        return list(names.values())

    async def _read(self) -> None:
        async with self._reading:
            if not self._stale:  # somebody else has just done it
                return
            found = await self._ask_around()
            self._owners = [None] * SLOTS
            for first, last, nodes in found:
                self._owners[first : last + 1] = [nodes[0]] * (last + 1 - first)
            self.primaries = tuple(dict.fromkeys(nodes[0] for _, _, nodes in found))
            self._known = {node for _, _, nodes in found for node in nodes}
            self._stale = False
            self._first = None
            self.version += 1
            await self._on_change()

    async def _ask_around(self) -> list[tuple[int, int, list[Address]]]:
        """The answer of the first node that gives one. Raises the error of the last one if none does."""
        others = list(self._known)
        random.shuffle(others)
        first = [] if self._first is None else [self._first]
        error: TorrelqueConnectionError | None = None
        for address in dict.fromkeys((*first, *others, *self._seeds)):
            try:
                return await self._ask(address)
            except TorrelqueConnectionError as failure:
                # A node that refuses us tells more than one that is not there.
                error = error if isinstance(error, TorrelqueHandshakeError) else failure
        assert error is not None  # noqa: S101 - there is a seed
        raise error

    async def _ask(self, address: Address) -> list[tuple[int, int, list[Address]]]:
        dialer = self._dialer(address)
        try:
            with anyio.fail_after(self._timeout):
                connection = await dialer.open()
                await connection.send(pack_words(('CLUSTER', 'SLOTS')))
                reply, *_ = await connection.receive()
        except TimeoutError:
            raise TorrelqueConnectionError(f'{address}: does not tell the slots of the cluster') from None
        finally:
            await dialer.aclose()
        if isinstance(reply, TorrelqueReplyError):
            if reply.code == 'NOPERM':
                raise TorrelqueRefusedError(f'{address}: CLUSTER SLOTS was answered: {reply}', reply.code)
            if not is_unavailable(reply):
                raise TorrelqueHandshakeError(
                    f'{address}: is not a node of a cluster, connect to it with redis:// or rediss://: {reply}'
                )
            raise TorrelqueConnectionError(f'{address}: CLUSTER SLOTS was answered: {reply}')
        if not reply:
            raise TorrelqueConnectionError(f'{address}: knows of no node that serves slots')
        return [(first, last, [place(address, *endpoint(node)) for node in nodes]) for first, last, *nodes in reply]


def place(asked: Address, host: str, port: int) -> Address:
    """Where a node is that ``asked`` told of. Without a host it is at the same one as the node asked."""
    return replace(asked, host=host or asked.host, port=port)


def endpoint(node: Sequence[Reply]) -> tuple[str, int]:
    host, port, *rest = node
    if host == b'?':  # it is to be called by a name that nobody has given it; its address may follow
        told = rest[1] if len(rest) > 1 else []
        host = dict(zip(told[::2], told[1::2], strict=False)).get(b'ip')
    return (host or b'').decode(), port
