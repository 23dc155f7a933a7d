"""Schedules: what a queue records of them, and how clients keep enough times ahead.

Each schedule is a hash, and a member of a sorted set with the time at which it
fires next. Any claim fires what is due, in the same script: it adds a task, whose
id is the schedule's with the time, and moves the schedule on. So there is neither
a leader nor a scheduler process, and each time adds one task whatever is repeated.

Servers know nothing of cron and time zones. Clients compute the next times, and
a claim that finds few of them left names the schedule. Its client then adds more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, TypeAlias

from torrelque.core import checks
from torrelque.core.codec import Serialiser, dump_headers, dump_payload, load_headers
from torrelque.core.commands import Command, Item, enqueue_words, expiry_words, line_words, with_time_limit
from torrelque.core.keys import Keys
from torrelque.core.models import Payload, number_of
from torrelque.core.operations import raise_error, raised
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.errors import TorrelqueTypeError, TorrelqueValueError

__all__ = (
    'AHEAD', 'SCHEDULE', 'Draft', 'Missed', 'Place', 'Schedule', 'Timing', 'Upcoming', 'activate_item', 'check_id',
    'check_mapping', 'draft', 'fire_item', 'hold_item', 'make_schedule', 'place_words', 'put_item', 'read_owner',
    'read_place', 'refill', 'remove_item', 'retire_item', 'scan_schedules', 'slot_id',
)  # fmt: skip

AHEAD = 32
"""How many times of a cron schedule the server knows ahead."""

SHORTEST = 0.001
"""The shortest interval, in seconds."""

Missed: TypeAlias = Literal['skip', 'all']
"""What to do with times at which no consumer was there."""

Upcoming: TypeAlias = Callable[[str, str, float, int], Sequence[float]]
"""Returns the next times of a cron expression in a time zone after a Unix time, up to a number."""

SCHEDULE = Command('schedule', limit=1)

_MISSING = object()

DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        'task': _MISSING, 'cron': None, 'tz': None, 'every': None, 'missed': 'skip', 'overlap': True, 'owner': None,
        'task_timeout': None, 'delay': None, 'max_dequeues': None, 'headers': None, 'time_limit': None,
        'expires_in': None, 'on_expiry': None, 'group': None, 'priority': None,
    }
)  # fmt: skip
"""The arguments of a schedule, and their defaults."""

FIELDS = (
    'payload', 'cron', 'tz', 'every', 'next', 'last', 'missed', 'overlap', 'owner', 'timeout', 'delay', 'max_dequeues',
    'headers', 'expires_in', 'on_expiry', 'group', 'level', 'held',
)  # fmt: skip

KEPT = (
    'owner', 'cron', 'tz', 'every', 'missed', 'overlap', 'payload', 'timeout', 'delay', 'max_dequeues', 'headers',
    'expires_in', 'on_expiry', 'group', 'level', 'mark', 'anchor', 'next', 'upto', 'last', 'revision',
)  # fmt: skip
"""What moves with a schedule to another shard."""


class Schedule(NamedTuple, Generic[Payload]):
    """A schedule, as set by `Torrelque.schedule`. Times are Unix times on the server's clock."""

    id: str
    task: Payload
    """The payload of its tasks."""
    cron: str | None
    tz: str | None
    """The time zone of ``cron``."""
    every: float | None
    """Seconds between two times."""
    next: float | None
    """When it adds the next task; None if that time is not computed yet."""
    last: str | None
    """The id of the last task that it added."""
    missed: str
    overlap: bool
    owner: str | None
    task_timeout: float
    delay: float | None
    max_dequeues: int | None
    headers: Mapping[str, str]
    expires_in: float | None
    on_expiry: str | None
    group: str | None
    priority: str


class Timing(NamedTuple):
    """When a schedule fires: ``cron`` in the zone ``tz``, or each ``every`` seconds."""

    cron: str
    tz: str
    every: float | None


def check_id(value: Any) -> str:  # noqa: ANN401 - the type is what is checked
    """Check the id of a schedule."""
    text = str(checks.check_text('schedule id', value))
    if '@' in text:
        raise TorrelqueValueError(
            f"schedule id must not contain '@', which separates it from the time in the ids of its tasks, got {value!r}"
        )
    return text


def check_mapping(value: Any) -> Mapping[str, Mapping[str, Any]]:  # noqa: ANN401 - the type is what is checked
    """Check that a value maps ids of schedules to arguments."""
    if not isinstance(value, Mapping) or not all(isinstance(each, Mapping) for each in value.values()):
        raise TorrelqueTypeError(f'schedules must map ids to mappings of arguments, got {value!r}')
    return value


