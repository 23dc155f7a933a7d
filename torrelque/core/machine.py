"""What the state machine of a queue object and its driver say to each other.

The driver is the engine, or a simulation. It polls a :class:`Machine`, runs the
operations and waits that the :class:`Turn` holds, and polls again when a caller
asked for something, when an operation or a wait ended, and at the turn's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torrelque.core.commands import Command, Item
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Call, Operation, Reply

__all__ = ('Machine', 'Turn', 'Wait', 'Waiting')


class Waiting(Protocol):
    """Receives the end of a wait, by one of these calls."""

    def ended(self, member: bytes | None, reply: Reply = None, /) -> None:
        """A hint ended it, which is the member that was popped; or, with None, its time was over.

        ``reply`` is that of the call behind it; None if the driver has none.
        """

    def failed(self, error: Exception) -> None:
        """It broke."""


class Wait(NamedTuple):
    """Wait at most ``seconds`` until the sorted set at ``key`` has a member, pop that, and tell ``then``."""

    key: bytes
    seconds: float
    then: Waiting
    behind: Call[Reply] | None = None
    """A call to send behind it, in the same write."""


class Turn(NamedTuple):
    """What a driver does after it polled."""

    groups: Sequence[Sequence[Operation[None]]]
    """Operations to run: those of a group on one connection, different groups at the same time."""
    dedicated: Sequence[Operation[None]]
    """Operations to run on a connection of their own each, on which the server may take longer to answer."""
    waits: Sequence[Wait]
    """Waits to begin."""
    until: float
    """When to poll again at the latest, on the machine's clock; infinite if only when something happens."""


class Machine(Protocol):
    """The state machine of one queue object, with or without shards."""

    def submit(self, command: Command, items: Sequence[Item], wake: Callable[[], None], shard: int = 0, /) -> Ticket:
        """Run a command on at most ``command.limit`` items of one shard. The ticket will hold a list of answers."""
        ...

    def dequeue(self, want: int, deadline: float, wake: Callable[[], None]) -> Ticket:
        """Wait for up to ``want`` tasks until ``deadline``. The value will be a list of at least one."""
        ...

    def dequeue_nowait(self, want: int, wake: Callable[[], None]) -> Ticket:
        """Take up to ``want`` tasks that are there. The value will be a list, perhaps empty."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """The caller has gone. What was not sent is dropped; tasks claimed for it are given back."""

    def poll(self) -> Turn:
        """What to do now. Once closed, and with nothing under way, it lets the server forget the lanes."""
        ...

    def close(self) -> None:
        """Fail those who wait for tasks. The driver breaks off its waits, and polls until nothing is left."""

    def abort(self, error: Exception) -> None:
        """Fail all whose calls have not begun."""
