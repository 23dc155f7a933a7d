"""The memory model, watched: which tasks each call touched, and where a task is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torrelque.core.keys import Keys
from torrelque.transports.memory.keyspace import Keyspace
from torrelque.transports.memory.server import MemoryServer

__all__ = ('KEYS', 'NOWHERE', 'ObservedKeyspace', 'ObservedServer', 'View')

KEYS = Keys.of_queue('q')
PENDING, DEQUEUEING, WORKING = KEYS['pending'], KEYS['dequeueing'], KEYS['working']
DELAYED, REJECTED, TASKS = KEYS['delayed'], KEYS['rejected'], KEYS['tasks']
STATE = KEYS.state('')
_PLACES = frozenset((PENDING, DEQUEUEING, WORKING, DELAYED, REJECTED))


class View(NamedTuple):
    """All that the server knows about a task. ``working``, ``delayed`` and ``rejected`` are scores."""

    payload: bytes | None = None
    pending: int = 0
    dequeueing: int = 0
    working: float | None = None
    delayed: float | None = None
    rejected: float | None = None
    state: Mapping[bytes, bytes] = {}
    expires: bool = False

    @property
    def dequeue_count(self) -> int:
        return int(self.state.get(b'dequeue_count', b'0'))

    @property
    def attempt(self) -> int:
        """Which delivery the last one was since the task was enqueued or redriven."""
        return self.dequeue_count - int(self.state.get(b'dequeue_base', b'0'))

    @property
    def receipt(self) -> tuple[bytes, int] | None:
        """Token and count of the live claim, if 1.0 made it (what it left is not the token of 0.9's claim after it)."""
        token = self.state.get(b'claim')
        return (token, self.dequeue_count) if token is not None and self.working is not None else None

    def places(self) -> int:
        scores = (self.working, self.delayed, self.rejected)
        return self.pending + self.dequeueing + sum(score is not None for score in scores)


NOWHERE = View()


class ObservedKeyspace(Keyspace):
    """Notes the ids of tasks whose payload, place or state is written."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: set[bytes] = set()

    def _touch(self, key: bytes, ids: Iterable[bytes]) -> None:
        if key in _PLACES:
            self.touched.update(ids)
        elif key.startswith(STATE):
            self.touched.add(key[len(STATE) :])

    def pexpire(self, key: bytes, milliseconds: int) -> bool:
        self._touch(key, ())
        return super().pexpire(key, milliseconds)

    def delete(self, keys: Iterable[bytes]) -> int:
        keys = list(keys)
        for key in keys:
            self._touch(key, ())
        return super().delete(keys)

    def lpush(self, key: bytes, values: Iterable[bytes]) -> None:
        values = list(values)
        self._touch(key, values)
        super().lpush(key, values)

    def rpush(self, key: bytes, values: Iterable[bytes]) -> None:
        values = list(values)
        self._touch(key, values)
        super().rpush(key, values)

    def lpop(self, key: bytes, count: int = 1) -> list[bytes]:
        popped = super().lpop(key, count)
        self._touch(key, popped)
        return popped

    def rpop(self, key: bytes, count: int = 1) -> list[bytes]:
        popped = super().rpop(key, count)
        self._touch(key, popped)
        return popped

    def lrem(self, key: bytes, count: int, value: bytes) -> int:
        self._touch(key, (value,))
        return super().lrem(key, count, value)

    def hset(self, key: bytes, fields: Mapping[bytes, bytes]) -> int:
        if key == TASKS:
            self.touched.update(fields)
        else:
            self._touch(key, ())
        return super().hset(key, fields)

    def hdel(self, key: bytes, fields: Iterable[bytes]) -> int:
        fields = list(fields)
        if key == TASKS:
            self.touched.update(fields)
        else:
            self._touch(key, ())
        return super().hdel(key, fields)

    def zadd(self, key: bytes, scores: Mapping[bytes, float]) -> int:
        self._touch(key, scores)
        return super().zadd(key, scores)

    def zrem(self, key: bytes, members: Iterable[bytes]) -> int:
        members = list(members)
        self._touch(key, members)
        return super().zrem(key, members)


class ObservedServer(MemoryServer):
    """A server whose data can be looked at without being changed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._db: ObservedKeyspace = ObservedKeyspace()

    def take_touched(self) -> set[bytes]:
        touched, self._db.touched = self._db.touched, set()
        return touched

    def view(self, task_id: bytes) -> View:
        db = self._db
        key = STATE + task_id
        return View(
            db.hash_at(TASKS).get(task_id),
            db.list_at(PENDING).count(task_id),
            db.list_at(DEQUEUEING).count(task_id),
            db.zset_at(WORKING).scores.get(task_id),
            db.zset_at(DELAYED).scores.get(task_id),
            db.zset_at(REJECTED).scores.get(task_id),
            dict(db.hash_at(key)),
            db.pttl(key) >= 0,
        )

    def working(self) -> Mapping[bytes, float]:
        return self._db.zset_at(WORKING).scores

    def delayed(self) -> Mapping[bytes, float]:
        return self._db.zset_at(DELAYED).scores

    def pending(self) -> Sequence[bytes]:
        return self._db.list_at(PENDING)

    def rejected(self) -> Mapping[bytes, float]:
        return self._db.zset_at(REJECTED).scores

    def tasks(self) -> Iterable[bytes]:
        """Ids with a payload."""
        return self._db.hash_at(TASKS)

    def queued(self) -> Iterable[bytes]:
        """The same, but for the dead letters."""
        dead = self._db.zset_at(REJECTED).scores
        return [task_id for task_id in self._db.hash_at(TASKS) if task_id not in dead]

    def first_event(self) -> float | None:
        """When the first task is due, or the first claim stale."""
        firsts = [self._db.zset_at(key).first() for key in (DELAYED, WORKING)]
        return min((first[0] for first in firsts if first is not None), default=None)
