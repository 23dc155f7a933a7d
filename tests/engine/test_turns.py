"""Whose turn it is: servers, their shards, and those that do not answer."""

from __future__ import annotations

from collections import Counter

from torrelque.engine.turns import IDS_A_TURN, Turns

SERVERS = {0: 'a', 1: 'a', 2: 'a', 3: 'b'}


def turns() -> Turns:
    return Turns(SERVERS.__getitem__)


def test_servers_take_turns_and_so_do_their_shards() -> None:
    ours = turns()
    taken = [ours.take(step, 4) for step in range(12)]
    assert {SERVERS[shard] for shard in taken[::2]} != {SERVERS[shard] for shard in taken[1::2]}
    assert Counter(taken) == {3: 6, 0: 2, 1: 2, 2: 2}


def test_ids_of_one_step_are_for_one_shard_up_to_a_number() -> None:
    ours = turns()
    taken = [ours.take(7, 4) for _ in range(IDS_A_TURN + 1)]
    assert len(set(taken[:-1])) == 1
    assert taken[-1] != taken[0]


def test_lost_shards_have_no_turn_until_they_are_found() -> None:
    ours = turns()
    ours.take(0, 4)
    assert ours.lose([2, 0, 9], 4) == [0, 2]
    assert ours.lose([0, 3], 4) == [3]
    assert {ours.take(step, 4) for step in range(1, 6)} == {1}
    assert ours.find([0, 1, 3]) == [0, 3]
    assert {ours.take(step, 4) for step in range(6, 12)} == {0, 1, 3}
    assert ours.lost == {2}


def test_the_last_one_that_answers_is_not_lost() -> None:
    ours = turns()
    assert ours.lose([0, 1, 2], 4) == [0, 1, 2]
    assert ours.lose([3], 4) is None
    assert ours.lost == {0, 1, 2}


def test_shards_that_are_no_more_are_forgotten() -> None:
    ours = turns()
    ours.lose([2, 3], 4)
    assert ours.lose([0], 3) == [0]
    assert ours.lost == {0, 2}


def test_if_all_are_lost_all_have_turns() -> None:
    ours = turns()
    ours.lost = {0, 1}
    assert {ours.take(step, 2) for step in range(4)} == {0, 1}
