"""The data of a server: keys of five types, with expiry.

Methods are named after the commands that do the same. Those that only read end
in ``_at``; what they return is not to be changed, and is empty for a key that is
not there. A key of another type raises TorrelqueReplyError with the code
WRONGTYPE. A collection that becomes empty is gone, with its expiry.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.sorted_set import SortedSet

__all__ = ('Keyspace', 'Plain', 'Value')

Value: TypeAlias = 'bytes | deque[bytes] | dict[bytes, bytes] | set[bytes] | SortedSet'
V = TypeVar('V', bytes, deque[bytes], dict[bytes, bytes], set[bytes], SortedSet)

Plain: TypeAlias = 'tuple[str, object, int | None]'
"""A key's type, its content, and when it expires in Unix milliseconds."""

TYPES: Mapping[type, str] = {bytes: 'string', deque: 'list', dict: 'hash', set: 'set', SortedSet: 'zset'}

_EMPTY_LIST: deque[bytes] = deque()
_EMPTY_HASH: dict[bytes, bytes] = {}
_EMPTY_SET: set[bytes] = set()
_EMPTY_ZSET = SortedSet()


class Keyspace:
    """``now`` is the server's time in Unix seconds, which `move_to` sets; it stands still in between."""

    def __init__(self) -> None:
        self.now: float = 0.0
        self._values: dict[bytes, Value] = {}
        self._expiries: dict[bytes, int] = {}
        self._first_expiry: float = math.inf  # no key expires before

    # Time --------------------------------------------------------------------

    def move_to(self, now: float) -> None:
        """Set the time, and remove what has expired by then."""
        self.now = now
        if now * 1000 > self._first_expiry:
            milliseconds = int(now * 1000)
            self.delete([key for key, at in self._expiries.items() if at < milliseconds])
            self._first_expiry = min(self._expiries.values(), default=math.inf)

    def pexpire(self, key: bytes, milliseconds: int) -> bool:
        """Make a key expire in this number of milliseconds, at once if not positive. Returns whether it exists."""
        if key not in self._values:
            return False
        if milliseconds <= 0:
            self.delete((key,))
            return True
        at = int(self.now * 1000) + milliseconds
        self._expiries[key] = at
        self._first_expiry = min(self._first_expiry, at)
        return True

    def persist(self, key: bytes) -> bool:
        """Let a key expire no more. Whether it would have."""
        return self._expiries.pop(key, None) is not None

    def pttl(self, key: bytes) -> int:
        """Milliseconds left; -1 for a key that does not expire, -2 for none."""
        if key not in self._values:
            return -2
        at = self._expiries.get(key)
        return -1 if at is None else at - int(self.now * 1000)

    # Keys --------------------------------------------------------------------

    @property
    def keys(self) -> list[bytes]:
        return list(self._values)

    def type_at(self, key: bytes) -> str:
        """``none`` where there is no such key."""
        value = self._values.get(key)
        return 'none' if value is None else TYPES[type(value)]

    def exists(self, key: bytes) -> bool:
        return key in self._values

    def delete(self, keys: Iterable[bytes]) -> int:
        """How many there were."""
        count = 0
        for key in keys:
            if self._values.pop(key, None) is not None:
                count += 1
                self._expiries.pop(key, None)
        return count

    def clear(self) -> None:
        self._values.clear()
        self._expiries.clear()

    def snapshot(self) -> dict[bytes, Plain]:
        """Everything, as plain values that can be compared and kept."""
        return {
            key: (TYPES[type(value)], _plain(value), self._expiries.get(key)) for key, value in self._values.items()
        }

    # Strings -----------------------------------------------------------------

    def string_at(self, key: bytes) -> bytes | None:
        return self._get(key, bytes)

    def put(self, key: bytes, value: bytes, milliseconds: int | None = None) -> None:
        """Replace whatever is there; an expiry, too, unless a new one is given."""
        self._values[key] = value
        self._expiries.pop(key, None)
        if milliseconds is not None:
            self.pexpire(key, milliseconds)

    # Lists -------------------------------------------------------------------

    def list_at(self, key: bytes) -> deque[bytes]:
        return self._get(key, deque) or _EMPTY_LIST

    def lpush(self, key: bytes, values: Iterable[bytes]) -> None:
        values = list(values)
        if values:
            self._get_or_make(key, deque).extendleft(values)

    def rpush(self, key: bytes, values: Iterable[bytes]) -> None:
        values = list(values)
        if values:
            self._get_or_make(key, deque).extend(values)

    def lpop(self, key: bytes, count: int = 1) -> list[bytes]:
        values = self._get(key, deque) or _EMPTY_LIST
        popped = [values.popleft() for _ in range(min(count, len(values)))]
        self._drop_if_empty(key, values)
        return popped

    def rpop(self, key: bytes, count: int = 1) -> list[bytes]:
        values = self._get(key, deque) or _EMPTY_LIST
        popped = [values.pop() for _ in range(min(count, len(values)))]
        self._drop_if_empty(key, values)
        return popped

    def lrem(self, key: bytes, count: int, value: bytes) -> int:
        """Remove ``count`` of equal values, from the right if negative, all if 0. How many there were."""
        values = self._get(key, deque) or _EMPTY_LIST
        places = [place for place, each in enumerate(values) if each == value]
        places = places[count:] if count < 0 else places[: count or None]
        for place in reversed(places):
            del values[place]
        self._drop_if_empty(key, values)
        return len(places)

    # Hashes ------------------------------------------------------------------

    def hash_at(self, key: bytes) -> Mapping[bytes, bytes]:
        return self._get(key, dict) or _EMPTY_HASH

    def hset(self, key: bytes, fields: Mapping[bytes, bytes]) -> int:
        """How many fields are new."""
        if not fields:
            return 0
        target = self._get_or_make(key, dict)
        before = len(target)
        target.update(fields)
        return len(target) - before

    def hdel(self, key: bytes, fields: Iterable[bytes]) -> int:
        """How many there were."""
        target = self._get(key, dict) or _EMPTY_HASH
        count = sum(target.pop(field, None) is not None for field in fields)
        self._drop_if_empty(key, target)
        return count

    # Sets --------------------------------------------------------------------

    def set_at(self, key: bytes) -> set[bytes]:
        return self._get(key, set) or _EMPTY_SET

    def sadd(self, key: bytes, members: Sequence[bytes]) -> int:
        """How many are new."""
        if not members:
            return 0
        target = self._get_or_make(key, set)
        before = len(target)
        target.update(members)
        return len(target) - before

    def srem(self, key: bytes, members: Iterable[bytes]) -> int:
        """How many there were."""
        target = self._get(key, set) or _EMPTY_SET
        before = len(target)
        target.difference_update(members)
        self._drop_if_empty(key, target)
        return before - len(target)

    # Sorted sets -------------------------------------------------------------

    def zset_at(self, key: bytes) -> SortedSet:
        return self._get(key, SortedSet) or _EMPTY_ZSET

    def zadd(self, key: bytes, scores: Mapping[bytes, float]) -> int:
        """How many members are new."""
        if not scores:
            return 0
        target = self._get_or_make(key, SortedSet)
        return sum([target.add(member, score) for member, score in scores.items()])

    def zrem(self, key: bytes, members: Iterable[bytes]) -> int:
        """How many there were."""
        target = self._get(key, SortedSet) or _EMPTY_ZSET
        count = sum([target.remove(member) for member in members])
        self._drop_if_empty(key, target)
        return count

    # Within ------------------------------------------------------------------

    def _get(self, key: bytes, kind: type[V]) -> V | None:
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, kind):
            return value
        raise TorrelqueReplyError('WRONGTYPE Operation against a key holding the wrong kind of value')

    def _get_or_make(self, key: bytes, kind: type[V]) -> V:
        value = self._get(key, kind)
        if value is None:
            value = self._values[key] = kind()
        return value

    def _drop_if_empty(self, key: bytes, value: Value) -> None:
        if not value:
            self.delete((key,))


def _plain(value: Value) -> object:
    if isinstance(value, bytes):
        return value
    if isinstance(value, deque):
        return list(value)
    return dict(value.scores) if isinstance(value, SortedSet) else value.copy()
