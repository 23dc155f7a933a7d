"""The consumers that wait for tasks, first come first served."""

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
"""How far past its time a consumer waits for the answer of its first claim, in seconds."""


class Waiter:
    """A consumer that waits until ``deadline`` for ``want`` tasks and ``got`` some; or takes what is there."""

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
        """When it has waited long enough: not before its first claim was answered, unless that takes too long."""
        return self.deadline if self.looked else self.deadline + FIRST_LOOK


class Waiters:
    """Those who wait now. ``give_back`` takes claims that nobody is there for any more."""

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
        """Tasks that they want and have not got."""
        return sum(waiter.want - len(waiter.got) for waiter in self._waiters.values())

    @property
    def deadline(self) -> float:
        """Until when the most patient of them waits; the past, if nobody does."""
        return max([waiter.deadline for waiter in self._waiters.values() if waiter.stays], default=-math.inf)

    @property
    def expiry(self) -> float:
        """When the first of them has waited long enough; infinite if there is none."""
        return min([waiter.expiry for waiter in self._waiters.values()], default=math.inf)

    def now_there(self) -> list[Ticket]:
        return list(self._waiters)

    def join(self, ticket: Ticket, want: int, deadline: float, *, stays: bool = True) -> None:
        """Wait for up to ``want`` tasks until ``deadline`` (maybe infinite); without ``stays`` for one look."""
        self._waiters[ticket] = Waiter(ticket, want, deadline, stays=stays)

    def leave(self, ticket: Ticket) -> None:
        """The caller has gone. What was already claimed for it goes back."""
        waiter = self._waiters.pop(ticket, None)
        if waiter is not None and waiter.got:
            self._give_back(waiter.got)

    def hand_out(self, served: Iterable[Ticket], tasks: Sequence[ClaimedTask], *, more: bool) -> None:
        """Share out what a claim for those ``served`` brought; ``more``: there may be further tasks at once."""
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
        """Tell those who have waited long enough."""
        for waiter in [waiter for waiter in self._waiters.values() if waiter.expiry <= now]:
            del self._waiters[waiter.ticket]
            if waiter.got:
                waiter.ticket.resolve(waiter.got)
            else:
                waiter.ticket.fail(TorrelqueTimeoutError('no task in time'))

    def abort(self, error: Exception) -> None:
        """Tell all of them; what was claimed for one that wants more is its."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if waiter.got:
                waiter.ticket.resolve(waiter.got)
            else:
                waiter.ticket.fail(renew(error))
