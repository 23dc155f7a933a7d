"""When leases are renewed, and when they have run out."""

from __future__ import annotations

import math

import pytest

from torrelque.core.leases import Leases


@pytest.fixture
def leases() -> Leases[str]:
    return Leases()


def test_nothing_to_mind(leases: Leases[str]) -> None:
    assert leases.timer() == math.inf
    assert leases.due(1e9) == leases.expired(1e9) == []


def test_a_lease_is_due_when_half_of_it_is_used(leases: Leases[str]) -> None:
    assert leases.add('a', expires=110, now=100) == 105
    assert leases.timer() == 105
    assert leases.due(104.99) == []
    assert leases.due(105) == ['a']


def test_what_is_being_renewed_is_not_due_again(leases: Leases[str]) -> None:
    leases.add('a', 110, 100)
    leases.due(105)
    assert leases.due(109) == []
    assert leases.timer() == 110


def test_a_renewed_lease_counts_from_before_the_request(leases: Leases[str]) -> None:
    leases.add('a', 110, 100)
    leases.due(105)
    assert leases.renewed('a', sent=105) == 110  # the answer may have come at 109
    assert leases.expired(114.99) == []
    assert leases.due(110) == ['a']
    assert leases.expired(115) == ['a']


def test_all_that_are_due_go_together(leases: Leases[str]) -> None:
    for key in 'abc':
        leases.add(key, 110, 100)
    assert leases.due(105) == ['a', 'b', 'c']


def test_those_half_way_to_it_go_along(leases: Leases[str]) -> None:
    leases.add('a', 112, 100)
    leases.add('b', 115, 103)
    leases.add('c', 116, 104)
    assert leases.due(105.99) == []
    assert leases.due(106) == ['a', 'b']


def test_leases_that_began_apart_are_soon_renewed_by_the_same_calls(leases: Leases[int]) -> None:
    for key in range(30):
        leases.add(key, key + 60, key)
    sizes = []
    for _ in range(8):
        now = leases.timer()
        assert leases.expired(now) == []
        due = leases.due(now)
        sizes.append(len(due))
        for key in due:
            leases.renewed(key, now)
    assert sizes[-4:] == [30, 30, 30, 30]


def test_a_failed_renewal_is_tried_again_before_the_lease_ends(leases: Leases[str]) -> None:
    leases.add('a', 110, 100)
    leases.due(105)
    tries, now = 0, 105.0
    while not leases.expired(now):
        now = leases.failed('a', now)
        assert now <= 110
        tries += len(leases.due(now))
    assert 3 <= tries <= 30
    assert now == 110


def test_a_lease_that_can_be_renewed_again_lives_on(leases: Leases[str]) -> None:
    leases.add('a', 110, 100)
    leases.due(105)
    again = leases.failed('a', 106)
    assert again == 107
    assert leases.due(again) == ['a']
    assert leases.renewed('a', again) == 112
    assert leases.expired(116.9) == []


def test_a_lease_runs_out_while_its_renewal_is_under_way(leases: Leases[str]) -> None:
    leases.add('a', 110, 100)
    leases.due(105)
    assert leases.expired(109.99) == []
    assert leases.expired(110) == ['a']
    assert leases.expired(110) == []
    assert leases.renewed('a', 105) == math.inf
    assert leases.failed('a', 111) == math.inf
    assert 'a' not in leases


def test_a_removed_lease_is_minded_no_longer(leases: Leases[str]) -> None:
    leases.add('a', 110, 100)
    leases.add('b', 120, 100)
    assert leases.remove('a') == 110
    assert leases.remove('a') == leases.remove('unknown') == -math.inf
    assert leases.timer() == 110
    assert leases.due(200) == ['b']
    assert len(leases) == 1


def test_a_short_lease_is_not_renewed_later_than_it_ends(leases: Leases[str]) -> None:
    assert leases.add('gone', expires=99, now=100) <= 99.5
    assert leases.expired(100) == ['gone']
