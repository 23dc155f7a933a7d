"""The options of SCAN and its kin, and the patterns that they match."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torrelque.errors import TorrelqueReplyError

__all__ = ('matcher',)


def matcher(cursor: bytes, options: Sequence[bytes]) -> Callable[[bytes], bool]:
    """What MATCH lets through. COUNT is only a hint, and not taken here."""
    if not cursor.isdigit():
        raise TorrelqueReplyError('ERR invalid cursor')
    given = {word.upper(): value for word, value in zip(options[::2], options[1::2], strict=True)}
    int(given.pop(b'COUNT', b'10'))
    pattern = given.pop(b'MATCH', b'*')
    if given:
        raise ValueError(f'unknown options {given}')
    regex = re.compile(_as_regex(pattern), re.DOTALL)
    return lambda word: regex.fullmatch(word) is not None


_GLOB = re.compile(rb'\\(.)|(\*+)|(\?)|\[(\^?)((?:\\.|[^]])*)\]|(.)', re.DOTALL)


def _as_regex(pattern: bytes) -> bytes:
    """A glob pattern as servers have them."""

    def translate(match: re.Match[bytes]) -> bytes:
        escaped, star, question, negated, choice, literal = match.groups()
        if star:
            return b'.*'
        if question:
            return b'.'
        if choice is not None:
            inside = re.sub(rb'(?<!\\)[\[&~|]', rb'\\\g<0>', choice)
            return b'[%b%b]' % (negated, inside) if inside else (b'.' if negated else b'(?!)')
        return re.escape(escaped or literal)

    return _GLOB.sub(translate, pattern)
