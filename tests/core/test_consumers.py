"""The consumers that wait: one claim for all of them, one wait, one timer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from tests.core.support import Clock, claimed, end, end_by, lanes, names, only
from torrelque.core.claiming import FOREVER
from torrelque.core.commands import ClaimedTask
from torrelque.core.consumers import (
    LEAST_BESIDE,
    MAX_FAILURES,
    MOST_BEHIND,
    SLICE,
    Consumers,
)
from torrelque.core.lanes import MAX_CLAIM
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Batch, Interrupted, Operation
from torrelque.core.waiters import FIRST_LOOK
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError, TorrelqueTimeoutError

CAUSE = TorrelqueConnectionError('gone')


class Machine:
    """An idle machine whose lane is minted, and what it gave back."""

    def __init__(
        self, jitter: float = 0.0, block_limit: float = 60.0, cap: int | None = None, *, in_order: bool = True
    ) -> None:
        self.clock = Clock()
        self.returned: list[str] = []
        self.idle = Consumers(lanes(), self.clock, lambda: jitter, self._give_back, block_limit, cap, in_order=in_order)

    def _give_back(self, tasks: Sequence[ClaimedTask]) -> None:
        self.returned += [task.receipt.id for task in tasks]

    def join(self, want: int = 1, timeout: float = math.inf) -> Ticket:
        ticket = Ticket((), lambda: None)
        self.idle.join(ticket, want, self.clock.now + timeout)
        return ticket

    def begin(self) -> tuple[Operation[bool], Batch]:
        """Start the operation that is due, past minting its lane."""
        operation = self.idle.start()
        assert operation is not None
        batch = next(operation)
        if names(batch) == ['mint']:
            batch = operation.send([b'7'])
        return operation, batch

    def claim(self, *ids: str, alarm: bytes = b'', again: int = 0) -> tuple[Any, ...]:
        """Run the claim that is due; returns its number of tasks wanted, and how long it would wait."""
        operation, batch = self.begin()
        name, args = only(batch)
        assert name == 'claim'
        end(operation, [claimed(*ids, alarm=alarm, again=again)])
        return args[3:]


def ids(ticket: Ticket) -> list[str]:
    assert ticket.done
    return [task.receipt.id for task in ticket.value]


def test_nobody_waits_and_nothing_happens() -> None:
    machine = Machine()
    assert machine.idle.start() is None
    assert machine.idle.block() is None
    assert machine.idle.timer() == math.inf


def test_a_consumer_claims_at_once() -> None:
    machine = Machine()
    ticket = machine.join(timeout=30)
    assert machine.idle.block() is None
    assert machine.claim('a') == (1, '30.000000')
    assert ids(ticket) == ['a']
    assert machine.idle.start() is None
    assert machine.idle.block() is None


def test_what_is_handed_out_is_the_claim() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim('a')
    (task,) = ticket.value
    assert task.receipt == ('a', '7:nonce.1:1', 1)
    assert (task.payload, task.deadline, task.headers, task.attempt) == (b'payload', 1300.0, b'', 1)
    assert task.expires == machine.clock.now + 300


def test_one_claim_is_for_all_that_wait_and_serves_first_come_first() -> None:
    machine = Machine()
    first, second, third = machine.join(2, 5), machine.join(1, 60), machine.join(2, 7)
    assert machine.claim('a', 'b', 'c', 'd') == (5, '60.000000')
    assert [ids(ticket) for ticket in (first, second, third)] == [['a', 'b'], ['c'], ['d']]


def test_waiting_without_limit_is_a_day() -> None:
    machine = Machine()
    machine.join()
    assert machine.claim() == (1, f'{FOREVER:.6f}')


def test_a_claim_has_a_limit() -> None:
    machine = Machine()
    ticket = machine.join(MAX_CLAIM + 5)
    machine.join(MAX_CLAIM)
    assert machine.claim(*[str(number) for number in range(MAX_CLAIM)])[0] == MAX_CLAIM
    assert not ticket.done
    machine.claim('last')
    assert len(ids(ticket)) == MAX_CLAIM + 1


def test_a_claim_that_ran_out_of_budget_is_followed_by_another() -> None:
    machine = Machine()
    ticket = machine.join(3)
    machine.claim('a', again=1)
    assert not ticket.done
    assert machine.idle.block() is None
    assert machine.claim('b') == (2, f'{FOREVER:.6f}')
    assert ids(ticket) == ['a', 'b']


def test_one_claim_at_a_time() -> None:
    machine = Machine()
    machine.join()
    operation, _ = machine.begin()
    late = machine.join()
    assert machine.idle.start() is None
    assert machine.idle.block() is None
    end(operation, [claimed('a')])
    machine.claim('b')
    assert ids(late) == ['b']


def plentiful(machine: Machine, want: int = LEAST_BESIDE) -> Ticket:
    """The last claim brought all that it asked for; so many more are wanted by one who waits now."""
    machine.join()
    machine.claim('first')
    return machine.join(want)


def begun(operation: Operation[bool] | None) -> tuple[str | int, ...]:
    """The arguments of the claim that it begins with, past minting its lane."""
    assert operation is not None
    batch = next(operation)
    if names(batch) == ['mint']:
        batch = operation.send([b'8'])
    name, args = only(batch)
    assert name == 'claim'
    return args


def many(prefix: str, count: int = LEAST_BESIDE) -> list[str]:
    return [f'{prefix}{number}' for number in range(count)]


def test_while_there_is_plenty_another_claim_begins_beside() -> None:
    machine = Machine()
    ticket = plentiful(machine)
    operation, batch = machine.begin()
    assert only(batch)[1][0] == '7'
    late = machine.join(LEAST_BESIDE)
    beside = machine.idle.start()
    assert begun(beside) == ('8', 'nonce.2', 1, LEAST_BESIDE, '0.000000')  # it minds no event
    assert beside is not None
    machine.join(LEAST_BESIDE)
    assert machine.idle.start() is None  # one is enough for the server to have something to do
    end(beside, [claimed(*many('b'))])
    assert not ticket.done  # tasks go out in the order of the queue, whichever answer is seen first
    end(operation, [claimed(*many('a'))])
    assert ids(ticket) == many('a')
    assert ids(late) == many('b')


def test_a_claim_that_made_its_lane_first_is_handed_out_after_one_that_the_server_did_before() -> None:
    machine = Machine()
    ticket = plentiful(machine)
    operation, _ = machine.begin()
    machine.join(LEAST_BESIDE)
    beside = machine.idle.start()
    assert beside is not None
    assert names(next(beside)) == ['mint']
    end(operation, [claimed(*many('a'))])
    assert ids(ticket) == many('a')
    late = machine.join(2 * LEAST_BESIDE)
    operation, _ = machine.begin()
    end(operation, [claimed(*many('b'), time=1)])
    assert machine.idle.start() is None
    beside.send([b'8'])
    end(beside, [claimed(*many('c'), time=2)])
    assert not late.done
    operation, _ = machine.begin()
    end(operation, [claimed(*many('d'), time=3)])
    assert ids(late) == many('c') + many('d')


def test_only_one_claim_is_under_way_where_one_may_overtake_another() -> None:
    machine = Machine(in_order=False)
    plentiful(machine)
    operation, _ = machine.begin()
    machine.join(LEAST_BESIDE)
    assert machine.idle.start() is None
    end(operation, [claimed(*many('a'))])


def test_no_claim_begins_beside_for_a_few() -> None:
    machine = Machine()
    plentiful(machine)
    operation, _ = machine.begin()
    machine.join(LEAST_BESIDE - 1)
    assert machine.idle.start() is None
    end(operation, [claimed()])


def test_no_claim_begins_beside_when_the_last_was_short() -> None:
    machine = Machine()
    machine.join(LEAST_BESIDE)
    machine.claim('a')
    machine.join(LEAST_BESIDE)
    operation, _ = machine.begin()
    machine.join(LEAST_BESIDE)
    assert machine.idle.start() is None
    end(operation, [claimed()])


def test_claims_at_once_ask_for_no_more_than_is_wanted() -> None:
    machine = Machine()
    plentiful(machine)
    operation, _ = machine.begin()
    machine.join(LEAST_BESIDE)
    beside = machine.idle.start()
    begun(beside)
    end(operation, [claimed(*many('a', LEAST_BESIDE), alarm=b'0')])
    assert machine.idle.start() is None  # an event is due and a consumer joined since, but all is asked for already
    assert machine.idle.timer() == math.inf
    assert machine.idle.block() is None
    machine.join(3)
    assert machine.claim('x', 'y', 'z')[0] == 3
    assert beside is not None
    end(beside, [claimed(*many('b'))])
    assert machine.returned == []


def test_who_got_some_waits_for_the_claim_beside() -> None:
    machine = Machine()
    ticket = plentiful(machine)
    operation, _ = machine.begin()
    machine.join(LEAST_BESIDE)
    beside = machine.idle.start()
    begun(beside)
    end(operation, [claimed('a')])
    assert not ticket.done
    assert machine.idle.block() is None
    assert beside is not None
    end(beside, [claimed('b')])
    assert ids(ticket) == ['a', 'b']
    machine.claim()  # for the one who joined meanwhile
    assert machine.idle.block() == SLICE


def test_a_claim_beside_that_is_cut_off_fails_those_who_wait_and_asks_for_nothing_any_more() -> None:
    machine = Machine()
    ticket = plentiful(machine)
    operation, _ = machine.begin()
    late = machine.join(LEAST_BESIDE)
    beside = machine.idle.start()
    begun(beside)
    assert beside is not None
    assert names(beside.throw(Interrupted(CAUSE))) == ['settle']
    end(beside, [[b'aborted']])
    assert isinstance(ticket.error, TorrelqueConnectionError)
    assert isinstance(late.error, TorrelqueConnectionError)
    end(operation, [claimed('a')])
    assert machine.returned == ['a']
    machine.join(3)
    assert machine.claim('b')[0] == 3


def test_nothing_there_asks_for_one_wait() -> None:
    machine = Machine()
    machine.join(timeout=60)
    machine.claim()
    assert machine.idle.block() == SLICE
    assert machine.idle.block() is None
    assert machine.idle.start() is None


def test_the_wait_is_jittered_and_no_longer_than_allowed_or_needed() -> None:
    for timeout, limit, jitter, seconds in ((60, 2.5, 0, 2.5), (3, 60, 0, 3), (60, 60, 1, SLICE * 0.85)):
        machine = Machine(jitter, limit)
        machine.join(timeout=timeout)
        machine.claim()
        assert machine.idle.block() == pytest.approx(seconds)


@pytest.mark.parametrize('hinted', [True, False])
def test_the_end_of_the_wait_is_followed_by_a_claim(hinted: bool) -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.unblocked(hinted)
    machine.claim('a')
    assert ids(ticket) == ['a']


def test_another_consumer_that_joins_claims_beside_the_wait() -> None:
    machine = Machine()
    machine.join()
    machine.claim()
    machine.idle.block()
    machine.join()
    assert machine.claim()[0] == 2
    assert machine.idle.block() is None


def test_an_alarm_is_followed_by_a_claim_at_its_time() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim(alarm=b'2.500000')
    machine.idle.block()
    assert machine.idle.timer() == machine.clock.now + 2.5
    assert machine.idle.start() is None
    machine.clock.now += 2.5
    machine.claim('a')
    assert ids(ticket) == ['a']
    assert machine.idle.timer() == math.inf


def test_a_consumers_time_runs_out() -> None:
    machine = Machine()
    ticket, other = machine.join(timeout=2), machine.join(timeout=3)
    machine.claim()
    machine.idle.block()
    assert machine.idle.timer() == machine.clock.now + 2
    machine.clock.now += 2
    assert machine.idle.start() is None
    assert isinstance(ticket.error, TorrelqueTimeoutError)
    assert not other.done


def test_time_does_not_run_out_before_the_first_look() -> None:
    machine = Machine()
    ticket = machine.join(timeout=0.01)
    operation, _ = machine.begin()
    machine.clock.now += 0.5
    machine.idle.start()
    assert not ticket.done
    end(operation, [claimed('a')])
    assert ids(ticket) == ['a']


def test_the_first_look_has_a_limit_and_its_task_goes_back() -> None:
    machine = Machine()
    ticket = machine.join(timeout=0.01)
    operation, _ = machine.begin()
    machine.clock.now += FIRST_LOOK + 0.02
    machine.idle.start()
    assert isinstance(ticket.error, TorrelqueTimeoutError)
    end(operation, [claimed('a')])
    assert machine.returned == ['a']


def test_who_got_some_when_the_time_runs_out_has_them() -> None:
    machine = Machine()
    ticket = machine.join(3, timeout=2)
    machine.claim('a', again=1)
    machine.begin()
    machine.clock.now += 2
    machine.idle.start()
    assert ids(ticket) == ['a']


def test_a_task_for_a_consumer_that_left_goes_to_the_next() -> None:
    machine = Machine()
    first, second = machine.join(), machine.join()
    operation, _ = machine.begin()
    machine.idle.leave(first)
    end(operation, [claimed('a', 'b')])
    assert ids(second) == ['a']
    assert machine.returned == ['b']


def test_what_a_consumer_that_leaves_got_goes_back() -> None:
    machine = Machine()
    ticket = machine.join(3)
    machine.claim('a', again=1)
    machine.idle.leave(ticket)
    assert machine.returned == ['a']


def test_the_last_that_leaves_passes_the_timer_on() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim(alarm=b'2')
    machine.idle.leave(ticket)
    operation, batch = machine.begin()
    assert only(batch) == ('tick', ('7', 0))
    end(operation, [b''])
    assert machine.idle.start() is None


def test_a_cap_on_dead_letters_goes_along() -> None:
    machine = Machine(cap=3)
    ticket = machine.join(timeout=5)
    operation, batch = machine.begin()
    assert only(batch) == ('claim', ('7', 'nonce.1', 1, 1, '5.000000', 3))
    end(operation, [claimed(alarm=b'2')])
    machine.idle.leave(ticket)
    _, batch = machine.begin()
    assert only(batch) == ('tick', ('7', 0, 3))


def test_a_hint_that_comes_when_all_have_left_is_put_back() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.leave(ticket)
    assert machine.idle.start() is None
    machine.idle.unblocked(hinted=True)
    operation, batch = machine.begin()
    assert only(batch) == ('tick', ('7', 0))
    end(operation, [b''])
    assert machine.idle.start() is None


def test_a_hint_that_comes_while_a_claim_serves_all_is_put_back() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim(alarm=b'2.500000')
    machine.idle.block()
    machine.clock.now += 2.5
    operation, _ = machine.begin()
    machine.idle.unblocked(hinted=True)
    end(operation, [claimed('a')])
    assert ids(ticket) == ['a']
    _, batch = machine.begin()
    assert names(batch) == ['tick']


def test_a_hint_that_a_claim_follows_is_not_put_back() -> None:
    machine = Machine()
    machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.unblocked(hinted=True)
    machine.claim('a')
    assert machine.idle.start() is None


def test_a_wait_that_ends_without_a_hint_when_all_have_left_is_no_matter() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.leave(ticket)
    machine.idle.unblocked(hinted=False)
    assert machine.idle.start() is None


@pytest.mark.parametrize('error', [Interrupted(CAUSE), TorrelqueReplyError('ERR no')])
def test_parting_may_fail(error: BaseException) -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim(alarm=b'2')
    machine.idle.leave(ticket)
    operation, _ = machine.begin()
    end_by(operation, error)
    assert machine.idle.start() is None


def test_a_wait_that_broke_is_followed_by_a_claim_and_a_pause() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.block_failed(CAUSE)
    machine.claim()
    assert not ticket.done
    assert machine.idle.block() is None
    pause = machine.idle.timer() - machine.clock.now
    assert 0 < pause < 1
    machine.clock.now += pause
    assert machine.idle.block() == SLICE


def test_waits_that_keep_breaking_fail_those_who_wait() -> None:
    machine = Machine()
    ticket = machine.join()
    for _ in range(10):
        machine.claim()
        machine.clock.now += 5
        machine.idle.block()
        machine.idle.block_failed(CAUSE)
        if ticket.done:
            break
    assert isinstance(ticket.error, TorrelqueConnectionError)
    assert ticket.error is not CAUSE
    assert machine.idle.timer() == math.inf


@pytest.mark.parametrize('jitter', [0.0, 0.5, 1.0])
def test_however_long_waits_were_cut_the_next_begins_within_a_slice(jitter: float) -> None:
    machine = Machine(jitter)
    began = machine.clock.now
    tickets = []
    while machine.clock.now < began + 600:
        tickets.append(machine.join())
        machine.claim()
        if machine.idle.block() is not None:
            machine.idle.block_failed(CAUSE)
            continue
        pause = machine.idle.timer() - machine.clock.now
        assert 0 < pause < SLICE
        machine.clock.now += pause
    machine.clock.now += SLICE / 2
    tickets.append(machine.join())
    machine.claim()
    assert machine.idle.block() is not None
    machine.idle.unblocked(hinted=True)
    machine.claim('a')
    assert [ids(ticket) for ticket in tickets if ticket.value] == [['a']]


def test_a_wait_that_is_refused_fails_those_who_wait_at_once() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.block_failed(TorrelqueReplyError('NOPERM no'))
    assert isinstance(ticket.error, TorrelqueReplyError)


def test_a_wait_that_broke_when_all_have_left_may_have_taken_a_hint_along() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.leave(ticket)
    machine.idle.block_failed(CAUSE)
    _, batch = machine.begin()
    assert names(batch) == ['tick']


def test_all_that_leave_before_their_claim_began_pass_the_hint_on() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.unblocked(hinted=True)
    operation = machine.idle.start()
    machine.idle.leave(ticket)
    assert operation is not None
    assert names(next(operation)) == ['tick']
    end(operation, [b''])
    assert machine.idle.start() is None


def test_a_claim_that_is_cut_off_is_settled_and_fails_each_of_those_who_wait() -> None:
    machine = Machine()
    first, second = machine.join(), machine.join()
    operation, _ = machine.begin()
    assert only(operation.throw(Interrupted(CAUSE))) == ('settle', ('7', 'nonce.1', 1))
    end(operation, [[b'aborted']])
    assert isinstance(first.error, TorrelqueConnectionError)
    assert isinstance(second.error, TorrelqueConnectionError)
    assert first.error is not second.error
    assert machine.idle.start() is None


def test_a_claim_that_is_cut_off_leaves_who_got_some_with_them() -> None:
    machine = Machine()
    ticket = machine.join(3)
    machine.claim('a', again=1)
    operation, _ = machine.begin()
    operation.throw(Interrupted(CAUSE))
    end(operation, [[b'aborted']])
    assert ids(ticket) == ['a']


def test_a_claim_that_is_refused_fails_those_who_wait() -> None:
    machine = Machine()
    ticket = machine.join()
    operation, _ = machine.begin()
    end(operation, [TorrelqueReplyError('OOM no')])
    assert isinstance(ticket.error, TorrelqueReplyError)


def test_closing_fails_those_who_wait_and_puts_back_a_hint_that_the_wait_may_have_taken() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim()
    machine.idle.block()
    machine.idle.close()
    assert isinstance(ticket.error, TorrelqueError)
    assert 'closed' in str(ticket.error)
    _, batch = machine.begin()
    assert names(batch) == ['tick']


def test_closing_when_nobody_waits_sends_nothing() -> None:
    machine = Machine()
    ticket = machine.join()
    machine.claim('a')
    assert ids(ticket) == ['a']
    machine.idle.close()
    assert machine.idle.start() is None


def test_a_claim_under_way_when_all_is_closed_gives_its_tasks_back() -> None:
    machine = Machine()
    machine.join()
    operation, _ = machine.begin()
    machine.idle.close()
    end(operation, [claimed('a')])
    assert machine.returned == ['a']


# A claim behind the wait ----------------------------------------------------------------------------------------------


class Behind(Machine):
    """One whose driver sends a claim behind each wait, and which waits now."""

    def __init__(self, want: int = 1, timeout: float = math.inf) -> None:
        super().__init__()
        self.idle = Consumers(lanes(), self.clock, lambda: 0.0, self._give_back, 60.0, behind=True)
        self.ticket = self.join(want, timeout)
        assert self.idle.behind is None
        self.claim()
        seconds = self.idle.block()
        assert seconds is not None
        self.seconds = seconds

    @property
    def behind(self) -> tuple[str, tuple[Any, ...]]:
        """The call behind the wait."""
        call = self.idle.behind
        assert call is not None
        return only((call,))


def test_the_next_claim_is_behind_the_wait() -> None:
    machine = Behind(timeout=20)
    assert machine.behind == ('claim', ('7', 'nonce.1', 2, 1, '12.000000')), 'it may run at the end of the slice'
    machine.idle.unblocked(hinted=True, reply=claimed('a'))
    assert ids(machine.ticket) == ['a']
    assert machine.idle.start() is None
    assert machine.idle.block() is None


def test_no_more_than_two_tasks_are_claimed_behind_a_wait() -> None:
    machine = Behind(want=50)
    assert machine.behind[1][3] == MOST_BEHIND == 2
    machine.idle.unblocked(hinted=True, reply=claimed('a', 'b'))
    assert not machine.ticket.done
    assert machine.claim('c')[0] == 48
    assert ids(machine.ticket) == ['a', 'b', 'c']


def test_a_slice_without_a_task_is_followed_by_the_next() -> None:
    machine = Behind()
    machine.idle.unblocked(hinted=False, reply=claimed())
    assert machine.idle.start() is None
    assert machine.idle.block() == SLICE
    assert machine.behind[1][2] == 3


def test_the_lease_of_a_task_claimed_behind_a_wait_is_counted_from_when_the_server_ran_the_claim() -> None:
    machine = Behind()  # the claim before it was sent and run at the same time here, at 1000 there
    reply = claimed('a')
    reply[3] = b'1005.000000'
    machine.clock.now += 6
    machine.idle.unblocked(hinted=True, reply=reply)
    (task,) = machine.ticket.value
    assert task.expires == machine.clock.now - 1 + (task.deadline - 1005)


@pytest.mark.parametrize(('time', 'expected'), [(b'2000.000000', 6), (b'900.000000', 0)])
def test_a_lease_is_counted_neither_from_later_than_the_answer_nor_from_earlier_than_the_sending(
    time: bytes, expected: float
) -> None:
    machine = Behind()
    sent = machine.clock.now
    reply = claimed('a')
    reply[3] = time
    machine.clock.now += 6
    machine.idle.unblocked(hinted=True, reply=reply)
    (task,) = machine.ticket.value
    assert task.expires == sent + expected + task.deadline - float(time)


@pytest.mark.parametrize('reply', [None, TorrelqueReplyError('NOSCRIPT'), TorrelqueReplyError('READONLY')])
def test_a_claim_behind_a_wait_that_was_not_answered_is_sent_again(reply: TorrelqueReplyError | None) -> None:
    machine = Behind()
    behind = machine.behind
    machine.idle.unblocked(hinted=True, reply=reply)
    operation, batch = machine.begin()
    assert only(batch) == behind
    end(operation, [claimed('a')])
    assert ids(machine.ticket) == ['a']


def test_a_claim_behind_a_wait_that_broke_is_sent_again() -> None:
    machine = Behind()
    behind = machine.behind
    machine.idle.block_failed(CAUSE)
    operation, batch = machine.begin()
    assert only(batch) == behind
    end(operation, [claimed('a')])
    assert ids(machine.ticket) == ['a']


def test_waits_that_keep_breaking_fail_those_who_wait_though_the_claims_behind_them_are_answered() -> None:
    machine = Behind()
    for failures in range(1, MAX_FAILURES + 1):
        assert not machine.ticket.done
        machine.idle.block_failed(CAUSE)
        if failures < MAX_FAILURES:
            machine.claim()
            assert machine.idle.block() is None, 'the pauses between waits remain'
            machine.clock.now = machine.idle.timer()
            assert machine.idle.block() == SLICE
    assert isinstance(machine.ticket.error, TorrelqueConnectionError)


def test_a_wait_that_is_refused_fails_those_who_wait_and_the_claim_behind_it_is_settled() -> None:
    machine = Behind()
    machine.idle.block_failed(TorrelqueReplyError('WRONGTYPE'))
    assert isinstance(machine.ticket.error, TorrelqueReplyError)
    _, batch = machine.begin()
    assert only(batch) == ('settle', ('7', 'nonce.1', 2))


def test_a_lane_that_is_lost_behind_a_wait_is_made_again() -> None:
    machine = Behind()
    machine.idle.unblocked(hinted=False, reply=[b'NOLANE'])
    operation = machine.idle.start()
    assert operation is not None
    assert names(next(operation)) == ['mint']
    assert only(operation.send([b'8'])) == ('claim', ('8', 'nonce.2', 1, *machine_args()))
    end(operation, [claimed('a')])
    assert ids(machine.ticket) == ['a']


def machine_args() -> tuple[Any, ...]:
    return (1, f'{FOREVER:.6f}')


@pytest.mark.parametrize('closes', [False, True])
def test_a_claim_behind_a_wait_is_settled_if_nobody_waits_any_more(closes: bool) -> None:
    machine = Behind()
    if closes:
        machine.idle.close()
    else:
        machine.idle.leave(machine.ticket)
        machine.idle.block_failed(CAUSE)
    operation, batch = machine.begin()
    assert only(batch) == ('settle', ('7', 'nonce.1', 2))
    end(operation, [[b'aborted']])
    operation, batch = machine.begin()
    assert only(batch) == ('tick', ('7', 0)), 'the wait may have taken a hint along'
    end(operation, [b''])
    assert machine.idle.start() is None


def test_what_is_claimed_behind_a_wait_for_nobody_is_given_back() -> None:
    machine = Behind()
    machine.idle.leave(machine.ticket)
    assert machine.idle.start() is None
    machine.idle.unblocked(hinted=True, reply=claimed('a'))
    assert machine.returned == ['a']
    assert machine.idle.start() is None


def test_who_joins_during_a_wait_with_a_claim_behind_it_claims_on_another_lane() -> None:
    machine = Behind()
    late = machine.join()
    operation = machine.idle.start()
    assert operation is not None
    assert names(next(operation)) == ['mint']
    assert only(operation.send([b'8'])) == ('claim', ('8', 'nonce.2', 1, 2, '0.000000')), 'it waits for no event'
    machine.idle.unblocked(hinted=True, reply=claimed('b'))
    end(operation, [claimed('a')])
    assert ids(machine.ticket) == ['a'] or ids(machine.ticket) == ['b']
    assert late.done


def test_an_alarm_during_a_wait_with_a_claim_behind_it_is_a_tick() -> None:
    machine = Machine()
    machine.idle = Consumers(lanes(), machine.clock, lambda: 0.0, machine._give_back, 60.0, behind=True)
    ticket = machine.join()
    machine.claim(alarm=b'2.5')
    assert machine.idle.block() == SLICE
    assert machine.idle.timer() == machine.clock.now + 2.5
    machine.clock.now += 2.5
    operation, batch = machine.begin()
    assert only(batch) == ('tick', ('7', f'{FOREVER:.6f}'))
    end(operation, [b'1.5'])
    assert machine.idle.timer() == machine.clock.now + 1.5
    machine.idle.unblocked(hinted=True, reply=claimed('a'))
    assert ids(ticket) == ['a']


def test_a_tick_that_fails_is_told() -> None:
    machine = Machine()
    machine.idle = Consumers(lanes(), machine.clock, lambda: 0.0, machine._give_back, 60.0, behind=True)
    ticket = machine.join()
    machine.claim(alarm=b'2.5')
    assert machine.idle.block() == SLICE
    machine.clock.now += 2.5
    operation, _ = machine.begin()
    with pytest.raises(StopIteration):
        operation.throw(Interrupted(CAUSE))
    assert isinstance(ticket.error, TorrelqueConnectionError)
