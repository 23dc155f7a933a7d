"""Lanes: minted when needed, one call in flight, settled when nobody answers."""

from __future__ import annotations

import pytest

from tests.core.support import end, lanes, only
from tests.transient import UNAVAILABLE
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.protocol import Interrupted, Operation, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueShardsError,
    TorrelqueTooLargeError,
)

CAUSE = TorrelqueConnectionError('gone')


def call(pool: Lanes, lane: Lane | None = None) -> Operation[Reply]:
    return pool.call('enqueue', ('item',), lambda parts: parts[0], lane)


def minted(pool: Lanes, number: bytes = b'7') -> Lane:
    """A lane that has made one call."""
    operation = call(pool)
    next(operation)
    operation.send([number])
    end(operation, [[b'OK', b'n']])
    lane = pool.borrow()
    pool.give_back(lane)
    return lane


def test_the_first_call_mints_its_lane() -> None:
    operation = call(lanes())
    assert only(next(operation)) == ('mint', ('nonce.1',))
    assert only(operation.send([b'7'])) == ('enqueue', ('7', 'nonce.1', 1, 'item'))
    assert end(operation, [[b'OK', b'n']]) == b'n'


def test_the_next_call_uses_the_same_lane_and_the_next_sequence() -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    assert only(next(operation)) == ('enqueue', ('7', 'nonce.1', 2, 'item'))


def test_a_lane_has_one_call_in_flight() -> None:
    pool = lanes()
    minted(pool)
    first, second = call(pool), call(pool)
    assert only(next(first))[0] == 'enqueue'
    assert only(next(second))[0] == 'mint'


def test_a_script_unknown_to_the_server_keeps_the_sequence() -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    first = next(operation)
    again = operation.send([TorrelqueReplyError('NOSCRIPT No matching script.')])
    assert again[1].args == first[0].args


def test_a_lane_that_the_server_lost_is_made_anew() -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    next(operation)
    assert only(operation.send([[b'NOLANE']])) == ('mint', ('nonce.2',))
    assert only(operation.send([b'8'])) == ('enqueue', ('8', 'nonce.2', 1, 'item'))
    assert end(operation, [[b'OK', b'n']]) == b'n'


@pytest.mark.parametrize('done', [True, False])
def test_a_call_that_is_too_large_is_settled(*, done: bool) -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    next(operation)
    too_large = TorrelqueTooLargeError('2 MB', 2_000_000, 1_000_000)
    assert only(operation.send([too_large])) == ('settle', ('7', 'nonce.1', 2))
    if done:
        assert end(operation, [[b'finished', b'n']]) == b'n'
    else:
        with pytest.raises(TorrelqueTooLargeError) as caught:
            operation.send([[b'closed']])
        assert caught.value is too_large


def refused_call(pool: Lanes) -> Operation[Reply]:
    """A call that was refused for the number of shards and waits for it to be settled."""
    minted(pool)
    operation = call(pool)
    next(operation)
    assert only(operation.send([[b'RESHARDED']])) == ('settle', ('7', 'nonce.1', 2))
    return operation


@pytest.mark.parametrize('outcome', [b'aborted', b'none'])
def test_a_call_that_is_refused_for_the_number_of_shards_is_settled(outcome: bytes) -> None:
    pool = lanes()
    operation = refused_call(pool)
    with pytest.raises(TorrelqueShardsError):
        operation.send([[outcome]])
    assert only(next(call(pool))) == ('enqueue', ('7', 'nonce.1', 3, 'item'))


def test_a_refused_call_of_which_a_copy_was_done_since_is_done() -> None:
    assert end(refused_call(lanes()), [[b'finished', b'n']]) == b'n'


@pytest.mark.parametrize('error', [Interrupted(CAUSE), TorrelqueReplyError('LOADING the dataset')])
def test_a_refused_call_that_cannot_be_settled_is_not_to_be_repeated(error: BaseException) -> None:
    pool = lanes()
    operation = refused_call(pool)
    resume = operation.throw if isinstance(error, Interrupted) else lambda reply: operation.send([reply])
    with pytest.raises(Interrupted) as raised:
        resume(error)
    assert raised.value.cause is (error.cause if isinstance(error, Interrupted) else error)
    assert pool.unsettled


def test_a_server_that_keeps_no_lane_is_an_error() -> None:
    operation = call(lanes())
    next(operation)
    for number in (b'1', b'2', b'3'):
        operation.send([number])
        if number != b'3':
            operation.send([[b'NOLANE']])
    with pytest.raises(TorrelqueError, match="'enqueue' as b'NOLANE'"):
        operation.send([[b'NOLANE']])


@pytest.mark.parametrize('outcome', [b'LATE', b'CLOSED'])
def test_a_lane_with_two_owners_is_an_error_and_not_used_again(outcome: bytes) -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    next(operation)
    with pytest.raises(TorrelqueError, match=outcome.decode()):
        operation.send([[outcome]])
    assert only(next(call(pool)))[0] == 'mint'


def test_an_error_reply_leaves_the_lane_to_others() -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    next(operation)
    with pytest.raises(TorrelqueReplyError):
        operation.send([TorrelqueReplyError('OOM command not allowed')])
    assert only(next(call(pool))) == ('enqueue', ('7', 'nonce.1', 3, 'item'))


def test_interrupted_while_minting_nothing_needs_to_be_settled() -> None:
    pool = lanes()
    operation = call(pool)
    next(operation)
    with pytest.raises(Interrupted) as interrupted:
        operation.throw(Interrupted(CAUSE))
    assert interrupted.value.cause is CAUSE
    assert not pool.unsettled
    assert only(next(call(pool)))[0] == 'mint'


