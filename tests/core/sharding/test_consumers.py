"""Consumers that wait for several shards: one survey and one wait a server, claims from each shard in its turn."""

from __future__ import annotations

import math

import pytest

from tests.core.sharding.support import GONE, KEYS, SCRIPTS, SHARDS, Machine, answer, found, ids
from tests.core.support import end, end_by, names
from torrelque.core.consumers import MAX_FAILURES, SLICE
from torrelque.core.keys import Keys, shard_name
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Batch, Interrupted
from torrelque.core.sharding.consumers import FAIRNESS, REGISTERED
from torrelque.core.sharding.partners import LOOKED_AT
from torrelque.errors import TorrelqueError, TorrelqueReplyError, TorrelqueTimeoutError


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_each_server_is_surveyed_and_those_shards_claimed_from_that_have_tasks(machine: Machine) -> None:
    ticket = machine.join(want=5)
    running = machine.start()
    assert set(running) == {(0, 'survey'), (2, 'survey')}
    operation, args = running[0, 'survey']
    assert args[0] == REGISTERED * 1000
    assert args[-2:] == (b'{q:0}', b'{q:1}')
    assert [args[-2] + tail for tail in args[3:-2]] == [KEYS[0][name] for name in LOOKED_AT]
    end(operation, found('0 3'))
    claims = machine.start()
    assert set(claims) == {(1, 'claim')}
    operation, args = claims[1, 'claim']
    assert args[3:] == (3, '86400.000000')  # no more than were seen there
    answer(operation, 'a', 'b', 'c')
    assert not ticket.done
    end(running[2, 'survey'][0], found('0 9'))
    claims = machine.start()
    assert {key: args[3] for key, (_, args) in claims.items()} == {(3, 'claim'): 2}  # shard 1 had its turn
    answer(claims[3, 'claim'][0], 'd', 'e')
    assert ids(ticket) == ['a', 'b', 'c', 'd', 'e']


def test_an_event_that_is_due_while_enough_is_asked_for_elsewhere_is_no_reason_to_come_back(machine: Machine) -> None:
    """The driver would come back again and again until that is answered."""
    machine.join()
    machine.survey('1 2', '0 0')
    answer(machine.start()[0, 'claim'][0], alarm=b'0.500000')
    claims = machine.start()
    assert set(claims) == {(1, 'claim')}
    assert machine.spread.timer() == machine.clock.now + 0.5
    machine.clock.now += 0.5
    assert machine.start() == {}
    assert machine.spread.timer() > machine.clock.now
    answer(claims[1, 'claim'][0])
    assert (0, 'claim') in machine.start()


def test_with_nothing_anywhere_there_is_one_wait_a_server(machine: Machine) -> None:
    machine.join()
    waits = machine.rest()
    assert [(wait.key, wait.seconds) for wait in waits] == [(KEYS[0]['ring'], SLICE), (KEYS[2]['ring'], SLICE)]
    assert machine.spread.waits() == []
    assert machine.spread.timer() == math.inf


def test_no_wait_on_a_server_with_work_left(machine: Machine) -> None:
    machine.join()
    machine.survey('1 0', '0 0')
    assert set(machine.start()) == {(0, 'claim')}
    assert [wait.key for wait in machine.spread.waits()] == [KEYS[2]['ring']]


def test_a_shard_that_rings_is_claimed_from_without_a_survey(machine: Machine) -> None:
    ticket = machine.join()
    here, there = machine.rest()
    here.then.ended(KEYS[1]['wake'])
    claims = machine.start()
    assert set(claims) == {(1, 'claim')}
    answer(claims[1, 'claim'][0], 'a')
    assert ids(ticket) == ['a']
    there.then.ended(KEYS[3]['wake'] + b'+')  # the second member of a shard with several
    assert set(machine.start()) == {(3, 'tick')}  # nobody waits here: others are to be rung


def test_after_a_slice_that_server_is_surveyed_again(machine: Machine) -> None:
    machine.join()
    here, _ = machine.rest()
    machine.clock.now += SLICE
    here.then.ended(None)
    assert set(machine.start()) == {(0, 'survey')}


