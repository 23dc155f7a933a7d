"""Several operations run as one."""

from __future__ import annotations

import pytest

from tests.core.support import SCRIPTS, end, end_by, names
from torrelque.core.combinators import together
from torrelque.core.protocol import Call, Interrupted, Operation, Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError


def get(*keys: bytes) -> Operation[list[Reply]]:
    """One round for each key."""
    values = []
    for key in keys:
        values.append((yield from Call[Reply]('GET', (key,))))  # noqa: PERF401 - a comprehension cannot yield from
    return values


def pair() -> Operation[Reply]:
    """A round of two calls."""
    replies = yield (Call('ONE'), Call('TWO'))
    return list(replies)


def test_no_operations_need_no_round() -> None:
    with pytest.raises(StopIteration) as stop:
        next(together(list[Operation[int]]()))
    assert stop.value.value == []


def test_rounds_are_merged_and_replies_go_to_their_own() -> None:
    operation = together([get(b'a', b'b'), pair(), get(b'c')])
    first = next(operation)
    assert names(first) == ['GET', 'ONE', 'TWO', 'GET']
    second = operation.send([1, 2, 3, 4])
    assert [call.keys for call in second] == [(b'b',)]
    assert end(operation, [5]) == [[1, 5], [2, 3], [4]]


def test_an_operation_without_rounds_is_done_at_once() -> None:
    operation = together([get(), get(b'a')])
    assert len(next(operation)) == 1
    assert end(operation, ['x']) == [[], ['x']]


def test_a_failed_one_does_not_spoil_the_others() -> None:
    error = TorrelqueReplyError('ERR no')
    operation = together([get(b'a'), get(b'b')])
    next(operation)
    assert end(operation, [error, 2]) == [error, [2]]


def test_one_that_fails_before_its_first_round_stands_in_its_place() -> None:
    def broken() -> Operation[list[Reply]]:
        raise ValueError('at once')
        yield ()

    operation = together([broken(), get(b'b')])
    assert len(next(operation)) == 1
    failed, fine = end(operation, [2])
    assert isinstance(failed, ValueError)
    assert fine == [2]


def test_an_unknown_script_is_loaded_for_its_own_operation_alone() -> None:
    operation = together([iter(Call[Reply](SCRIPTS['tick'])), get(b'a', b'b')])
    next(operation)
    batch = operation.send([TorrelqueReplyError('NOSCRIPT No matching script.'), 1])
    assert names(batch) == ['SCRIPT LOAD', 'tick', 'GET']
    assert end(operation, [b'sha', b'', 2]) == [b'', [1, 2]]


def settling(log: list[object]) -> Operation[str]:
    try:
        yield from Call('SET')
    except Interrupted as interrupted:
        log.append(interrupted)
        yield from Call('SETTLE')
        return 'settled'
    return 'done'


def test_an_interruption_reaches_each_that_runs_with_an_instance_of_its_own() -> None:
    log: list[object] = []
    cause = TorrelqueConnectionError('gone')
    operation = together([settling(log), settling(log)])
    next(operation)
    thrown = Interrupted(cause)
    assert names(operation.throw(thrown)) == ['SETTLE', 'SETTLE']
    assert end(operation, [None, None]) == ['settled', 'settled']
    first, second = log
    assert isinstance(first, Interrupted)
    assert isinstance(second, Interrupted)
    assert first is not second
    assert first.cause is second.cause is cause


def test_an_interruption_that_ends_one_is_raised_when_all_have_ended() -> None:
    operation = together([get(b'a'), settling([])])
    next(operation)
    cause = TorrelqueConnectionError('gone')
    assert names(operation.throw(Interrupted(cause))) == ['SETTLE']
    with pytest.raises(Interrupted) as interrupted:
        operation.send([None])
    assert interrupted.value.cause is cause


def test_those_that_ended_before_are_not_interrupted() -> None:
    operation = together([get(b'a'), settling_late()])
    next(operation)
    operation.send([1, None])
    assert end_by(operation, Interrupted()) == [[1], 'ended']


def settling_late() -> Operation[str]:
    yield from Call('FIRST')
    try:
        yield from Call('SECOND')
    except Interrupted:
        return 'ended'
    return 'unharmed'


def test_a_drivers_error_is_told_to_each_as_an_instance_of_its_own() -> None:
    operation = together([get(b'a'), get(b'b')])
    next(operation)
    error = TorrelqueReplyError('ERR what the driver found')
    first, second = end_by(operation, error)
    assert isinstance(first, TorrelqueReplyError)
    assert isinstance(second, TorrelqueReplyError)
    assert first is not second
    assert str(first) == str(second) == str(error)
