"""Pauses and limits: their record, and how it reaches all shards.

The record is in the counters of a queue, or of each of its shards, where the
scripts read it. In a queue with shards, the first shard writes a change, with a
later revision. The change is then copied to the shards that have an earlier one.
The limits are those of the whole queue. The scripts compute each shard's share from
the number of shards that is recorded there, so a changed number changes the shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from torrelque.core import checks
from torrelque.core.commands import Command, Item
from torrelque.core.keys import Keys
from torrelque.core.models import Limits, Pause, make_limits, make_pause, number_of
from torrelque.core.operations import raised
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.errors import TorrelqueTypeError, TorrelqueValueError

__all__ = (
    'FLOW', 'MOST', 'RESUME', 'Load', 'Record', 'copy', 'limits_item', 'limits_of', 'load', 'newest', 'pause_item',
    'rate_words', 'read', 'revision_of',
)  # fmt: skip

FLOW = Command('flow', limit=1)

RESUME: Item = ('resume',)

FIELDS = ('flow', 'paused', 'paused_since', 'paused_reason', 'limits')

MOST = 1_000_000
"""The greatest number that a limit may be."""

LONGEST_PERIOD = 31 * 86_400
"""Seconds. The scripts count microseconds, times the number of shards."""

Record: TypeAlias = Sequence[bytes]
"""The values of `FIELDS`; empty for those that are missing."""


def pause_item(reason: str | None, until: Any) -> Item:  # noqa: ANN401 - the type is what is checked
    """Check and write a pause until a datetime or a Unix time; None pauses until the queue is resumed."""
    end = math.inf if until is None else checks.check_moment('until', until)
    return 'pause', f'{end:.6f}', b'' if reason is None else checks.check_text('reason', reason).encode()


def limits_item(concurrency: Any, rate: Any, burst: Any, strict: Any = None) -> Item:  # noqa: ANN401 - they are checked
    """Check and write the limits of a queue; None is no limit."""
    if type(concurrency) is int and concurrency == 0:
        raise TorrelqueValueError('concurrency must be at least 1, got 0: to stop all deliveries, use pause()')
    slots = b'-' if concurrency is None else b'%d' % checks.check_count('concurrency', concurrency, most=MOST)
    words = [slots, *rate_words(rate, burst)]
    if strict is not None and checks.check_flag('strict', strict):
        words.append(b'strict')
    return 'limit', b'' if words == [b'-'] * 4 else b' '.join(words)


def rate_words(rate: Any, burst: Any) -> list[bytes]:  # noqa: ANN401
    """Check and write a rate and its burst: deliveries, microseconds, and deliveries at once; each - for none."""
    if rate is None:
        if burst is not None:
            raise TorrelqueTypeError(f'burst needs a rate, got burst={burst!r} and rate=None')
        return [b'-'] * 3
    if not isinstance(rate, (tuple, list)) or len(rate) != len(('deliveries', 'seconds')):
        raise TorrelqueTypeError(f'rate must be a number of deliveries and of seconds, such as (100, 60), got {rate!r}')
    count = checks.check_count('the deliveries of rate', rate[0], most=MOST)
    seconds = checks.check_amount('the seconds of rate', rate[1], least=0)
    if seconds > LONGEST_PERIOD:
        raise TorrelqueValueError(f'the seconds of rate must be at most {LONGEST_PERIOD}, 31 days, got {rate[1]!r}')
    period = round(seconds * 1e6)
    if period < count:
        raise TorrelqueValueError(f'rate must be at most a million deliveries per second, got {rate!r}')
    most = count if burst is None else checks.check_count('burst', burst, most=MOST)
    if most * period > count * LONGEST_PERIOD * 1_000_000:
        raise TorrelqueValueError(f'burst must be less than 31 days of deliveries at {rate!r}, got {burst!r}')
    return [b'%d' % word for word in (count, period, most)]


def limits_of(record: Record) -> Limits:
    """Return the limits of a record."""
    return make_limits(record[4]) or Limits()


def revision_of(record: Record) -> float:
    """Return the revision of a record; 0 if there never was one."""
    return number_of(record[0]) or 0.0


def read(keys: Keys) -> Operation[Record]:
    """Read the record of a queue or a shard."""
    values = yield from Call[Sequence[bytes | None]]('HMGET', (keys['counters'],), FIELDS)
    return [value or b'' for value in values]


def newest(places: Iterable[Keys]) -> Operation[Record]:
    """Read the records of shards, and return the latest one."""
    found: Record = [b''] * len(FIELDS)
    for keys in places:
        found = max(found, (yield from read(keys)), key=revision_of)
    return found


def copy(scripts: ScriptSet, keys: Keys, record: Record) -> Operation[Reply]:
    """Write a record to another shard, unless it has a later one. Safe to repeat, and to delay."""
    script = scripts['flow']
    return (yield from Call[Reply](script, keys.of(script), ('', '', '', 'copy', *record)))


class Load(NamedTuple):
    """How many tasks of a queue or a shard are claimed, and the pause in force; None for none."""

    working: int
    pause: Pause | None


def load(scripts: ScriptSet, keys: Keys, *cap: Any) -> Operation[Load]:  # noqa: ANN401 - as `cap` writes it
    """Return stale tasks to pending, and read the load of a queue or a shard."""
    script, more = scripts['sweep'], True
    while more:
        _, more = yield from Call[Reply](script, keys.of(script), ('stale', *cap))
    fields = ('uses', *FIELDS[1:4])
    working, values, time = raised(
        (yield [
            Call[Reply]('ZCARD', (keys['working'],)),
            Call[Reply]('HMGET', (keys['counters'],), fields),
            Call[Reply]('TIME', near=keys['pending']),
        ])
    )  # fmt: skip
    uses, *pause = [value or b'' for value in values]
    known = make_pause(*pause) if b'p' in uses else None
    now = int(time[0]) + int(time[1]) / 1e6
    return Load(int(working), known if known and (known.until is None or known.until > now) else None)
