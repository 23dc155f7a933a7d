"""Pauses: their record, and how it reaches all shards.

The record is in the counters of a queue, or of each of its shards, where the
scripts read it. In a queue with shards, the first shard writes a change, with a
later revision. The change is then copied to the shards that have an earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from torrelque.core import checks
from torrelque.core.commands import Command, Item
from torrelque.core.keys import Keys
from torrelque.core.models import Pause, make_pause, number_of
from torrelque.core.operations import raised
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.core.scripts import ScriptSet

__all__ = ('FLOW', 'RESUME', 'Load', 'Record', 'copy', 'load', 'newest', 'pause_item', 'read', 'revision_of')

FLOW = Command('flow', limit=1)

RESUME: Item = ('resume',)

FIELDS = ('flow', 'paused', 'paused_since', 'paused_reason')

Record: TypeAlias = Sequence[bytes]
"""The values of `FIELDS`; empty for those that are missing."""


def pause_item(reason: str | None, until: Any) -> Item:  # noqa: ANN401 - the type is what is checked
    """Check and write a pause until a datetime or a Unix time; None pauses until the queue is resumed."""
    end = math.inf if until is None else checks.check_moment('until', until)
    return 'pause', f'{end:.6f}', b'' if reason is None else checks.check_text('reason', reason).encode()


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
    fields = ('uses', *FIELDS[1:])
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
