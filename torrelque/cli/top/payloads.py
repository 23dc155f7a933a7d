"""Payloads and results as they are shown, whatever serialiser wrote them."""

from __future__ import annotations

import codecs
import json
from typing import NamedTuple

__all__ = ('Shown', 'preview', 'show')

MOST = 65_536
"""Bytes of a payload that are shown."""

PREVIEW = 300
"""Bytes of which a preview is made."""

ROW = 16
"""Bytes in a line of a hexadecimal dump."""


class Shown(NamedTuple):
    """The text, and the language it is in: ``json``, ``text`` or ``hex``."""

    language: str
    text: str


def show(data: bytes) -> Shown:
    """JSON with indents, other UTF-8 text as it is, anything else as hexadecimal; at most 64 KiB of it."""
    whole = len(data) <= MOST
    cut = '' if whole else f'\n… {len(data) - MOST:,} bytes more'
    if whole:
        try:
            value = json.loads(data)
            text = json.dumps(value, indent=2, ensure_ascii=False)
            return Shown('json', text if _is_printable(text) else json.dumps(value, indent=2))
        except (ValueError, RecursionError):
            pass  # something else, then
    head = data[:MOST]
    try:
        text = codecs.getincrementaldecoder('utf-8')().decode(head, final=whole)
    except UnicodeDecodeError:
        return Shown('hex', _dump(head) + cut)
    return Shown('text', text + cut) if _is_printable(text) else Shown('hex', _dump(head) + cut)


def preview(data: bytes | None) -> str:
    """The beginning of it on one line: text as it is, else as hexadecimal."""
    if data is None:
        return ''
    head = data[:PREVIEW]
    try:
        text = codecs.getincrementaldecoder('utf-8')().decode(head)
    except UnicodeDecodeError:
        return head.hex(' ')
    line = ' '.join(text.split())
    return line if line.isprintable() else head.hex(' ')


def _is_printable(text: str) -> bool:
    return all(line.isprintable() for line in text.replace('\t', ' ').split('\n'))


def _dump(data: bytes) -> str:
    lines = []
    for first in range(0, len(data), ROW):
        row = data[first : first + ROW]
        text = ''.join(chr(byte) if chr(byte).isascii() and chr(byte).isprintable() else '.' for byte in row)
        lines.append(f'{first:06x}  {row.hex(" "):<{ROW * 3 - 1}}  {text}')
    return '\n'.join(lines)