def interrupted_call(pool: Lanes) -> Operation[Reply]:
    minted(pool)
    operation = call(pool)
    next(operation)
    assert only(operation.throw(Interrupted(CAUSE))) == ('settle', ('7', 'nonce.1', 2))
    return operation


def test_a_call_that_was_done_after_all_answers_as_if_uninterrupted() -> None:
    pool = lanes()
    operation = interrupted_call(pool)
    assert end(operation, [[b'finished', b'n']]) == b'n'
    assert not pool.unsettled


@pytest.mark.parametrize('outcome', [b'aborted', b'none'])
def test_a_call_that_was_undone_raises_the_interruption_and_keeps_its_lane(outcome: bytes) -> None:
    pool = lanes()
    operation = interrupted_call(pool)
    with pytest.raises(Interrupted) as interrupted:
        operation.send([[outcome]])
    assert interrupted.value.cause is CAUSE
    assert not pool.unsettled
    assert only(next(call(pool))) == ('enqueue', ('7', 'nonce.1', 3, 'item'))


def test_a_lane_that_cannot_be_settled_is_retired_and_settled_later() -> None:
    pool = lanes()
    operation = interrupted_call(pool)
    with pytest.raises(Interrupted) as interrupted:
        operation.throw(Interrupted(TorrelqueConnectionError('still gone')))
    assert interrupted.value.cause is CAUSE
    assert pool.unsettled
    assert only(next(call(pool)))[0] == 'mint'

    repair = pool.settle_all()
    assert only(next(repair)) == ('settle', ('7', 'nonce.1', 2))
    end(repair, [[b'aborted']])
    assert not pool.unsettled


def test_a_settle_that_is_refused_is_settled_later() -> None:
    pool = lanes()
    operation = interrupted_call(pool)
    with pytest.raises(Interrupted):
        operation.send([TorrelqueReplyError('LOADING the dataset')])
    assert pool.unsettled


@pytest.mark.parametrize('answer', UNAVAILABLE)
def test_a_call_that_was_refused_for_now_may_be_done_all_the_same_and_is_settled_later(answer: str) -> None:
    """An earlier try may have been done before its connection broke."""
    pool = lanes()
    minted(pool)
    operation = call(pool)
    next(operation)
    error = TorrelqueReplyError(answer)
    with pytest.raises(Interrupted) as interrupted:
        operation.send([error])
    assert interrupted.value.cause is error
    assert only(next(call(pool)))[0] == 'mint'
    assert only(next(pool.settle_all())) == ('settle', ('7', 'nonce.1', 2))


def test_a_lane_that_was_refused_leaves_nothing_to_settle() -> None:
    pool = lanes()
    operation = call(pool)
    next(operation)
    with pytest.raises(Interrupted):
        operation.send([TorrelqueReplyError('READONLY no')])
    assert not pool.unsettled


def test_settling_stops_at_the_first_that_cannot_be() -> None:
    pool = lanes()
    operation = interrupted_call(pool)
    with pytest.raises(Interrupted):
        operation.throw(Interrupted(CAUSE))
    repair = pool.settle_all()
    next(repair)
    with pytest.raises(Interrupted):
        repair.throw(Interrupted(CAUSE))
    assert pool.unsettled


def test_a_lane_of_the_callers_own_stays_out_of_the_pool() -> None:
    pool = lanes()
    own = Lane()
    operation = call(pool, own)
    next(operation)
    operation.send([b'9'])
    end(operation, [[b'OK', b'n']])
    assert (own.number, own.sequence) == ('9', 1)
    assert pool.borrow() is not own


def test_settling_nothing_sends_nothing() -> None:
    with pytest.raises(StopIteration):
        next(lanes().settle_all())


# Dropping ------------------------------------------------------------------------------------------------------------


def test_without_lanes_there_is_nothing_to_drop() -> None:
    assert lanes().drop() is None


def test_all_lanes_are_dropped_by_one_call_and_forgotten() -> None:
    pool = lanes()
    minted(pool)
    first, second = call(pool), call(pool)
    next(first)
    next(second)
    second.send([b'8'])
    for operation in (first, second):
        end(operation, [[b'OK', b'n']])
    dropping = pool.drop()
    assert dropping is not None
    assert only(next(dropping)) == ('drop', ('7', 'nonce.1', '8', 'nonce.2'))
    end(dropping, [2])
    assert pool.drop() is None
    assert only(next(call(pool)))[0] == 'mint'


def test_a_lane_with_an_unsettled_call_is_not_dropped() -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    next(operation)
    operation.throw(Interrupted(CAUSE))
    with pytest.raises(Interrupted):
        operation.throw(Interrupted(CAUSE))
    assert pool.unsettled
    assert pool.drop() is None


def test_a_lane_that_the_server_has_lost_is_not_dropped() -> None:
    pool = lanes()
    minted(pool)
    operation = call(pool)
    next(operation)
    assert only(operation.send([[b'NOLANE']]))[0] == 'mint'
    operation.send([b'8'])
    end(operation, [[b'OK', b'n']])
    dropping = pool.drop()
    assert dropping is not None
    assert only(next(dropping)) == ('drop', ('8', 'nonce.2'))


@pytest.mark.parametrize('error', [Interrupted(CAUSE), TorrelqueReplyError('NOPERM no'), ValueError('odd')])
def test_lanes_that_cannot_be_dropped_are_left_to_expire(error: BaseException) -> None:
    pool = lanes()
    minted(pool)
    dropping = pool.drop()
    assert dropping is not None
    next(dropping)
    with pytest.raises(StopIteration):
        dropping.throw(error)