def test_a_wait_is_not_begun_on_an_old_survey(machine: Machine) -> None:
    ticket = machine.join()
    machine.survey('1 0', '0 0')
    claims = machine.start()
    machine.clock.now += SLICE + 1  # so slow a claim
    answer(claims[0, 'claim'][0])
    assert not ticket.done
    assert machine.spread.waits() == []
    assert machine.spread.timer() <= machine.clock.now
    assert set(machine.start()) == {(0, 'survey'), (2, 'survey')}


def test_an_unknown_member_means_a_survey(machine: Machine) -> None:
    machine.join()
    here, _ = machine.rest()
    here.then.ended(b'')
    assert set(machine.start()) == {(0, 'survey')}


def test_shards_take_turns(machine: Machine) -> None:
    served = []
    machine.join()
    machine.survey('9 9', '9 9')
    for _ in range(8):
        (((shard, _), (operation, _)),) = machine.start().items()
        served.append(shard)
        answer(operation, f'task {len(served)}')
        machine.join()
    assert served == [0, 1, 2, 3, 0, 1, 2, 3]


def test_busy_consumers_look_at_the_others_now_and_then(machine: Machine) -> None:
    machine.join()
    machine.survey('9 0', '0 0')
    answer(machine.start()[0, 'claim'][0], 'a')
    running = {}
    for server in (0, 2):  # in turn
        machine.clock.now += FAIRNESS + 0.01
        machine.join()
        running = machine.start()
        assert set(running) == {(0, 'claim'), (server, 'survey')}
        end(running[server, 'survey'][0], found('9 0' if not server else '0 0'))
        answer(running[0, 'claim'][0], 'b')


def test_no_more_is_asked_for_than_is_wanted(machine: Machine) -> None:
    machine.join(want=7)
    machine.survey('5 5', '5 5')
    running = machine.start()
    assert {key: args[3] for key, (_, args) in running.items()} == {(0, 'claim'): 5, (1, 'claim'): 2}
    assert machine.start() == {}


def test_the_event_of_a_shard_is_minded(machine: Machine) -> None:
    machine.join()
    machine.survey('0 e', '0 0')
    answer(machine.start()[1, 'claim'][0], alarm=b'2.500000')
    assert machine.spread.timer() == machine.clock.now + 2.5
    machine.spread.waits()
    machine.clock.now += 2.5
    assert set(machine.start()) == {(1, 'claim')}


def test_who_does_not_stay_is_told_after_a_look(machine: Machine) -> None:
    ticket = machine.join(3, stays=False)
    machine.survey('0 0', '0 0')
    assert ids(ticket) == []
    ticket = machine.join(3, stays=False)
    machine.survey('0 1', '0 0')
    operation, args = machine.start()[1, 'claim']
    assert args[3:] == (1, '0.000000')
    answer(operation, 'a')
    assert set(machine.start()) == {(1, 'claim')}  # it brought all that was asked for: there may be more
    assert not ticket.done


def test_who_does_not_stay_is_given_what_all_servers_have(machine: Machine) -> None:
    """Not only what the one has that answers first."""
    taker, waiter = machine.join(want=10, stays=False), machine.join()
    running = machine.start()
    end(running[0, 'survey'][0], found('2 0'))
    answer(machine.start()[0, 'claim'][0], 'a', 'b')
    (claim,) = machine.start().values()  # as it got all that it asked for, there may be more
    answer(claim[0])
    assert not taker.done
    end(running[2, 'survey'][0], found('0 4'))
    answer(machine.start()[3, 'claim'][0], 'c', 'd', 'e', 'f')
    answer(machine.start()[3, 'claim'][0])
    assert ids(taker) == list('abcdef')
    assert not waiter.done


