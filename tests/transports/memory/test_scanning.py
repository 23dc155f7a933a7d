"""Patterns and options of SCAN; `tests/model/test_commands.py` compares them with real servers."""

from __future__ import annotations

import pytest

from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.scanning import matcher


@pytest.mark.parametrize(
    ('pattern', 'matching', 'others'),
    [
        (b'*', [b'', b'a\nb'], []),
        (b'a*c', [b'ac', b'abbc'], [b'acd', b'bac']),
        (b'a?c', [b'abc', b'a\nc'], [b'ac', b'abbc']),
        (b'[ab]x', [b'ax', b'bx'], [b'cx', b'x']),
        (b'[a-c]', [b'b'], [b'd']),
        (b'[^ab]', [b'c'], [b'a', b'']),
        (b'a\\*', [b'a*'], [b'ab']),
        (b'a.b', [b'a.b'], [b'axb']),
        (b'{q}:*', [b'{q}:x'], [b'q:x']),
    ],
)
def test_patterns(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    match = matcher(b'0', [b'MATCH', pattern])
    assert [word for word in (*matching, *others) if match(word)] == matching


def test_options() -> None:
    assert matcher(b'17', [])(b'anything')
    assert matcher(b'0', [b'count', b'5', b'match', b'a'])(b'a')
    with pytest.raises(TorrelqueReplyError, match='invalid cursor'):
        matcher(b'x', [])
    for options in ([b'COUNT', b'x'], [b'NONE', b'1'], [b'MATCH']):
        with pytest.raises(ValueError, match=r'.'):
            matcher(b'0', options)
