"""Concurrent calls to the same script become one."""

from __future__ import annotations

from torrelque.core.merging import MAX_BYTES, Merger, Ticket
from torrelque.core.verbs import CANCEL, ENQUEUE, MAX_ITEMS, RELEASE, Item
from torrelque.errors import TorrelqueError


def ticket(*items: Item) -> Ticket:
    return Ticket(items or ((b'id',),), lambda: None)


def test_tickets_of_a_verb_are_one_group_in_order() -> None:
    merger = Merger()
    first, other, second = ticket(), ticket(), ticket()
    merger.add(ENQUEUE, first)
    merger.add(RELEASE, other)
    merger.add(ENQUEUE, second)
    assert merger.take(9) == [(ENQUEUE, [first, second]), (RELEASE, [other])]
    assert not merger


def test_a_group_holds_no_more_items_than_the_verb_allows() -> None:
    merger = Merger()
    tickets = [ticket(*[(b'id',)] * (MAX_ITEMS // 2)) for _ in range(3)]
    for each in tickets:
        merger.add(ENQUEUE, each)
    assert merger.take(9) == [(ENQUEUE, tickets[:2]), (ENQUEUE, tickets[2:])]


def test_a_verb_of_one_item_is_not_merged() -> None:
    merger = Merger()
    tickets = [ticket(), ticket()]
    for each in tickets:
        merger.add(CANCEL, each)
    assert merger.take(9) == [(CANCEL, tickets[:1]), (CANCEL, tickets[1:])]


def test_a_group_holds_no_more_bytes_than_allowed_but_a_large_item_goes_alone() -> None:
    merger = Merger()
    large, small, half, other = (ticket((b'x' * size,)) for size in (MAX_BYTES * 2, 1, MAX_BYTES // 2, MAX_BYTES // 2))
    for each in (large, small, half, other):
        merger.add(ENQUEUE, each)
    assert merger.take(9) == [(ENQUEUE, [large]), (ENQUEUE, [small, half]), (ENQUEUE, [other])]


def test_no_more_groups_are_taken_than_asked_for() -> None:
    merger = Merger()
    for _ in range(3):
        merger.add(CANCEL, ticket())
    merger.add(ENQUEUE, ticket())
    assert len(merger.take(2)) == 2
    assert merger
    assert [verb for verb, _ in merger.take(9)] == [CANCEL, ENQUEUE]
    assert merger.take(9) == []


def test_whoever_left_is_dropped() -> None:
    merger = Merger()
    gone, there = ticket(), ticket()
    merger.add(ENQUEUE, gone)
    merger.add(ENQUEUE, there)
    gone.gone = True
    assert merger.take(9) == [(ENQUEUE, [there])]


def test_no_call_is_made_where_everybody_left() -> None:
    merger = Merger()
    gone = ticket()
    merger.add(ENQUEUE, gone)
    gone.gone = True
    assert merger.take(9) == []
    assert not merger


def test_a_ticket_wakes_its_caller_when_it_is_done() -> None:
    woken: list[str] = []
    good = Ticket((), lambda: woken.append('good'))
    bad = Ticket((), lambda: woken.append('bad'))
    error = TorrelqueError('no')
    good.resolve(7)
    bad.fail(error)
    assert woken == ['good', 'bad']
    assert (good.done, good.value, good.error) == (True, 7, None)
    assert (bad.done, bad.value, bad.error) == (True, None, error)