def test_what_a_survey_finds_while_a_claim_is_in_flight_is_not_forgotten(machine: Machine) -> None:
    """The claim may have been executed before it came."""
    first = machine.join()
    machine.survey('1 0', '0 0')
    (claim,) = machine.start().values()
    taker = machine.join(want=3, stays=False)
    machine.survey('2 0', '0 0')
    answer(claim[0])
    operation, args = machine.start()[0, 'claim']
    assert args[3] == 2
    answer(operation, 'a', 'b')
    answer(machine.start()[0, 'claim'][0])
    assert ids(first) == ['a']
    assert ids(taker) == ['b']


def test_shards_that_came_while_there_was_enough_to_do_are_surveyed(machine: Machine) -> None:
    machine.join()
    machine.survey('1 0', '0 0')
    for number in range(3):
        answer(machine.start()[0, 'claim'][0], f'{number}')
        machine.join()
    (claim,) = machine.start().values()
    KEYS.append(Keys.of_queue(shard_name('q', 4)))
    try:
        machine.places.append('b')
        machine.spread.add(Lanes(SCRIPTS, KEYS[4], 'n4'), KEYS[4])
        surveyed: set[int] = set()
        for number in range(4):
            machine.clock.now += FAIRNESS * 1.1
            answer(claim[0], f'more {number}')
            machine.join()
            running = machine.start()
            claim = running.pop((0, 'claim'))
            surveyed.update(shard for shard, name in running if name == 'survey')
            for operation, _ in running.values():
                end(operation, found(''))
        assert 2 in surveyed
    finally:
        KEYS.pop()


def test_time_out_after_a_look(machine: Machine) -> None:
    ticket = machine.join(timeout=0.5)
    running = machine.start()
    machine.clock.now += 0.6
    machine.spread.start()
    assert not ticket.done
    for operation, _ in running.values():
        end(operation, found('0 0'))
    machine.spread.start()
    assert isinstance(ticket.error, TorrelqueTimeoutError)


def test_when_the_last_has_left_hints_and_timers_are_left_to_others(machine: Machine) -> None:
    ticket = machine.join()
    machine.survey('0 e', '0 0')
    answer(machine.start()[1, 'claim'][0], alarm=b'2.500000')
    here, there = machine.spread.waits()
    here.then.ended(KEYS[0]['wake'])
    there.then.failed(GONE)
    machine.spread.leave(ticket)
    running = machine.start()
    assert set(running) == {(0, 'tick'), (1, 'tick'), (2, 'survey')}
    assert running[2, 'survey'][1][0] == 0  # rings for others
    for (_, name), (operation, _) in running.items():
        end(operation, found('0 0') if name == 'survey' else [b''])
    assert machine.start() == {}
    assert machine.spread.timer() == math.inf


def test_a_claim_that_nobody_is_there_for_goes_back(machine: Machine) -> None:
    ticket = machine.join()
    machine.survey('1 0', '0 0')
    operation, _ = machine.start()[0, 'claim']
    machine.spread.leave(ticket)
    answer(operation, 'a')
    assert machine.returned == ['a']


def test_shards_that_moved_to_other_servers_are_surveyed_there(machine: Machine) -> None:
    machine.join()
    here, _ = machine.rest()
    machine.places = ['a', 'b', 'b', 'b']
    here.then.ended(None)
    running = machine.start()
    end(running[0, 'survey'][0], found('0 x'))  # what it could not look at is claimed from
    answer(machine.start()[1, 'claim'][0])
    assert machine.spread.waits() == []  # who is where has changed
    assert set(machine.start()) == {(0, 'survey'), (1, 'survey')}


def test_an_end_of_a_wait_on_a_server_that_is_none_any_more(machine: Machine) -> None:
    machine.join()
    here, there = machine.rest()
    machine.places = ['a'] * SHARDS
    here.then.ended(None)
    end(machine.start()[0, 'survey'][0], found('0 0'))
    assert machine.spread.waits() == []
    end(machine.start()[0, 'survey'][0], found('0 0 0 0'))
    there.then.ended(None)
    assert set(machine.start()) == {(0, 'survey')}


def test_the_number_of_shards_is_told(machine: Machine) -> None:
    machine.join()
    for operation, _ in machine.start().values():
        end(operation, [[b'8', b'']])
    assert machine.told == [8, 8]


