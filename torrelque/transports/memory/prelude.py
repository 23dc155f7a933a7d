"""What the verbs share: the model of prelude.lua.

A verb is a function of a :class:`Run`, one call of its script. Nothing runs
between its reads and its writes, as on a server; like a script, it reads what
may be of a wrong type before it writes anything.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias, TypeVar

from torrelque.core.models import ClaimMark
from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.keyspace import Keyspace

__all__ = (
    'DELAYED',
    'EXPIRED',
    'PENDING',
    'REJECTED',
    'WORKING',
    'Command',
    'Limits',
    'Rate',
    'Record',
    'Run',
    'State',
    'microseconds',
    'number',
    'stamp',
    'whole',
)  # fmt: skip

PENDING, WORKING, DELAYED, REJECTED, EXPIRED = b'0', b'1', b'2', b'4', b'5'

LANE_TTL = 900_000
"""Milliseconds; longer than any client goes on repeating a call."""

HORIZON = 10.0
"""Seconds; events further off are left to a later slice of the waiters."""

GRACE = 50
"""Milliseconds for which a timer outlives its event."""

DEFAULT_TIMEOUT = 300.0
"""Seconds; for a state whose time-out cannot be read."""

FEATURES = frozenset(b' pelghsc')
"""Letters of the features that this version knows.

p: pauses; e: tasks that expire; l: limits; g: groups; h: levels; s: schedules; c: cancellations of running tasks.
"""

SPECIAL = frozenset((b'dequeue_count', b'revision'))
"""Fields that a task does not have that waits for its first delivery, and has neither a limit nor headers."""

_MOST = 9e15
"""Up to here the whole numbers among the floats have no gaps."""

_LIMITS = re.compile(rb'(\S+) (\S+) (\S+) (\S+)(?: strict)?')
_SHARD = re.compile(rb'.*:(\d+)\}', re.DOTALL)

_RECORD = re.compile(rb'(\d+) (\S+) ([A-Za-z]+) (.*)', re.DOTALL)

D = TypeVar('D', float, None)


def number(text: bytes | None, default: D) -> float | D:
    """A finite number as a script reads it, or the default: states may have been written by anyone."""
    if text is None or b'_' in text:  # no digits' separator for scripts
        return default
    try:
        value = float.fromhex(text.decode()) if b'x' in text or b'X' in text else float(text)
    except (ValueError, OverflowError):
        return default
    return value if -_MOST < value < _MOST else default


def stamp(time: float) -> bytes:
    return b'%.6f' % time


def whole(value: float) -> bytes:
    return b'%.0f' % value


def microseconds(time: float) -> float:
    return float(math.floor(time * 1_000_000 + 0.5))


class State:
    """A task's state as far as the verbs need it."""

    __slots__ = (
        'called_off', 'claim', 'dequeue_base', 'dequeue_count', 'expires', 'fence', 'group', 'headers', 'is_special',
        'level', 'max_dequeues', 'rejects', 'requeue_count', 'revision', 'status', 'timeout',
    )  # fmt: skip

    def __init__(self, fields: Mapping[bytes, bytes], uses: bytes = b'') -> None:
        self.status: bytes | None = fields.get(b'status')
        self.claim: ClaimMark | None = ClaimMark.parse(fields.get(b'claim'))
        self.dequeue_count: float = number(fields.get(b'dequeue_count'), 0.0)
        self.requeue_count: float = number(fields.get(b'requeue_count'), 0.0)
        self.revision: float = max(number(fields.get(b'revision'), 1.0), self.claim.revision if self.claim else 1)
        self.timeout: float = number(fields.get(b'timeout'), DEFAULT_TIMEOUT)
        self.max_dequeues: float | None = number(fields.get(b'max_dequeues'), None)
        self.dequeue_base: float = number(fields.get(b'dequeue_base'), 0.0)
        self.headers: bytes = fields.get(b'headers', b'')
        self.expires: float | None = number(fields.get(b'expires'), None) if b'e' in uses else None
        self.rejects: bool = fields.get(b'on_expiry') == b'reject'
        has_lines = b'g' in uses or b'h' in uses
        self.group: bytes = fields.get(b'group', b'') if has_lines else b''
        level = fields.get(b'level', b'') if has_lines and not self.group else b''
        self.level: bytes = level if level in (b'high', b'low') else b''
        self.fence: bytes = fields.get(b'fence', b'0')
        self.called_off: bool = b'c' in uses and b'cancel_time' in fields
        is_plain = self.status == PENDING and self.expires is None and fields.keys().isdisjoint(SPECIAL)
        self.is_special: bool = not is_plain

    @property
    def token(self) -> bytes:
        """The token of its claim, if it has one."""
        return self.claim.token if self.claim else b''

    def exhausted(self) -> bytes | None:
        """Where the delivery limit is reached, the reason for the dead letter."""
        delivered = self.dequeue_count - self.dequeue_base
        if self.max_dequeues is not None and delivered >= self.max_dequeues:
            return b'delivered %.0f times, the limit is %.0f' % (delivered, self.max_dequeues)
        return None


