"""The interface between the state machine of a queue object and its driver.

The driver is the engine, or a simulation. It polls a :class:`Machine`, runs the
operations and waits in the :class:`Turn`, and polls again when a caller makes a
request, when an operation or a wait ends, and at the latest at the turn's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torrelque.core.commands import Command, Item
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Call, Operation, Reply

__all__ = ('Machine', 'Turn', 'Wait', 'Waiting')


class Waiting(Protocol):
    """Receives the end of a wait. The driver calls one of the methods, once."""

    def ended(self, member: bytes | None, reply: Reply = None, /) -> None:
        """Report that a hint or the time ended the wait.

        Args:
            member: The hint, which is the popped member; None if the time was over.
            reply: The reply to the call behind the wait; None if the driver has none.
        """

    def failed(self, error: Exception) -> None:
        """Report that the wait broke, so that it may have taken a hint."""


class Wait(NamedTuple):
    """A wait on the server: pops a member of a sorted set as soon as there is one.

    Attributes:
        key: The sorted set.
        seconds: Maximum time to wait.
        then: Receives the end of the wait.
        behind: A call to send behind the wait, in the same write; None for none.
    """

    key: bytes
    seconds: float
    then: Waiting
    behind: Call[Reply] | None = None


class Turn(NamedTuple):
    """What a driver has to do after a poll.

    Attributes:
        groups: Operations to run: those of a group on one connection, different groups at the same time.
        dedicated: Operations to run on a dedicated connection each, because the server may take longer to answer.
        waits: Waits to begin.
        until: When to poll again at the latest, on the machine's clock, in seconds; infinite if there is no such time.
    """

    groups: Sequence[Sequence[Operation[None]]]
    dedicated: Sequence[Operation[None]]
    waits: Sequence[Wait]
    until: float


class Machine(Protocol):
    """The state machine of one queue object, with or without shards."""

    nonce: str
    """Text that no other machine has. The tokens of its claims contain it."""

    @property
    def asked(self) -> bool:
        """Whether requests wait to be sent."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether there is certainly nothing to do before the next request, so that no poll is needed."""
        ...

    def submit(self, command: Command, items: Sequence[Item], wake: Callable[[], None], shard: int = 0, /) -> Ticket:
        """Request a command on items of one shard.

        Args:
            command: The command.
            items: The items, at most ``command.limit``.
            wake: Called when the ticket is done.
            shard: The number of the shard; ignored without shards.

        Returns:
            A ticket. Its value will be a list with an answer for each item.
        """
        ...

    def dequeue(self, want: int, deadline: float, wake: Callable[[], None]) -> Ticket:
        """Request tasks, and wait for them.

        Args:
            want: Maximum number of tasks.
            deadline: How long to wait, on the machine's clock, in seconds; may be infinite.
            wake: Called when the ticket is done.

        Returns:
            A ticket. Its value will be a list of at least one task, or its error a TorrelqueTimeoutError.
        """
        ...

    def dequeue_nowait(self, want: int, wake: Callable[[], None]) -> Ticket:
        """Request tasks that are available now.

        Args:
            want: Maximum number of tasks.
            wake: Called when the ticket is done.

        Returns:
            A ticket. Its value will be a list of tasks, perhaps empty.
        """
        ...

    def share_waits(self, *, shared: bool) -> None:
        """Set whether the driver makes one call of the waits of several machines. Then no call can be behind a wait."""

    def leave(self, ticket: Ticket) -> None:
        """Withdraw a request: drop what was not sent, and give back tasks that were claimed for it."""

    def poll(self) -> Turn:
        """Return what to do now. Once closed, with nothing under way, that includes removing the lanes."""
        ...

    def close(self) -> None:
        """Fail the consumers that wait. The driver then cancels its waits, and polls until nothing is left to do."""

    def abort(self, error: Exception) -> None:
        """Fail all requests whose calls have not begun, with this error."""
