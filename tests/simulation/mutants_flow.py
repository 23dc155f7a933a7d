"""Rules left out of what pauses a queue."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import Mutant
from torrelque.core import flow
from torrelque.core.keys import Keys
from torrelque.core.protocol import Operation
from torrelque.core.scripts import ScriptSet
from torrelque.transports.memory import flow as flow_verb
from torrelque.transports.memory import verbs
from torrelque.transports.memory.prelude import Run

__all__ = ('MUTANTS', 'hints_during_a_pause', 'the_end_of_a_pause_missed')


def a_pause_ignored(patch: pytest.MonkeyPatch) -> None:
    """Claims take tasks all the same."""
    patch.setattr(Run, 'permitted', lambda _, count, _freed=0: count)


def stale_and_due_tasks_taken(patch: pytest.MonkeyPatch) -> None:
    """What a claim returns to pending, it takes although the queue is paused."""
    permitted = Run.permitted

    def mutant(self: Run, count: int, freed: int = 0) -> int:
        event = self.earliest()
        return count if event is not None and event <= self.now else permitted(self, count, freed)

    patch.setattr(Run, 'permitted', mutant)


def the_end_of_a_pause_missed(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks when a pause ends."""
    patch.setattr(Run, 'reprieve', lambda _: None)


def resumed_in_silence(patch: pytest.MonkeyPatch) -> None:
    """Nobody hears that the queue is resumed."""

    def mutant(run: Run) -> object:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Run, 'hint', lambda *_, **__: None)
            return flow_verb.flow(run)

    patch.setattr('torrelque.transports.memory.server.VERBS', {**verbs.VERBS, 'flow': mutant})


def hints_during_a_pause(patch: pytest.MonkeyPatch) -> None:
    """Consumers are woken for tasks that they may not take, again and again."""
    hint = Run.hint

    def mutant(self: Run, *, empty: bool = False, event: float | None = None) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Run, 'permitted', lambda _, count: count)
            hint(self, empty=empty, event=event)

    patch.setattr(Run, 'hint', mutant)


def only_the_first_shard_paused(patch: pytest.MonkeyPatch) -> None:
    """A pause is recorded on one shard only."""

    def mutant(_scripts: ScriptSet, _keys: Keys, _record: flow.Record) -> Operation[None]:
        return
        yield ()

    patch.setattr(flow, 'copy', mutant)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'a pause ignored': ('calm', a_pause_ignored),
    'stale and due tasks taken in a pause': ('calm', stale_and_due_tasks_taken),
    'resumed in silence': ('calm', resumed_in_silence),
    'only the first shard paused': ('shards-calm', only_the_first_shard_paused),
}
"""By name: the world that has to notice, and the mutation. The rest is noticed in `test_waiting`."""
