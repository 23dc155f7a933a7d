"""The audit, which checks a queue's invariants.

The queue is in use meanwhile. So ids are gathered in pages, and suspicious ones
are checked again, a few at a time, each time in one call of a script. Only what
is wrong then counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torrelque.core.keys import Keys
from torrelque.core.models import number_of
from torrelque.core.operations import PAGE, literally, scan_keys
from torrelque.core.presence import scan_workers
from torrelque.core.protocol import Arg, Call, Operation, Reply
from torrelque.core.scripts import ScriptSet

__all__ = ('Violation', 'audit')

DEEP = 5
"""Ids that one call looks for in the lists. Each takes a walk along them."""

TYPES = {
    'pending': b'list', 'dequeueing': b'list', 'undequeued': b'set', 'working': b'zset', 'delayed': b'zset',
    'tasks': b'hash', 'wake': b'zset', 'timer': b'string', 'epoch': b'string', 'rejected': b'zset',
    'counters': b'hash', 'missing': b'zset', 'workers': b'hash', 'schedules': b'zset',
    'pending:high': b'list', 'pending:low': b'list', 'groups': b'zset', 'groups:blocked': b'zset',
    'groups:held': b'zset', 'groups:idle': b'zset', 'groups:limits': b'hash', 'groups:arrivals': b'hash',
}  # fmt: skip

FINAL = (b'3', b'4')

STATUS_OF = {'pending': b'0', 'dequeueing': b'0', 'working': b'1', 'delayed': b'2', 'rejected': b'4'}


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation of a queue's invariants.

    ``kind`` is one of

    - ``'lost'``: a task in no collection, which would never be delivered;
    - ``'twice'``: a task in more than one collection, or listed more than once;
    - ``'ghost'``: an id in a collection, without a payload;
    - ``'missing'``: an id that was set aside because its payload was missing when its turn came. This happens on a
      cluster, where the payload may be on another node. Once it is back, the task is ``'lost'``, and repaired;
    - ``'state'``: a task without a state, or with one of a wrong type;
    - ``'status'``: a task whose status does not fit its collection;
    - ``'expiring'``: a task whose state expires;
    - ``'ignored'``: a task whose expiry, cancellation, group or priority is ignored, because the record of the
      queue's features was lost;
    - ``'group'``: a group with waiting tasks that consumers do not find, or the reverse; a group that is blocked or
      held without a reason; or a wrong record of a group's claims or dead letters;
    - ``'deadline'``: a claimed task without a finite deadline;
    - ``'result'``: a result that does not expire;
    - ``'stray'``: a state without a task that is not a result;
    - ``'lane'``, ``'timer'``, ``'workers'``: a lane, a timer or the list of workers that does not expire;
    - ``'worker'``: a malformed entry in the list of workers; it expires;
    - ``'key'``: a key that expires with its content, or has a wrong type;
    - ``'flow'``: a record of a pause or of limits that is ignored or cannot be read;
    - ``'schedule'``: a schedule that is not listed, has no payload or expires; or schedules that consumers ignore.

    A queue with shards also has

    - ``'record'``: a key that lacks the number of shards, or has a former one, or a former record of a pause
      or of limits;
    - ``'stranded'``: a task that was added without shards, which would never be delivered;
    - ``'outdated'``: the result of an earlier task, on a former home of its id.

    Attributes:
        kind: The kind.
        key: The key that shows the violation.
        task_id: The task's id, or None.
        detail: A description.
        repaired: Whether the audit repaired it.
    """

    kind: str
    key: str
    task_id: str | None
    detail: str
    repaired: bool = False


class _Facts(NamedTuple):
    """What the script `inspect` returns about an id."""

    payload: int
    pending: int
    dequeueing: int
    working: int
    delayed: int
    rejected: int
    kind: bytes
    status: bytes
    result: int
    expires: int
    aside: int
    letters: bytes
    uncounted: int

    @property
    def places(self) -> list[str]:
        """The collections that contain the id; one that contains it twice is there twice."""
        return [
            *['pending'] * self.pending,
            *['dequeueing'] * self.dequeueing,
            *['working'] * bool(self.working),
            *['delayed'] * self.delayed,
            *['rejected'] * self.rejected,
        ]


class _Fault(NamedTuple):
    """A violation, and the subject that the repairing script needs."""

    violation: Violation
    subject: bytes
    more: tuple[bytes, ...] = ()


