"""Rules left out of what makes one queue of several shards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.simulation.mutants import Mutant
from torrelque.core.protocol import Operation, Reply
from torrelque.core.sharding import consumers as spread
from torrelque.core.sharding.consumers import ShardedConsumers
from torrelque.core.sharding.layout import Layout, home_of
from torrelque.transports.memory import verbs
from torrelque.transports.memory.prelude import Command, Run

__all__ = ('MUTANTS', 'shards_never_looked_at_while_busy')


def _replace_verb(patch: pytest.MonkeyPatch, name: str, make: Callable[[Command], Command]) -> None:
    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, name: make(verbs.VERBS[name])})


def surveys_that_do_not_register(patch: pytest.MonkeyPatch) -> None:
    """Who looks at all shards and waits is not rung for."""

    def make(survey: Command) -> Command:
        def mutant(run: Run) -> Reply:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(run.db, 'put', lambda *_: None)
                return survey(run)

        return mutant

    _replace_verb(patch, 'survey', make)


def rings_kept_by_who_leaves(patch: pytest.MonkeyPatch) -> None:
    """The last consumer goes with a ring that nobody else hears of."""

    def mutant(_: ShardedConsumers) -> Sequence[tuple[int, Operation[bool]]]:
        return []

    patch.setattr(ShardedConsumers, '_start_parting', mutant)


def shards_never_looked_at_while_busy(patch: pytest.MonkeyPatch) -> None:
    """Consumers that have enough to do with some shards do not look at others."""
    patch.setattr(spread, 'FAIRNESS', math.inf)


def alarms_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Nobody comes back when an event is due that was to be minded."""
    timer = ShardedConsumers.timer

    def mutant(self: ShardedConsumers) -> float:
        alarms = [shard.alarm for shard in self._shards]
        for shard in self._shards:
            shard.alarm = math.inf
        moment = timer(self)
        for shard, alarm in zip(self._shards, alarms, strict=True):
            shard.alarm = alarm
        return moment

    patch.setattr(ShardedConsumers, 'timer', mutant)


def any_number_of_shards_will_do(patch: pytest.MonkeyPatch) -> None:
    """Tasks are added where they were at home before."""

    def make(enqueue: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            return enqueue(Run(run.db, run.keys, run.args[:-1], run._publish))

        return mutant

    _replace_verb(patch, 'enqueue', make)


def former_homes_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A task is looked for at home only."""
    patch.setattr(Layout, 'homes', lambda self, task_id: [home_of(task_id, self.shards)])


def a_lost_record_is_of_any_number(patch: pytest.MonkeyPatch) -> None:
    """Where no number of shards is recorded any more, tasks are added by whatever number."""

    def make(enqueue: Command) -> Command:
        def mutant(run: Run) -> Reply:
            if b'generation' in run.db.hash_at(run.keys['counters']):
                return enqueue(run)
            return enqueue(Run(run.db, run.keys, run.args[:-1], run._publish))

        return mutant

    _replace_verb(patch, 'enqueue', make)


def old_results_kept(patch: pytest.MonkeyPatch) -> None:
    """A task may be added at home while an earlier one's result is where its id belonged before."""

    def make(_: Command) -> Command:
        return lambda _: [b'OK']

    _replace_verb(patch, 'clear', make)


def shards_taken_for_empty(patch: pytest.MonkeyPatch) -> None:
    """A survey does not look at shards, although they have tasks."""
    patch.setattr('torrelque.transports.memory.shards._are_empty', lambda *_: True)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'surveys that do not register': ('shards-calm', surveys_that_do_not_register),
    'rings kept by who leaves': ('shards-calm', rings_kept_by_who_leaves),
    'alarms of shards forgotten': ('shards-calm', alarms_forgotten),
    'shards taken for empty': ('shards-calm', shards_taken_for_empty),
    'any number of shards will do': ('shards', any_number_of_shards_will_do),
    'a lost record is of any number': ('shards', a_lost_record_is_of_any_number),
    'old results kept': ('shards', old_results_kept),
    'former homes forgotten': ('shards', former_homes_forgotten),
}
"""By name: the world that has to notice, and the mutation."""
