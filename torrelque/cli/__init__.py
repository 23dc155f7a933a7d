"""The ``torrelque`` command. It uses the library as any other program would: only its public names.

A verb is a function in a module of its group; ``app.py`` lists them all, and
says how another one is added.
"""

from __future__ import annotations

import sys

from torrelque.cli.exit_codes import require

__all__ = ('main',)


def main() -> None:
    """Run the command line. Its packages are an extra, so it says which are missing before it needs them."""
    require({'rich': 'cli', 'typer': 'cli'})
    from torrelque.cli.app import run  # noqa: PLC0415 - it cannot be imported without them

    run(sys.argv[1:])