class _Audit:
    """One audit's way through a queue."""

    def __init__(
        self,
        scripts: ScriptSet,
        keys: Keys,
        result_ttl: float,
        *,
        repair: bool,
        on_cluster: bool,
        seen: Collection[bytes] | None,
    ) -> None:
        self._scripts = scripts
        self._keys = keys
        self._ttl = max(1, round(result_ttl * 1000))
        self._repair = repair
        self._on_cluster = on_cluster
        self._seen = seen
        self._found: list[Violation] = []
        self._uses = b''  # letters of the features that the queue uses

    def run(self) -> Operation[list[Violation]]:
        yield from self._check_keys()
        if any('wrong type' in violation.detail for violation in self._found):
            return self._found  # the scripts would fail
        uses = yield from self._check_flow()
        yield from self._check_schedules(uses)
        yield from self._check_lanes()
        yield from self._check_workers()
        yield from self._check_tasks()
        if b'g' in uses:
            yield from self._check_groups()
        if self._repair:
            yield from self._tidy()
        return self._found

    def _call(self, name: str, *args: Arg) -> Call[Reply]:
        return Call(self._scripts[name], self._keys.of(self._scripts[name]), args)

    def _report(self, fault: _Fault) -> Operation[None]:
        violation = fault.violation
        if self._repair and violation.kind in REPAIRABLE:
            repaired = yield from self._call('repair', violation.kind, fault.subject, self._ttl, *fault.more)
            violation = replace(violation, repaired=bool(repaired))
        self._found.append(violation)

    # Keys --------------------------------------------------------------------

    def _check_keys(self) -> Operation[None]:
        names = [name for name in TYPES if self._exists(name)]
        if not names:
            return
        replies = _all((yield [Call[Reply](word, (self._key(name),)) for word in ('TYPE', 'PTTL') for name in names]))
        types, expiries = replies[: len(names)], replies[len(names) :]
        for name, kind, expiry in zip(names, types, expiries, strict=True):
            key, wanted = self._key(name).decode(), TYPES[name]
            if (kind if isinstance(kind, bytes) else str(kind).encode()) not in (wanted, b'none'):
                self._found.append(Violation('key', key, None, f'is of a wrong type, {kind!r}'))
            elif name in ('timer', 'workers') and expiry == -1:
                yield from self._report(_Fault(Violation(name, key, None, 'does not expire'), b''))
            elif name not in ('timer', 'missing', 'workers') and expiry >= 0:
                fault = Violation('key', key, None, f'expires in {expiry / 1000} s')
                yield from self._report(_Fault(fault, name.encode()))

    def _check_flow(self) -> Operation[bytes]:
        """Check the records of a pause and of limits, and return the letters of the features in use."""
        counters = self._keys['counters']
        values = yield from Call[Sequence[bytes | None]]('HMGET', (counters,), ('uses', 'paused', 'limits'))
        uses, till, limits = [value or b'' for value in values]
        self._uses = uses
        details = [
            *_judge_record('pause', till, till == b'inf' or number_of(till) is not None, has_letter=b'p' in uses),
            *_judge_record('limit', limits, WELL_FORMED.fullmatch(limits) is not None, has_letter=b'l' in uses),
        ]
        if details:
            violation = Violation('flow', counters.decode(), None, ', '.join(details))
            yield from self._report(_Fault(violation, b''))
        return uses

    def _check_schedules(self, uses: bytes) -> Operation[None]:
        prefix, listed = self._keys['schedule'] + b':', self._keys['schedules']
        ids = {key.removeprefix(prefix) for key in (yield from self._keys_beginning(prefix))}
        cursor = b'0'
        while self._exists('schedules'):
            cursor, found = yield from Call[Reply]('ZSCAN', (listed,), (cursor, 'COUNT', PAGE))
            ids.update(found[::2])
            if cursor == b'0':
                break
        for part in [(), *_pages(sorted(ids), PAGE)] if ids or b's' in uses else ():
            is_known, *facts = yield from self._call('inspect', 'schedules', *part)
            if not part and not is_known:
                fault = Violation('schedule', listed.decode(), None, 'there are schedules that are ignored, or none')
                yield from self._report(_Fault(fault, b''))
            for schedule_id, each in zip(part, facts, strict=True):
                for detail in _judge_schedule(*each):
                    key = (prefix + schedule_id).decode(errors='replace')
                    yield from self._report(_Fault(Violation('schedule', key, None, detail), schedule_id))

    def _check_lanes(self) -> Operation[None]:
        prefix = self._keys['lane'] + b':'
        for_ever: set[bytes] = set()
        for found in _pages(sorted((yield from self._keys_beginning(prefix))), PAGE):
            expiries = yield [Call[Reply]('PTTL', (key,)) for key in found]
            for_ever.update(key for key, expiry in zip(found, _all(expiries), strict=True) if expiry == -1)
        for key in sorted(for_ever):
            number = key.removeprefix(prefix)
            if number.isdigit():  # otherwise it is the key of another queue with a similar name
                violation = Violation('lane', key.decode(), None, 'does not expire')
                yield from self._report(_Fault(violation, number))

    def _check_workers(self) -> Operation[None]:
        cursor, key = b'0', self._keys['workers'].decode()
        while self._exists('workers'):
            cursor, _, found = yield from scan_workers(self._scripts, self._keys, cursor)
            for worker_id in (each for each, worker in found.items() if worker is None):
                shown = worker_id.decode(errors='replace')
                self._found.append(Violation('worker', key, None, f'{shown!r} is no announcement'))
            if cursor == b'0':
                break

    def _tidy(self) -> Operation[None]:
        """Remove what a drained queue may keep: a hint, and the marks of a sweep."""
        drained, hint, marks = yield from self._call('inspect', 'shallow')
        for name in [*['wake'] * hint, *['undequeued'] * bool(marks)] if drained else ():
            yield from self._call('repair', 'leftover', name.encode(), self._ttl)

    # Groups ------------------------------------------------------------------

    def _check_groups(self) -> Operation[None]:
        """Check in which indexes groups are, and their records of claims and dead letters."""
        names: set[bytes] = set()
        for kind in ('pending', 'working', 'rejected'):
            prefix = self._keys.of_groups(kind) + b':'
            found = sorted(key.removeprefix(prefix) for key in (yield from self._keys_beginning(prefix)))
            names.update(found)
            for name in found if kind != 'pending' else ():
                yield from self._check_members(kind, name)
        for index in ('groups', 'groups:blocked', 'groups:held'):
            cursor = b'0'
            while self._exists(index):
                cursor, scores = yield from Call[Reply]('ZSCAN', (self._key(index),), (cursor, 'COUNT', PAGE))
                names.update(scores[::2])
                if cursor == b'0':
                    break
        for part in _pages(sorted(names), PAGE):
            facts = yield from self._call('inspect', 'groups', *part)
            for name, each in zip(part, facts, strict=True):
                for detail in _judge_group(*each):
                    key = (self._keys.of_groups('pending') + b':' + name).decode(errors='replace')
                    yield from self._report(_Fault(Violation('group', key, None, detail), name))

    def _check_members(self, kind: str, name: bytes) -> Operation[None]:
        """Check a group's record of its claims or of the dead letters that hold it."""
        key = (self._keys.of_groups(kind) + b':' + name).decode(errors='replace')
        detail = 'is no claim of this group' if kind == 'working' else 'is no dead letter of this group'
        cursor = b'0'
        while True:
            cursor, *strays = yield from self._call('inspect', 'members', kind, name, cursor)
            for task_id in strays:
                violation = Violation('group', key, task_id.decode(errors='replace'), detail)
                yield from self._report(_Fault(violation, task_id, (kind.encode(), name)))
            if not cursor:
                self._found.append(Violation('key', key, None, 'is of a wrong type, not a set'))
            if cursor in (b'', b'0'):
                break

    # Tasks -------------------------------------------------------------------

    def _check_tasks(self) -> Operation[None]:
        lists = yield from self._read_lists()
        ids = yield from self._gather()
        suspects = yield from self._narrow({*ids, *lists[0], *lists[1]}, lists)
        if suspects:  # most are ids that have moved meanwhile
            lists = yield from self._read_lists(suspects)
            suspects = yield from self._narrow(suspects, lists)
        for part in _pages(sorted(suspects), DEEP):
            facts = yield from self._inspect('deep', part)
            for task_id, each in zip(part, facts, strict=True):
                for fault in self._faults(task_id, each):
                    yield from self._report(fault)

    def _gather(self) -> Operation[set[bytes]]:
        """Return all ids except those that are only in lists."""
        ids: set[bytes] = set()
        for collection in ('tasks', 'working', 'delayed', 'rejected'):
            cursor = b'0'
            while self._exists(collection):
                cursor, *found = yield from self._call('page', collection, cursor, PAGE)
                ids.update(found)
                if cursor == b'0':
                    break
        cursor = b'0'
        while self._exists('missing'):
            cursor, found = yield from Call[Reply]('ZSCAN', (self._keys['missing'],), (cursor, 'COUNT', PAGE))
            ids.update(found[::2])
            if cursor == b'0':
                break
        prefix = self._keys.state('')
        ids.update(key.removeprefix(prefix) for key in (yield from self._keys_beginning(prefix)))
        return ids

    def _read_lists(self, wanted: Collection[bytes] | None = None) -> Operation[tuple[Counter[bytes], Counter[bytes]]]:
        """Count ids in pending and in dequeueing, all or the wanted ones.

        Pages count from the end that consumers take from, so new tasks do not shift them.
        """
        pending, dequeueing = Counter[bytes](), Counter[bytes]()
        for key in (yield from self._lines()):
            yield from self._read_list(key, pending, wanted)
        yield from self._read_list(self._keys['dequeueing'], dequeueing, wanted)
        return pending, dequeueing

    def _lines(self) -> Operation[list[bytes]]:
        """Return the lists in which tasks wait: pending, its levels, and those of groups."""
        pending = self._keys['pending']
        lines = [pending, *[b'%b:%b' % (pending, level) for level in (b'high', b'low') if b'h' in self._uses]]
        if b'g' in self._uses:
            lines += sorted((yield from self._keys_beginning(self._keys.of_groups('pending') + b':')))
        return lines

    def _read_list(self, key: bytes, counts: Counter[bytes], wanted: Collection[bytes] | None) -> Operation[None]:
        last = 0
        while wanted is not None or self._seen is None or key in self._seen:
            page = yield from Call[Reply]('LRANGE', (key,), (-last - PAGE, -last - 1))
            counts.update(each for each in page if wanted is None or each in wanted)
            last += PAGE
            if len(page) < PAGE:
                break

    def _narrow(self, ids: Iterable[bytes], lists: tuple[Counter[bytes], Counter[bytes]]) -> Operation[set[bytes]]:
        """Return the ids that look wrong."""
        pending, dequeueing = lists
        suspects: set[bytes] = set()
        for part in _pages(list(ids), PAGE):
            facts = yield from self._inspect('shallow', part)
            for task_id, each in zip(part, facts, strict=True):
                whole = each._replace(pending=pending[task_id], dequeueing=dequeueing[task_id])
                if any(self._faults(task_id, whole)):
                    suspects.add(task_id)
        return suspects

    def _inspect(self, mode: str, ids: Sequence[bytes]) -> Operation[list[_Facts]]:
        _, _, _, *facts = yield from self._call('inspect', mode, *ids)
        return [_Facts(*each) for each in facts]

    def _faults(self, task_id: bytes, facts: _Facts) -> Iterator[_Fault]:
        readable = task_id.decode(errors='replace')
        key = (self._keys.state('') + task_id).decode(errors='replace')
        if not self._on_cluster:  # a 0.9 release left the id, and the payload will not come back
            facts = facts._replace(aside=0)
        for kind, detail in _judge(facts):
            yield _Fault(Violation(kind, key, readable, detail), task_id, (b'claimed',) if kind == 'group' else ())

    def _exists(self, name: str) -> bool:
        """Whether a key may exist. A key that was not seen did not exist throughout."""
        return self._seen is None or self._key(name) in self._seen

    def _key(self, name: str) -> bytes:
        """Return the key of a logical name, and what may follow that."""
        logical, _, part = name.partition(':')
        return self._keys[logical] + b':' + part.encode() if part else self._keys[logical]

    def _keys_beginning(self, prefix: bytes) -> Operation[set[bytes]]:
        if self._seen is not None:
            return {key for key in self._seen if key.startswith(prefix)}
        keys: set[bytes] = set()
        cursor = b'0'
        while True:
            cursor, found = yield from scan_keys(prefix, literally(prefix) + b'*', cursor)
            keys.update(found)
            if cursor == b'0':
                return keys


