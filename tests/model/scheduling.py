"""What may be done to schedules: the part of a machine's steps that concerns them."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st

from tests.model.steps import lane_numbers, odd_numbers, step
from torrelque.core.keys import Keys
from torrelque.core.protocol import Arg, Reply
from torrelque.core.schedules import KEPT

__all__ = ('ScheduleSteps',)

KEYS = Keys.of_queue('q')

names = st.sampled_from((b'r', b'r', b's \xff'))
owners = st.sampled_from((b'', b'', b'app', b'web'))
offsets = st.sampled_from(
    ((), (0.25,), (-3, 0, 3), (3, 5, 5, 4, 9), (-60.5, -5), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), tuple(range(-40, 40)))
)
timings = st.sampled_from(
    (
        ('', '', '5'),
        ('', '', '5'),
        ('', '', '0.25'),
        ('', '', '0.003'),
        ('* * * * *', 'UTC', ''),
        ('0 7 * * *', 'UTC', ''),
    )
)
ranks = st.sampled_from((3, 10**15, 4 * 10**15, 4 * 10**15 + 1, 8 * 10**15))
fields = st.sampled_from(
    ('next', 'next', 'every', 'anchor', 'upto', 'last', 'revision', 'delay', 'expires_in', 'max_dequeues', 'overlap',
     'missed', 'timeout', 'group', 'level', 'mark', 'held')
)  # fmt: skip


class ScheduleSteps:
    """Steps of a machine."""

    _now: float
    _snapshot: dict[bytes, Any]

    def _laned(self, name: str, place: int, *args: Arg, skip: int = 0) -> Reply:
        raise NotImplementedError

    def _verb(self, name: str, *args: Arg) -> Reply:
        raise NotImplementedError

    def _command(self, name: str, *words: Arg) -> Reply:
        raise NotImplementedError

    def _times(self, offsets: tuple[float, ...]) -> str:
        return ' '.join(f'{self._now + offset:.6f}' for offset in offsets)

    def _fields_of(self, name: bytes) -> dict[bytes, bytes]:
        kind, content, _ = self._snapshot.get(_key(name), ('none', {}, None))
        return dict(content) if kind == 'hash' else {}

    @step(
        9,
        lane=lane_numbers,
        name=names,
        owner=owners,
        timing=timings,
        offsets=offsets,
        missed=st.sampled_from(('skip', 'skip', 'all')),
        overlap=st.sampled_from((1, 1, 0)),
        delay=st.sampled_from(('', '', '0.250000', '5.000000')),
        more=st.sampled_from((('', b'', '', ''), ('2', b'{"a": "b"}', '', ''), ('', b'', '3.000000', 'reject'))),
        line=st.sampled_from(
            (('', ''), ('', ''), ('', 'high'), ('', 'low'), (b'g', ''), (b'g', ''), (b'\xff 1 \n', ''))
        ),
        generation=st.sampled_from(('', '', '', '0', '1')),
        rank=ranks,
        is_current=st.sampled_from((True, True, True, False)),
    )
    def schedule(
        self,
        lane: int,
        name: bytes,
        owner: bytes,
        timing: tuple[str, str, str],
        offsets: tuple[float, ...],
        missed: str,
        overlap: int,
        delay: str,
        more: tuple[Arg, ...],
        line: tuple[Arg, ...],
        generation: str,
        rank: int,
        is_current: bool,
    ) -> None:
        seen = self._fields_of(name).get(b'revision', b'0') if is_current else 5
        placing: list[Arg] = [generation, rank, seen, '@~0000abcd'] if generation else []
        times = '' if timing[2] else self._times(offsets)
        said: list[Arg] = [owner, *timing, missed, overlap, b'1', '5', delay, *more, *line, times]
        self._laned('schedule', lane, name, 'set', *said, *placing)

    @step(3, name=names, is_current=st.sampled_from((True, True, True, False)), offsets=offsets)
    def refill(self, name: bytes, is_current: bool, offsets: tuple[float, ...]) -> None:
        revision = self._fields_of(name).get(b'revision', b'') if is_current else b'7'
        self._verb('schedule', '', '', '', name, 'refill', revision, self._times(offsets))

    @step(2, lane=lane_numbers, name=names, owner=owners, rank=st.one_of(st.none(), ranks))
    def unschedule(self, lane: int, name: bytes, owner: bytes, rank: int | None) -> None:
        self._laned('schedule', lane, name, 'remove', owner, *([] if rank is None else [rank]))

    @step(2, lane=lane_numbers, name=names, offset=st.sampled_from((0.0, 0.0, -1.5, 3.0)))
    def fire(self, lane: int, name: bytes, offset: float) -> None:
        self._laned('schedule', lane, name, 'fire', f'{self._now + offset:.6f}')

    @step(2, lane=lane_numbers, name=names, rank=ranks, is_current=st.sampled_from((True, True, True, False)))
    def hold(self, lane: int, name: bytes, rank: int, is_current: bool) -> None:
        revision = self._fields_of(name).get(b'revision', b'') if is_current else b'7'
        self._laned('schedule', lane, name, 'hold', revision, rank)

    @step(2, lane=lane_numbers, name=names, offsets=offsets, rank=ranks)
    def a_schedule_arrives(self, lane: int, name: bytes, offsets: tuple[float, ...], rank: int) -> None:
        found = self._fields_of(name)
        found |= {b'next': self._times(offsets).encode(), b'revision': b'%d' % rank}
        self._laned('schedule', lane, name, 'put', *(found.get(field.encode(), b'') for field in KEPT))

    @step(1, lane=lane_numbers, name=names, rank=ranks)
    def retire(self, lane: int, name: bytes, rank: int) -> None:
        self._laned('schedule', lane, name, 'retire', '', rank)

    @step(2, lane=lane_numbers, name=names, is_current=st.sampled_from((True, True, True, False)))
    def activate(self, lane: int, name: bytes, is_current: bool) -> None:
        self._laned(
            'schedule',
            lane,
            name,
            'activate',
            self._fields_of(name).get(b'revision', b'') if is_current else b'7',
        )

    @step(2, name=names, field=fields, value=odd_numbers)
    def a_schedule_holds_anything(self, name: bytes, field: str, value: bytes) -> None:
        if self._fields_of(name):
            self._command('HSET', _key(name), field, value)

    @step(
        2,
        name=names,
        change=st.sampled_from(('listed', 'not listed', 'no hash', 'no payload', 'no letter', 'a letter')),
    )
    def a_schedule_is_broken(self, name: bytes, change: str) -> None:
        """And perhaps an audit repairs it."""
        words: dict[str, tuple[Arg, ...]] = {
            'listed': ('ZADD', KEYS['schedules'], f'{self._now:.6f}', name),
            'not listed': ('ZREM', KEYS['schedules'], name),
            'no hash': ('SET', _key(name), 'a string'),
            'no payload': ('HDEL', _key(name), 'payload'),
            'no letter': ('HDEL', KEYS['counters'], 'uses', 'schedules'),
            'a letter': ('HSET', KEYS['counters'], 'uses', 's'),
        }
        command, *rest = words[change]
        self._command(str(command), *rest)

    @step(3, name=st.one_of(names, st.just(b'')))
    def repair_a_schedule(self, name: bytes) -> None:
        self._verb('inspect', 'schedules', *([name] if name else []))
        self._verb('repair', 'schedule', name, 3_600_000)


def _key(name: bytes) -> bytes:
    return KEYS['schedule'] + b':' + name
