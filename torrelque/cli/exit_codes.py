"""What the command's exit status means. Documented in ``docs/command-line.md``; scripts rely on it."""

from __future__ import annotations

import importlib.util
import sys
from enum import IntEnum
from typing import NoReturn

__all__ = ('Exit', 'fail', 'require')


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


def require(packages: dict[str, str]) -> None:
    """Exit unless these packages are there; the values are the extras that bring them."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extras = ','.join(sorted({packages[package] for package in missing}))
        fail(f'not installed: {", ".join(sorted(missing))}. Install with: pip install "torrelque[{extras}]"')


def fail(message: str, status: int = Exit.USAGE) -> NoReturn:
    """Exit with one line on standard error."""
    print(f'torrelque: {" ".join(message.split())}', file=sys.stderr)  # noqa: T201 - what a command does
    raise SystemExit(int(status))