@pytest.mark.parametrize('error', [Interrupted(GONE), TorrelqueReplyError('OOM full')], ids=['cut off', 'refused'])
@pytest.mark.parametrize('name', ['survey', 'claim'])
def test_errors_are_told_to_those_who_wait(machine: Machine, name: str, error: BaseException) -> None:
    machine.places = ['a'] * SHARDS
    ticket = machine.join()
    if name == 'claim':
        machine.survey('1 0 0 0')
    operation, _ = machine.start()[0, name]
    if isinstance(error, Interrupted) and name == 'claim':
        batch: Batch = operation.throw(error)
        assert names(batch) == ['settle']
        assert not end(operation, [[b'aborted']])
    else:
        assert not end_by(operation, error)
    assert isinstance(ticket.error, TorrelqueError)
    assert str(ticket.error) in ('gone', 'OOM full')


def test_however_long_waits_were_cut_the_next_begins_within_a_slice(machine: Machine) -> None:
    began = machine.clock.now
    machine.join()
    here, _ = machine.rest()
    while machine.clock.now < began + 600:
        here.then.failed(GONE)
        machine.join()
        pause = machine.spread.timer() - machine.clock.now
        assert 0 < pause < SLICE
        machine.clock.now += pause
        for operation, _ in machine.start().values():
            end(operation, found('0 0'))
        here = next(wait for wait in machine.spread.waits() if wait.key == KEYS[0]['ring'])


def test_waits_that_keep_breaking_are_told_if_there_is_no_other_server(machine: Machine) -> None:
    machine.places = ['a'] * SHARDS
    ticket = machine.join()
    machine.survey('0 0 0 0')
    (here,) = machine.spread.waits()
    for failures in range(1, MAX_FAILURES + 1):
        assert not ticket.done
        here.then.failed(GONE)
        if failures == MAX_FAILURES:
            break
        assert machine.spread.timer() == pytest.approx(machine.clock.now + 0.05 * 2**failures)
        machine.clock.now = machine.spread.timer()
        end(machine.start()[0, 'survey'][0], found('0 0 0 0'))
        (here,) = machine.spread.waits()
    assert ticket.error is not None


