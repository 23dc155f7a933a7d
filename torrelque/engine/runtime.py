"""The shared parts of one queue object: its transport, scripts, keys and engine."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Protocol

import anyio

from torrelque.core.durability import Confirmer, Durability
from torrelque.core.keys import LOGICAL_NAMES, Keys, tagged
from torrelque.core.scripts import ScriptSet, load
from torrelque.core.session import Session
from torrelque.core.sharding.session import ShardedSession
from torrelque.engine.cron import upcoming
from torrelque.engine.engine import Engine
from torrelque.transports import adapt
from torrelque.transports.base import Transport
from torrelque.transports.failover import with_failover

__all__ = ('QueueOptions', 'Runtime')


@cache
def _scripts_for(*, on_cluster: bool, sharded: bool) -> ScriptSet:
    return load(on_cluster=on_cluster, sharded=sharded)


class QueueOptions(Protocol):
    """The options of a queue object. Options that can change are read each time they are needed."""

    queue: str
    keys: Mapping[str, str]
    max_rejected: int | None
    durability: Durability | None
    failover_timeout: float | None
    shards: int | None


class Runtime:
    """The shared parts of one queue object.

    Args:
        client: What `Torrelque` takes.
        options: The queue object.
        renamed: The keys that its class renames, without the queue's name.
    """

    def __init__(self, client: object, options: QueueOptions, renamed: Mapping[str, str]) -> None:
        self.name: str = options.queue
        self.renamed: Mapping[str, str] = renamed
        self._options = options
        adapted = self.adapt(client)
        self._lent = adapted is client
        self.transport: Transport = with_failover(adapted, options.failover_timeout)
        sharded = options.shards is not None
        self.scripts: ScriptSet = _scripts_for(on_cluster=self.transport.on_cluster, sharded=sharded)
        self._prefix = tagged(self.name) if self.transport.on_cluster or sharded else self.name
        self._known_keys: Keys | None = None
        self._engine: Engine | None = None
        self._make_session: Callable[[], Session | ShardedSession]  # set by the dispatcher, see `run_with`

    def adapt(self, client: object) -> Transport:
        """Return the transport for a client."""
        return adapt(client)

    def make_lock(self) -> AbstractAsyncContextManager[None, bool | None]:
        """Return a lock for the callers of one queue object."""
        return anyio.Lock()

    @property
    def full_names(self) -> dict[str, str]:
        """Maps logical names to full keys."""
        return {name: f'{self._prefix}:{key}' for name, key in {**LOGICAL_NAMES, **self.renamed}.items()}

    @property
    def keys(self) -> Keys:
        """The keys of the queue. The queue object's attribute is read at the first use."""
        if self._known_keys is None:
            defaults = {name: f'{self._prefix}:{key}' for name, key in LOGICAL_NAMES.items()}
            self._known_keys = Keys({**defaults, **self._options.keys})
        return self._known_keys

    @property
    def max_rejected(self) -> int | None:
        return self._options.max_rejected

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = self.make_engine()
        return self._engine

    def make_engine(self) -> Engine:
        """Make the engine. Subclasses make another kind."""
        return Engine(self.transport, self._make_session, self.confirm_timeout)

    @property
    def confirm_timeout(self) -> float:
        """How long the server may take to confirm a write, in seconds."""
        durability = self._options.durability
        return 0.0 if durability is None else durability.timeout

    def run_with(self, make_session: Callable[[], Session | ShardedSession]) -> None:
        """Set the function that makes the engine's sessions. Call this before the engine is used."""
        self._make_session = make_session

    def session_of(self, keys: Keys, nonce: str, on_held: Callable[[str], object] = lambda _: None) -> Session:
        """Return a session for the queue's or a shard's keys.

        Args:
            keys: The keys.
            nonce: Text without blanks that no other session has.
            on_held: Called with schedules that do not fire until they have moved to another shard.
        """
        durability = self._options.durability
        return Session(
            self.scripts,
            keys,
            nonce=nonce,
            clock=self.transport.now,
            jitter=random.random,
            block_limit=self.transport.block_limit,
            max_rejected=self.max_rejected,
            confirmer=Confirmer(durability, self.scripts, keys) if durability else None,
            in_order=self.transport.in_order,
            behind=self.transport.queues_behind,
            upcoming=upcoming,
            on_held=on_held,
        )

    async def close_transport(self) -> None:
        """Close the transport, unless it is the caller's own."""
        if not self._lent:
            await self.transport.aclose()
