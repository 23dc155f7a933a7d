"""Over how many shards a queue is spread, now and before, and which of them a task belongs to.

A task's home follows from its id. The number of shards is recorded in the
queue's own counters, and on each shard, where enqueue compares it. To change it,
the shards are told first, so that nobody adds to them any more who does not know
the new number, and the queue's record last. What was there before stays on the
shard where it is until it is done.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Sequence
from typing import NamedTuple

from torrelque.core.keys import Keys
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.errors import TorrelqueReplyError, TorrelqueShardsError, TorrelqueUsageError

__all__ = (
    'MAX_SHARDS',
    'Layout',
    'check_number',
    'home_of',
    'intend',
    'nonce_of',
    'open_layout',
    'read_layout',
    'relayout',
    'shard_of_claim',
    'write_id',
)

MAX_SHARDS = 1000
"""Most shards of a queue: one call looks at all of those on a server."""

_SIGN = '~'
_ENDINGS = tuple(b'%04x' % number for number in range(1024))


class Layout(NamedTuple):
    """How many ``shards`` there are since the latest ``generation``, and which ``former`` numbers there were."""

    generation: int
    shards: int
    former: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Shards that may hold tasks."""
        return max(self.shards, *self.former) if self.former else self.shards

    def homes(self, task_id: str | bytes) -> list[int]:
        """Where a task can be: its home, then those that it had."""
        if not self.former:
            return [home_of(task_id, self.shards)]
        return list(dict.fromkeys(home_of(task_id, shards) for shards in (self.shards, *self.former)))

    def text(self) -> str:
        return ' '.join(map(str, (self.shards, *self.former)))


def home_of(task_id: str | bytes, shards: int) -> int:
    """The shard that a task belongs to."""
    return crc32(task_id.encode() if isinstance(task_id, str) else task_id) % shards


def write_id(random: str, shard: int, shards: int) -> str:
    """A random id of hexadecimal digits with others at its end, so that it belongs to a certain shard."""
    kept = random[:-4]
    begun = crc32(kept.encode())
    for ending in _ENDINGS:  # on average as many as there are shards are tried, and one takes a tenth of a microsecond
        if crc32(ending, begun) % shards == shard:
            return kept + ending.decode()
    number = len(_ENDINGS)
    while crc32(b'%04x' % number, begun) % shards != shard:
        number += 1
    return f'{kept}{number:04x}'


def nonce_of(nonce: str, shard: int) -> str:
    """The nonce for the lanes of one shard: claims made on them tell by it where they were made."""
    return f'{nonce}{_SIGN}{shard}{_SIGN}'


def shard_of_claim(token: str) -> int | None:
    """The shard where a claim with this token was made; None if it does not tell."""
    parts = token.split(_SIGN, 2)
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None


def read_layout(main: Keys) -> Operation[tuple[Layout | None, Layout | None]]:
    """What is recorded, and what somebody has begun to change it to. ``main``: the queue's own keys."""
    reply = yield from Call[Sequence[bytes | None]]('HMGET', (main['counters'],), ('generation', 'shards', 'intended'))
    generation, text, intended = reply
    layout = None if generation is None or text is None else _parse(generation, text)
    begun = None if intended is None else _parse(*intended.partition(b' ')[::2])
    if layout and begun and begun.generation <= layout.generation:
        begun = None
    return layout, begun


def open_layout(main: Keys, plain: Keys, shards: Sequence[Keys]) -> Operation[tuple[Layout, bool]]:
    """The layout of a queue that is thought to have so many shards, and whether it is still to be carried out.

    ``plain`` are the keys that it had without shards. Raises TorrelqueUsageError
    if the keys are another queue's.
    """
    layout, begun = yield from read_layout(main)
    if layout is None and begun is None:
        for keys in (main, plain, *shards):
            taken = yield from Call[int]('EXISTS', (keys['counters'],))
            if taken:
                layout, begun = yield from read_layout(main)
                if layout is None and begun is None:  # nobody else has opened it just now
                    raise TorrelqueUsageError(
                        f'there is a queue without shards already, with the key {keys["counters"].decode()!r}: '
                        'drain it and delete its keys, or use another name'
                    )
                break
        else:
            yield from _begin(main, Layout(1, len(shards)))
            layout, begun = yield from read_layout(main)
    newest = begun or layout
    if newest is None:
        raise TorrelqueUsageError('what was recorded about the shards is gone again: does the server evict keys?')
    return newest, begun is not None


def intend(scripts: ScriptSet, main: Keys, layout: Layout) -> Operation[Reply]:
    """Begin a change, unless another was begun; it is then to be carried out by `relayout`."""
    script = scripts['layout']
    yield from Call[Reply](script, main.of(script), (0, 0))  # one that was done, and came again, is not in the way
    return (yield from _begin(main, layout))


def _begin(main: Keys, layout: Layout) -> Operation[Reply]:
    text = f'{layout.generation} {layout.text()}'
    return (yield from Call[Reply]('HSETNX', (main['counters'],), ('intended', text)))


def relayout(scripts: ScriptSet, main: Keys, shards: Sequence[Keys], layout: Layout) -> Operation[Layout]:
    """Carry out a change that was begun; it may be repeated, by several at once. ``shards``: all, old and new."""
    layout_script = scripts['layout']
    for keys in shards:
        yield from Call[Reply](layout_script, keys.of(layout_script), (layout.generation, layout.shards))
    generation, text = yield from Call[Sequence[Reply]](
        layout_script, main.of(layout_script), (layout.generation, layout.text())
    )
    return _parse(b'%d' % generation, text)


def _parse(generation: bytes, text: bytes) -> Layout:
    try:
        shards, *former = (int(number) for number in text.split())
        return Layout(int(generation), shards, tuple(former))
    except ValueError:
        raise TorrelqueReplyError(
            f'WRONGTYPE the record of the number of shards is malformed: generation {generation!r}, shards {text!r}'
        ) from None


def check_number(layout: Layout, wanted: int, queue: str) -> None:
    """Raises TorrelqueShardsError unless the queue has as many shards as somebody wants."""
    if layout.shards != wanted:
        raise TorrelqueShardsError(
            f'queue {queue!r} has {layout.shards} shards, not {wanted}: pass shards={layout.shards}'
        )
