"""Merges concurrent calls to the same script into one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, cast

from torrelque.core.commands import Command, Item

__all__ = ('LARGE', 'MAX_BYTES', 'RESERVED', 'Merger', 'Ticket', 'split')

MAX_BYTES = 1 << 20
"""Maximum size of the items that are merged into one call, in bytes."""

LARGE = MAX_BYTES // 4
"""Size from which an item is sent in its own call, in bytes, so that it neither delays small items nor fails with them.

No server can be configured to refuse smaller values.
"""

RESERVED = 8
"""Number of calls that are reserved for small items."""


class Ticket:
    """A caller's request, and later its outcome.

    Attributes:
        items: The items of the command.
        size: Their size in bytes, once the ticket waits to be merged.
        wake: Called when the ticket is done.
        done: Whether the outcome is there.
        gone: Whether the caller has withdrawn the request.
        value: The result.
        error: The error, if the request failed.
    """

    __slots__ = ('done', 'error', 'gone', 'items', 'size', 'value', 'wake')

    def __init__(self, items: Sequence[Item], wake: Callable[[], None]) -> None:
        self.items: Sequence[Item] = items
        self.size: int = 0
        self.wake: Callable[[], None] = wake
        self.done: bool = False
        self.gone: bool = False
        self.value: Any = None
        self.error: Exception | None = None

    def resolve(self, value: Any) -> None:  # noqa: ANN401 - what the command answers
        self.value = value
        self.done = True
        self.wake()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done = True
        self.wake()


class Merger:
    """Collects tickets by command, and hands them out in groups that fit one call."""

    def __init__(self) -> None:
        self._waiting: dict[Command, deque[Ticket]] = {}
        self._large: deque[tuple[Command, Ticket]] = deque()

    def add(self, command: Command, ticket: Ticket) -> None:
        """Add a ticket with at most ``command.limit`` items."""
        ticket.size = _size(ticket.items)
        if ticket.size >= LARGE:
            self._large.append((command, ticket))
        else:
            self._waiting.setdefault(command, deque()).append(ticket)

    def __bool__(self) -> bool:
        return bool(self._large) or any(self._waiting.values())

    def take(self, most: float) -> list[tuple[Command, list[Ticket]]]:
        """Take tickets out, in the order in which they were added.

        Args:
            most: Maximum number of groups; infinite for all.

        Returns:
            Groups of tickets for one call each, with their command. Large tickets come first, each in its own group.
            Tickets whose callers have gone are dropped.
        """
        groups: list[tuple[Command, list[Ticket]]] = []
        while self._large and len(groups) < most - RESERVED:
            command, ticket = self._large.popleft()
            if not ticket.gone:
                groups.append((command, [ticket]))
        for command, waiting in self._waiting.items():
            while waiting and len(groups) < most:
                group = self._group(command, waiting)
                if group:
                    groups.append((command, group))
        # Each layout of the shards has its own command to enqueue, which would be kept for ever.
        for command in [command for command, waiting in self._waiting.items() if command.trailer and not waiting]:
            del self._waiting[command]
        return groups

    @staticmethod
    def _group(command: Command, waiting: deque[Ticket]) -> list[Ticket]:
        group: list[Ticket] = []
        count = size = 0
        while waiting:
            ticket = waiting[0]
            if not ticket.gone:
                count += len(ticket.items)
                size += ticket.size
                if group and (count > command.limit or size > MAX_BYTES):
                    break
                group.append(ticket)
            waiting.popleft()
        return group


def split(items: Sequence[Item], limit: int) -> Iterator[Sequence[Item]]:
    """Cut items into parts for one call each: at most ``limit`` of them, about `MAX_BYTES`, and large ones alone."""
    for first in range(0, len(items), limit):
        part = items[first : first + limit]
        if _size(part) < LARGE:
            yield part
        else:
            yield from _split_by_size(part)


def _split_by_size(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    first = total = 0
    after_large = False
    for at, item in enumerate(items):
        size = _size((item,))
        is_large = size >= LARGE
        if at > first and (total + size > MAX_BYTES or is_large or after_large):
            yield items[first:at]
            first, total = at, 0
        total += size
        after_large = is_large
    yield items[first:]


def _size(items: Sequence[Item]) -> int:
    if len(items) == 1:
        return sum([len(word) for word in items[0] if type(word) is bytes])
    # Words at the same place have the same type. Items may have different lengths.
    columns: Iterable[tuple[Any, ...]] = zip_longest(*cast('Iterable[tuple[Any, ...]]', items), fillvalue=b'')
    return sum([sum(map(len, words)) for words in columns if type(words[0]) is bytes])
