"""Payloads and results, which belong to applications: as JSON or text where they are that, else as hex.

Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn

__all__ = ('Shown', 'show_bytes')

TEXTUAL = '\n\r\t'


class Shown(NamedTuple):
    """``encoding`` is ``json``, ``text`` or ``hex``; ``value`` is the decoded JSON, or a string."""

    encoding: str
    value: Any

    @property
    def text(self) -> str:
        """For people; JSON is indented."""
        return json.dumps(self.value, indent=2, ensure_ascii=False) if self.encoding == 'json' else str(self.value)


def show_bytes(data: bytes) -> Shown:
    """The best way to show them."""
    try:
        return Shown('json', json.loads(data, parse_constant=_refuse))
    except (ValueError, RecursionError):
        pass
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return Shown('hex', data.hex(' '))
    if all(each.isprintable() or each in TEXTUAL for each in text):
        return Shown('text', text)
    return Shown('hex', data.hex(' '))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f'{constant} is no JSON')  # or it would be written as none
