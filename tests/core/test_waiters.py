"""The consumers that wait: who gets what, and who has waited long enough."""

from __future__ import annotations

import math
from typing import Any, cast

from torrelque.core.commands import ClaimedTask
from torrelque.core.waiters import FIRST_LOOK, Waiters
from torrelque.errors import TorrelqueConnectionError, TorrelqueTimeoutError


class Ticket:
    """Remembers how its wait ended."""

    def __init__(self) -> None:
        self.tasks: Any = None
        self.error: Any = None

    def resolve(self, tasks: list[Any]) -> None:
        self.tasks = tasks

    def fail(self, error: Exception) -> None:
        self.error = error


class Room:
    """Waiters whose tasks are letters, and what they gave back."""

    def __init__(self) -> None:
        self.returned: list[Any] = []
        self.waiters = Waiters(self.returned.extend)

    def join(self, want: int, deadline: float = math.inf, *, stays: bool = True) -> Any:  # noqa: ANN401 - a ticket
        ticket = Ticket()
        self.waiters.join(cast('Any', ticket), want, deadline, stays=stays)
        return ticket

    def hand_out(self, letters: str, *served: Any, more: bool = False) -> None:  # noqa: ANN401 - tickets
        self.waiters.hand_out(served, cast('list[ClaimedTask]', list(letters)), more=more)


def test_first_come_first_served() -> None:
    room = Room()
    first, second = room.join(2), room.join(2)
    assert (len(room.waiters), room.waiters.wanted) == (2, 4)
    room.hand_out('abc', first, second)
    assert (first.tasks, second.tasks) == (['a', 'b'], ['c'])
    assert not room.waiters


def test_a_consumer_that_may_get_more_at_once_waits_for_it() -> None:
    room = Room()
    ticket = room.join(3)
    room.hand_out('a', ticket, more=True)
    assert (ticket.tasks, room.waiters.wanted) == (None, 2)
    room.hand_out('b', ticket)
    assert ticket.tasks == ['a', 'b']


def test_one_that_only_looks_ends_with_its_look() -> None:
    room = Room()
    looking, staying = room.join(1, stays=False), room.join(1)
    room.hand_out('', staying)
    assert looking.tasks is None, 'the claim was not made for it'
    room.hand_out('', looking, staying)
    assert looking.tasks == []
    assert staying.tasks is None


def test_what_nobody_wants_any_more_is_given_back() -> None:
    room = Room()
    gone = room.join(3)
    room.hand_out('a', gone, more=True)
    room.waiters.leave(gone)
    assert (room.returned, gone in room.waiters) == (['a'], False)
    room.hand_out('bc', gone)
    assert room.returned == ['a', 'b', 'c']
    room.waiters.leave(gone)  # once more


def test_time_runs_out_only_after_a_first_look_that_does_not_take_too_long() -> None:
    room = Room()
    ticket = room.join(1, 10.0)
    assert (room.waiters.deadline, room.waiters.expiry) == (10.0, 10.0 + FIRST_LOOK)
    room.waiters.time_out(10.0)
    assert ticket.error is None
    room.hand_out('', ticket)
    assert room.waiters.expiry == 10.0
    room.waiters.time_out(9.9)
    assert ticket.error is None
    room.waiters.time_out(10.0)
    assert isinstance(ticket.error, TorrelqueTimeoutError)


def test_time_that_runs_out_leaves_what_was_got() -> None:
    room = Room()
    ticket = room.join(2, 10.0)
    room.hand_out('a', ticket, more=True)
    room.waiters.time_out(11.0)
    assert (ticket.tasks, ticket.error) == (['a'], None)


def test_without_anybody() -> None:
    waiters = Room().waiters
    assert (waiters.wanted, waiters.deadline, waiters.expiry) == (0, -math.inf, math.inf)


def test_those_who_only_look_set_no_deadline() -> None:
    room = Room()
    room.join(1, 20.0, stays=False)
    assert room.waiters.deadline == -math.inf


def test_an_error_goes_to_each_as_an_error_of_its_own() -> None:
    room = Room()
    first, second, third = room.join(2), room.join(1), room.join(1)
    room.waiters.hand_out((), cast('list[ClaimedTask]', ['a']), more=True)
    error = TorrelqueConnectionError('lost')
    room.waiters.abort(error)
    assert (first.tasks, first.error) == (['a'], None)
    assert str(second.error) == str(third.error) == 'lost'
    assert len({id(error), id(second.error), id(third.error)}) == 3
    assert not room.waiters
