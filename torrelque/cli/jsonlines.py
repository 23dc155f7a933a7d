"""Reads lines of JSON from a file or a pipe as they arrive."""

from __future__ import annotations

import io
import json
import select
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import NamedTuple

import anyio

from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit

__all__ = ('Line', 'check_json', 'read_lines')

PART = 1 << 18
"""Number of bytes to read at once."""


class Line(NamedTuple):
    """A line of JSON, its number, and its end as an offset in bytes."""

    number: int
    text: bytes
    end: int


def check_json(text: bytes | str, where: str) -> None:
    """Raise Refusal unless the text is JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(f'{where} is not JSON: {error}', Exit.USAGE) from None


async def read_lines(stream: io.BufferedIOBase, name: str) -> AsyncIterator[list[Line]]:
    """Yield the available lines until the end of the stream, without empty ones.

    From a pipe, each batch has the lines that were written since the last one, so no
    line waits for a batch to fill. At the first line that is not JSON, raises Refusal
    after yielding the lines before it.
    """
    splitter = _Splitter(name)
    while True:
        await _readable(stream)
        data = stream.read1(PART)
        lines = splitter.feed(data)
        checked: list[Line] = []
        try:
            for line in lines:
                check_json(line.text, f'{name}, line {line.number}')
                checked.append(line)
        except Refusal:
            if checked:
                yield checked
            raise
        if checked:
            yield checked
        if not data:
            return


class _Splitter:
    """Splits the bytes that were read into lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest: list[bytes] = []
        self._number = 0
        self._end = 0

    def feed(self, data: bytes) -> Iterator[Line]:
        """Return the lines that these bytes complete. Empty bytes mean the end of the stream."""
        head, newline, tail = data.rpartition(b'\n')
        if data and not newline:
            self._rest.append(data)
            return iter(())
        whole = b''.join([*self._rest, head])
        self._rest = [tail] if tail else []
        return self._cut(whole.split(b'\n') if data or whole else ())

    def _cut(self, texts: Iterable[bytes]) -> Iterator[Line]:
        for text in texts:
            self._number += 1
            self._end += len(text) + 1
            if text.strip():
                yield Line(self._number, text.strip(), self._end)


async def _readable(stream: io.BufferedIOBase) -> None:
    """Wait until the stream is readable. Safe to cancel. Files are always readable."""
    try:
        number = stream.fileno()
        if not select.select([number], [], [], 0)[0]:
            await anyio.wait_readable(number)
    except (PermissionError, io.UnsupportedOperation):
        await anyio.lowlevel.checkpoint()
