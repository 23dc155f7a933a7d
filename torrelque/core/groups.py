"""Groups of tasks: their limits, how these reach all shards, and the list of groups.

The limits of groups are in a hash of the queue, or of each of its shards: the name of
a group, or ``*`` for the default, to a revision and the limits. In a queue with shards,
the first shard writes a change, with a later revision. The change is then copied to the
shards that have an earlier one. A group has its tasks in one shard, so the limits need
no shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torrelque.core import checks
from torrelque.core.combinators import together
from torrelque.core.commands import Command, Item
from torrelque.core.flow import MOST, rate_words
from torrelque.core.keys import Keys
from torrelque.core.models import GroupInfo, Limits, make_group_limits, number_of
from torrelque.core.operations import PAGE, raised
from torrelque.core.protocol import Arg, Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.errors import TorrelqueValueError

__all__ = (
    'DEFAULT', 'PLACES', 'REGULATE', 'copy_limits', 'limits_item', 'list_groups', 'newest_limits', 'read_group_limits',
    'read_limits', 'recheck',
)  # fmt: skip

REGULATE = Command('regulate', limit=1)
"""Sets the limits of a group."""

DEFAULT = checks.EVERY_GROUP.encode()

NO_LANE = ('', '', '')

HEAVIEST = 1000
"""The greatest weight of a group."""

Records: TypeAlias = Mapping[bytes, bytes]
"""The records of limits, by the name of the group."""


def limits_item(
    group: Any,  # noqa: ANN401 - here and below the type is what is checked
    concurrency: Any,  # noqa: ANN401
    rate: Any,  # noqa: ANN401
    burst: Any,  # noqa: ANN401
    weight: Any,  # noqa: ANN401
    ordered: Any,  # noqa: ANN401
    dead: Any,  # noqa: ANN401
) -> Item:
    """Check and write the limits of a group, or of each that has none of its own; None is the default."""
    name = group if group == checks.EVERY_GROUP else checks.check_group('group', group)
    words = [b'-'] * 7
    if concurrency is not None:
        words[0] = b'%d' % checks.check_count('concurrency', concurrency, 0, MOST)
    words[1:4] = rate_words(rate, burst)
    if weight is not None:
        words[4] = b'%d' % checks.check_count('weight', weight, most=HEAVIEST)
    if ordered is not None:
        words[5] = b'1' if checks.check_flag('ordered', ordered) else b'0'
        if ordered and (concurrency or 0) > 1:
            raise TorrelqueValueError(f'ordered=True lets one task run at a time, got concurrency={concurrency!r}')
    if dead not in (None, 'hold', 'pass'):
        raise TorrelqueValueError(f"dead must be 'hold' or 'pass', got {dead!r}")
    if dead is not None:
        words[6] = str(dead).encode()
    return 'limit', name.encode(), b' '.join(words)


def read_group_limits(keys: Keys, group: str) -> Operation[Limits]:
    """Read what limits are in force for a group; for ``*``, the default."""
    names = (group.encode(), DEFAULT)
    own, default = yield from Call[Sequence[bytes | None]]('HMGET', (keys.of_groups('limits'),), names)
    return make_group_limits(own or b'', default or b'')


# Shards --------------------------------------------------------------------------------------------------------------


def read_limits(keys: Keys, names: Sequence[bytes]) -> Operation[Records]:
    """Read the records of some groups."""
    values = yield from Call[Sequence[bytes | None]]('HMGET', (keys.of_groups('limits'),), tuple(names))
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def newest_limits(places: Iterable[Keys]) -> Operation[Records]:
    """Read the records of all groups on some shards, and return the latest of each."""
    found: dict[bytes, bytes] = {}
    for keys in places:
        cursor = b'0'
        while True:
            cursor, values = yield from Call[Reply]('HSCAN', (keys.of_groups('limits'),), (cursor, 'COUNT', PAGE))
            for name, record in zip(values[::2], values[1::2], strict=True):
                found[name] = max(found.get(name, b''), record, key=_revision_of)
            if cursor == b'0':
                break
    return found


def _revision_of(record: bytes) -> float:
    return number_of(record.partition(b' ')[0]) or 0.0


def copy_limits(scripts: ScriptSet, keys: Keys, records: Records) -> Operation[None]:
    """Write records to another shard, unless it has later ones. Safe to repeat, and to delay."""
    pairs = [*records.items()]
    for first in range(0, len(pairs), PAGE):
        calls = [_call(scripts, keys, 'regulate', *NO_LANE, 'copy', *pair) for pair in pairs[first : first + PAGE]]
        raised((yield from together(iter(call) for call in calls)))
    if DEFAULT in records:
        yield from recheck(scripts, keys)


def recheck(scripts: ScriptSet, keys: Keys) -> Operation[None]:
    """Let all groups with waiting tasks heed a changed default, in bounded steps. Safe to repeat."""
    for place in PLACES[1:3]:
        cursor: bytes | None = None
        while cursor != b'0':
            cursor = yield from _call(scripts, keys, 'regulate', *NO_LANE, 'recheck', place, cursor or b'0')


# The list of groups ---------------------------------------------------------------------------------------------------

PLACES = ('groups', 'blocked', 'held', 'working')
"""Where to look for groups: with waiting tasks by state, the ready ones first; then those with claimed tasks only."""

_STATES = {'groups': 'ready', 'blocked': 'blocked', 'held': 'held', 'working': 'idle'}


def list_groups(scripts: ScriptSet, keys: Keys, place: str, cursor: bytes) -> Operation[tuple[bytes, list[GroupInfo]]]:
    """Take a step through the groups of a queue or a shard. Some may come again in later steps.

    Args:
        scripts: The scripts.
        keys: The keys.
        place: One of `PLACES`.
        cursor: b'0', or the cursor that the step before returned.

    Returns:
        The next cursor, b'0' at the end, and some groups.
    """
    cursor, *found = yield from _call(scripts, keys, 'groups', place, cursor, 100)
    return cursor, [
        GroupInfo(
            name.decode(errors='replace'),
            int(waiting),
            int(working),
            _STATES[place],
            since=number_of(score) if place == 'blocked' else None,
            until=number_of(score) if place == 'held' else None,
        )
        for name, waiting, working, score in zip(*[iter(found)] * 4, strict=True)
    ]


def _call(scripts: ScriptSet, keys: Keys, verb: str, *args: Arg) -> Call[Reply]:
    return Call(scripts[verb], keys.of(scripts[verb]), args)
