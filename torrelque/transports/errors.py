"""Errors with two base classes, Torrelque's and a client's, so that code can catch either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError, remake

__all__ = ('TorrelqueAnsweredConnectionError', 'dual_error', 'leaf')

E = TypeVar('E', bound=TorrelqueError)


class TorrelqueAnsweredConnectionError(TorrelqueConnectionError, TorrelqueReplyError):
    """The server answered that it cannot be used, for example because it is still loading.

    ``code`` says why. The outcome of other calls on the connection is unknown.
    """


def dual_error(ours: type[E], error: Exception, **attributes: object) -> E:
    """Return an error that is both of the type ``ours`` and of the type of a client's error.

    Args:
        ours: A type of Torrelque's errors.
        error: The client's error, whose arguments and attributes are copied. It is returned unchanged if it already
            has the type ``ours``, so this is safe to repeat.
        attributes: Further attributes to set, such as the ``code`` of an error reply.
    """
    if isinstance(error, ours):
        return error
    attributes = {**error.__dict__, **attributes}
    for theirs in _parts(type(error)):
        try:
            return cast('E', remake(_kind((ours, *theirs)), error.args, attributes))
        except TypeError:  # the types cannot be combined, or the arguments do not fit: try a base class
            continue
    raise AssertionError  # Exception can always be combined


def leaf(error: Exception) -> Exception:
    """Return the first error of an exception group. Any other error is returned unchanged."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


_KINDS: dict[tuple[type, ...], type[Exception]] = {}
_PARTS: dict[type, tuple[type, ...]] = {}
"""The parts of each combined type, so that combining an error again keeps all of them."""


def _parts(kind: type[Exception]) -> Iterator[tuple[type, ...]]:
    """Yield the types to try to combine with ours: a combined type's parts or the type itself, then its bases."""
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
    # Combined types are in no module, so they are pickled as their parts.
    return _unpickle, (_PARTS[type(self)], self.args, self.__dict__)


def _unpickle(parts: tuple[type, ...], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    return remake(_kind(parts), args, attributes)