REPAIRABLE = frozenset((
    'lost', 'twice', 'ghost', 'expiring', 'ignored', 'deadline', 'result', 'lane', 'timer', 'workers', 'key', 'flow',
    'schedule', 'group',
))  # fmt: skip


IGNORED = {
    'e': 'its expiry is ignored', 'c': 'its cancellation is ignored', 'g': 'its group is ignored',
    'h': 'its priority is ignored',
}  # fmt: skip
"""By the letters of features."""

WELL_FORMED = re.compile(rb'[0-9-]+ [0-9-]+ [0-9-]+ [0-9-]+(?: strict)?')
"""Limits."""


def _judge_record(name: str, record: bytes, is_kept: bool, *, has_letter: bool) -> Iterator[str]:
    """Yield what is wrong with the record of a pause or of limits."""
    if record and not is_kept:
        yield f'the record of a {name} cannot be read, {record!r}'
    elif is_kept and not has_letter:
        yield f'there is a {name} that is ignored'
    elif has_letter and not record:
        yield f'uses a {name}, of which there is no record'


def _judge_schedule(is_listed: int, kind: bytes, has_payload: int, expires: int) -> Iterator[str]:
    """Yield what is wrong with a schedule. A key without a payload may belong to another queue with a similar name."""
    if is_listed and not has_payload:
        yield f'has no payload, and in place of a record a {kind.decode()}' if kind != b'none' else 'has no record'
    elif has_payload and not is_listed:
        yield 'is not listed'
    elif has_payload and expires:
        yield 'expires'


