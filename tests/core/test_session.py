"""All that one queue object decides."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import pytest

from tests.core.support import KEYS, SCRIPTS, Clock, claimed, end, names, only
from torrelque.core.commands import CANCEL, ENQUEUE, EXTEND, GIVEBACK, RELEASE, Outcome, cancel_item, claim_item
from torrelque.core.commands import enqueue_item as full_enqueue_item
from torrelque.core.machine import Turn
from torrelque.core.merging import LARGE, Ticket
from torrelque.core.models import Receipt
from torrelque.core.protocol import Interrupted, Operation
from torrelque.core.session import BULK, MAX_IN_FLIGHT, Session
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError, TorrelqueTooLargeError

CAUSE = TorrelqueConnectionError('gone')


def enqueue_item(task_id: str) -> tuple[Any, ...]:
    return full_enqueue_item(task_id, b'data', 300, None, None, b'')


def nobody() -> None:
    pass


class Driver:
    """A session, of which operations are run by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.session = Session(SCRIPTS, KEYS, nonce='nonce', clock=self.clock, jitter=lambda: 0.0)
        self._minted = 0

    def enqueue(self, *ids: str) -> Ticket:
        return self.session.submit(ENQUEUE, [enqueue_item(task_id) for task_id in ids], nobody)

    def start(self) -> list[tuple[Operation[None], tuple[str, tuple[Any, ...]]]]:
        """What is to run now, past minting lanes: each operation with the call it makes."""
        started = []
        self.turn = self.session.poll()
        for operation in chain.from_iterable(self.turn.groups):
            batch = next(operation)
            if names(batch) == ['mint']:
                self._minted += 1
                batch = operation.send([b'%d' % self._minted])
            started.append((operation, only(batch)))
        return started

    @property
    def until(self) -> float:
        """When it wants to be polled again, having nothing to run now."""
        assert self.start() == []
        return self.turn.until

    def pass_time(self) -> None:
        """Until the session wants to be asked again."""
        assert self.clock.now < self.until < math.inf
        self.clock.now = self.until

    def one(self) -> tuple[Operation[None], tuple[str, tuple[Any, ...]]]:
        (started,) = self.start()
        return started


def ids(ticket: Ticket) -> list[str]:
    assert ticket.done
    return [task.receipt.id for task in ticket.value]


