"""A wait for a hint, as the core asks for it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ('Wait', 'Waiting')


class Waiting(Protocol):
    """Who is told how a wait ended: one of these is called, once."""

    def ended(self, member: bytes | None) -> None:
        """By a hint, the member of the key's sorted set that was popped, or with its time."""

    def failed(self, error: Exception) -> None:
        """It broke."""


class Wait(NamedTuple):
    """Wait ``seconds`` at most until there is something in the sorted set at ``key``, pop it, and tell ``then``."""

    key: bytes
    seconds: float
    then: Waiting