def _judge_group(places: int, wanted: int, is_stuck: int) -> Iterator[str]:
    """Yield what is wrong with where a group is."""
    if places < wanted:
        yield 'has waiting tasks, and consumers do not find it'
    elif places > wanted:
        yield f'is in {places} indexes of groups' if wanted else 'has no waiting tasks, and is in an index of groups'
    elif is_stuck:
        yield 'waits though consumers could take a task'


def _judge(facts: _Facts) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an id: kinds of violations, and details."""
    if facts.payload:
        yield from _judge_task(facts, facts.places)
    elif facts.aside and not facts.places:
        yield 'missing', 'was set aside, as its payload is missing'
    elif facts.places:
        yield 'ghost', f'has no payload, and is in {", ".join(facts.places)}'
    elif facts.kind == b'hash' and not facts.expires:
        if facts.result and facts.status in FINAL:
            yield 'result', 'is kept without expiry'
        else:
            yield 'stray', 'there is a state, but no task'
    elif facts.kind not in (b'none', b'hash'):
        yield 'stray', f'there is no task, and in place of a state a {facts.kind.decode()}'


def _judge_task(facts: _Facts, places: list[str]) -> Iterator[tuple[str, str]]:
    if not places:
        yield 'lost', 'is in no collection'
    elif len(places) > 1:
        yield 'twice', f'is in {", ".join(places)}'
    if facts.kind == b'none':
        yield 'state', 'has no state'
    elif facts.kind != b'hash':
        yield 'state', f'has in place of a state a {facts.kind.decode()}'
    elif len(places) == 1 and facts.status != STATUS_OF[places[0]]:
        yield 'status', f'is in {places[0]}, but has the status {facts.status.decode(errors="replace")!r}'
    if facts.expires:
        yield 'expiring', 'its state expires'
    if facts.letters and not facts.rejected:
        yield 'ignored', ' and '.join(IGNORED[letter] for letter in facts.letters.decode())
    if facts.working == 2:  # noqa: PLR2004 - the script's word for it
        yield 'deadline', 'is claimed for ever'
    if facts.uncounted:
        yield 'group', 'its claim does not count for its group'


def _pages(ids: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(ids), size):
        yield ids[first : first + size]


def _all(replies: Sequence[Reply]) -> Sequence[Reply]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def audit(
    scripts: ScriptSet,
    keys: Keys,
    result_ttl: float,
    *,
    repair: bool,
    on_cluster: bool = False,
    seen: Collection[bytes] | None = None,
) -> Operation[list[Violation]]:
    """Check the tasks and keys of a queue, or of a shard, in bounded steps.

    Args:
        scripts: The scripts.
        keys: The keys of the queue or the shard.
        result_ttl: Seconds for which to keep a state without a task.
        repair: Repair what is safe to repair.
        on_cluster: Whether payloads may be on another node for a while.
        seen: The existing keys of the queue or the shard, if known; None scans for them.

    Returns:
        The violations.
    """
    return _Audit(scripts, keys, result_ttl, repair=repair, on_cluster=on_cluster, seen=seen).run()
