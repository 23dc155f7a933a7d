"""When to renew the leases of the tasks under way.

A pure state machine: the time comes in as an argument, in seconds on a clock
that never goes back. It keeps to the shortest that a lease can be: what is
counted begins before the request is sent, not when its answer arrives.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ('Leases',)

DUE = 0.5
"""A lease is renewed when so much of it is used."""

EARLY = 0.25
"""When one is due, those of which so much is used go along. Of two that are renewed in turn, one sees the other half
way to its time, so leases of one length are soon all renewed by the same calls."""

K = TypeVar('K', bound=Hashable)


class _Lease:
    __slots__ = ('begun', 'expires', 'length', 'renew_at', 'renewing')

    def __init__(self, begun: float, expires: float) -> None:
        self.begin(begun, expires)

    def begin(self, begun: float, expires: float) -> None:
        self.begun = begun
        self.expires = expires
        self.length = expires - begun
        self.renew_at = begun + DUE * self.length
        self.renewing = False

    @property
    def next_look(self) -> float:
        return self.expires if self.renewing else min(self.renew_at, self.expires)


class Leases(Generic[K]):
    """The leases that one worker holds, each known by a key of the worker's choice.

    ``due`` tells which to renew now, and is to be followed by ``renewed`` or
    ``failed`` for each; ``expired`` which have run out. ``timer`` is when to ask
    again; `add`, `renewed` and `failed` return when to do so for their lease,
    which may be sooner.
    """

    def __init__(self) -> None:
        self._leases: dict[K, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, key: K) -> bool:
        return key in self._leases

    def add(self, key: K, expires: float, now: float) -> float:
        """Mind a lease until it is removed. What is left of it now is taken for its length."""
        lease = self._leases[key] = _Lease(now, expires)
        return lease.next_look

    def remove(self, key: K) -> float:
        """Mind it no longer. When it runs out; minus infinity for one that has, or is unknown."""
        lease = self._leases.pop(key, None)
        return -math.inf if lease is None else lease.expires

    def due(self, now: float) -> list[K]:
        """Those to renew now, all together; none as long as no lease is half used."""
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
        """The server renewed it, asked at ``sent``."""
        lease = self._leases.get(key)
        if lease is None:
            return math.inf
        lease.begin(sent, sent + lease.length)
        return lease.next_look

    def failed(self, key: K, now: float) -> float:
        """The server could not be asked. There is another try after a quarter of the time that is left."""
        lease = self._leases.get(key)
        if lease is None:
            return math.inf
        lease.renewing = False
        lease.renew_at = now + max((lease.expires - now) / 4, lease.length / 50)
        return lease.next_look

    def expired(self, now: float) -> list[K]:
        """Those that ran out, a renewal under way or not; they are minded no longer."""
        keys = [key for key, lease in self._leases.items() if lease.expires <= now]
        for key in keys:
            del self._leases[key]
        return keys

    def timer(self) -> float:
        """When to ask `expired` and `due` again; infinite if nothing is leased."""
        return min((lease.next_look for lease in self._leases.values()), default=math.inf)
