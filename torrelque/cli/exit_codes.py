"""Exit statuses, documented in ``docs/command-line.md``. Scripts rely on them."""

from __future__ import annotations

import importlib.util
import sys
from enum import IntEnum
from typing import NoReturn

__all__ = ('Exit', 'fail', 'require')


class Exit(IntEnum):
    """Exit statuses of all commands."""

    OK = 0
    """Success, or the answer is yes."""
    NEGATIVE = 1
    """The answer is no: an unknown task or queue, a rejected task, a violation, or a task that could not be changed."""
    USAGE = 2
    """The command line or the input is invalid, or a package is missing. Nothing was done."""
    SERVER = 3
    """The server is unreachable, refuses the connection or replies with an error."""
    TIMEOUT = 4
    """``--timeout`` has expired."""
    BUG = 70
    """An internal error, as in sysexits.h."""
    INTERRUPTED = 130
    """The status that a shell reports for a program ended by Ctrl-C."""
    BROKEN_PIPE = 141
    """The status that a shell reports for a program whose output is no longer read."""


def require(packages: dict[str, str]) -> None:
    """Exit with a message if any of these packages is missing; the values are the extras that install them."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extras = ','.join(sorted({packages[package] for package in missing}))
        fail(f'not installed: {", ".join(sorted(missing))}. Install with: pip install "torrelque[{extras}]"')


def fail(message: str, status: int = Exit.USAGE) -> NoReturn:
    """Print one line on standard error and exit."""
    print(f'torrelque: {" ".join(message.split())}', file=sys.stderr)  # noqa: T201 - what a command does
    raise SystemExit(int(status))
