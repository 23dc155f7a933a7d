"""Writes that are waited for: what is sent, and what the answers come to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.support import KEYS, SCRIPTS, Clock, end, names
from torrelque.core.commands import ENQUEUE, EXTEND, RELEASE, Item, Outcome, claim_item, enqueue_item, release_item
from torrelque.core.durability import Confirmer, Durability
from torrelque.core.merging import Ticket
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.core.protocol import Batch, Interrupted, Operation, Reply
from torrelque.core.session import MAX_CONFIRMING, Session
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueDurabilityError,
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)

BOTH = Durability(fsynced=True, replicas=2, timeout=0.5)
OFF = TorrelqueReplyError('ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.')

SHAS = [b'sha'] * 4
PROBE = ['WAITAOF', *['SCRIPT LOAD'] * 4]


def new(task_id: str) -> Item:
    return enqueue_item(task_id, b'data', 300, None, None, b'')


def nobody() -> None:
    pass


class Driver:
    """A session that confirms, its operations run by hand."""

    def __init__(self, durability: Durability = BOTH, *, probed: bool = True) -> None:
        confirmer = Confirmer(durability, SCRIPTS, KEYS)
        self.session = Session(SCRIPTS, KEYS, nonce='nonce', clock=Clock(), jitter=lambda: 0.0, confirmer=confirmer)
        if probed:
            self.enqueue('probe')
            operation, batch = self.begin()
            batch = self.probe(operation, batch)
            end(operation, [[b'OK', b'n'], [1, 2] if durability.fsynced else 2])

    def enqueue(self, *ids: str) -> Ticket:
        return self.session.submit(ENQUEUE, [new(task_id) for task_id in ids], nobody)

    def begin(self) -> tuple[Operation[None], Batch]:
        """The only operation that is to run apart, and its first batch."""
        turn = self.session.poll()
        assert turn.groups == []
        (operation,) = turn.dedicated
        return operation, next(operation)

    def probe(self, operation: Operation[None], batch: Batch) -> Batch:
        assert names(batch)[1:] == ['SCRIPT LOAD'] * 4
        batch = operation.send([[1, 0], *SHAS])
        assert names(batch) == ['mint'], 'nothing depends on how durable a lane is'
        return operation.send([b'1'])


def words(batch: Batch) -> list[Any]:
    """The last call as it goes over the wire."""
    return batch[-1].words()


def test_a_write_and_its_wait_are_one_batch_for_all_that_was_merged() -> None:
    driver = Driver()
    first, second = driver.enqueue('a', 'b'), driver.enqueue('c')
    operation, batch = driver.begin()
    assert names(batch) == ['enqueue', 'WAITAOF']
    assert words(batch) == ['WAITAOF', 1, 2, 500]
    assert batch[1].near == KEYS['pending']
    end(operation, [[b'OK', b'nen'], [1, 2]])
    assert first.value == [Outcome.NEW, Outcome.EXISTING]
    assert second.value == [Outcome.NEW]


def test_replicas_alone_are_waited_for_with_what_every_server_has() -> None:
    driver = Driver(Durability(replicas=1, timeout=0.0001))
    ticket = driver.enqueue('a')
    operation, batch = driver.begin()
    assert words(batch) == ['WAIT', 1, 1], 'a time-out of 0 would be none'
    end(operation, [[b'OK', b'n'], 1])
    assert ticket.value == [Outcome.NEW]


def test_what_is_no_such_write_goes_the_usual_way() -> None:
    driver = Driver()
    driver.session.submit(EXTEND, [(*claim_item('a'), '')], nobody)
    turn = driver.session.poll()
    assert not turn.dedicated
    ((operation,),) = turn.groups
    assert names(next(operation)) == ['extend']


@pytest.mark.parametrize(
    ('confirmation', 'missing'),
    [
        ([0, 2], 'from the server itself within 0.5 s'),
        ([1, 1], 'from 1 of 2 replicas within'),
        ([0, 0], 'from the server itself and 2 of 2 replicas within'),
    ],
)
def test_unconfirmed(confirmation: Reply, missing: str) -> None:
    driver = Driver()
    first, second = driver.enqueue('a'), driver.enqueue('b')
    operation, _ = driver.begin()
    end(operation, [[b'OK', b'ne'], confirmation])
    (one,), (other,) = first.value, second.value
    assert (one.task_id, other.task_id) == ('a', 'b')
    assert str(one).startswith("task 'a': written, but not confirmed to be fsynced on the server and 2 replicas: ")
    assert missing in str(one)


def test_what_changed_nothing_is_told_so_though_nothing_was_confirmed() -> None:
    driver = Driver()
    items = [release_item(task_id, TorrelqueTaskStatus.COMPLETED, None, b'') for task_id in ('a', 'b')]
    ticket = driver.session.submit(RELEASE, items, nobody)
    operation, _ = driver.begin()
    end(operation, [[b'OK', b'uo'], [0, 0]])
    unknown, unconfirmed = ticket.value
    assert unknown is Outcome.UNKNOWN
    assert isinstance(unconfirmed, TorrelqueDurabilityError)


# What breaks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('confirmed', [True, False])
def test_a_call_that_was_cut_off_is_settled_and_waited_for(confirmed: bool) -> None:
    driver = Driver()
    ticket = driver.enqueue('a')
    operation, _ = driver.begin()
    batch = operation.throw(Interrupted(TorrelqueConnectionError('gone')))
    assert names(batch) == ['settle', 'WAITAOF']
    end(operation, [[b'finished', b'n'], [int(confirmed), 2]])
    (answer,) = ticket.value
    assert (answer is Outcome.NEW) == confirmed
    assert isinstance(answer, TorrelqueDurabilityError) != confirmed


def test_a_call_that_turns_out_not_to_have_been_made_is_told_as_cut_off() -> None:
    driver = Driver()
    ticket = driver.enqueue('a')
    operation, _ = driver.begin()
    operation.throw(Interrupted(TorrelqueConnectionError('gone')))
    end(operation, [[b'aborted'], [1, 2]])
    assert isinstance(ticket.error, TorrelqueConnectionError)


@pytest.mark.parametrize('first', [TorrelqueReplyError('NOSCRIPT No matching script.'), [b'NOLANE']])
def test_only_the_wait_behind_the_write_counts(first: Reply) -> None:
    driver = Driver()
    ticket = driver.enqueue('a')
    operation, _ = driver.begin()
    batch = operation.send([first, [0, 0]])
    if names(batch) == ['mint']:
        batch = operation.send([b'2'])
    assert names(batch)[-2:] == ['enqueue', 'WAITAOF']
    end(operation, [*[b'sha'] * (len(batch) - 2), [b'OK', b'n'], [1, 2]])
    assert ticket.value == [Outcome.NEW]


def test_a_server_that_ceases_to_confirm_is_asked_again_before_the_next_write() -> None:
    driver = Driver()
    ticket = driver.enqueue('a')
    operation, _ = driver.begin()
    end(operation, [[b'OK', b'n'], OFF])
    (error,) = ticket.value
    assert isinstance(error, TorrelqueDurabilityError)
    assert 'appendonly is disabled' in str(error)
    ticket = driver.enqueue('b')
    operation, batch = driver.begin()
    assert names(batch) == PROBE
    end(operation, [OFF, *SHAS])
    assert isinstance(ticket.error, TorrelqueUsageError)


@pytest.mark.parametrize(
    ('reply', 'kind'),
    [
        (OFF, TorrelqueUsageError),
        (TorrelqueReplyError("ERR unknown command 'WAITAOF'"), TorrelqueUsageError),
        (TorrelqueReplyError('ERR WAITAOF cannot be used with replica instances.'), TorrelqueReplyError),
        (TorrelqueReplyError('LOADING in progress'), TorrelqueReplyError),
        (TorrelqueReplyError('NOPERM no permissions'), TorrelqueReplyError),
    ],
)
def test_a_server_that_cannot_confirm_is_not_written_to(reply: Reply, kind: type[TorrelqueError]) -> None:
    driver = Driver(probed=False)
    ticket = driver.enqueue('a')
    operation, batch = driver.begin()
    assert names(batch) == PROBE
    assert batch[0].args == (1, 0, 1), 'no replica is waited for before anything is written'
    end(operation, [reply, *SHAS])
    assert type(ticket.error) is kind
    assert not driver.session.poll().dedicated


# Many at once ---------------------------------------------------------------------------------------------------------


def test_beyond_a_number_of_waits_calls_gather() -> None:
    driver = Driver()
    under_way = []
    for number in range(MAX_CONFIRMING):
        driver.enqueue(f'{number}')
        (operation,) = driver.session.poll().dedicated
        if names(next(operation)) == ['mint']:
            operation.send([b'%d' % (number + 2)])
        under_way.append(operation)
    late = [driver.enqueue(f'late {number}') for number in range(5)]
    assert not driver.session.poll().dedicated
    end(under_way[0], [[b'OK', b'n'], [1, 2]])
    operation, _ = driver.begin()
    end(operation, [[b'OK', b'nnnnn'], [1, 2]])
    assert [ticket.value for ticket in late] == [[Outcome.NEW]] * 5


def test_abort_reaches_those_who_gather() -> None:
    driver = Driver()
    ticket = driver.enqueue('a')
    driver.session.abort(TorrelqueError('closed'))
    assert isinstance(ticket.error, TorrelqueError)
    assert not driver.session.poll().dedicated


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'kind', 'words'),
    [
        ({}, TorrelqueValueError, 'fsynced=True, replicas=1 or more'),
        ({'fsynced': 1}, TorrelqueTypeError, 'fsynced must be True or False, got 1'),
        ({'replicas': True}, TorrelqueTypeError, 'replicas must be a whole number, got True'),
        ({'replicas': 1.5}, TorrelqueTypeError, 'replicas must be a whole number, got 1.5'),
        ({'replicas': -1}, TorrelqueValueError, 'replicas must be 0 or more, got -1'),
        ({'replicas': 1, 'timeout': 0}, TorrelqueValueError, 'timeout must be above 0 and at most 300 seconds, got 0'),
        ({'replicas': 1, 'timeout': None}, TorrelqueValueError, 'timeout must be above 0'),
        ({'replicas': 1, 'timeout': 300.5}, TorrelqueValueError, 'at most 300 seconds, got 300.5'),
        ({'replicas': 1, 'timeout': float('nan')}, TorrelqueValueError, 'timeout must be a finite number'),
        ({'replicas': 1, 'timeout': '1'}, TorrelqueTypeError, "timeout must be a number of seconds, got '1'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Durability(**arguments)


def test_in_words() -> None:
    assert str(Durability(fsynced=True)) == 'fsynced on the server'
    assert str(Durability(replicas=1)) == 'received by 1 replica'
    assert str(BOTH) == 'fsynced on the server and 2 replicas'
