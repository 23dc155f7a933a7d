"""Concurrent calls to the same script become one."""

from __future__ import annotations

from torrelque.core.commands import CANCEL, ENQUEUE, MAX_ITEMS, RELEASE, Item, enqueue_in
from torrelque.core.merging import LARGE, MAX_BYTES, RESERVED, Merger, Ticket, split
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


def test_a_group_holds_no_more_bytes_than_allowed() -> None:
    merger = Merger()
    small, *others = (ticket((b'x' * size,)) for size in (1, *[LARGE - 1] * 5))
    for each in (small, *others):
        merger.add(ENQUEUE, each)
    assert merger.take(9) == [(ENQUEUE, [small, *others[:4]]), (ENQUEUE, others[4:])]


def test_large_items_go_alone_and_small_ones_do_not_wait_for_them() -> None:
    merger = Merger()
    first, large, second, larger = (ticket((b'x' * size,)) for size in (1, LARGE, 1, 3 * MAX_BYTES))
    for each in (first, large, second, larger):
        merger.add(ENQUEUE, each)
    assert merger.take(RESERVED) == [(ENQUEUE, [first, second])]
    assert merger
    assert merger.take(99) == [(ENQUEUE, [large]), (ENQUEUE, [larger])]
    assert not merger


def test_a_large_item_whose_caller_left_is_dropped() -> None:
    merger = Merger()
    large = ticket((b'x' * LARGE,))
    merger.add(ENQUEUE, large)
    large.gone = True
    assert merger.take(99) == []


def test_a_long_list_is_split_by_number() -> None:
    items = [(b'%d' % number, 'a', 1) for number in range(7)]
    assert [list(part) for part in split(items, 3)] == [items[:3], items[3:6], items[6:]]
    assert list(split([], 3)) == []


def test_a_long_list_is_split_by_size() -> None:
    items = [(b'x' * (LARGE - 1),)] * 9
    assert [len(part) for part in split(items, MAX_ITEMS)] == [4, 4, 1]


def test_large_items_of_a_long_list_are_parts_of_their_own() -> None:
    small, large = (b'x',), (b'x' * LARGE,)
    assert [len(part) for part in split([small, large, large, small, small], MAX_ITEMS)] == [1, 1, 1, 2]
    assert [len(part) for part in split([large, small, large], MAX_ITEMS)] == [1, 1, 1]


def test_no_more_groups_are_taken_than_asked_for() -> None:
    merger = Merger()
    for _ in range(3):
        merger.add(CANCEL, ticket())
    merger.add(ENQUEUE, ticket())
    assert len(merger.take(2)) == 2
    assert merger
    assert [verb for verb, _ in merger.take(9)] == [CANCEL, ENQUEUE]
    assert merger.take(9) == []


def test_a_caller_that_left_is_dropped() -> None:
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


def test_nothing_is_kept_of_layouts_that_are_over() -> None:
    merger = Merger()
    for generation in range(100):
        merger.add(enqueue_in(generation), ticket())
        assert len(merger.take(9)) == 1
    assert not merger._waiting
