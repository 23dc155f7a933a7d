"""The same for the scripts of a queue of several shards: what rings where, who looks at all shards, how many there are.

One shard is the machine's own queue. Another is only looked at: what it has is put there by plain commands.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.model.machine import KEYS, MENDED_AFTER, ModelMachine, ids
from tests.model.steps import STEPS, Step, Steps, lane_numbers, step, steps
from torrelque.core.commands import ENQUEUE
from torrelque.core.keys import Keys
from torrelque.core.sharding.partners import LOOKED_AT

__all__ = ('ShardedMachine',)

OTHER = Keys.of_queue('p')
SHARDS = (KEYS, OTHER)
SHARD_STEPS: Steps = dict(STEPS)

some_names = st.sampled_from((('q',), ('q', 'p'), ('p', 'q'), ('p',)))
rings = st.sampled_from((KEYS['ring'], KEYS['ring'], OTHER['ring'], b'', KEYS['counters'], KEYS['bell'], b'nothing'))
generations = st.sampled_from(('0', '1', '2', '3', '4'))


class ShardedMachine(ModelMachine):
    """Subclasses say which server is the ``real`` one, which has scripts for shards."""

    @rule(step=st.deferred(lambda: steps(SHARD_STEPS)))
    def do(self, step: Step) -> None:
        super().do(step)

    # Consumers ---------------------------------------------------------------

    @step(
        20,
        SHARD_STEPS,
        lifetime=st.sampled_from((20_000, 20_000, 2_000, 0)),
        together=st.sampled_from((1, 2, 16)),
        bell=st.sampled_from((b'', b'', KEYS['bell'], OTHER['bell'])),
        names=some_names,
    )
    def survey(self, lifetime: int, together: int, bell: bytes, names: tuple[str, ...]) -> None:
        """Look at some shards, and wait for them to ring or, with a lifetime of 0, ring for others."""
        self._verb('survey', lifetime, together, bell, *(f':{name}' for name in LOOKED_AT), *names)

    @step(8, SHARD_STEPS, ring=st.sampled_from((KEYS['ring'], OTHER['ring'])))
    def a_ring_is_answered(self, ring: bytes) -> None:
        self._command('ZPOPMIN', ring)

    @step(3, SHARD_STEPS, shard=st.sampled_from(SHARDS), ring=rings)
    def a_bell_names_anything(self, shard: Keys, ring: bytes) -> None:
        self._command('SET', shard['bell'], ring)

    @step(
        6,
        SHARD_STEPS,
        place=st.sampled_from(
            ('pending', 'delayed', 'working', 'timer', 'pause', 'slots', 'rate', 'schedule', 'nothing')
        ),
        moment=st.sampled_from((-5.0, 0.0, 0.25, 5.0, 10.0, 10.000001, 400.0)),
    )
    def another_shard_has_something(self, place: str, moment: float) -> None:
        at = f'{self._now + moment:.6f}'
        if place in ('pending', 'delayed', 'working'):
            self._command('HSET', OTHER['tasks'], 'x', '1')
        if place == 'pending':
            self._command('LPUSH', OTHER[place], b'x')
        elif place == 'schedule':
            self._command('HSET', OTHER['counters'], 'uses', 's' if moment != 0.25 else 'sp', 'paused', 'inf')
            self._command('ZADD', OTHER['schedules'], at, b'x')
        elif place == 'pause':
            self._command('HSET', OTHER['counters'], 'uses', 'p', 'paused', at if moment < 100 else 'inf')
        elif place == 'slots':
            self._command('HSET', OTHER['counters'], 'uses', 'l', 'limits', '1 - - -', 'shards', '3')
        elif place == 'rate':
            arrival = f'{(self._now + moment) * 1e6:.0f}'
            self._command('HSET', OTHER['counters'], 'uses', 'l', 'limits', '- 2 3000000 2', 'arrival', arrival)
        elif place == 'timer':
            self._command('SET', OTHER[place], f'7|{at}')
        elif place == 'nothing':
            for name in LOOKED_AT:
                self._command('DEL', OTHER[name])
        else:
            self._command('ZADD', OTHER[place], at, b'x')

    # How many shards there are -------------------------------------------------

    @step(
        7,
        SHARD_STEPS,
        generation=st.integers(0, 4),
        shards=st.sampled_from(('2', '3', '3', '5', '5 3')),
        mode=st.sampled_from(('set', 'set', 'set', 'intend', 'intend', 'open')),
        bell=st.sampled_from(((), SHARDS[0], SHARDS[1])),
    )
    def layout(self, generation: int, shards: str, mode: str, bell: Keys | tuple[()]) -> None:
        self._verb('layout', generation, shards, mode, *([bell['bell'], bell['wake']] if bell else []))

    @step(
        2,
        SHARD_STEPS,
        field=st.sampled_from(('intended', 'intended', 'generation', 'shards')),
        value=st.sampled_from(('0 2', '1 3', '2 5 3', '4 2 5 3', '', 'x', '3')),
    )
    def a_change_is_begun(self, field: str, value: str) -> None:
        """Or what is recorded is what nobody should have."""
        self._command('HSET', KEYS['counters'], field, value)

    @step(2, SHARD_STEPS, fields=st.sampled_from((('generation',), ('generation', 'shards', 'intended', 'enqueued'))))
    def nobody_knows_how_many(self, fields: tuple[str, ...]) -> None:
        self._command('HDEL', KEYS['counters'], *fields)

    @step(4, SHARD_STEPS, generation=generations, task_ids=st.lists(ids, min_size=1, max_size=3))
    def clear(self, generation: str, task_ids: list[bytes]) -> None:
        self._verb('clear', generation, *task_ids)

    @step(12, SHARD_STEPS, lane=lane_numbers, task_ids=st.lists(ids, min_size=1, max_size=3), generation=generations)
    def enqueue_in_generation(self, lane: int, task_ids: list[bytes], generation: str) -> None:
        items: list[Any] = [(task_id, b'1', '5', '', '', b'') for task_id in task_ids]
        self._laned('enqueue', lane, *ENQUEUE.arguments(items), generation)

    # Anybody -----------------------------------------------------------------

    @step(2, SHARD_STEPS, shard=st.sampled_from(SHARDS), name=st.sampled_from(('bell', 'ring', 'timer', 'delayed')))
    def a_key_of_a_shard_is_of_a_wrong_type(self, shard: Keys, name: str) -> None:
        """For some calls; then it is removed."""
        if self._broken:
            return
        key = shard[name]
        self._command('DEL', key)
        self._command('SADD', key, b'a')
        self._broken[key] = MENDED_AFTER
