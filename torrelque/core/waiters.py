"""The queue of consumers that wait for tasks, served first come, first served."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from torrelque.core.commands import ClaimedTask
from torrelque.errors import TorrelqueTimeoutError, renew

if TYPE_CHECKING:
    from torrelque.core.merging import Ticket

__all__ = ('FIRST_LOOK', 'Waiter', 'Waiters')

FIRST_LOOK = 1.0
"""How long past its deadline a caller waits for an answer of the server that it needs, in seconds."""


class Waiter:
    """A consumer that waits.

    Attributes:
        ticket: Its request.
        want: Maximum number of tasks.
        deadline: How long to wait, on the session's clock, in seconds.
        stays: Whether it waits for tasks. If not, it takes the tasks that are available now.
        got: The tasks that were claimed for it so far.
        looked: Whether a claim on its behalf was answered.
    """

    __slots__ = ('deadline', 'got', 'looked', 'stays', 'ticket', 'want')

    def __init__(self, ticket: Ticket, want: int, deadline: float, *, stays: bool) -> None:
        self.ticket: Ticket = ticket
        self.want: int = want
        self.deadline: float = deadline
        self.stays: bool = stays
        self.got: list[ClaimedTask] = []
        self.looked: bool = False

    @property
    def expiry(self) -> float:
        """When it times out: not before its first claim was answered, unless that takes too long."""
        return self.deadline if self.looked else self.deadline + FIRST_LOOK


class Waiters:
    """The consumers that wait now.

    Args:
        give_back: Called with claimed tasks that no consumer wants any more.
    """

    def __init__(self, give_back: Callable[[Sequence[ClaimedTask]], None]) -> None:
        self._give_back = give_back
        self._waiters: dict[Ticket, Waiter] = {}

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._waiters

    @property
    def wanted(self) -> int:
        """How many tasks are missing to serve all of them."""
        return sum(waiter.want - len(waiter.got) for waiter in self._waiters.values())

    @property
    def deadline(self) -> float:
        """The latest deadline; minus infinity if none waits."""
        return max([waiter.deadline for waiter in self._waiters.values() if waiter.stays], default=-math.inf)

    @property
    def expiry(self) -> float:
        """When the first of them times out; infinite if there are none."""
        return min([waiter.expiry for waiter in self._waiters.values()], default=math.inf)

    def now_there(self) -> list[Ticket]:
        """Return the tickets of all of them."""
        return list(self._waiters)

    def join(self, ticket: Ticket, want: int, deadline: float, *, stays: bool = True) -> None:
        """Add a consumer that waits for up to ``want`` tasks until ``deadline``; without ``stays``, for one claim."""
        self._waiters[ticket] = Waiter(ticket, want, deadline, stays=stays)

    def leave(self, ticket: Ticket) -> None:
        """Remove a consumer. Tasks that were claimed for it are given back."""
        waiter = self._waiters.pop(ticket, None)
        if waiter is not None and waiter.got:
            self._give_back(waiter.got)

    def hand_out(self, served: Iterable[Ticket], tasks: Sequence[ClaimedTask], *, more: bool) -> None:
        """Share out claimed tasks.

        Args:
            served: The tickets that were there when the claim was sent.
            tasks: The tasks.
            more: Whether further tasks may follow at once, so that consumers with some tasks can wait for more.
        """
        for ticket in served:
            if ticket in self._waiters:
                self._waiters[ticket].looked = True
        for waiter in list(self._waiters.values()):
            missing = waiter.want - len(waiter.got)
            waiter.got += tasks[:missing]
            tasks = tasks[missing:]
            enough = waiter.got if waiter.stays else waiter.looked
            if len(waiter.got) == waiter.want or (enough and not more):
                del self._waiters[waiter.ticket]
                waiter.ticket.resolve(waiter.got)
        if tasks:
            self._give_back(tasks)

    def time_out(self, now: float) -> None:
        """End the wait of consumers that time out: with the tasks they have got, or with an error."""
        for waiter in [waiter for waiter in self._waiters.values() if waiter.expiry <= now]:
            del self._waiters[waiter.ticket]
            if waiter.got:
                waiter.ticket.resolve(waiter.got)
            else:
                waiter.ticket.fail(TorrelqueTimeoutError('no task in time'))

    def abort(self, error: Exception) -> None:
        """Fail all of them, except those that have got some of their tasks: these get what they have."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if waiter.got:
                waiter.ticket.resolve(waiter.got)
            else:
                waiter.ticket.fail(renew(error))
