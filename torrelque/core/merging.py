"""Concurrent calls to the same script become one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from torrelque.core.verbs import Item, Verb

__all__ = ('Merger', 'Ticket')

MAX_BYTES = 1 << 20
"""Payloads gathered into one call; a single larger item goes alone."""


class Ticket:
    """A caller's request and, once ``done``, its ``value`` or ``error``; ``wake`` is called then."""

    __slots__ = ('done', 'error', 'gone', 'items', 'value', 'wake')

    def __init__(self, items: Sequence[Item], wake: Callable[[], None]) -> None:
        self.items: Sequence[Item] = items
        self.wake: Callable[[], None] = wake
        self.done: bool = False
        self.gone: bool = False
        self.value: Any = None
        self.error: Exception | None = None

    def resolve(self, value: Any) -> None:  # noqa: ANN401 - what the verb answers
        self.value = value
        self.done = True
        self.wake()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done = True
        self.wake()


class Merger:
    """Gathers tickets by verb, and hands them out in groups that fit one call."""

    def __init__(self) -> None:
        self._waiting: dict[Verb, deque[Ticket]] = {}

    def add(self, verb: Verb, ticket: Ticket) -> None:
        """Queue a ticket with at most ``verb.limit`` items."""
        self._waiting.setdefault(verb, deque()).append(ticket)

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    def take(self, most: float, least: int = 0) -> list[tuple[Verb, list[Ticket]]]:
        """At most so many groups, each of one verb, first come first served; tickets whose caller left are dropped.

        Of a verb for which fewer than ``least`` items wait none is taken.
        """
        groups: list[tuple[Verb, list[Ticket]]] = []
        for verb, waiting in self._waiting.items():
            while waiting and len(groups) < most and (not least or _count(waiting) >= least):
                group = self._group(verb, waiting)
                if group:
                    groups.append((verb, group))
        return groups

    @staticmethod
    def _group(verb: Verb, waiting: deque[Ticket]) -> list[Ticket]:
        group: list[Ticket] = []
        count = size = 0
        while waiting:
            ticket = waiting[0]
            if not ticket.gone:
                count += len(ticket.items)
                for item in ticket.items:
                    for word in item:
                        if type(word) is bytes:
                            size += len(word)
                if group and (count > verb.limit or size > MAX_BYTES):
                    break
                group.append(ticket)
            waiting.popleft()
        return group


def _count(waiting: deque[Ticket]) -> int:
    return sum([len(ticket.items) for ticket in waiting])