def test_large_groups_are_run_each_by_itself_and_the_rest_together() -> None:
    driver = Driver()
    bulks = [driver.enqueue(*(f'{name}{number}' for number in range(BULK))) for name in 'abc']
    single = driver.session.submit(RELEASE, [claim_item(Receipt('d', 'token', 1))], nobody)
    *started, rest = driver.start()
    assert [len(group) for group in driver.turn.groups] == [1, 1, 1]
    assert [call[0] for _, call in started] == ['enqueue'] * 2  # of 200 and 100, as one call takes 250
    assert rest[1][0] == 'release'
    for operation, (_, args) in started:
        end(operation, [[b'OK', b'n' * ((len(args) - 8) // 2)]])
    end(rest[0], [[b'OK', b'o']])
    assert all(ticket.value == [Outcome.NEW] * BULK for ticket in bulks)
    assert single.value == [Outcome.OK]


def test_a_large_item_is_run_by_itself() -> None:
    driver = Driver()
    driver.session.submit(ENQUEUE, [full_enqueue_item('a', b'x' * LARGE, 300, None, None, b'')], nobody)
    driver.enqueue('b')
    assert len(driver.start()) == 2
    assert len(driver.turn.groups) == 2


def test_few_items_are_no_bulk() -> None:
    driver = Driver()
    tickets = [driver.enqueue(f'{number}') for number in range(BULK - 1)]
    driver.session.submit(CANCEL, [cancel_item('b')], nobody)
    assert len(driver.start()) == 2
    assert len(driver.turn.groups) == 1
    assert not any(ticket.done for ticket in tickets)


def test_nothing_asked_for_nothing_to_do() -> None:
    driver = Driver()
    assert driver.start() == []
    assert driver.turn == Turn([], (), (), math.inf)


def test_concurrent_calls_of_a_verb_are_one_call_and_each_gets_its_own_answers() -> None:
    driver = Driver()
    first, second = driver.enqueue('a', 'b'), driver.enqueue('c')
    operation, (name, args) = driver.one()
    assert name == 'enqueue'
    assert args == ('1', 'nonce.1', 1, *ENQUEUE.arguments([enqueue_item('a'), enqueue_item('b'), enqueue_item('c')]))
    end(operation, [[b'OK', b'nen']])
    assert first.value == [Outcome.NEW, Outcome.EXISTING]
    assert second.value == [Outcome.NEW]


def test_each_verb_has_a_call_and_a_lane_of_its_own() -> None:
    driver = Driver()
    driver.enqueue('a')
    driver.session.submit(CANCEL, [cancel_item('b')], nobody)
    (_, (first, first_args)), (_, (second, second_args)) = driver.start()
    assert (first, second) == ('enqueue', 'cancel')
    assert (first_args[0], second_args[0]) == ('1', '2')


def test_a_verb_that_is_repeatable_of_itself_takes_no_lane() -> None:
    driver = Driver()
    ticket = driver.session.submit(EXTEND, [(*claim_item('a'), '')], nobody)
    operation, call = driver.one()
    assert call == ('extend', ('', '', '', b'a', '', '', ''))
    end(operation, [[b'1300.000000']])
    assert ticket.value == [1300.0]


def test_whoever_left_before_the_call_is_not_in_it() -> None:
    driver = Driver()
    gone, there = driver.enqueue('a'), driver.enqueue('b')
    driver.session.leave(gone)
    operation, (_, args) = driver.one()
    assert args[3:] == ENQUEUE.arguments([enqueue_item('b')])
    end(operation, [[b'OK', b'n']])
    assert there.done
    assert not gone.done


def test_what_is_under_way_is_finished_for_the_others() -> None:
    driver = Driver()
    gone, there = driver.enqueue('a'), driver.enqueue('b')
    operation, _ = driver.one()
    driver.session.leave(gone)
    end(operation, [[b'OK', b'nn']])
    assert there.value == [Outcome.NEW]
    assert driver.start() == []


def test_no_more_than_so_many_calls_are_under_way() -> None:
    driver = Driver()
    tickets = [driver.session.submit(CANCEL, [cancel_item('a')], nobody) for _ in range(MAX_IN_FLIGHT + 1)]
    started = driver.start()
    assert len(started) == MAX_IN_FLIGHT
    assert driver.start() == []
    end(started[0][0], [[b'OK', b'o']])
    end(driver.one()[0], [[b'OK', b'o']])
    assert [ticket.done for ticket in tickets] == [True, *[False] * (MAX_IN_FLIGHT - 1), True]


def test_an_error_is_told_to_each_caller_as_an_instance_of_its_own() -> None:
    driver = Driver()
    first, second = driver.enqueue('a'), driver.enqueue('b')
    operation, _ = driver.one()
    end(operation, [TorrelqueReplyError('OOM no')])
    assert isinstance(first.error, TorrelqueReplyError)
    assert isinstance(second.error, TorrelqueReplyError)
    assert first.error is not second.error
    assert first.error.code == 'OOM'


def test_a_call_that_was_cut_off_is_settled_and_answers_if_it_was_done() -> None:
    driver = Driver()
    ticket = driver.enqueue('a')
    operation, _ = driver.one()
    assert only(operation.throw(Interrupted(CAUSE))) == ('settle', ('1', 'nonce.1', 1))
    end(operation, [[b'finished', b'n']])
    assert ticket.value == [Outcome.NEW]


def cut_off(driver: Driver) -> Ticket:
    """A call whose settling was cut off too."""
    ticket = driver.enqueue('a')
    operation, _ = driver.one()
    operation.throw(Interrupted(CAUSE))
    with pytest.raises(StopIteration):
        operation.throw(Interrupted(CAUSE))
    return ticket


def test_what_cannot_be_settled_is_settled_later() -> None:
    driver = Driver()
    ticket = cut_off(driver)
    assert isinstance(ticket.error, TorrelqueConnectionError)
    assert driver.start() == []
    driver.pass_time()
    operation, call = driver.one()
    assert call == ('settle', ('1', 'nonce.1', 1))
    assert driver.until == math.inf
    end(operation, [[b'aborted']])
    assert driver.until == math.inf
    assert driver.start() == []


def test_settling_is_tried_again_ever_more_slowly_but_every_five_seconds() -> None:
    driver = Driver()
    cut_off(driver)
    pauses = []
    for _ in range(10):
        pauses.append(driver.until - driver.clock.now)
        driver.pass_time()
        operation, _ = driver.one()
        with pytest.raises(StopIteration):
            operation.throw(Interrupted(CAUSE))
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == pytest.approx(5)


def test_a_call_that_gets_through_is_followed_by_settling() -> None:
    driver = Driver()
    cut_off(driver)
    driver.enqueue('b')
    operation, _ = driver.one()
    end(operation, [[b'OK', b'n']])
    assert driver.one()[1][0] == 'settle'


def test_a_waiting_consumers_claim_that_cannot_be_settled_is_settled_later() -> None:
    driver = Driver()
    ticket = driver.session.dequeue(1, math.inf, nobody)
    operation, call = driver.one()
    assert call[0] == 'claim'
    operation.throw(Interrupted(CAUSE))
    with pytest.raises(StopIteration):
        operation.throw(Interrupted(CAUSE))
    assert isinstance(ticket.error, TorrelqueConnectionError)
    driver.pass_time()
    assert driver.one()[1] == ('settle', ('1', 'nonce.1', 1))


def test_a_waiting_consumers_claim_that_gets_through_is_followed_by_settling() -> None:
    driver = Driver()
    cut_off(driver)
    driver.session.dequeue(1, math.inf, nobody)
    operation, _ = driver.one()
    end(operation, [claimed('a')])
    assert driver.one()[1][0] == 'settle'


def test_dequeue_waits_on_the_hint() -> None:
    driver = Driver()
    ticket = driver.session.dequeue(1, math.inf, nobody)
    operation, call = driver.one()
    assert call[0] == 'claim'
    end(operation, [claimed()])
    assert driver.start() == []
    (wait,) = driver.turn.waits
    assert wait.key == KEYS['wake']
    wait.then.ended(b'0')
    operation, _ = driver.one()
    end(operation, [claimed('a')])
    assert ids(ticket) == ['a']


def test_dequeue_nowait_takes_what_is_there() -> None:
    driver = Driver()
    ticket = driver.session.dequeue_nowait(3, nobody)
    operation, (name, args) = driver.one()
    assert (name, args[3:]) == ('claim', (3, '0.000000'))
    end(operation, [claimed('a', 'b')])
    assert ids(ticket) == ['a', 'b']


def test_dequeue_nowait_of_nothing_is_empty() -> None:
    driver = Driver()
    ticket = driver.session.dequeue_nowait(3, nobody)
    operation, _ = driver.one()
    end(operation, [claimed()])
    assert ids(ticket) == []


def test_dequeue_nowait_claims_again_where_a_budget_ran_out() -> None:
    driver = Driver()
    ticket = driver.session.dequeue_nowait(3, nobody)
    operation, _ = driver.one()
    assert only(operation.send([claimed('a', again=1)])) == ('claim', ('1', 'nonce.1', 2, 2, '0.000000'))
    end(operation, [claimed('b')])
    assert ids(ticket) == ['a', 'b']


def test_what_dequeue_nowait_got_before_it_was_cut_off_is_handed_out() -> None:
    driver = Driver()
    ticket = driver.session.dequeue_nowait(3, nobody)
    operation, _ = driver.one()
    operation.send([claimed('a', again=1)])
    assert only(operation.throw(Interrupted(CAUSE))) == ('settle', ('1', 'nonce.1', 2))
    end(operation, [[b'aborted']])
    assert ids(ticket) == ['a']


def test_dequeue_nowait_that_was_cut_off_fails() -> None:
    driver = Driver()
    ticket = driver.session.dequeue_nowait(3, nobody)
    operation, _ = driver.one()
    operation.throw(Interrupted(CAUSE))
    end(operation, [[b'aborted']])
    assert isinstance(ticket.error, TorrelqueConnectionError)


def given_back(driver: Driver) -> tuple[Operation[None], tuple[Any, ...]]:
    operation, (name, args) = driver.one()
    assert name == 'giveback'
    return operation, args[3:]


def test_a_task_for_a_caller_that_left_is_given_back() -> None:
    driver = Driver()
    ticket = driver.session.dequeue_nowait(1, nobody)
    operation, _ = driver.one()
    driver.session.leave(ticket)
    end(operation, [claimed('a')])
    assert given_back(driver)[1] == (b'a', '1:nonce.1:1', 1)


def test_dequeue_nowait_waits_for_a_task_that_is_given_back() -> None:
    driver = Driver()
    left = driver.session.dequeue(1, math.inf, nobody)
    operation, _ = driver.one()
    driver.session.leave(left)
    ticket = driver.session.dequeue_nowait(1, nobody)
    taking, _ = driver.one()
    taking.send([claimed()])  # claims again, because the first claim may hold a task
    end(operation, [claimed('a')])
    giving, _ = given_back(driver)
    end(taking, [claimed()])
    assert not ticket.done
    end(giving, [[b'OK', b'o']])
    operation, (name, _) = driver.one()
    assert name == 'claim'
    end(operation, [claimed('a')])
    assert ids(ticket) == ['a']


def test_dequeue_nowait_waits_once() -> None:
    driver = Driver()
    for task_id in 'ab':
        left = driver.session.dequeue(1, math.inf, nobody)
        operation, _ = driver.one()
        end(operation, [claimed(task_id)])
        driver.session.leave(left)
        giving, _ = given_back(driver)
        if task_id == 'a':
            ticket = driver.session.dequeue_nowait(1, nobody)
            taking, _ = driver.one()
            end(taking, [claimed()])
            end(giving, [[b'OK', b'l']])
            taking, _ = driver.one()
    end(taking, [claimed()])
    assert ids(ticket) == []


def test_a_task_that_came_as_its_caller_left_is_given_back() -> None:
    driver = Driver()
    ticket = driver.session.dequeue(1, math.inf, nobody)
    operation, _ = driver.one()
    end(operation, [claimed('a')])
    driver.session.leave(ticket)
    assert given_back(driver)[1] == (b'a', '1:nonce.1:1', 1)


def test_answers_of_other_verbs_are_not_given_back() -> None:
    driver = Driver()
    ticket = driver.enqueue('a')
    operation, _ = driver.one()
    end(operation, [[b'OK', b'n']])
    driver.session.leave(ticket)
    assert driver.start() == []


def test_a_taker_that_left_before_its_call_makes_none() -> None:
    driver = Driver()
    driver.session.leave(driver.session.dequeue_nowait(1, nobody))
    assert driver.start() == []


def test_a_giveback_that_was_cut_off_is_made_again_later() -> None:
    driver = Driver()
    driver.session.submit(GIVEBACK, [claim_item(Receipt('a', '9:nonce:9', 1))], nobody)
    operation, _ = given_back(driver)
    operation.throw(Interrupted(CAUSE))
    end(operation, [[b'aborted']])
    driver.pass_time()
    operation, call = driver.one()
    assert call == ('giveback', ('1', 'nonce.1', 2, b'a', '9:nonce:9', 1))
    end(operation, [[b'OK', b'o']])
    assert driver.until == math.inf


def test_what_is_cut_off_during_the_last_step_of_a_repair_is_settled_after_it() -> None:
    driver = Driver()
    driver.session.submit(GIVEBACK, [claim_item(Receipt('a', '9:nonce:9', 1))], nobody)
    operation, _ = given_back(driver)
    operation.throw(Interrupted(CAUSE))
    end(operation, [[b'aborted']])
    driver.pass_time()
    repair, (name, _) = driver.one()
    assert name == 'giveback'
    cut_off(driver)
    end(repair, [[b'OK', b'o']])
    assert driver.one()[1][0] == 'settle'


def test_closing_amid_a_repair_forgets_no_claim() -> None:
    driver = Driver()
    giveback = [claim_item(Receipt(task_id, '9:nonce:9', 1)) for task_id in 'ab']
    driver.session.submit(GIVEBACK, giveback[:1], nobody)
    operation, _ = given_back(driver)
    operation.throw(Interrupted(CAUSE))
    end(operation, [[b'aborted']])
    driver.pass_time()
    first, _ = driver.one()
    driver.session.submit(GIVEBACK, giveback[1:], nobody)
    driver.session.close()
    (second, _), (cut, _) = driver.start()
    cut.throw(Interrupted(CAUSE))
    end(cut, [[b'aborted']])
    assert only(first.send([[b'OK', b'o']]))[1][3] == b'b'
    assert only(second.send([[b'OK', b'l']]))[1][3] == b'b'  # either may fail now
    end(first, [[b'OK', b'o']])
    end(second, [[b'OK', b'l']])


def test_closing_sends_what_was_asked_for() -> None:
    driver = Driver()
    ticket = driver.session.submit(RELEASE, [(*claim_item('a'), 3, '', b'')], nobody)
    driver.session.close()
    operation, _ = driver.one()
    end(operation, [[b'OK', b'o']])
    assert ticket.value == [Outcome.OK]


def test_closing_settles_what_is_left_at_once() -> None:
    driver = Driver()
    cut_off(driver)
    driver.session.close()
    assert driver.one()[1][0] == 'settle'


def test_closing_fails_those_who_wait() -> None:
    driver = Driver()
    ticket = driver.session.dequeue(1, math.inf, nobody)
    operation, _ = driver.one()
    end(operation, [claimed()])
    driver.session.close()
    assert ticket.error is not None
    assert 'closed' in str(ticket.error)


def test_aborting_fails_whose_calls_have_not_begun() -> None:
    driver = Driver()
    under_way = driver.enqueue('a')
    operation, _ = driver.one()
    waiting = [
        driver.enqueue('b'),
        driver.session.dequeue(1, math.inf, nobody),
        driver.session.dequeue_nowait(1, nobody),
    ]
    driver.session.abort(CAUSE)
    errors = [ticket.error for ticket in waiting]
    assert all(isinstance(error, TorrelqueConnectionError) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert driver.start() == []
    end(operation, [[b'OK', b'n']])
    assert under_way.value == [Outcome.NEW]


def too_large() -> TorrelqueTooLargeError:
    return TorrelqueTooLargeError('2 MB', 2_000_000, 1_000_000)


def test_of_a_merged_call_that_is_too_large_only_the_offender_fails() -> None:
    driver = Driver()
    tickets = [driver.enqueue('a', 'b'), driver.enqueue('c'), driver.enqueue('d')]
    operation, (_, args) = driver.one()
    made: list[list[bytes]] = []
    while not all(ticket.done for ticket in tickets):
        made.append([word for word in args if word in (b'a', b'b', b'c', b'd')])
        try:
            if b'c' in made[-1]:
                assert only(operation.send([too_large()]))[0] == 'settle'
                batch = operation.send([[b'aborted']])
            else:
                batch = operation.send([[b'OK', b'n' * len(made[-1])]])
        except StopIteration:
            break
        _, args = only(batch)
    assert made == [[b'a', b'b', b'c', b'd'], [b'a', b'b'], [b'c', b'd'], [b'c'], [b'd']]
    assert [ticket.done for ticket in tickets] == [True] * 3
    assert tickets[0].value == [Outcome.NEW, Outcome.NEW]
    assert isinstance(tickets[1].error, TorrelqueTooLargeError)
    assert tickets[2].value == [Outcome.NEW]


def test_of_a_ticket_that_is_too_large_the_offending_item_has_an_error_for_an_answer() -> None:
    driver = Driver()
    ticket = driver.enqueue('a', 'c')
    operation, _ = driver.one()
    operation.send([too_large()])
    assert only(operation.send([[b'aborted']]))[1][8] == b'a'
    assert only(operation.send([[b'OK', b'n']]))[1][8] == b'c'
    operation.send([too_large()])
    with pytest.raises(StopIteration):
        operation.send([[b'aborted']])
    new, error = ticket.value
    assert new is Outcome.NEW
    assert isinstance(error, TorrelqueTooLargeError)
