"""The same with groups and levels: their limits, holds, and what others may have left in their keys."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.model.machine import (
    KEYS,
    MENDED_AFTER,
    ModelMachine,
    Target,
    caps,
    delays,
    expiries,
    headers,
    ids,
    limits,
    modes,
    on_expiry,
    payloads,
    targets,
    timeouts,
)  # fmt: skip
from tests.model.real import EPOCH
from tests.model.steps import STEPS, Step, Steps, lane_numbers, step, steps
from torrelque.core.commands import ENQUEUE
from torrelque.core.protocol import Arg

__all__ = ('GroupedMachine',)

GROUPED_STEPS: Steps = dict(STEPS)

GROUPS = (b'g', b'g', b'h', b'\xff 1 \n')
PREFIX = KEYS['groups'] + b':'
INDEXES = (KEYS['groups'], PREFIX + b'blocked', PREFIX + b'held', PREFIX + b'idle')

groups = st.sampled_from(GROUPS)
lines = st.sampled_from((*((group, b'') for group in GROUPS * 2), (b'', b''), (b'', b'high'), (b'', b'low')))
names = st.sampled_from((*GROUPS, b'*', b'*'))
texts = st.sampled_from(
    (
        b'- - - - - - -', b'1 - - - - - -', b'2 - - - 3 - -', b'0 - - - - - -', b'- - - - - 1 -', b'- - - - - 1 hold',
        b'- - - - 2 0 pass', b'- 1 250000 1 - - -', b'- 3 10000000 3 - - -', b'2 4 1000000 4 7 - hold',
        b'0 - - - - 1 -', b'x - - - - - -', b'- 1 - 1 0 - -', b'1 2 3',
    )
)  # fmt: skip
turns = st.sampled_from(
    (b'', b'x', b'held x', b'held 0', b'blocked 0', b'1 2', b'3 2', b'1 2 3 4', b'0 0 0 0', b'4000000000000009',
     b'1.5 2.25')
)  # fmt: skip
keys_of_groups = st.sampled_from(
    (*INDEXES, *(PREFIX + name for name in (b'limits', b'arrivals')),
     *(PREFIX + kind + b':g' for kind in (b'pending', b'working', b'rejected')),
     KEYS['pending'] + b':high')
)  # fmt: skip


class GroupedMachine(ModelMachine):
    """Subclasses say which server is the ``real`` one."""

    @rule(step=st.deferred(lambda: steps(GROUPED_STEPS)))
    def do(self, step: Step) -> None:
        super().do(step)

    @step(
        24,
        GROUPED_STEPS,
        lane=lane_numbers,
        items=st.lists(
            st.tuples(ids, payloads, timeouts, delays, limits, headers, modes, expiries, on_expiry, lines),
            min_size=1,
            max_size=4,
        ),
    )
    def enqueue_in_lines(self, lane: int, items: list[tuple[Any, ...]]) -> None:
        self._laned('enqueue', lane, *ENQUEUE.arguments([(*item, *line) for *item, line in items]))

    @step(
        8,
        GROUPED_STEPS,
        lane=lane_numbers,
        items=st.lists(st.tuples(targets, delays, st.sampled_from(('group', 'pass', ''))), min_size=1, max_size=3),
    )
    def requeue_in_lines(self, lane: int, items: list[tuple[Target, str, str]]) -> None:
        words = (word for target, delay, hold in items for word in (*self._claim_of(target), delay, '', '', hold))
        self._laned('requeue', lane, *words)

    @step(12, GROUPED_STEPS, lane=lane_numbers, name=names, text=texts)
    def regulate(self, lane: int, name: bytes, text: bytes) -> None:
        self._laned('regulate', lane, 'limit', name, text)

    @step(
        3, GROUPED_STEPS, name=names, text=texts, revision=st.sampled_from((b'1', b'4000000000500', b'9000000000000'))
    )
    def regulate_as_on_another_shard(self, name: bytes, text: bytes, revision: bytes) -> None:
        self._verb('regulate', '', '', '', 'copy', name, b'%b %b' % (revision, text))

    @step(4, GROUPED_STEPS, kind=st.sampled_from(('blocked', 'held')))
    def recheck(self, kind: str) -> None:
        self._verb('regulate', '', '', '', 'recheck', kind, '0')

    @step(2, GROUPED_STEPS, place=st.sampled_from(('groups', 'blocked', 'held', 'working')))
    def list_groups(self, place: str) -> None:
        self._verb('groups', place, 0, 100)

    @step(4, GROUPED_STEPS, names=st.lists(groups, min_size=1, max_size=3))
    def inspect_groups(self, names: list[Arg]) -> None:
        self._verb('inspect', 'groups', *names)

    @step(2, GROUPED_STEPS, kind=st.sampled_from(('working', 'rejected')), name=groups)
    def inspect_members(self, kind: str, name: Arg) -> None:
        self._verb('inspect', 'members', kind, name, '0')

    @step(4, GROUPED_STEPS, name=groups)
    def repair_a_group(self, name: Arg) -> None:
        self._verb('repair', 'group', name, 60_000)

    @step(4, GROUPED_STEPS, kind=st.sampled_from(('working', 'rejected', 'claimed')), task_id=ids, name=groups)
    def repair_what_a_group_counts(self, kind: str, task_id: Arg, name: Arg) -> None:
        self._verb('repair', 'group', task_id, 60_000, kind, *(() if kind == 'claimed' else (name,)))

    @step(1, GROUPED_STEPS, lane=lane_numbers, strict=st.booleans())
    def levels_are_strict(self, lane: int, strict: bool) -> None:
        self._laned('flow', lane, 'limit', b'- - - - strict' if strict else b'')

    @step(4, GROUPED_STEPS, names=st.lists(groups, min_size=1, max_size=3), cap=caps)
    def sweep_groups(self, names: list[Arg], cap: Arg) -> None:
        self._verb('sweep', 'expired', cap, *names)

    # Anybody -----------------------------------------------------------------

    @step(1, GROUPED_STEPS, task_id=ids, key=st.sampled_from((PREFIX + b'pending:g', PREFIX + b'pending:h')))
    def an_id_waits_in_any_group(self, task_id: bytes, key: bytes) -> None:
        self._command('LPUSH', key, task_id)

    @step(1, GROUPED_STEPS, task_id=ids, group=groups)
    def a_task_is_said_to_be_in_a_group(self, task_id: bytes, group: bytes) -> None:
        self._command('HSET', KEYS['task'] + b':' + task_id, 'group', group)

    @step(
        1,
        GROUPED_STEPS,
        name=names,
        text=st.sampled_from((b'', b'7', b'7 ', b'x - - - - - -', b'9 1 2 3 4 5 6 7', b'9 1 - - - - 1 hold')),
    )
    def limits_of_a_group_hold_anything(self, name: bytes, text: bytes) -> None:
        self._command('HSET', PREFIX + b'limits', name, text)

    @step(
        1,
        GROUPED_STEPS,
        group=groups,
        text=st.sampled_from(
            (b'', b'7', b'4000000001000000 0 ', b'0 4000000002000000 a', b'x 1 ', b'4000000009000000 1 b')
        ),
    )
    def times_of_a_group_are_anything(self, group: bytes, text: bytes) -> None:
        self._command('HSET', PREFIX + b'arrivals', group, text)

    @step(
        1,
        GROUPED_STEPS,
        field=st.sampled_from(('turn', 'levels', 'fence', 'recheck')),
        value=turns,
    )
    def turns_hold_anything(self, field: str, value: bytes) -> None:
        self._command('HSET', KEYS['counters'], field, value)

    @step(1, GROUPED_STEPS, letters=st.sampled_from((b'', b'g', b'h', b'gh', b'gle')))
    def features_are_forgotten(self, letters: bytes) -> None:
        self._command('HSET', KEYS['counters'], 'uses', letters)
        if not letters:
            self._command('HDEL', KEYS['counters'], 'claimed')

    @step(
        1,
        GROUPED_STEPS,
        group=groups,
        index=st.sampled_from(INDEXES),
        score=st.sampled_from(('0', '3', f'{EPOCH + 1}')),
    )
    def a_group_is_listed_anywhere(self, group: bytes, index: bytes, score: str) -> None:
        self._command('ZADD', index, score, group)

    @step(2, GROUPED_STEPS, task_id=ids, group=groups, kind=st.sampled_from((b'working:', b'rejected:')))
    def a_group_counts_anything(self, task_id: bytes, group: bytes, kind: bytes) -> None:
        self._command('SADD', PREFIX + kind + group, task_id)

    @step(1, GROUPED_STEPS, key=keys_of_groups)
    def a_key_of_groups_is_of_a_wrong_type(self, key: bytes) -> None:
        """For some calls; then it is removed."""
        if self._broken:
            return
        self._command('DEL', key)
        self._command('SET', key, 'a string')
        self._broken[key] = MENDED_AFTER

    @step(1, GROUPED_STEPS, words=st.lists(st.sampled_from((b'pending:g', b'working:g', b'rejected:h')), max_size=2))
    def wipe_groups(self, words: list[Arg]) -> None:
        self._verb('wipe', 'groups', *words)
