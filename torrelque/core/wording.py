"""Words of messages."""

from __future__ import annotations

__all__ = ('counted',)


def counted(number: int | str, noun: str) -> str:
    """Return a number with its noun, in the plural unless there is one: ``1 task``, ``2,000 tasks``."""
    shown = number if isinstance(number, str) else f'{number:,}'
    return f'{shown} {noun}{"" if shown == "1" else "s"}'
