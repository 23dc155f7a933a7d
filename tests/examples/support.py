"""Running examples as their users do: as programs of their own, in which warnings are errors."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 50.0
PYTHON = [sys.executable, '-u', '-W', 'error']


class Program:
    """A running program. What it prints is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed = ''

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read lines until one matches. One that ends first, or never prints it, is an AssertionError."""
        for line in self._lines():
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f'ended, or took too long, without {pattern!r}: {self.printed}')

    def read_to_the_end(self) -> str:
        """Wait for its end, in good order; all that it printed."""
        for _ in self._lines():
            pass
        assert self.process.wait(PATIENCE) == 0, self.printed
        return self.printed

    def _lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                self.printed += line
                yield line
        finally:
            watchdog.cancel()


@contextmanager
def running(*arguments: str | Path) -> Iterator[Program]:
    """``python ARGUMENTS`` in the repository's folder."""
    process = subprocess.Popen(
        [*PYTHON, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


def output_of(*arguments: str | Path) -> str:
    """What ``python ARGUMENTS`` prints, to its end in good order."""
    with running(*arguments) as program:
        return program.read_to_the_end()