class Record(NamedTuple):
    """What a lane remembers: the last call that was made on it, and its answer."""

    sequence: int
    nonce: bytes
    phase: bytes
    answer: bytes

    @classmethod
    def parse(cls, text: bytes | None) -> Record | None:
        """None where there is no record, or none of ours."""
        match = _RECORD.fullmatch(text) if text is not None else None
        return match and cls(int(match[1]), match[2], match[3], match[4])


class Rate:
    """How many tasks may be claimed at once, and in a time.

    ``slots`` for claims at once; ``interval`` between deliveries in microseconds, 0 for none; the ``burst``; and the
    theoretical ``arrival`` time of the next delivery (GCRA).
    """

    def __init__(self, now: float, arrival: float) -> None:
        self.now: float = now
        self.arrival: float = arrival
        self.slots: float | None = None
        self.burst: float | None = None
        self.interval: float = 0.0

    @property
    def ahead(self) -> float:
        """How far the arrival time is ahead of now: of more than a burst only after the limits or the clock changed."""
        return max(0.0, min(self.arrival - self.now, (self.burst or 0.0) * self.interval))

    def allowed(self, claimed: int) -> tuple[float, float | None]:
        """How many tasks consumers may take now, and when they may take more without the end of a claim."""
        count, time = math.inf, None
        if self.slots is not None:
            count = max(0.0, self.slots - claimed)
        if self.interval:
            burst = self.burst or 0.0
            left = burst - math.ceil(self.ahead / self.interval)
            count = min(count, left)
            if left < 1:
                time = (self.now + self.ahead - (burst - 1) * self.interval) / 1_000_000
        return count, time


class Limits(Rate):
    """The limits of a queue, or a shard's share of them, as scripts read them."""

    def __init__(self, fields: Mapping[bytes, bytes], key: bytes, now: float) -> None:
        super().__init__(microseconds(now), number(fields.get(b'arrival'), 0.0))
        self.is_strict: bool = False
        match = _LIMITS.fullmatch(fields.get(b'limits', b''))
        if match is None or b'l' not in fields.get(b'uses', b''):
            return
        self._shards = max([1.0, *map(float, re.findall(rb'[0-9]+', fields.get(b'shards', b'')))])
        place = _SHARD.match(key)
        self._shard = float(place[1]) if place else 0.0
        slots, count, period = match[1], number(match[2], 0.0), number(match[3], 0.0)
        self.is_strict = fields[b'limits'].endswith(b' strict')
        self.slots: float | None = self._share(slots)
        self.burst: float | None = self._share(match[4])
        if self.burst and count >= 1 and period >= 1:
            self.interval: float = float(math.ceil(period * self._shards / count))

    def _share(self, text: bytes) -> float | None:
        total = number(text, 0.0)
        more = self._shard < total % self._shards
        return max(1.0, math.floor(total / self._shards) + more) if total >= 1 else None


