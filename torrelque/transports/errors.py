"""Errors that are ours and a client's at once: whoever catches either kind catches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError, remake

__all__ = ('TorrelqueAnsweredConnectionError', 'dual_error', 'leaf')

E = TypeVar('E', bound=TorrelqueError)


class TorrelqueAnsweredConnectionError(TorrelqueConnectionError, TorrelqueReplyError):
    """The server's answer was that there is no working with it: a wrong password, or it is still loading.

    ``code`` says which. What else was sent with the call has an unknown outcome.
    """


def dual_error(ours: type[E], error: Exception, **attributes: object) -> E:
    """Make an error of the type ``ours`` that is also of the type of a client's, with its arguments and attributes.

    Args:
        ours: The type of ours that the error is to have.
        error: The client's error. One that is of the type ``ours`` already is
            returned unchanged, so pairing twice does no harm.
        attributes: Set besides, such as the ``code`` that an error reply needs.

    """
    if isinstance(error, ours):
        return error
    attributes = {**error.__dict__, **attributes}
    for theirs in _parts(type(error)):
        try:
            return cast('E', remake(_kind((ours, *theirs)), error.args, attributes))
        except TypeError:  # cannot be combined with ours, or cannot be made of its arguments: its base class may
            continue
    raise AssertionError  # Exception can


def leaf(error: Exception) -> Exception:
    """The first error of a group that a client's or anyio's task group raised; any other error itself."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


_KINDS: dict[tuple[type, ...], type[Exception]] = {}
_PARTS: dict[type, tuple[type, ...]] = {}
"""Of each paired type those that it is made of, so that an error that is paired again stays one of each."""


def _parts(kind: type[Exception]) -> Iterator[tuple[type, ...]]:
    """What to combine with ours: a type's own parts, or the type, or else the nearest of its bases that will do."""
    yield _PARTS.get(kind, (kind,))
    for base in kind.__mro__[1:]:
        if issubclass(base, Exception) and not issubclass(base, TorrelqueError):
            yield (base,)


def _kind(parts: tuple[type, ...]) -> type[Exception]:
    if parts in _KINDS:
        return _KINDS[parts]
    ours, *others = parts
    distinct = (ours, *(part for part in others if not issubclass(ours, part)))
    body = {'__module__': __name__, '__doc__': ours.__doc__, '__reduce__': _reduce}
    made: Any = type('_'.join(part.__name__ for part in distinct), distinct, body)
    kind: type[Exception] = made
    _KINDS[parts], _PARTS[kind] = kind, distinct
    return kind


def _reduce(self: Exception) -> tuple[Any, ...]:
    # The type is found by its parts, as no module holds it.
    return _unpickle, (_PARTS[type(self)], self.args, self.__dict__)


def _unpickle(parts: tuple[type, ...], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    return remake(_kind(parts), args, attributes)
