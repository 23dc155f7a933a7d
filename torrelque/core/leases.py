"""Decides when to renew the leases of claimed tasks.

A pure state machine: all times are arguments, in seconds on a clock that never
goes back. It assumes the shortest that a lease can be: it counts from before
the request is sent, not from when the reply arrives.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ('Leases',)

DUE = 0.5
"""Share of a lease after which it is due for renewal."""

EARLY = 0.25
"""Share of a lease after which it is renewed along with one that is due.

Of two leases that are renewed in turn, each finds the other half way to its time. So leases of the same length are soon
renewed by the same calls.
"""

K = TypeVar('K', bound=Hashable)


class _Lease:
    __slots__ = ('again', 'begun', 'expires', 'length', 'renew_at', 'renewing')

    def __init__(self, begun: float, expires: float) -> None:
        self.begun = begun
        self.expires = expires
        self.length = expires - begun
        self.renew_at = begun + DUE * self.length
        self.renewing = False
        self.again = False

    @property
    def next_look(self) -> float:
        return self.expires if self.renewing else min(self.renew_at, self.expires)


class Leases(Generic[K]):
    """The leases that a worker holds, each under a key that the worker chooses.

    Call `expired` and `due` at the time that `timer` returns, or earlier if `add`,
    `renewed` or `failed` returned an earlier time. For each lease that `due`
    returns, call `renewed` or `failed` once the server has answered.
    """

    def __init__(self) -> None:
        self._leases: dict[K, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, key: K) -> bool:
        return key in self._leases

    def add(self, key: K, expires: float, now: float) -> float:
        """Keep a lease until it is removed or expires. The time left now is taken as its length.

        Args:
            key: The key.
            expires: When the lease ends.
            now: The time.

        Returns:
            When to call `expired` and `due` for this lease.
        """
        lease = self._leases[key] = _Lease(now, expires)
        return lease.next_look

    def remove(self, key: K) -> float:
        """Remove a lease. Returns when it ends; minus infinity if it has ended or is unknown."""
        lease = self._leases.pop(key, None)
        return -math.inf if lease is None else lease.expires

    def due(self, now: float) -> list[K]:
        """Return the leases to renew now, in one call; none as long as no lease is half used."""
        idle = [(key, lease) for key, lease in self._leases.items() if not lease.renewing]
        if not any(lease.renew_at <= now for _, lease in idle):
            return []
        chosen = [
            (key, lease) for key, lease in idle if lease.renew_at <= now or now - lease.begun >= EARLY * lease.length
        ]
        for _, lease in chosen:
            lease.renewing = True
        return [key for key, _ in chosen]

    def renewed(self, key: K, sent: float) -> float:
        """Record that the server renewed a lease. ``sent`` is when the request was sent. Returns when to look again."""
        lease = self._leases.get(key)
        if lease is None:
            return math.inf
        new = self._leases[key] = _Lease(sent, sent + lease.length)
        if lease.again:
            new.renew_at = sent
        return new.next_look

    def hurry(self, key: K, now: float) -> float:
        """It is to be renewed now; if that is under way, once more, as the server may have been asked too early."""
        lease = self._leases.get(key)
        if lease is None:
            return math.inf
        lease.again = lease.renewing
        lease.renew_at = min(lease.renew_at, now)
        return lease.next_look

    def failed(self, key: K, now: float) -> float:
        """Record that a renewal failed. The next try is after a quarter of the time left. Returns when to look."""
        lease = self._leases.get(key)
        if lease is None:
            return math.inf
        lease.renewing = False
        lease.renew_at = now + max((lease.expires - now) / 4, lease.length / 50)
        return lease.next_look

    def expired(self, now: float) -> list[K]:
        """Remove and return the leases that have ended, even if a renewal is under way."""
        keys = [key for key, lease in self._leases.items() if lease.expires <= now]
        for key in keys:
            del self._leases[key]
        return keys

    def timer(self) -> float:
        """Return when to call `expired` and `due` next; infinite if there are no leases."""
        return min((lease.next_look for lease in self._leases.values()), default=math.inf)
