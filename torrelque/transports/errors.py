"""Errors that are both ours and a client's, so that code which catches either kind catches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError, remake

__all__ = ('TorrelqueAnsweredConnectionError', 'dual_error', 'leaf')

E = TypeVar('E', bound=TorrelqueError)


class TorrelqueAnsweredConnectionError(TorrelqueConnectionError, TorrelqueReplyError):
    """The server answered that it cannot be used, for example because it is still loading.

    ``code`` says why. The outcome of everything else that was sent with the call is unknown.
    """


def dual_error(ours: type[E], error: Exception, **attributes: object) -> E:
    """Return an error of the type ``ours`` that also has the type, arguments and attributes of a client's error.

    Args:
        ours: The type of ours.
        error: The client's error. It is returned unchanged if it has the type
            ``ours`` already, so this is safe to repeat.
        attributes: Further attributes to set, such as the ``code`` of an error reply.

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
    """Return the first error of a group that a task group raised; any other error is returned itself."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


_KINDS: dict[tuple[type, ...], type[Exception]] = {}
_PARTS: dict[type, tuple[type, ...]] = {}
"""The types that each combined type is made of, so that an error that is combined again keeps all of them."""


def _parts(kind: type[Exception]) -> Iterator[tuple[type, ...]]:
    """Yield what to try to combine with ours: a type's own parts, or the type itself, and then its base classes."""
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
