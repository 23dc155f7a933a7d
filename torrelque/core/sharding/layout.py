"""The layout: the number of shards of a queue, now and before, and the shard of each task.

A task's home, the shard that it belongs to, follows from its id. The number of
shards is recorded in the queue's own counters, and on each shard, where enqueue
compares it. A change is recorded on the shards first, so that no client that
still assumes the old number adds to them, and in the queue's own record last.
Tasks that were there before stay on their shard until they are done.
"""

from __future__ import annotations

import re
from binascii import crc32
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from torrelque.core import flow, groups
from torrelque.core.keys import Keys
from torrelque.core.operations import raised
from torrelque.core.protocol import Arg, Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.core.wording import counted
from torrelque.errors import TorrelqueReplyError, TorrelqueShardsError, TorrelqueUsageError, is_transient

__all__ = (
    'MAX_SHARDS',
    'Layout',
    'RecordKeys',
    'check_number',
    'check_plain',
    'clear_former',
    'copy_flow',
    'home_of',
    'intend',
    'is_marked',
    'keep_totals',
    'mark_of',
    'nonce_of',
    'open_layout',
    'read_layout',
    'read_totals',
    'refresh_layout',
    'relayout',
    'shard_of_claim',
    'write_id',
)

MAX_SHARDS = 1000
"""Maximum number of shards. One call looks at all of those on a server."""

_SIGN = '~'
_SLOT = re.compile(rb'(?:@~([0-9a-f]{8}))?@[0-9]+(?:\.[0-9]+)?\Z')  # what a schedule appends to its id
_DIGITS = 12
"""Number of octal digits at the end of an id that decide on its shard: 36 bits, enough for any CRC-32."""


class Layout(NamedTuple):
    """The number of shards of a queue.

    Attributes:
        generation: Increases with each change.
        shards: The number of shards.
        former: Former numbers of shards. Tasks may be left on the homes that these imply.
    """

    generation: int
    shards: int
    former: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """How many shards may hold tasks."""
        return max(self.shards, *self.former) if self.former else self.shards

    def homes(self, task_id: str | bytes) -> list[int]:
        """Return where a task can be: its home, then its former homes."""
        if not self.former:
            return [home_of(task_id, self.shards)]
        return list(dict.fromkeys(home_of(task_id, shards) for shards in (self.shards, *self.former)))

    def text(self) -> str:
        """Return what is recorded besides the generation."""
        return ' '.join(map(str, (self.shards, *self.former)))


def home_of(task_id: str | bytes, shards: int) -> int:
    """Return the shard that a task, a group, or a schedule without a group belongs to.

    The tasks of a schedule belong to the shard of the schedule, or of its group, whose mark they have.
    """
    plain = task_id.encode() if isinstance(task_id, str) else task_id
    slot = _SLOT.search(plain) if b'@' in plain else None
    if slot is None:
        return crc32(plain) % shards
    return (int(slot[1], 16) if slot[1] else crc32(plain[: slot.start()])) % shards


def mark_of(group: bytes) -> str:
    """Return what follows the id of a schedule with a group in the ids of its tasks, which have the group's home."""
    return f'@~{crc32(group):08x}' if group else ''


