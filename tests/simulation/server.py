"""The memory model, watched: which tasks each call touched, and where a task is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torrelque.core.keys import Keys
from torrelque.core.models import ClaimMark
from torrelque.transports.memory.keyspace import Keyspace
from torrelque.transports.memory.server import MemoryServer

__all__ = (
    'KEYS',
    'NOWHERE',
    'ObservedKeyspace',
    'ObservedServer',
    'ObservedShard',
    'Share',
    'Terms',
    'View',
    'terms_of',
)

KEYS = Keys.of_queue('q')
_PLACES = ('pending', 'dequeueing', 'working', 'delayed', 'rejected')


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
    def revision(self) -> int:
        return max(int(self.state.get(b'revision', b'1')), self.mark.revision if self.mark else 1)

    @property
    def mark(self) -> ClaimMark | None:
        """The claim in the state; what 0.9 does leaves it there."""
        return ClaimMark.parse(self.state.get(b'claim'))

    @property
    def expiry(self) -> float | None:
        return float(self.state[b'expires']) if b'expires' in self.state else None

    @property
    def attempt(self) -> int:
        """Which delivery the last one was since the task was enqueued or redriven."""
        return self.dequeue_count - int(self.state.get(b'dequeue_base', b'0'))

    @property
    def receipt(self) -> tuple[bytes, int] | None:
        """Token and count of the live claim, if 1.0 made it (what it left is not the token of 0.9's claim after it)."""
        return (self.mark.token, self.dequeue_count) if self.mark and self.working is not None else None

    def places(self) -> int:
        scores = (self.working, self.delayed, self.rejected)
        return self.pending + self.dequeueing + sum(score is not None for score in scores)


NOWHERE = View()


class ObservedKeyspace(Keyspace):
    """Notes the ids of tasks whose payload, place or state is written, for each of the ``shards`` by its keys."""

    def __init__(self, shards: Sequence[Keys]) -> None:
        super().__init__()
        self.touched: list[set[bytes]] = [set() for _ in shards]
        self._places: dict[bytes, set[bytes]] = {}
        self._tasks: dict[bytes, set[bytes]] = {}
        self._states: list[tuple[bytes, set[bytes]]] = []
        self._lists: list[tuple[bytes, int]] = []  # of groups and levels, with their shards
        self.lists: list[set[bytes]] = [{keys['pending']} for keys in shards]
        """In which tasks have waited."""
        for keys, touched in zip(shards, self.touched, strict=True):
            self._places.update({keys[name]: touched for name in _PLACES})
            self._tasks[keys['tasks']] = touched
            self._states.append((keys.state(''), touched))
            self._lists += [
                (prefix, len(self._states) - 1) for prefix in (keys['groups'] + b':pending:', keys['pending'] + b':')
            ]

    def _touch(self, key: bytes, ids: Iterable[bytes]) -> None:
        if key in self._places:
            self._places[key].update(ids)
            return
        for prefix, shard in self._lists:
            if key.startswith(prefix):
                self.touched[shard].update(ids)
                self.lists[shard].add(key)
        for prefix, touched in self._states:
            if key.startswith(prefix):
                touched.add(key[len(prefix) :])

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
        if key in self._tasks:
            self._tasks[key].update(fields)
        else:
            self._touch(key, ())
        return super().hset(key, fields)

    def hdel(self, key: bytes, fields: Iterable[bytes]) -> int:
        fields = list(fields)
        if key in self._tasks:
            self._tasks[key].update(fields)
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


class Share:
    """A shard's share of the limits, worked out apart from the scripts' model. Times are in microseconds."""

    def __init__(self, counters: Mapping[bytes, bytes], number: int, shards: int) -> None:
        self.slots = self.interval = self.burst = math.inf
        if b'l' not in counters.get(b'uses', b''):
            return
        concurrency, count, period, burst = counters[b'limits'].split()[:4]
        if concurrency != b'-':
            self.slots = _share(int(concurrency), number, shards)
        if count != b'-':
            self.interval = math.ceil(int(period) * shards / int(count))
            self.burst = _share(int(burst), number, shards)


def _share(total: int, number: int, shards: int) -> int:
    return max(1, len(range(number, total, shards)))


class Terms(NamedTuple):
    """The limits of a group."""

    slots: float
    interval: float
    burst: float
    weight: float
    ordered: bool
    dead: bool


def terms_of(records: Mapping[bytes, bytes], group: bytes) -> Terms:
    """Those of a group, where it says nothing those of each."""
    words = []
    for name in (group, b'*'):
        record = records.get(name, b'').split()[1:]
        words.append(record if len(record) == 7 else [b'-'] * 7)
    own, default = words
    slots, weight, ordered, dead = (
        theirs if mine == b'-' else mine for mine, theirs in ((own[at], default[at]) for at in (0, 4, 5, 6))
    )
    count, period, burst = (default if own[1] == b'-' else own)[1:4]
    most = math.inf if slots == b'-' else int(slots)
    return Terms(
        min(most, 1) if ordered == b'1' else most,
        math.inf if count == b'-' else math.ceil(int(period) / int(count)),
        math.inf if count == b'-' else int(burst),
        1.0 if weight == b'-' else int(weight),
        ordered == b'1',
        dead == b'hold',
    )


class ObservedShard:
    """What a server has of one shard, or of a queue that has none."""

    def __init__(self, server: ObservedServer, number: int, keys: Keys) -> None:
        self._server = server
        self._number = number
        self._keys = keys

    @property
    def _db(self) -> ObservedKeyspace:
        return self._server._db

    def take_touched(self) -> set[bytes]:
        touched = self._db.touched[self._number]
        taken = set(touched)
        touched.clear()
        return taken

    def view(self, task_id: bytes) -> View:
        db, keys = self._db, self._keys
        key = keys.state('') + task_id
        return View(
            db.hash_at(keys['tasks']).get(task_id),
            self._occurrences(task_id),
            db.list_at(keys['dequeueing']).count(task_id),
            db.zset_at(keys['working']).scores.get(task_id),
            db.zset_at(keys['delayed']).scores.get(task_id),
            db.zset_at(keys['rejected']).scores.get(task_id),
            dict(db.hash_at(key)),
            db.pttl(key) >= 0,
        )

    def _occurrences(self, task_id: bytes) -> int:
        return sum(self._db.list_at(key).count(task_id) for key in self._db.lists[self._number])

    # Groups --------------------------------------------------------------------

    def groups(self) -> set[bytes]:
        """Those with waiting or claimed tasks."""
        prefix = self._keys['groups'] + b':pending:'
        waiting = {key[len(prefix) :] for key in self._db.lists[self._number] if key.startswith(prefix)}
        claimed = (self.state(task_id).get(b'group') for task_id in self.working())
        return waiting | {group for group in claimed if group is not None}

    def state(self, task_id: bytes) -> Mapping[bytes, bytes]:
        return self._db.hash_at(self._keys.state('') + task_id)

    def group_limits(self) -> Mapping[bytes, bytes]:
        return self._db.hash_at(self._keys['groups'] + b':limits')

    def is_ordered(self, group: bytes) -> bool:
        records = [self.group_limits().get(name, b'').split() for name in (group, b'*')]
        return next((words[6] == b'1' for words in records if len(words) == 8 and words[6] != b'-'), False)

    def group_index(self, kind: str) -> Mapping[bytes, float]:
        """Groups that are ready (''), blocked, held or idle, with their scores."""
        return self._db.zset_at(self._keys['groups'] + (f':{kind}' if kind else '').encode()).scores

    def group_pending(self, group: bytes) -> Sequence[bytes]:
        return self._db.list_at(self._keys['groups'] + b':pending:' + group)

    def group_working(self, group: bytes) -> set[bytes]:
        return self._db.set_at(self._keys['groups'] + b':working:' + group)

    def level_pending(self, level: bytes) -> Sequence[bytes]:
        return self._db.list_at(self._keys['pending'] + (b':' + level if level else b''))

    @property
    def is_strict(self) -> bool:
        """Whether the levels are served strictly in order."""
        return b'l' in self.counters.get(b'uses', b'') and self.counters[b'limits'].endswith(b' strict')

    def ungrouped(self) -> Sequence[bytes]:
        """Tasks without a group that wait."""
        pending = self._keys['pending']
        return [
            task_id for key in (pending, pending + b':high', pending + b':low') for task_id in self._db.list_at(key)
        ]

    def may_go(self, group: bytes, now: float) -> bool:
        """Whether a task of a group waits that its limits permit."""
        db, prefix = self._db, self._keys['groups']
        waiting = self.group_pending(group)
        arrival, until, first = db.hash_at(prefix + b':arrivals').get(group, b'0 0 ').split(b' ', 2)
        if not waiting or (float(until) > now * 1e6 and first in (b'', waiting[-1])):
            return False
        terms = terms_of(self.group_limits(), group)
        ahead = float(arrival) - now * 1e6
        return (
            len(self.group_working(group)) < terms.slots
            and not (terms.dead and db.set_at(prefix + b':rejected:' + group))
            and (terms.interval == math.inf or ahead <= (terms.burst - 1) * terms.interval)
        )

    # Flow ----------------------------------------------------------------------

    @property
    def newer(self) -> bool:
        """Whether features of a later version are used."""
        return b'z' in self.counters.get(b'uses', b'')

    def has_used(self, feature: bytes) -> bool:
        """Whether it is known that this feature was used."""
        return feature in self.counters.get(b'uses', b'')

    @property
    def counters(self) -> Mapping[bytes, bytes]:
        return self._db.hash_at(self._keys['counters'])

    def paused(self, now: float) -> bool:
        """Whether a pause is in force."""
        return b'p' in self.counters.get(b'uses', b'') and float(self.counters[b'paused']) > now

    @property
    def share(self) -> Share:
        """Its share of the limits."""
        return Share(self.counters, self._number, len(self._server.shards))

    def permits(self, now: float) -> bool:
        """Whether the limits permit a claim."""
        share = self.share
        ahead = float(self.counters.get(b'arrival', b'0')) - now * 1e6
        return len(self.working()) < share.slots and (
            share.interval == math.inf or ahead <= (share.burst - 1) * share.interval
        )

    def working(self) -> Mapping[bytes, float]:
        return self._db.zset_at(self._keys['working']).scores

    def delayed(self) -> Mapping[bytes, float]:
        return self._db.zset_at(self._keys['delayed']).scores

    def pending(self) -> Sequence[bytes]:
        return self._db.list_at(self._keys['pending'])

    def rejected(self) -> Mapping[bytes, float]:
        return self._db.zset_at(self._keys['rejected']).scores

    def tasks(self) -> Iterable[bytes]:
        """Ids with a payload."""
        return self._db.hash_at(self._keys['tasks'])

    def queued(self) -> list[bytes]:
        """The same, but for the dead letters."""
        dead = self.rejected()
        return [task_id for task_id in self.tasks() if task_id not in dead]

    def schedule(self, name: bytes) -> Mapping[bytes, bytes]:
        """The fields of a schedule; none if there is none."""
        return dict(self._db.hash_at(b'%b:%b' % (self._keys['schedule'], name)))

    def first_event(self, now: float) -> float | None:
        """When the first task is due, the first claim stale, or the first schedule fires."""
        firsts = [self._db.zset_at(self._keys[name]).first() for name in ('delayed', 'working')]
        if not self.paused(now):
            firsts.append(self._db.zset_at(self._keys['schedules']).first())
        return min((first[0] for first in firsts if first is not None), default=None)

    def to_be_had(self, now: float) -> bool:
        """Whether a claim would find something, or something to return."""
        event = self.first_event(now)
        waiting = bool(self.pending() or self.ungrouped()) or any(self.may_go(group, now) for group in self.groups())
        there = waiting and not self.paused(now) and self.permits(now)
        return there or (event is not None and event <= now)


class ObservedServer(MemoryServer):
    """A server whose data can be looked at without being changed."""

    def __init__(self, clock: Callable[[], float], shards: Sequence[Keys] = (KEYS,)) -> None:
        super().__init__(clock)
        self._db: ObservedKeyspace = ObservedKeyspace(shards)
        self.shards = [ObservedShard(self, number, keys) for number, keys in enumerate(shards)]

    def view(self, task_id: bytes) -> View:
        """Where it is, if anywhere."""
        views = [shard.view(task_id) for shard in self.shards]
        return max(views, key=lambda view: view.payload is not None)

    def working(self) -> Mapping[bytes, float]:
        return {task_id: score for shard in self.shards for task_id, score in shard.working().items()}

    def delayed(self) -> Mapping[bytes, float]:
        return {task_id: score for shard in self.shards for task_id, score in shard.delayed().items()}

    def pending(self) -> Sequence[bytes]:
        return [task_id for shard in self.shards for task_id in shard.pending()]

    def tasks(self) -> Iterable[bytes]:
        """Ids with a payload."""
        return [task_id for shard in self.shards for task_id in shard.tasks()]

    def queued(self) -> list[bytes]:
        """The same, but for the dead letters."""
        return [task_id for shard in self.shards for task_id in shard.queued()]
