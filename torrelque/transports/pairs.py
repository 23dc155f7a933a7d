"""Errors that are ours and a client's at once: whoever catches either kind catches them."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError

__all__ = ('TorrelqueAnsweredConnectionError', 'pair')

E = TypeVar('E', bound=TorrelqueError)


class TorrelqueAnsweredConnectionError(TorrelqueConnectionError, TorrelqueReplyError):
    """The server's answer was that there is no working with it: a wrong password, or it is still loading.

    ``code`` says which. What else was sent with the call has an unknown outcome.
    """


def pair(ours: type[E], error: Exception, **attributes: object) -> E:
    """An error of the type ``ours`` that is also one of the type of ``error``, with all that is known of that.

    ``attributes`` are set besides, such as the ``code`` that an error reply needs.
    """
    both = _both(ours, type(error))
    return cast('E', _restore(both, error.args, {**error.__dict__, **attributes}))


_KINDS: dict[tuple[type, type], type[Exception]] = {}


def _both(ours: type[TorrelqueError], theirs: type[Exception]) -> type[Exception]:
    kind = _KINDS.get((ours, theirs))
    if kind is None:
        body = {'__module__': __name__, '__doc__': ours.__doc__, '__reduce__': _reduce}
        kind = _KINDS[ours, theirs] = type(f'{ours.__name__}_{theirs.__name__}', (ours, theirs), body)
    return kind


def _restore(kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    # Not through __init__: clients' errors differ in what theirs takes.
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _reduce(self: Exception) -> tuple[Any, ...]:
    # The type is found by its parts, as no module holds it.
    return _unpickle, (*type(self).__bases__, self.args, self.__dict__)


def _unpickle(
    ours: type[TorrelqueError], theirs: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]
) -> Exception:
    return _restore(_both(ours, theirs), args, attributes)
