"""The ``torrelque`` command. It uses the library as any other program would: only its public names.

A verb is a function in a module of its group; ``app.py`` lists them all, and
says how another one is added.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

from torrelque.cli.exit_codes import Exit

__all__ = ('fail', 'main', 'require')


def main() -> None:
    """Run the command line. Its packages are an extra, so it says which are missing before it needs them."""
    require({'rich': 'cli', 'typer': 'cli'})
    from torrelque.cli.app import run  # noqa: PLC0415 - it cannot be imported without them

    run(sys.argv[1:])


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
