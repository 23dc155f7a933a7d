"""The core and the model with one rule left out each: the simulation has to notice, or it proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from torrelque.core.claiming import Claim, claim
from torrelque.core.consumers import Consumers, Hint
from torrelque.core.protocol import Operation
from torrelque.core.session import Session
from torrelque.transports.memory import claims, prelude, verbs
from torrelque.transports.memory.claims import Claimed
from torrelque.transports.memory.keyspace import Keyspace
from torrelque.transports.memory.prelude import PENDING, Command, Run, State, whole

__all__ = ('MUTANTS', 'Mutant')

Mutant = Callable[[pytest.MonkeyPatch], None]


def _replace_verb(patch: pytest.MonkeyPatch, name: str, make: Callable[[Command], Command]) -> None:
    changed = {**verbs.VERBS, name: make(verbs.VERBS[name])}
    patch.setattr('torrelque.transports.memory.server.VERBS', changed)


def _without(patch: pytest.MonkeyPatch, owner: object, name: str, result: object = None) -> None:
    patch.setattr(owner, name, lambda *args, **options: result)  # noqa: ARG005 - whatever it is called with


def no_tombstone(patch: pytest.MonkeyPatch) -> None:
    """Settle leaves nothing behind for a call that has yet to arrive."""

    def make(settle: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            before = run.lane_record()
            reply = settle(run)
            if before is not None and reply == [b'aborted'] and before.sequence < int(run.args[2]):
                text = b'%d %b %b %b' % (before.sequence, before.nonce, before.phase, before.answer)
                run.db.put(run.lane_key, text, prelude.LANE_TTL)
            return reply

        return mutant

    _replace_verb(patch, 'settle', make)


def sequence_not_compared(patch: pytest.MonkeyPatch) -> None:
    """A call that comes late is done."""
    enter = Run.enter

    def mutant(self: Run) -> tuple[bytes, bytes] | None:
        seen = enter(self)
        return None if seen is not None and seen[0] == b'LATE' else seen

    patch.setattr(Run, 'enter', mutant)


def repeats_done_again(patch: pytest.MonkeyPatch) -> None:
    """A call that was done is done again."""
    enter = Run.enter

    def mutant(self: Run) -> tuple[bytes, bytes] | None:
        seen = enter(self)
        return None if seen is not None and seen[0] == b'OK' else seen

    patch.setattr(Run, 'enter', mutant)


def no_token_in_the_fence(patch: pytest.MonkeyPatch) -> None:
    """Any receipt of a task in working is good."""

    def mutant(state: State, score: float, token: bytes, count: bytes) -> bool:
        return state is not None

    patch.setattr(claims, 'is_live', mutant)


def no_deadline_in_the_fence(patch: pytest.MonkeyPatch) -> None:
    """A receipt is good although 0.9 has claimed the task since."""

    def mutant(state: State, score: float, token: bytes, count: bytes) -> bool:
        return not token or (
            state.token == token and state.claim is not None and state.claim.dequeue_count == int(count)
        )

    patch.setattr(claims, 'is_live', mutant)


def extended_but_not_its_claim(patch: pytest.MonkeyPatch) -> None:
    """A longer lease is written to working, but not to the claim."""
    _without(patch, Run, 'move_claim')


def state_kept_on_enqueue(patch: pytest.MonkeyPatch) -> None:
    """A finished result of the same id stays under the new task."""

    def make(enqueue: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(Keyspace, 'delete', lambda *_: 0)
                return enqueue(run)

        return mutant

    _replace_verb(patch, 'enqueue', make)


def unfiltered_repeat(patch: pytest.MonkeyPatch) -> None:
    """A repeated claim answers what has been lost since."""
    recorded = claims.recorded

    def mutant(run: Run, answer: bytes) -> Iterator[tuple[Claimed, bytes]]:
        if len(run.args) != 5:
            yield from recorded(run, answer)
            return
        for count, task_id in claims.receipts_in(answer):
            state = run.read_state(task_id)
            if state is not None:
                yield Claimed(task_id, state), count

    patch.setattr(verbs, 'recorded', mutant)


def _give_back(*, clear: bool, uncount: bool) -> Mutant:
    def mutant(run: Run, items: Sequence[Claimed]) -> None:
        run.db.zrem(run.keys['working'], [item.id for item in items])
        for item in items:
            count = whole(item.state.dequeue_count - uncount)
            claim = run.db.hash_at(run.state_key(item.id)).get(b'claim', b'')
            run.transition(item.id, item.state, PENDING, {b'dequeue_count': count})
            if not clear:
                run.db.hset(run.state_key(item.id), {b'claim': claim})
        run.db.rpush(run.keys['pending'], [item.id for item in reversed(items)])

    return lambda patch: patch.setattr(verbs, 'give_back', mutant)


def waits_are_attempts(patch: pytest.MonkeyPatch) -> None:
    """A delivery that was no attempt counts as one."""

    def make(requeue: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            run.args = [word if at < 3 or at % 6 != 2 else b'' for at, word in enumerate(run.args)]
            return requeue(run)

        return mutant

    _replace_verb(patch, 'requeue', make)


def no_limit(patch: pytest.MonkeyPatch) -> None:
    """Deliveries are not limited."""
    _without(patch, State, 'exhausted')


def settle_undoes_nothing(patch: pytest.MonkeyPatch) -> None:
    """A claim whose reply will not come stays as it is."""
    patch.setattr(verbs, 'recorded', lambda *_: iter(()))


def shrinking_extend(patch: pytest.MonkeyPatch) -> None:
    """A late repeat shortens a lease."""

    def make(extend: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(verbs, 'max', lambda _, new: new, raising=False)
                return extend(run)

        return mutant

    _replace_verb(patch, 'extend', make)


def progress_of_the_past(patch: pytest.MonkeyPatch) -> None:
    """Who has lost a claim still reports for the task."""

    def make(progress: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            reply = progress(run)
            for task_id, _, _, text in run.items(4):
                if run.read_state(task_id) and run.db.hash_at(run.state_key(task_id)):
                    run.db.hset(run.state_key(task_id), {b'progress': text})
            return reply

        return mutant

    _replace_verb(patch, 'progress', make)


def _called_off_goes_back(*names: str) -> Mutant:
    """A task whose cancellation was asked for is delivered again."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        def make(command: Command) -> Command:
            def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
                with pytest.MonkeyPatch.context() as inner:
                    inner.setattr(State, 'called_off', property(lambda _: False, lambda *_: None), raising=False)
                    return command(run)

            return mutant

        changed = {**verbs.VERBS, **{name: make(verbs.VERBS[name]) for name in names}}
        patch.setattr('torrelque.transports.memory.server.VERBS', changed)

    return mutate


