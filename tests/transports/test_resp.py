"""What adapters do to words and replies, so that every client sends and answers the same."""

from __future__ import annotations

import pytest
import redis

from torrelque.errors import TorrelqueReplyError, TorrelqueTypeError, TorrelqueValueError
from torrelque.transports import redis_py_errors
from torrelque.transports.resp import encoded, plain


def test_words_are_encoded_as_utf_8() -> None:
    class Name(str):
        __slots__ = ()

    assert encoded(['gr\u00fc\u00df', Name('n'), b'\xff', 7]) == [b'gr\xc3\xbc\xc3\x9f', b'n', b'\xff', 7]


@pytest.mark.parametrize('word', [1.5, True, None, ['a']])
def test_other_words_are_refused(word: object) -> None:
    with pytest.raises(TorrelqueTypeError, match='bytes, str or int'):
        encoded([b'a', word])  # type: ignore[list-item] # what is tested


def test_words_that_are_no_text_are_refused() -> None:
    with pytest.raises(TorrelqueValueError, match='UTF-8'):
        encoded(['\ud800'])


def test_replies_become_those_of_resp2() -> None:
    error = redis.ResponseError('MINE alone')
    reply = [{b'a': 1.5, b'b': {b'c'}}, True, False, None, 'txt', [2.0, [error]], (b'd',)]
    *rest, (two, (ours,)), last = plain(reply, redis_py_errors.as_reply_error)
    assert rest == [[b'a', b'1.5', b'b', [b'c']], 1, 0, None, b'txt']
    assert (two, last) == (b'2', [b'd'])
    assert isinstance(ours, TorrelqueReplyError)
    assert ours.code == 'MINE'