class Run:
    """One call of a script: its ``keys`` by their logical names, its ``args``, and the steps that verbs share.

    Most verbs' arguments begin with a lane's number, the client's nonce and the
    call's sequence. An empty number means no lane: the call travels in a
    pipeline of the user's own.
    """

    __slots__ = ('_publish', 'args', 'db', 'keys', 'now', 'rechecks', 'touched')

    def __init__(
        self,
        db: Keyspace,
        keys: Mapping[str, bytes],
        args: Sequence[bytes],
        publish: Callable[[bytes, bytes], object],
    ) -> None:
        self.db: Keyspace = db
        self.keys: Mapping[str, bytes] = keys
        self.args: Sequence[bytes] = args
        self.now: float = db.now
        self.touched: dict[bytes, str] = {}
        """Groups that may belong elsewhere now, and where they are, if that is known."""
        self.rechecks: bool = False
        """Whether more groups have to be placed again, because the default limits changed."""
        self._publish = publish

    def items(self, width: int, shared: int = 0) -> list[Sequence[bytes]]:
        """The arguments after the lane, ``width`` for each item.

        Of these the last may be ``shared``: then they come once, in front. How many each item has is said before that,
        and may be more: with shared ones, the one more is the group of a task to enqueue.
        """
        if not shared:
            return [self.args[at : at + width] for at in range(3, len(self.args), width)]
        own, first = int(self.args[3]), width - shared
        begin = 4 + (shared if own < width else 0)
        common, rest = self.args[4:begin], self.args[begin:]
        items = [rest[at : at + own] for at in range(0, len(rest) - own + 1, own)]
        if own == first + 1:
            return [[*item[:first], *common, b'', b'', b'', item[first], b''] for item in items]
        return [[*item, *common] for item in items]

    # States ------------------------------------------------------------------

    def state_key(self, task_id: bytes) -> bytes:
        return b'%b:%b' % (self.keys['task'], task_id)

    def read_state(self, task_id: bytes) -> State | None:
        """None where the key is of a wrong type."""
        try:
            return State(self.db.hash_at(self.state_key(task_id)), self.uses)
        except TorrelqueReplyError:
            return None

    def has_used(self, letter: bytes) -> bool:
        """Whether the queue has ever used a feature."""
        return letter in self.uses

    def is_late(self, state: State) -> bool:
        """Whether a task has expired: nobody may be given it any more."""
        return state.expires is not None and state.expires <= float(stamp(self.now))

    def due_time(self, expires: float | None, delay: bytes) -> float:
        """When a task is due that is to be delayed: no later than it expires, to end then."""
        due = self.now + float(delay)
        return float(stamp(due if expires is None else min(due, expires)))

    def announce_cancel(self, running: bytes, task_id: bytes) -> None:
        """Have the workers look at a claim at once."""
        self._publish(self.keys['cancel'], b'%b %b' % (running, task_id))

    def announce(self, task_id: bytes, revision: float, status: bytes) -> None:
        """Tell the watchers."""
        self._publish(self.state_key(task_id), b'%.0f %b' % (revision, status))

    def transition(self, task_id: bytes, state: State, status: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Write a transition that ends any claim into the state, and tell the watchers."""
        key = self.state_key(task_id)
        state.revision += 1
        self.db.hdel(key, (b'claim',))
        self.db.hset(key, {b'status': status, b'revision': whole(state.revision), **fields})
        self.announce(task_id, state.revision, status)

    def move_claim(self, task_id: bytes, state: State, score: float, deadline: bytes) -> None:
        """Move the deadline of a claim that had this score in working, so that it stays live."""
        if state.claim and state.claim.deadline == score:
            claim = state.claim._replace(deadline=float(deadline))
            self.db.hset(self.state_key(task_id), {b'claim': bytes(claim)})

    def count(self, **amounts: int) -> None:
        """Add to the totals."""
        counters = self.db.hash_at(self.keys['counters'])
        self.db.hset(
            self.keys['counters'],
            {
                name.encode(): whole(number(counters.get(name.encode()), 0.0) + amount)
                for name, amount in amounts.items()
                if amount > 0
            },
        )

    # Lanes -------------------------------------------------------------------

    @property
    def lane_key(self) -> bytes:
        return b'%b:%b' % (self.keys['lane'], self.args[0])

    @property
    def token(self) -> bytes:
        """What marks the claims that this call makes."""
        return b':'.join(self.args[:3])

    def lane_record(self) -> Record | None:
        return Record.parse(self.db.string_at(self.lane_key))

    def enter(self) -> tuple[bytes, bytes] | None:
        """None to go on; else what the call comes to, and the recorded answer if it is a repeat."""
        lane, nonce, sequence = self.args[:3]
        if not lane:
            return None
        record = self.lane_record()
        if record is None or record.nonce != nonce:
            return b'NOLANE', b''
        ahead = int(sequence) - record.sequence
        if ahead > 0:
            return None
        if ahead < 0:
            return b'LATE', b''
        return (b'CLOSED', b'') if record.phase == b'closed' else (b'OK', record.answer)

    def again(self, outcome: bytes, answer: bytes) -> Reply:
        """The reply to a call that does not go on."""
        if outcome != b'OK':
            return [outcome]
        self.refresh_lane()
        return [b'OK', answer[1:]]

    def refresh_lane(self) -> None:
        self.db.pexpire(self.lane_key, LANE_TTL)

    def record(self, phase: bytes, answer: bytes) -> None:
        """Remember the call and its answer; the last write of a mutating verb."""
        self.db.put(self.lane_key, b'%b %b %b %b' % (self.args[2], self.args[1], phase, answer), LANE_TTL)

    def leave(self, answer: bytes) -> Reply:
        """Record the answer, a letter an item, and make the reply."""
        lane, mode = self.args[:2]
        if lane:
            self.record(b'open', b'-' + answer)
            return [b'OK', answer]
        if answer in (b'n', b'e', b'r', b'o'):
            return 1
        if mode == b'raise':
            return TorrelqueReplyError('LEASELOST the claim on the task is no longer live, nothing was changed')
        return 0

    def refuse(self, outcome: bytes, *shards: bytes) -> Reply:
        """The reply to a call with which nothing was done. A pipeline of the user's own is to fail."""
        if self.args[0]:
            return [outcome, *shards]
        return TorrelqueReplyError(f'{outcome.decode()} the queue has another number of shards, nothing was changed')

    def check_features(self) -> None:
        """Fail, before anything is written, if the queue has used a feature that this version does not know."""
        if not set(self.uses) <= FEATURES:
            raise TorrelqueReplyError('NEWER the queue uses features of a later version')

    @property
    def uses(self) -> bytes:
        """Letters of the features that the queue uses."""
        return self.db.hash_at(self.keys['counters']).get(b'uses', b'')

    def paused_until(self) -> float | None:
        """When a pause ends that is in force: infinite if it lasts until somebody resumes the queue."""
        if b'p' not in self.uses:
            return None
        till = self.db.hash_at(self.keys['counters']).get(b'paused')
        end = math.inf if till == b'inf' else number(till, 0.0)
        return end if end > self.now else None

    def limits(self) -> Limits:
        """The limits in force."""
        counters = self.keys['counters']
        return Limits(self.db.hash_at(counters), counters, self.now)

    @property
    def is_bound(self) -> bool:
        """Whether a pause or limits may keep consumers from tasks."""
        return b'p' in self.uses or b'l' in self.uses

    def permitted(self, count: int, freed: int = 0) -> int:
        """How many tasks consumers may take now, of those that they want or that are there.

        ``freed``: claims that are about to end.
        """
        if self.paused_until() is not None:
            return 0
        claimed = 0
        with suppress(TorrelqueReplyError):
            claimed = len(self.db.zset_at(self.keys['working']))
        most, _ = self.limits().allowed(claimed - freed)
        return int(min(count, most))

    @property
    def has_lines(self) -> bool:
        """Whether tasks may wait elsewhere than in pending."""
        return self.has_used(b'g') or self.has_used(b'h')

    def left(self) -> int:
        """How many tasks are waiting, as far as consumers need to know: of each group that can be served, one."""
        pending = self.keys['pending']
        if not self.has_lines:
            return len(self.db.list_at(pending))
        levels = (b'', b':high', b':low') if self.has_used(b'h') else (b'',)
        count = 0
        for level in levels:
            with suppress(TorrelqueReplyError):
                count += len(self.db.list_at(pending + level))
        with suppress(TorrelqueReplyError):
            count += len(self.db.zset_at(self.keys['groups'])) if self.has_used(b'g') else 0
        return count + (self.rechecks and self.has_used(b'g'))

    def reprieve(self) -> float | None:
        """When consumers may take again what they may not take now, if it is known and there is anything.

        A claim that ends is known only then: the verb that ends it hints.
        """
        if not (self.is_bound and self.left()):
            return None
        till, (_, time) = self.paused_until(), self.limits().allowed(0)
        if till is not None:
            time = max(till, time or till)
        return time if time is not None and time < math.inf else None

    def _set_arrival(self, time: float) -> None:
        self.db.hset(self.keys['counters'], {b'arrival': whole(time)})

    def count_deliveries(self, count: int) -> None:
        """Count deliveries for the rate."""
        limits = self.limits()
        if limits.interval:
            time = limits.now + limits.ahead
            if count or time < limits.arrival:
                self._set_arrival(time + count * limits.interval)

    def uncount_deliveries(self, times: Sequence[bytes]) -> None:
        """Take deliveries back that were none, but for the time in which others could not take place because of them.

        Those before the limits were set were not counted.
        ``times``: of each delivery.
        """
        limits, spared = self.limits(), 0.0
        since = number(self.db.hash_at(self.keys['counters']).get(b'limited_since'), 0.0)
        if not limits.interval:
            return
        for time, count in Counter(microseconds(number(time, 0.0)) for time in times).items():
            if time > since:
                spared += max(0.0, count * limits.interval - max(0.0, limits.now - time))
        if spared > 0:
            self._set_arrival(limits.now + max(0.0, limits.ahead - spared))

    def shards_of(self, total: bytes) -> bytes | None:
        """How many shards the queue has, of which the caller knows nothing. It has none if it has this total."""
        fields = self.db.hash_at(self.keys['counters'])
        if 'bell' in self.keys or number(fields.get(total), 0.0) != 0:
            return None
        _, blank, intended = fields.get(b'intended', b'').partition(b' ')
        return fields.get(b'shards', intended if blank else None)

    # The timer and the hint --------------------------------------------------

    def look(self) -> None:
        """Read what rare verbs may write, and so fail before any write where a key is of a wrong type."""
        self.db.list_at(self.keys['pending'])
        for name in ('delayed', 'working', 'rejected'):
            if name in self.keys:
                self.db.zset_at(self.keys[name])
        self.look_at_lines(always=False)

    def look_at_lines(self, *, always: bool) -> None:
        """The same for the keys of all groups and of the levels. ``always``: even if there never was a group."""
        for level in (b':high', b':low') if self.has_used(b'h') else ():
            self.db.list_at(self.keys['pending'] + level)
        if always or self.has_used(b'g'):
            for kind in (b'', b':blocked', b':held', b':idle'):
                self.db.zset_at(self.keys['groups'] + kind)
            for kind in (b':limits', b':arrivals'):
                self.db.hash_at(self.keys['groups'] + kind)

    def earliest(self, schedules: bytes | None = None) -> float | None:
        """The first time at which a task is due, a claim is stale, a schedule fires or pending tasks are free again.

        ``schedules``: the key of all schedules, if it is not the recorded one.
        """
        firsts = [self._first(self.keys[name]) for name in ('delayed', 'working')]
        firsts += [self.reprieve(), self._next_slot(schedules)]
        if self.has_used(b'g'):
            firsts.append(self._first(self.keys['groups'] + b':held'))
        return min((first for first in firsts if first is not None and first < math.inf), default=None)

    def schedule_keys(self) -> tuple[bytes, bytes] | None:
        """The key of all schedules, and what the keys of each begin with, as the verb that keeps them recorded them."""
        fields = self.db.hash_at(self.keys['counters'])
        listed, prefix = fields.get(b'schedules'), fields.get(b'schedule')
        return None if listed is None or prefix is None else (listed, prefix + b':')

    def _next_slot(self, key: bytes | None) -> float | None:
        """When the next schedule fires, which is not before a pause ends."""
        key = key or (self.schedule_keys() or [None])[0]
        first = self._first(key) if key and self.has_used(b's') else None
        if first is None:
            return None
        time = max(first, self.paused_until() or first)
        return time if time < math.inf else None

    def _first(self, key: bytes) -> float | None:
        try:
            first = self.db.zset_at(key).first()
        except TorrelqueReplyError:
            return None
        return first and first[0]

    def _timer(self) -> tuple[bytes | None, float | None]:
        """Number of the lane that waits for the next event, and the event's time."""
        try:
            held = self.db.string_at(self.keys['timer'])
        except TorrelqueReplyError:
            held = None
        if held is None or b'|' not in held:
            return None, None
        holder, _, event = held.partition(b'|')
        return holder, _time(event)

    def covered(self, event: float) -> bool:
        """Whether somebody will be there for the event."""
        _, handled = self._timer()
        return handled is not None and handled <= event

    def drop_timer(self) -> None:
        """The waiter of this lane no longer waits for an event."""
        holder, _ = self._timer()
        if holder == self.args[0]:
            self.db.delete((self.keys['timer'],))

    def take_timer(self, willing: float) -> float | None:
        """Mind the next event, if this lane's waiter stays for it and nobody else does. Seconds until it, or None."""
        event = self.earliest() if willing > 0 else None
        if event is None or not self.now < event <= self.now + HORIZON or self.covered(event):
            return None
        lifetime = math.ceil((min(event, self.now + willing) - self.now) * 1000) + GRACE
        self.db.put(self.keys['timer'], b'%b|%.17g' % (self.args[0], event), lifetime)
        return event - self.now

    def summon(self) -> None:
        """Wake idle consumers if they may take pending tasks."""
        if self.permitted(self.left()) > 0:
            self.hint()

    def hint(self, *, empty: bool = False, event: float | None = None) -> None:
        """Wake idle consumers if there is something for them; ends every verb that may have made work for them.

        ``event``: the earliest, where it is known.
        """
        wake, left = self.keys['wake'], self.permitted(self.left())
        if 'bell' in self.keys:
            self._ring(left, event, empty=empty)
            return
        with suppress(TorrelqueReplyError):
            if left > 1:
                self.db.zadd(wake, {b'0': 0.0, b'1': 1.0})
            elif left == 1 or self._needs_somebody(event):
                self.db.zadd(wake, {b'0': 0.0})
            elif empty:
                self.db.zrem(wake, (b'0', b'1'))

    def _ring(self, left: int, event: float | None, *, empty: bool) -> None:
        """The same for one shard of several: where those wait who wait for all of its server."""
        up = left > 0 or self._needs_somebody(event)
        try:
            ring = self.db.string_at(self.keys['bell']) if up or empty else None
            if ring is None:
                return
            members = [self.keys['wake'], self.keys['wake'] + b'+']
            if up:
                there = self.db.zset_at(ring).scores
                new = [member for member in members[: min(2, left or 1)] if member not in there]
                self.db.zadd(ring, dict.fromkeys(new, float(stamp(self.now))))
            else:
                self.db.zrem(ring, members)
        except TorrelqueReplyError:  # of a wrong type: as scripts do it
            return

    def _needs_somebody(self, event: float | None = None) -> bool:
        """Whether an event has passed, or is near and nobody waits for it."""
        if event is None:
            event = self.earliest()
        return event is not None and (event <= self.now or (event <= self.now + HORIZON and not self.covered(event)))


def _time(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


Command: TypeAlias = Callable[[Run], Reply]
