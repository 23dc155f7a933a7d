"""Rings of shards: each is answered by a claim, and all clients wait where the shards ring."""

from __future__ import annotations

import pytest

from tests.core.sharding.support import GONE, KEYS, SHARDS, Machine, answer, found
from tests.core.support import end, end_by, names
from torrelque.core.consumers import SLICE
from torrelque.core.machine import Wait
from torrelque.core.protocol import Interrupted, Operation
from torrelque.errors import TorrelqueReplyError


@pytest.fixture
def machine() -> Machine:
    return Machine()


def claim_while_a_wait_runs(machine: Machine) -> tuple[Operation[bool], Wait]:
    """A claim from shard 0 that a survey caused, and the wait on its server that began before."""
    machine.join()
    here, _ = machine.rest()
    machine.join()
    machine.survey('1 0', '0 0')
    claims = machine.start()
    assert set(claims) == {(0, 'claim')}
    return claims[0, 'claim'][0], here


def test_a_ring_that_overtakes_the_answer_of_a_claim_is_not_forgotten(machine: Machine) -> None:
    """The server may have run the claim before the task was added that the ring is for."""
    claim, here = claim_while_a_wait_runs(machine)
    here.then.ended(KEYS[0]['wake'])
    answer(claim)
    claims = machine.start()
    assert set(claims) == {(0, 'claim')}
    assert machine.spread.waits() == []
    answer(claims[0, 'claim'][0])
    assert machine.start() == {}
    assert [wait.key for wait in machine.spread.waits()] == [KEYS[0]['ring']]


def test_a_ring_that_overtakes_the_end_of_a_connection_is_not_forgotten(machine: Machine) -> None:
    claim, here = claim_while_a_wait_runs(machine)
    here.then.ended(KEYS[0]['wake'])
    assert names(claim.throw(Interrupted(GONE))) == ['settle']
    end_by(claim, Interrupted(GONE))
    machine.clock.now = machine.spread.timer()
    end(machine.start()[0, 'survey'][0], found('1 0'))
    assert set(machine.start()) == {(0, 'claim')}


def test_a_ring_that_overtakes_a_refusal_is_not_forgotten(machine: Machine) -> None:
    claim, here = claim_while_a_wait_runs(machine)
    here.then.ended(KEYS[0]['wake'])
    assert not end_by(claim, TorrelqueReplyError('CLUSTERDOWN Hash slot not served'))
    machine.clock.now = machine.spread.timer()
    answer(machine.start()[0, 'claim'][0])  # it asks for one task, to find out whether the shard answers again
    answer(machine.start()[0, 'claim'][0])
    machine.join()
    machine.survey('1 0', '0 0')
    assert set(machine.start()) == {(0, 'claim')}


def test_all_clients_wait_in_the_same_place_again_within_a_slice_of_a_failed_survey(machine: Machine) -> None:
    """A shard rings only where the last survey came from, which may be of a client with enough to do."""
    machine.join()
    running = machine.start()
    end(running[2, 'survey'][0], found('0 0'))
    assert not end_by(running[0, 'survey'][0], Interrupted(GONE))
    machine.clock.now = machine.spread.timer()
    end(machine.start()[1, 'survey'][0], found('0 0'))
    here = next(wait for wait in machine.spread.waits() if wait.key == KEYS[1]['ring'])
    machine.clock.now += SLICE * 0.85
    machine.join()
    running = machine.start()
    end(running[1, 'survey'][0], found('0 0'))  # as long as that wait lasts, the shards are to ring there
    here.then.ended(None)
    end(machine.start()[0, 'survey'][0], found('0 0'))
    assert KEYS[0]['ring'] in [wait.key for wait in machine.spread.waits()]


def test_shards_ring_where_a_wait_is_although_a_survey_failed_meanwhile(machine: Machine) -> None:
    machine.join()
    here, _ = machine.rest()
    assert here.key == KEYS[0]['ring']
    machine.join()
    running = machine.start()
    end(running[2, 'survey'][0], found('0 0'))
    assert not end_by(running[0, 'survey'][0], Interrupted(GONE))
    machine.clock.now = machine.spread.timer()
    assert set(machine.start()) == {(0, 'survey')}, 'what it registers elsewhere would be heard after the slice'


def test_without_a_cluster_they_do_all_along() -> None:
    machine = Machine(spread=False)
    machine.places = ['a'] * SHARDS
    for _ in range(3):
        machine.join()
        assert not end_by(machine.start()[0, 'survey'][0], Interrupted(GONE))
    machine.join()
    machine.survey('0 0 0 0')
    assert [wait.key for wait in machine.spread.waits()] == [KEYS[0]['ring']]