def test_waits_that_keep_breaking_on_one_server_do_not_keep_from_the_others(machine: Machine) -> None:
    ticket = machine.join()
    here, there = machine.rest()
    for _ in range(3 * MAX_FAILURES):
        here.then.failed(GONE)
        machine.clock.now += SLICE
        for operation, _ in machine.start().values():
            end(operation, found(''))
        here = next(wait for wait in machine.spread.waits() if wait.key == KEYS[0]['ring'])
    assert not ticket.done
    assert [shards for shards, error in machine.lost if error] == [[0, 1]] * 2 + [[0, 1]] * (len(machine.lost) // 2 - 2)
    there.then.ended(KEYS[3]['wake'])
    answer(machine.start()[3, 'claim'][0], 'a')
    assert ids(ticket) == ['a']


LOST = (Interrupted(GONE), TorrelqueReplyError('CLUSTERDOWN Hash slot not served'))


@pytest.mark.parametrize('error', LOST, ids=['gone', 'not served'])
def test_a_server_that_does_not_answer_a_survey_keeps_from_no_other(machine: Machine, error: BaseException) -> None:
    waiter, taker = machine.join(want=2), machine.join(want=5, stays=False)
    running = machine.start()
    end(running[2, 'survey'][0], found('0 3'))
    assert not end_by(running[0, 'survey'][0], error)
    assert [(list(shards), str(why)) for shards, why in machine.lost] in ([([0, 1], 'gone')], [([0, 1], str(error))])
    answer(machine.start()[3, 'claim'][0], 'a', 'b', 'c')
    assert ids(waiter) == ['a', 'b']
    answer(machine.start()[3, 'claim'][0])
    assert ids(taker) == ['c']
    # It is asked again, by way of another slot, and used as soon as it answers.
    late = machine.join()
    machine.clock.now += SLICE
    running = machine.start()
    assert set(running) == {(1, 'survey'), (2, 'survey')}
    end(running[1, 'survey'][0], found('1 0'))
    assert machine.lost[-1] == ([0, 1], None)
    answer(machine.start()[0, 'claim'][0], 'd')
    assert ids(late) == ['d']


def test_a_lost_shard_that_is_due_while_enough_is_asked_for_elsewhere_is_no_reason_to_come_back(
    machine: Machine,
) -> None:
    """The driver would come back again and again until that is answered."""
    machine.join()
    machine.survey('0 1', '0 0')
    assert not end_by(machine.start()[1, 'claim'][0], TorrelqueReplyError('CLUSTERDOWN Hash slot not served'))
    here, _ = machine.spread.waits()
    here.then.ended(KEYS[0]['wake'])
    claims = machine.start()
    assert set(claims) == {(0, 'claim')}
    machine.clock.now += 0.5
    machine.start()
    assert machine.spread.timer() > machine.clock.now
    answer(claims[0, 'claim'][0])
    assert (1, 'claim') in machine.start()


def test_a_shard_that_is_no_longer_used_when_its_claim_fails_is_not_looked_at(machine: Machine) -> None:
    machine.join()
    machine.survey('0 0', '0 1')
    claim, _ = machine.start()[3, 'claim']
    machine.spread.truncate(2)
    assert not end_by(claim, TorrelqueReplyError('CLUSTERDOWN Hash slot not served'))
    assert all(shard < 2 for shard, _ in machine.start())


def test_a_shard_that_does_not_answer_a_claim_keeps_from_no_other(machine: Machine) -> None:
    waiter = machine.join()
    machine.survey('0 1', '0 0')
    operation, _ = machine.start()[1, 'claim']
    batch = operation.throw(Interrupted(TorrelqueReplyError('CLUSTERDOWN Hash slot not served')))
    assert names(batch) == ['settle']
    end_by(operation, TorrelqueReplyError('CLUSTERDOWN Hash slot not served'))
    assert not waiter.done
    assert [list(shards) for shards, _ in machine.lost] == [[1]]
    machine.spread.ended(next(iter(machine.spread._nodes.values())), KEYS[0]['wake'])
    answer(machine.start()[0, 'claim'][0], 'a')
    assert ids(waiter) == ['a']
    # It is asked again.
    late = machine.join()
    machine.clock.now += SLICE
    running = machine.start()
    answer(running[1, 'claim'][0], 'b')
    assert machine.lost[-1] == ([1], None)
    assert ids(late) == ['b']


def test_an_answer_that_does_not_come_holds_nobody_up(machine: Machine) -> None:
    """Neither that of a claim nor that of a survey."""
    waiter, taker = machine.join(), machine.join(want=3, stays=False)
    running = machine.start()
    end(running[0, 'survey'][0], found('9 2'))
    claims = machine.start()
    assert set(claims) == {(0, 'claim')}
    assert claims[0, 'claim'][1][3] == 4
    machine.clock.now = machine.spread.timer()
    claims |= machine.start()
    answer(claims[1, 'claim'][0], 'a', 'b')
    assert ids(waiter) == ['a']
    answer(machine.start()[1, 'claim'][0])
    assert ids(taker) == ['b']
    answer(claims[0, 'claim'][0], 'c')
    assert machine.returned == ['c']


def test_errors_are_told_if_no_server_answers(machine: Machine) -> None:
    ticket = machine.join()
    running = machine.start()
    for operation, _ in running.values():
        assert not ticket.done
        end_by(operation, Interrupted(GONE))
    assert str(ticket.error) == 'gone'
    again = machine.join()
    assert set(machine.start()) == {(1, 'survey'), (3, 'survey')}  # at once
    assert not again.done


def test_closing_fails_those_who_wait_and_rings_for_others(machine: Machine) -> None:
    ticket = machine.join()
    machine.rest()
    machine.spread.close()
    assert isinstance(ticket.error, TorrelqueError)
    running = machine.start()
    assert {key: args[0] for key, (_, args) in running.items()} == {(0, 'survey'): 0, (2, 'survey'): 0}
