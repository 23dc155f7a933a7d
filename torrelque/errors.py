"""Every exception the library raises on purpose.

::

    TorrelqueError
    ├── TorrelqueTimeoutError           a wait ran out: dequeue, watch, wait
    ├── TorrelqueLookupError            no such task, or no live claim on it
    ├── TorrelqueLeaseLostError         the claim is no longer the live one; nothing was changed
    ├── TorrelqueDurabilityError        written, but not confirmed in time to be as durable as was asked for
    ├── TorrelqueUsageError             the library is held wrongly: the message says what to do instead
    │   └── TorrelqueShardsError        the queue has another number of shards
    ├── TorrelqueValueError             an argument's value (also a ValueError)
    ├── TorrelqueTypeError              an argument's type (also a TypeError)
    ├── TorrelqueConnectionError        the server cannot be reached, or the connection broke
    │   ├── TorrelqueResponseTimeout    the server did not answer in time
    │   └── TorrelqueHandshakeError     no connection can be set up, and trying again will not help
    │       └── TorrelqueRefusedError   user, password or database are wrong (also a TorrelqueReplyError)
    └── TorrelqueReplyError             the server answered with an error; ``code`` says which
        └── TorrelqueTooLargeError      a call, or its answer, is larger than the server allows (also a ValueError)

An adapter over somebody else's client raises subclasses of the last ones that
also derive from that client's own exceptions, so code that catches those keeps
working. This module imports no client.
"""

from __future__ import annotations

__all__ = (
    'TorrelqueConnectionError',
    'TorrelqueDurabilityError',
    'TorrelqueError',
    'TorrelqueHandshakeError',
    'TorrelqueLeaseLostError',
    'TorrelqueLookupError',
    'TorrelqueRefusedError',
    'TorrelqueReplyError',
    'TorrelqueResponseTimeout',
    'TorrelqueShardsError',
    'TorrelqueTimeoutError',
    'TorrelqueTooLargeError',
    'TorrelqueTypeError',
    'TorrelqueUsageError',
    'TorrelqueValueError',
)


class TorrelqueError(Exception):
    """The root: ``except TorrelqueError`` catches all that this library raises."""


class TorrelqueTimeoutError(TorrelqueError):
    """The time the caller was willing to wait is over."""


class TorrelqueLookupError(TorrelqueError):
    """The task is unknown, or there is no live claim to act on."""


class TorrelqueLeaseLostError(TorrelqueError):
    """The claim ended (its lease ran out, or it was released); nothing was changed."""


class TorrelqueDurabilityError(TorrelqueError):
    """The write was made and stands, but the server did not confirm in time that it is as durable as was asked for.

    ``task_id`` is the task that was written. Enqueueing it again under that id
    is safe: it changes nothing while the task is queued, and waits anew.
    """

    def __init__(self, message: str = '', task_id: str = '') -> None:
        super().__init__(message)
        self.task_id: str = task_id


class TorrelqueUsageError(TorrelqueError):
    """The library is used in a way that cannot work; the message names the one that does."""


class TorrelqueShardsError(TorrelqueUsageError):
    """The queue has another number of shards than the caller thinks; nothing was changed."""


class TorrelqueValueError(TorrelqueError, ValueError):
    """An argument has a value that was refused before anything was sent."""


class TorrelqueTypeError(TorrelqueError, TypeError):
    """An argument has a type that was refused before anything was sent."""


class TorrelqueConnectionError(TorrelqueError):
    """The server cannot be reached, or the connection broke for good."""


class TorrelqueResponseTimeout(TorrelqueConnectionError):  # noqa: N818 - reads as what happened, like the tree above
    """The server was reached but did not answer in time."""


class TorrelqueHandshakeError(TorrelqueConnectionError):
    """A connection cannot be set up, and trying again will not help: a certificate that is not trusted, say."""


class TorrelqueReplyError(TorrelqueError):
    """The server answered with an error.

    ``code`` is the first word of the server's answer, in capitals, such as
    ``NOSCRIPT`` or ``OOM``; ``ERR`` where the server gave no other. A missing
    permission is ``NOPERM``, also within a script.
    """

    def __init__(self, message: str = '', code: str = '') -> None:
        super().__init__(message)
        self.code: str = code or parse_code(message)


class TorrelqueTooLargeError(TorrelqueReplyError, TorrelqueValueError):
    """A call, or the answer to it, is larger than the server allows, and the server closes the connection over it.

    Repeating the call cannot help. ``size`` is the size of the call, and ``limit``
    the most that the server takes, both in bytes; None where that is not known.
    ``code`` is ``TOOLARGE``, which no server answers.
    """

    def __init__(self, message: str = '', size: int | None = None, limit: int | None = None) -> None:
        super().__init__(message, 'TOOLARGE')
        self.size: int | None = size
        self.limit: int | None = limit


class TorrelqueRefusedError(TorrelqueHandshakeError, TorrelqueReplyError):
    """The server refused the user, the password or the database; ``code`` says which."""


REFUSED_WITHIN_A_SCRIPT = ('ACL failure in script', "The user executing the script can't")
"""How servers begin, or write in the middle of a message, what they say of a command that a script may not run."""


def parse_code(message: str) -> str:
    """The code at the start of a server's error message, ``ERR`` if there is none.

    ``NOPERM`` also where it was a script that ran into a missing permission.
    """
    if any(words in message for words in REFUSED_WITHIN_A_SCRIPT):
        return 'NOPERM'
    word = message.partition(' ')[0]
    return word if word.isalpha() and word.isupper() else 'ERR'


def renew(error: Exception) -> Exception:
    """A fresh instance of ``error`` with the same type, arguments and attributes.

    One failure may have to be raised in many callers; sharing the instance
    would let their tracebacks grow into each other.
    """
    fresh = remake(type(error), error.args, error.__dict__)
    fresh.__cause__ = error.__cause__
    return fresh


def remake(kind: type[Exception], args: tuple[object, ...], attributes: dict[str, object]) -> Exception:
    """An error of a type with these arguments and attributes, whatever the ``__init__`` of the type takes."""
    try:
        error = kind.__new__(kind, *args)
    except TypeError:  # a client's that takes something else, or whose base class is of another layout
        error = kind.__base__.__new__(kind, *args)  # type: ignore[assignment, arg-type] # an exception's base is one
    error.args = args
    error.__dict__.update(attributes)
    return error
