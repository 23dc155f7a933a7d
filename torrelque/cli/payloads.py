"""Shows payloads and results of any serialiser, as JSON or text if possible, otherwise in hexadecimal.

Nothing is ever unpickled.
"""

from __future__ import annotations

import codecs
import json
from typing import Any, NamedTuple, NoReturn

from torrelque.cli.output import printable

__all__ = ('MOST', 'Rendered', 'Shown', 'preview', 'render', 'show_bytes')

MOST = 65_536
"""Number of bytes of a payload that fit on a screen."""

PREVIEW = 300
"""Maximum number of bytes in a preview."""

ROW = 16
"""Bytes per line of a hexadecimal dump."""

TEXTUAL = '\n\r\t'


class Shown(NamedTuple):
    """A decoded payload: ``encoding`` is ``json``, ``text`` or ``hex``; ``value`` is the decoded JSON or a string."""

    encoding: str
    value: Any


class Rendered(NamedTuple):
    """The encoding, and the payload as lines for people: indented JSON, text, or a hexadecimal dump with addresses."""

    encoding: str
    text: str


def show_bytes(data: bytes) -> Shown:
    """Decode a payload for programs, as far as possible."""
    try:
        return Shown('json', json.loads(data, parse_constant=_refuse))
    except (ValueError, RecursionError):
        pass
    text = _as_text(data)
    return Shown('hex', data.hex(' ')) if text is None else Shown('text', text)


def render(data: bytes, most: int | None = None) -> Rendered:
    """Decode a payload for people, up to the first ``most`` bytes."""
    if most is not None and len(data) > most:
        more = f'\n… {len(data) - most:,} bytes more'
        text = _as_text(data[:most], cut=True)
        return Rendered('hex', _dump(data[:most]) + more) if text is None else Rendered('text', text + more)
    encoding, value = show_bytes(data)
    if encoding == 'hex':
        return Rendered(encoding, _dump(data))
    text = json.dumps(value, indent=2, ensure_ascii=False) if encoding == 'json' else value
    return Rendered(encoding, '\n'.join(printable(line, keep='\t') for line in text.splitlines()))


def preview(data: bytes | None) -> str:
    """Return the beginning on one line: text unchanged, anything else in hexadecimal."""
    if data is None:
        return ''
    text = _as_text(data[:PREVIEW], cut=True)
    return data[:PREVIEW].hex(' ') if text is None else ' '.join(text.split())


def _as_text(data: bytes, *, cut: bool = False) -> str | None:
    """Decode printable UTF-8, or return None. With ``cut``, the last character may be incomplete."""
    try:
        text = codecs.getincrementaldecoder('utf-8')().decode(data, final=not cut)
    except UnicodeDecodeError:
        return None
    return text if all(each.isprintable() or each in TEXTUAL for each in text) else None


def _dump(data: bytes) -> str:
    lines = []
    for first in range(0, len(data), ROW):
        row = data[first : first + ROW]
        text = ''.join(chr(byte) if chr(byte).isascii() and chr(byte).isprintable() else '.' for byte in row)
        lines.append(f'{first:06x}  {row.hex(" "):<{ROW * 3 - 1}}  {text}')
    return '\n'.join(lines)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f'{constant} is not JSON')  # otherwise it would be printed without quotes
