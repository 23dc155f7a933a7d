"""The ``torrelque`` command. Like any other program, it uses only the library's public names.

A command is a function in a module of its group. ``app.py`` lists all commands
and says how to add one.
"""

from __future__ import annotations

import sys

from torrelque.cli.exit_codes import require

__all__ = ('main',)


def main() -> None:
    """Run the command line, or exit with a message if the packages of its extra are missing."""
    require({'rich': 'cli', 'typer': 'cli'})
    from torrelque.cli.app import run  # noqa: PLC0415 - the import needs them

    run(sys.argv[1:])
