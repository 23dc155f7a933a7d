"""Converts words and replies, so that all clients send and return the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torrelque.core.protocol import Arg, Reply
from torrelque.errors import TorrelqueReplyError, TorrelqueTypeError, TorrelqueValueError

__all__ = ('encoded', 'plain')

SENT_AS_IT_IS = frozenset({bytes, int})
ATOMS = SENT_AS_IT_IS | {type(None)}


def encoded(words: Sequence[Arg]) -> list[bytes | int]:
    """Return the words of a command, with text as UTF-8 whatever encoding the client uses.

    Raises TorrelqueTypeError or TorrelqueValueError.
    """
    try:
        return [word if type(word) in SENT_AS_IT_IS else _encode(word) for word in words]  # type: ignore[misc]
    except UnicodeEncodeError as error:
        raise TorrelqueValueError(f'a word of a command cannot be encoded as UTF-8: {error}') from None


def _encode(word: object) -> bytes | int:
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bytes):
        return bytes(word)
    if isinstance(word, int) and not isinstance(word, bool):
        return int(word)
    raise TorrelqueTypeError(f'every word of a command must be bytes, str or int, not {word!r}')


def plain(reply: Reply, as_ours: Callable[[Exception], TorrelqueReplyError]) -> Reply:
    """Return a RESP2 or RESP3 reply in RESP2's types, with its errors converted by ``as_ours``."""
    kind = type(reply)
    if kind in ATOMS:
        return reply
    if kind is list:
        return [item if type(item) in ATOMS else plain(item, as_ours) for item in reply]
    if isinstance(reply, Exception):
        return as_ours(reply)
    return _from_resp3(reply, as_ours)


def _from_resp3(reply: Reply, as_ours: Callable[[Exception], TorrelqueReplyError]) -> Reply:
    if isinstance(reply, bool):
        return int(reply)
    if isinstance(reply, float):
        return format(reply, '.17g').encode()
    if isinstance(reply, str):  # clients always decode some strings, such as verbatim ones
        return reply.encode()
    if isinstance(reply, dict):
        return [plain(item, as_ours) for pair in reply.items() for item in pair]
    return [plain(item, as_ours) for item in reply]
