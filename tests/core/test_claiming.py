"""One claim: what it asks for, and what it makes of the answer."""

from __future__ import annotations

import pytest

from tests.core.support import claimed, end, lanes, only
from torrelque.core.claiming import FOREVER, Claim, claim
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.protocol import Operation
from torrelque.errors import TorrelqueTooLargeError

SENT = 50.0


@pytest.fixture
def pool() -> Lanes:
    return lanes()


@pytest.fixture
def lane() -> Lane:
    made = Lane()
    made.number, made.nonce, made.sequence = '7', 'nonce.1', 4
    return made


def begin(operation: Operation[Claim]) -> tuple[str, tuple[object, ...]]:
    return only(next(operation))


def test_what_it_asks_for(pool: Lanes, lane: Lane) -> None:
    assert begin(claim(pool, 3, 1.5, lane, SENT)) == ('claim', ('7', 'nonce.1', 5, 3, '1.500000'))


def test_a_wait_without_limit_and_a_cap_on_dead_letters(pool: Lanes, lane: Lane) -> None:
    _, args = begin(claim(pool, 3, float('inf'), lane, SENT, 10))
    assert args[3:] == (3, f'{FOREVER:.6f}', 10)


def test_leases_count_from_when_it_was_sent(pool: Lanes, lane: Lane) -> None:
    operation = claim(pool, 2, 0.0, lane, SENT)
    begin(operation)
    answer = end(operation, [claimed('a', 'b', alarm=b'2.5', time=1000.0)])
    assert (answer.alarm, answer.again, answer.time) == (2.5, False, 1000.0)
    assert [(str(task.receipt.id), task.receipt.token, task.attempt) for task in answer.tasks] == [
        ('a', '7:nonce.1:5', 1),
        ('b', '7:nonce.1:5', 1),
    ]
    assert [(task.deadline, task.expires) for task in answer.tasks] == [(1300.0, SENT + 300)] * 2


def test_or_from_when_the_server_may_have_run_it(pool: Lanes, lane: Lane) -> None:
    operation = claim(pool, 1, 0.0, lane, SENT, None, lambda time: time - 900)
    begin(operation)
    (task,) = end(operation, [claimed('a', time=1000.0)]).tasks
    assert task.expires == 400.0


def test_a_later_delivery_tells_its_attempt_and_headers(pool: Lanes, lane: Lane) -> None:
    operation = claim(pool, 1, 0.0, lane, SENT)
    begin(operation)
    reply = [b'OK', b'', 0, b'1000', b'a', b'payload', b'1300', b'5 2 {"k": "v"}']
    (task,) = end(operation, [reply]).tasks
    assert (task.receipt.dequeue_count, task.attempt, task.headers) == (5, 2, b'{"k": "v"}')


def test_an_answer_that_is_too_large_is_asked_for_in_parts(pool: Lanes, lane: Lane) -> None:
    pool.claim_limit = 8
    operation = claim(pool, 20, 0.0, lane, SENT)
    _, args = begin(operation)
    assert args[3] == 8
    assert only(operation.throw(TorrelqueTooLargeError('too large')))[0] == 'settle'
    assert only(operation.send([[b'aborted']]))[1][3] == 4
    answer = end(operation, [claimed('a', 'b', 'c', 'd')])
    assert answer.again, 'there may be more, as fewer were asked for than wanted'
    assert pool.claim_limit == 5, 'the next tasks may be smaller'


def test_a_single_task_that_is_too_large_is_an_error(pool: Lanes, lane: Lane) -> None:
    operation = claim(pool, 1, 0.0, lane, SENT)
    begin(operation)
    operation.throw(TorrelqueTooLargeError('too large'))
    with pytest.raises(TorrelqueTooLargeError):
        operation.send([[b'aborted']])