def write_id(random: str, shard: int, shards: int) -> str:
    """Change the last digits of a random hexadecimal id so that it belongs to a given shard.

    CRC-32 is linear: each bit of these digits flips the same bits of it, whatever is in front. So they are computed
    from the CRC that the id is to have, which takes as long with one shard as with a thousand.
    """
    kept, rest = random[:-_DIGITS], random[-_DIGITS:]
    wanted = int(rest, 16) % ((1 << 32) // shards) * shards + shard
    flipped = wanted ^ crc32(_ZEROS, crc32(kept.encode()))
    first, second, third, fourth = _flips()
    bits = first[flipped & 255] ^ second[flipped >> 8 & 255] ^ third[flipped >> 16 & 255] ^ fourth[flipped >> 24]
    return f'{kept}{bits:0{_DIGITS}o}'


_ZEROS = b'0' * _DIGITS


@cache
def _flips() -> list[list[int]]:
    """Return which bits of the digits flip which bits of the CRC: a table for each byte of it, the lowest first."""
    unsolved = [(crc32(b'%0*o' % (_DIGITS, 1 << bit)) ^ crc32(_ZEROS), 1 << bit) for bit in range(3 * _DIGITS)]
    solved: dict[int, tuple[int, int]] = {}
    for bit in range(32):  # Gauss and Jordan
        crc, bits = unsolved.pop(next(at for at, (crc, _) in enumerate(unsolved) if crc >> bit & 1))
        unsolved = [(each ^ crc, own ^ bits) if each >> bit & 1 else (each, own) for each, own in unsolved]
        solved = {
            at: (each ^ crc, own ^ bits) if each >> bit & 1 else (each, own) for at, (each, own) in solved.items()
        }
        solved[bit] = crc, bits
    tables = []
    for low in range(0, 32, 8):
        table = [0]
        for bit in range(low, low + 8):
            table += [bits ^ solved[bit][1] for bits in table]
        tables.append(table)
    return tables


def nonce_of(nonce: str, shard: int) -> str:
    """Return the nonce for the lanes of one shard. Their claims show by it on which shard they were made."""
    return f'{nonce}{_SIGN}{shard}{_SIGN}'


def shard_of_claim(token: str) -> int | None:
    """Return the shard on which a claim with this token was made; None if the token does not show it."""
    parts = token.split(_SIGN, 2)
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None


class RecordKeys(NamedTuple):
    """The keys that record the layout.

    Attributes:
        main: The queue's own keys.
        plain: The keys that the queue would have without shards; None on a cluster, where these are the same.
        shard: Makes the keys of a shard.
    """

    main: Keys
    plain: Keys | None
    shard: Callable[[int], Keys]

    def copies(self, total: int) -> list[Keys]:
        """Return the keys with copies of the record: all except the queue's own."""
        return [*([] if self.plain is None else [self.plain]), *map(self.shard, range(total))]


def read_layout(main: Keys) -> Operation[tuple[Layout | None, Layout | None]]:
    """Read the queue's own record.

    Args:
        main: The queue's own keys.

    Returns:
        The layout, and the layout to which a change was begun; None if there is none.
    """
    reply = yield from Call[Sequence[bytes | None]]('HMGET', (main['counters'],), ('generation', 'shards', 'intended'))
    generation, text, intended = reply
    layout = None if generation is None or text is None else _parse(generation, text)
    begun = None if intended is None else _parse(*intended.partition(b' ')[::2])
    if layout and begun and begun.generation <= layout.generation:
        begun = None
    return layout, begun


def open_layout(scripts: ScriptSet, records: RecordKeys, shards: int) -> Operation[tuple[Layout, bool]]:
    """Read the layout of a queue, or record one for a new queue.

    If the queue's own record is lost, the copies on its shards count.

    Args:
        scripts: The scripts.
        records: The keys that record the layout.
        shards: The number of shards of a new queue.

    Returns:
        The layout, and whether the change to it still has to be carried out by `relayout`.

    Raises:
        TorrelqueUsageError: The keys belong to a queue without shards.
    """
    layout, begun = yield from read_layout(records.main)
    if layout is None and begun is None:
        found = yield from _find_layout(records, shards)
        layout, begun = yield from read_layout(records.main)  # another client may have recorded it meanwhile
        if layout is None and begun is None:
            if found is not None:
                return found, True
            # From here on, no client adds to the keys that the queue would have without shards.
            if records.plain is not None:
                yield from _record(scripts, records.plain, Layout(0, shards), 'set')
            yield from _record(scripts, records.main, Layout(0, shards), 'open')
            layout, begun = yield from read_layout(records.main)
    newest = begun or layout
    if newest is None:
        raise TorrelqueUsageError('the record of the shards has disappeared again: does the server evict keys?')
    return newest, begun is not None


def refresh_layout(
    scripts: ScriptSet, records: RecordKeys, known: Layout, *, again: bool = False
) -> Operation[tuple[Layout, bool]]:
    """Read the newest layout. Carry out a change that was begun, and restore a record that was lost.

    Args:
        scripts: The scripts.
        records: The keys that record the layout.
        known: The layout that the caller knows.
        again: Record the layout everywhere again, because a shard has lost its copy.

    Returns:
        The layout, and whether its record was lost.

    Raises:
        TorrelqueUsageError: The keys now belong to a queue without shards.
    """
    layout, begun = yield from read_layout(records.main)
    newest, is_lost = begun or layout or known, False
    if newest.generation < known.generation or (layout is None and begun is None):
        found = yield from _find_layout(records, known.total)
        newest, is_lost = max(found or known, known, newest), True
    if begun is not None or is_lost or again:
        newest = yield from relayout(scripts, records, newest)
    return newest, is_lost


def _find_layout(records: RecordKeys, total: int) -> Operation[Layout | None]:
    """Return the latest layout that is recorded on shards; None if there is none.

    Raises TorrelqueUsageError if the keys belong to a queue without shards.
    """
    newest: Layout | None = None
    for keys in (records.main, *records.copies(total)):
        fields = ('generation', 'shards', 'enqueued')
        generation, text, enqueued = yield from Call[Reply]('HMGET', (keys['counters'],), fields)
        if generation is not None and text is not None:
            layout = _parse(generation, text)
            newest = max(newest or layout, layout)
        elif enqueued is not None:
            recorded, begun = yield from read_layout(records.main)
            if recorded is None and begun is None:
                raise _foreign(keys)
    return newest if newest and newest.generation else None


def is_marked(keys: Keys, layout: Layout) -> Operation[bool]:
    """Return whether these keys record this layout or a later one."""
    generation = yield from Call[bytes | None]('HGET', (keys['counters'],), ('generation',))
    return generation is not None and int(generation) >= layout.generation


def intend(scripts: ScriptSet, main: Keys, layout: Layout) -> Operation[Reply]:
    """Begin a change, unless another one was begun. `relayout` carries it out."""
    return (yield from _record(scripts, main, layout, 'intend'))


def relayout(scripts: ScriptSet, records: RecordKeys, layout: Layout) -> Operation[Layout]:
    """Carry out a change that was begun. Safe to repeat, and by several clients at once.

    Returns:
        The layout that is recorded then, which may be a later one.

    Raises:
        TorrelqueUsageError: The keys of a shard belong to a queue without shards.
    """
    if records.plain is not None:
        with suppress(TorrelqueUsageError):  # these keys were used since the record was lost; an audit reports it
            yield from _record(scripts, records.plain, layout, 'set')
    shards = [records.shard(shard) for shard in range(layout.total)]
    pauses = yield from flow.newest(shards)
    limits = yield from groups.newest_limits(shards)
    newest = layout
    for keys in shards:
        if flow.revision_of(pauses):
            yield from flow.copy(scripts, keys, pauses)
        yield from groups.copy_limits(scripts, keys, limits)
        recorded = yield from _record(scripts, keys, layout, 'set', keys['bell'], keys['wake'] + b'!')
        newest = max(newest, _parse(*recorded))
    if newest.generation > layout.generation:  # if the queue's own record is lost, it must not get an outdated one
        return (yield from relayout(scripts, records, newest))
    recorded = yield from _record(scripts, records.main, layout, 'set')
    return _parse(*recorded)


def copy_flow(scripts: ScriptSet, records: RecordKeys, total: int, group: bytes | None = None) -> Operation[None]:
    """Copy the record of a pause, or of a group's limits, from the first shard to all others. Safe to repeat.

    A change of the layout that begins later copies it to new shards.

    Args:
        scripts: The scripts.
        records: The keys that record the layout.
        total: How many shards are known.
        group: The group; None for the record of the whole queue.
    """
    first, done = records.shard(0), 1
    copy: Callable[[ScriptSet, Keys, Any], Operation[Any]] = flow.copy if group is None else groups.copy_limits
    record: Any = yield from (flow.read(first) if group is None else groups.read_limits(first, [group]))
    while True:
        layouts = yield from read_layout(records.main)
        total = max(total, *(layout.total for layout in layouts if layout is not None), 0)
        if done >= total:
            return
        for shard in range(done, total):
            yield from copy(scripts, records.shard(shard), record)
        done = total


def _record(scripts: ScriptSet, keys: Keys, layout: Layout, mode: str, *bell: bytes) -> Operation[Sequence[bytes]]:
    script = scripts['layout']
    args: tuple[Arg, ...] = (layout.generation, layout.text(), mode, *bell)
    recorded = yield from Call[Sequence[bytes]](script, keys.of(script), args)
    if recorded[0] == b'FOREIGN':
        raise _foreign(keys)
    return recorded


def clear_former(scripts: ScriptSet, keys: Keys, generation: int, task_ids: Sequence[bytes]) -> Operation[list[bool]]:
    """Find ids that are queued on a former home, and remove the results of the others there.

    No client adds to former homes any more, so ids that are not queued there now never will be.

    Args:
        scripts: The scripts.
        keys: The keys of the former home.
        generation: The layout's generation.
        task_ids: The ids.

    Returns:
        For each id whether it is queued there.

    Raises:
        TorrelqueShardsError: The layout has another generation.
    """
    replies = yield [
        *(Call[Reply]('HEXISTS', (keys['tasks'],), (task_id,)) for task_id in task_ids),
        *(Call[Reply]('EXISTS', (keys.state_of(task_id),)) for task_id in task_ids),
    ]
    raised(replies)
    queued, known = [bool(reply) for reply in replies[: len(task_ids)]], replies[len(task_ids) :]
    left = [
        each for each, is_queued, is_known in zip(task_ids, queued, known, strict=True) if is_known and not is_queued
    ]
    if left:
        script = scripts['clear']
        (outcome,) = yield from Call[Sequence[bytes]](script, keys.of(script), (generation, *left))
        if outcome != b'OK':
            raise TorrelqueShardsError('the number of shards of the queue has changed')
    return queued


_DEPARTED = b'left '


def keep_totals(main: Keys, shard: int, totals: Sequence[int]) -> Operation[Reply]:
    """Record the totals of a shard that leaves the queue in the queue's own counters. Safe to repeat."""
    text = _DEPARTED + b' '.join(b'%d' % number for number in (shard, *totals))
    return (yield from Call[Reply]('HSET', (main['counters'],), (b'left:%d' % shard, text)))


def read_totals(main: Keys) -> Operation[dict[int, list[int]]]:
    """Read the totals of shards that have left, by number. A shard may have come back, and continue to count."""
    values = yield from Call[Sequence[bytes]]('HVALS', (main['counters'],))
    found = [value.removeprefix(_DEPARTED).split() for value in values if value.startswith(_DEPARTED)]
    return {int(shard): [int(number) for number in totals] for shard, *totals in found}


def _foreign(keys: Keys) -> TorrelqueUsageError:
    return TorrelqueUsageError(
        f'there is a queue without shards already, with the key {keys["counters"].decode()!r}: '
        'drain it and delete its keys, or use another name'
    )


def _parse(generation: bytes, text: bytes) -> Layout:
    try:
        shards, *former = (int(number) for number in text.split())
        return Layout(int(generation), shards, tuple(former))
    except ValueError:
        raise TorrelqueReplyError(
            f'WRONGTYPE the record of the number of shards is malformed: generation {generation!r}, shards {text!r}'
        ) from None


def check_plain(keys: Keys, queue: str) -> Operation[bool]:
    """Return whether a queue was used without shards, so that it cannot have any.

    A user that may not read the record gets False.

    Raises:
        TorrelqueShardsError: The queue has shards.
    """
    counters = (keys['counters'],)
    replies = yield [Call[Reply]('HGET', counters, (name,)) for name in ('shards', 'intended', 'enqueued')]
    for reply in replies:
        if is_transient(reply):
            raise reply
        if isinstance(reply, Exception):
            return False
    shards, intended, enqueued = replies
    text = shards or (intended or b'').partition(b' ')[2]
    if text:
        number = text.split()[0].decode()
        raise TorrelqueShardsError(f'queue {queue!r} has {counted(number, "shard")}, not none: pass shards={number}')
    return enqueued is not None


def check_number(layout: Layout, wanted: int, queue: str) -> None:
    """Raise TorrelqueShardsError unless the queue has the wanted number of shards."""
    if layout.shards != wanted:
        raise TorrelqueShardsError(
            f'queue {queue!r} has {counted(layout.shards, "shard")}, not {wanted}: pass shards={layout.shards}'
        )
