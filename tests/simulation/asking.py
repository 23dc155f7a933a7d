"""How callers ask for a verb, and what they may be told."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from tests.simulation.clients import CANCELLED, Client, nobody
from tests.simulation.rules import require
from torrelque.core.commands import Answer, Command, Item
from torrelque.core.merging import Ticket
from torrelque.errors import TorrelqueConnectionError, TorrelqueNewerError, TorrelqueTimeoutError

__all__ = ('ask', 'nobody', 'succeeded')


def ask(client: Client, verb: Command, items: Sequence[Item]) -> Generator[Ticket, Any, list[Answer] | None]:
    """The answers; None if it was cancelled, or failed."""
    ticket = yield from client.submit(verb, items)
    return ticket.value if succeeded(client, ticket) else None


def succeeded(client: Client, ticket: Any) -> bool:  # noqa: ANN401 - a ticket, or CANCELLED
    """Whether there is an answer. Where there is none, it is for a reason that callers may be told."""
    if ticket is CANCELLED:
        return False
    error = ticket.error
    if isinstance(error, TorrelqueConnectionError):
        require(client.world.config.faults.lose + client.world.config.faults.unblock > 0, 'failed without a reason')
    elif isinstance(error, TorrelqueNewerError):
        require(client.world.config.later, 'told of a later version')
    elif error is not None and not client.stopping and not client.may_be_told(error):
        require(isinstance(error, TorrelqueTimeoutError), 'a caller got', error)
    return error is None