def no_letter(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether a task is called off, because `uses` does not say that one may be."""

    def make(cancel: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            uses = run.uses
            reply = cancel(run)
            if b'c' not in uses and b'c' in run.uses:
                run.db.hset(run.keys['counters'], {b'uses': uses})
            return reply

        return mutant

    _replace_verb(patch, 'cancel', make)


def ended_claim_lives_on(patch: pytest.MonkeyPatch) -> None:
    """Who has lost a claim to a cancellation still releases the task of the same id that came after it."""

    def make(cancel: Command) -> Command:
        def mutant(run: Run) -> Any:  # noqa: ANN401 - a reply
            score = run.db.zset_at(run.keys['working']).scores.get(run.args[3])
            reply = cancel(run)
            if score is not None and reply == [b'OK', b'c'] and run.args[4] == b'end':
                run.db.zadd(run.keys['working'], {run.args[3]: score})
            return reply

        return mutant

    _replace_verb(patch, 'cancel', make)


def hint_not_put_back(patch: pytest.MonkeyPatch) -> None:
    """The last consumer that leaves takes the hint along."""

    def mutant(self: Consumers) -> Operation[bool]:
        self._look = self._look.over
        return True
        yield ()

    patch.setattr(Consumers, '_tick', mutant)


def hint_lost_beside_a_claim(patch: pytest.MonkeyPatch) -> None:
    """A hint popped while a claim is under way is taken for a reason to claim, and forgotten when nobody waits."""
    start = Consumers.start

    def mutant(self: Consumers) -> Operation[bool] | None:
        if self._look.is_running and self._hint is Hint.TAKEN:
            self._hint = Hint.ELSEWHERE
        return start(self)

    patch.setattr(Consumers, 'start', mutant)


def no_hint_after_a_claim(patch: pytest.MonkeyPatch) -> None:
    """A claim that got something tells nobody of what is left."""
    hint = Run.hint

    def mutant(self: Run, *, empty: bool = False, event: float | None = None) -> None:
        if len(self.args) != 5 or empty:
            hint(self, empty=empty, event=event)

    patch.setattr(Run, 'hint', mutant)


def no_timer(patch: pytest.MonkeyPatch) -> None:
    """Nobody minds the next event."""
    _without(patch, Run, 'take_timer')
    _without(patch, Run, '_needs_somebody', result=False)


def nothing_given_back(patch: pytest.MonkeyPatch) -> None:
    """Tasks that come for a caller who has gone stay claimed."""
    _without(patch, Session, '_give_back_unwanted')


def giveback_made_once(patch: pytest.MonkeyPatch) -> None:
    """A giveback whose connection broke is not made again."""
    patch.setattr(Session, '_owed', property(lambda _: [], lambda *_: None), raising=False)


def claims_never_settled_later(patch: pytest.MonkeyPatch) -> None:
    """A waiting consumer's claim that could not be settled is left to its lease."""
    _without(patch, Session, '_repair_later')
    _without(patch, Session, '_repair_soon')


def wrong_token(patch: pytest.MonkeyPatch) -> None:
    """A consumer is told the token of another call."""

    def mutant(*args: Any) -> Operation[Claim]:  # noqa: ANN401 - as the original's
        answer = yield from claim(*args)
        answer.tasks = [
            task._replace(receipt=task.receipt._replace(dequeue_count=task.receipt.dequeue_count + 1))
            for task in answer.tasks
        ]
        return answer

    patch.setattr('torrelque.core.consumers.claim', mutant)


MUTANTS: dict[str, tuple[str, Mutant]] = {
    'no tombstone on settle': ('cancel', no_tombstone),
    'sequence not compared': ('alone', sequence_not_compared),
    'repeats done again': ('alone', repeats_done_again),
    'no token in the fence': ('alone', no_token_in_the_fence),
    'no deadline in the fence': ('mixed', no_deadline_in_the_fence),
    'extended, but not its claim': ('alone', extended_but_not_its_claim),
    'state kept on enqueue': ('alone', state_kept_on_enqueue),
    'no filter on a repeated claim': ('alone', unfiltered_repeat),
    'token kept on giving back': ('cancel', _give_back(clear=False, uncount=True)),
    'delivery counted though given back': ('cancel', _give_back(clear=True, uncount=False)),
    'no delivery limit': ('alone', no_limit),
    'a wait is an attempt': ('alone', waits_are_attempts),
    'settle undoes nothing': ('alone', settle_undoes_nothing),
    'progress of a lost claim': ('alone', progress_of_the_past),
    'called off, but requeued': ('alone', _called_off_goes_back('requeue')),
    'called off, but given back': ('alone', _called_off_goes_back('giveback')),
    'called off, but taken back by a claim': ('alone', _called_off_goes_back('claim')),
    'called off, but taken back by others': ('alone', _called_off_goes_back('tick', 'sweep')),
    'called off, but the holder does not hear of it': ('alone', _called_off_goes_back('extend')),
    'called off, but not noted as a feature': ('alone', no_letter),
    'claim ended, but working': ('alone', ended_claim_lives_on),
    'extend shortens': ('alone', shrinking_extend),
    'hint not put back by who leaves': ('calm', hint_not_put_back),
    'hint lost beside a claim': ('calm', hint_lost_beside_a_claim),
    'no hint after a claim': ('calm', no_hint_after_a_claim),
    'nobody minds the timer': ('calm', no_timer),
    'nothing given back': ('calm', nothing_given_back),
    'giveback made only once': ('cancel', giveback_made_once),
    'never settled later': ('cancel', claims_never_settled_later),
    'receipt of another claim': ('calm', wrong_token),
}
"""By name: the world that has to notice, and the mutation."""
