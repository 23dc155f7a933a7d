"""What the command's exit status means. Documented in ``docs/command-line.md``; scripts rely on it."""

from __future__ import annotations

from enum import IntEnum

__all__ = ('Exit',)


class Exit(IntEnum):
    """Exit statuses of all verbs."""

    OK = 0
    """Done, or the answer is yes."""
    NEGATIVE = 1
    """The answer is no: no such task or queue, a task that was rejected, a violation, nothing done to some."""
    USAGE = 2
    """The command line or the input cannot be understood, or a package is missing; nothing was done."""
    SERVER = 3
    """The server cannot be reached, refuses, or answers with an error."""
    TIMEOUT = 4
    """The time given with ``--timeout`` is over."""
    BUG = 70
    """Something that should not happen, as in sysexits.h."""
    INTERRUPTED = 130
    """What a shell reports of a program that Ctrl-C ended."""
    BROKEN_PIPE = 141
    """What a shell reports of a program whose output nobody reads any more."""