def _timing_of(cron: Any, tz: Any, every: Any) -> Timing:  # noqa: ANN401 - the types are what is checked
    """Check which times a schedule has, except for the syntax of ``cron`` and the name of the zone."""
    if (cron is None) == (every is None):
        raise TorrelqueValueError(f'give either cron or every, got cron={cron!r} and every={every!r}')
    if every is not None:
        if tz is not None:
            raise TorrelqueValueError(f'tz needs cron, got tz={tz!r} and every={every!r}')
        seconds = checks.check_duration('every', every)
        if seconds < SHORTEST:
            raise TorrelqueValueError(f'every must be at least {SHORTEST:g} seconds, got {every!r}')
        return Timing('', '', seconds)
    return Timing(checks.check_text('cron', cron), 'UTC' if tz is None else checks.check_text('tz', tz), None)


class Draft(NamedTuple):
    """A schedule to add or change.

    ``write`` makes the item, given its next times.
    """

    name: str
    group: bytes
    timing: Timing
    write: Callable[[Sequence[float]], Item]


def draft(
    schedule_id: Any,  # noqa: ANN401 - the type is what is checked
    options: Mapping[str, Any],
    serialiser: Serialiser[Any],
    defaults: tuple[float, int | None],
) -> Draft:
    """Check a schedule.

    Args:
        schedule_id: Its id.
        options: The other arguments of ``Torrelque.schedule``.
        serialiser: Serialises the payload.
        defaults: The queue's time-out and delivery limit.
    """
    name, given = check_id(schedule_id), {**DEFAULTS, **options}
    unknown = sorted(set(given) - set(DEFAULTS), key=str)
    if unknown:
        raise TorrelqueTypeError(f'schedule {name!r} has unknown arguments: {", ".join(map(repr, unknown))}')
    if given['task'] is _MISSING:
        raise TorrelqueTypeError(f'schedule {name!r} has no task, got {options!r}')
    timing = _timing_of(given['cron'], given['tz'], given['every'])
    if given['missed'] not in ('skip', 'all'):
        raise TorrelqueValueError(f"missed must be 'skip' or 'all', got {given['missed']!r}")
    later = checks.check_seconds('delay', given['delay'], negative=True)
    overlap = checks.check_flag('overlap', given['overlap'])
    if given['missed'] == 'all' and not overlap:
        raise TorrelqueValueError("missed='all' contradicts overlap=False, which adds at most one task at a time")
    timeout, delay, limit = enqueue_words(
        *defaults, given['task_timeout'], max(0.0, later or 0.0), given['max_dequeues']
    )
    expires, action = expiry_words(given['expires_in'], None, given['on_expiry'], later)
    headers = with_time_limit(given['headers'], given['time_limit'])
    group, level = line_words(given['group'], given['priority'])
    item: Item = (
        name.encode(),
        'set',
        '' if given['owner'] is None else checks.check_text('owner', given['owner']),
        timing.cron,
        timing.tz,
        '' if timing.every is None else _text(timing.every),
        given['missed'],
        int(overlap),
        dump_payload(serialiser, given['task']),
        timeout,
        delay,
        limit,
        b'' if headers is None else dump_headers(checks.check_headers(headers)),
        expires.removeprefix('+'),
        action,
        group,
        level,
    )
    return Draft(name, group, timing, lambda times: (*item, ' '.join(map(_text, times))))


def remove_item(name: str, owner: str = '', *rank: int) -> Item:
    """Write a schedule to remove; with an ``owner``, only if it has it. In a queue with shards, a rank follows."""
    return name.encode(), 'remove', owner, *rank


def fire_item(name: str, time: float) -> Item:
    """Write a schedule to fire at this time, which is now."""
    return name.encode(), 'fire', _text(time)


def slot_id(name: str, time: float, mark: str = '') -> str:
    """Return the id of the task that a schedule adds at a time."""
    return f'{name}{mark}@{_text(time)}'


# In a queue with shards -----------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """What a shard has of a schedule.

    Attributes:
        rank: The highest rank that the shard has seen; 0 for none.
        kept: The values of the schedule; empty if it is not there.
        is_held: Whether it does not fire until it is moved or activated.
    """

    rank: int
    kept: Sequence[bytes]
    is_held: bool

    def value(self, name: str) -> bytes:
        """Return one of the values."""
        return self.kept[KEPT.index(name)]


def read_place(keys: Keys, name: str) -> Operation[Place]:
    """Read what a shard has of a schedule."""
    *values, held = yield from Call[Reply]('HMGET', (_key(keys, name.encode()),), (*KEPT, 'held'))
    kept = [value or b'' for value in values] if values[KEPT.index('payload')] is not None else []
    return Place(int(number_of(values[-1]) or 0), kept, bool(held))


def place_words(generation: int, rank: int, seen: int, mark: str) -> Item:
    """Return what follows an item that adds or changes a schedule, on a shard that has ``seen`` this rank last."""
    return generation, rank, seen, mark


def hold_item(name: str, revision: int, rank: int) -> Item:
    """Write a schedule that is not to fire until it is moved or activated, if it has this revision."""
    return name.encode(), 'hold', revision, rank


def put_item(name: str, values: Sequence[bytes], rank: int) -> Item:
    """Write a schedule that moves here. It is held."""
    return name.encode(), 'put', *values[:-1], rank


def retire_item(name: str, rank: int) -> Item:
    """Write a schedule that is elsewhere, and whose calls with a lower rank are to be refused here."""
    return name.encode(), 'retire', '', rank


def activate_item(name: str, rank: int) -> Item:
    """Write a schedule that was held with this rank, and is to fire again."""
    return name.encode(), 'activate', rank


def _text(time: float) -> str:
    """Write a time as the scripts do: with decimals only if it has any."""
    return f'{time:.6f}'.rstrip('0').rstrip('.')


# Reading --------------------------------------------------------------------------------------------------------------


def _key(keys: Keys, name: bytes) -> bytes:
    return b'%b:%b' % (keys['schedule'], name)


def scan_schedules(keys: Keys, cursor: bytes) -> Operation[tuple[bytes, list[tuple[str, Sequence[bytes | None]]]]]:
    """Take a step through the schedules of a queue or a shard. Some may come again in later steps.

    Returns:
        The next cursor, b'0' at the end, and ids with the values that `make_schedule` takes.
    """
    cursor, found = yield from Call[Reply]('ZSCAN', (keys['schedules'],), (cursor, 'COUNT', 100))
    names = found[::2]
    replies = (yield [Call[Reply]('HMGET', (_key(keys, name),), FIELDS) for name in names]) if names else ()
    read = zip(names, map(raise_error, replies), strict=True)
    return cursor, [(name.decode(), values) for name, values in read if values[0] is not None]


def make_schedule(name: str, values: Sequence[bytes | None], load: Callable[[bytes], Payload]) -> Schedule[Payload]:
    """Make a schedule from the fields of its hash. Damaged values count as missing."""
    known = {field: value or b'' for field, value in zip(FIELDS, values, strict=True)}
    text = {
        field: value.decode(errors='replace') for field, value in known.items() if field not in ('payload', 'headers')
    }
    times = text['next'].split()
    limit = number_of(known['max_dequeues'])
    return Schedule(
        name,
        load(known['payload']),
        cron=text['cron'] or None,
        tz=text['tz'] or None,
        every=number_of(known['every']),
        next=number_of(times[0].encode()) if times else None,
        last=text['last'] or None,
        missed=text['missed'] or 'skip',
        overlap=known['overlap'] != b'0',
        owner=text['owner'] or None,
        task_timeout=number_of(known['timeout']) or 300.0,
        delay=number_of(known['delay']),
        max_dequeues=None if limit is None else int(limit),
        headers=load_headers(known['headers']),
        expires_in=number_of(known['expires_in']),
        on_expiry=text['on_expiry'] or None,
        group=text['group'] or None,
        priority=text['level'] or 'normal',
    )


def read_owner(keys: Keys, name: str) -> Operation[str | None]:
    """Read who owns a schedule; None if nobody does."""
    (owner,) = yield from Call[Reply]('HMGET', (_key(keys, name.encode()),), ('owner',))
    return owner.decode(errors='replace') if owner else None


# More times -----------------------------------------------------------------------------------------------------------


def refill(scripts: ScriptSet, keys: Keys, name: bytes, upcoming: Upcoming) -> Operation[bool]:
    """Give a cron schedule more times. Safe to repeat and to delay: times that it has are not added twice.

    Times that passed meanwhile are only added if missed ones are made up for. A schedule that has changed since it was
    read refuses them.

    Returns:
        False if the schedule is held, because a move to another shard was interrupted.
    """
    fields = ('cron', 'tz', 'missed', 'upto', 'revision', 'held')
    batch = [Call[Reply]('HMGET', (_key(keys, name),), fields), Call[Reply]('TIME', near=keys['pending'])]
    values, time = raised((yield batch))
    cron, tz, missed, upto, revision, held = [value or b'' for value in values]
    if held or not cron:
        return not held
    after = number_of(upto) or 0.0
    if missed != b'all':
        after = max(after, math.floor(int(time[0]) + int(time[1]) / 1e6))
    times = upcoming(cron.decode(errors='replace'), tz.decode(errors='replace'), after, AHEAD)
    if times:
        script = scripts['schedule']
        args = ('', '', '', name, 'refill', revision, ' '.join(map(_text, times)))
        yield from Call[Reply](script, keys.of(script), args)
    return True
