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

import re

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
    ``NOSCRIPT`` or ``OOM``; ``ERR`` where the server gave no other. Where old
    servers put the code of a script's error inside the message, it is read from
    there. A missing permission is ``NOPERM``, also within a script.
    """

    def __init__(self, message: str = '', code: str = '') -> None:
        super().__init__(message)
        self.code: str = code if code not in ('', 'ERR') else parse_code(message)


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


UNAVAILABLE = frozenset({
    'MOVED', 'ASK', 'TRYAGAIN', 'CLUSTERDOWN',  # another node of the cluster serves the slot, or will
    'READONLY', 'LOADING', 'MASTERDOWN', 'NOREPLICAS', 'UNBLOCKED',  # another primary takes over, or has just done so
    'BUSY', 'MISCONF',  # the server refuses everybody until a script ends, or its disk works again
})  # fmt: skip
"""Codes of servers that refused a call without looking at the queue, and will serve it again, or another will.

With `FULL`, `CODES_BY_WORDS` and `TURNED_AWAY` this is the one table of transient replies. Fail-over, lanes, routers
and the worker ask it by `is_unavailable` and `is_transient`.
"""

DEMOTED = frozenset({'READONLY', 'MASTERDOWN', 'UNBLOCKED'})
"""Those of a server that is not, or no longer, the primary. A new connection may lead to the one that is."""

FULL = 'OOM'
"""Passes as well, once there is memory again, but the call was understood: nothing was done, and callers are told."""

TURNED_AWAY = 'max number of clients'
"""In the answer, of no code, of a server that has as many connections as it takes."""

CODES_BY_WORDS = {
    'non local key': 'TRYAGAIN',  # a script, of a key that it did not declare: the slot is on its way
    'slot not served': 'CLUSTERDOWN',
    'cluster is down': 'CLUSTERDOWN',
    'cannot be used with replica': 'READONLY',  # WAIT and WAITAOF
    'ACL failure in script': 'NOPERM',
    "The user executing the script can't": 'NOPERM',
}
"""What servers say without a code, and the code that means the same."""

_CODE_WITHIN = re.compile(r'\buser_script: ?\d+: -?(?!ERR )([A-Z]{2,}) ')
"""The code in what Redis 6.2 and KeyDB, and scripts that pass an error on, put before it: where it was raised."""


def parse_code(message: str) -> str:
    """The code of a server's error message, ``ERR`` if there is none.

    It is the first word. Scripts' errors may have it inside the message, or
    have words in place of it.
    """
    for words, code in CODES_BY_WORDS.items():  # first, as a client that takes ERR away leaves "WAIT cannot be used"
        if words in message:
            return code
    word = message.partition(' ')[0]
    if word.isalpha() and word.isupper() and word != 'ERR':
        return word
    within = _CODE_WITHIN.search(message)
    if within is None:
        return 'ERR'
    # Without an address at its end it leads nowhere.
    return within[1] if within[1] not in ('MOVED', 'ASK') else 'TRYAGAIN'


def is_unavailable(error: object) -> bool:
    """Whether the server, or the way to it, is unavailable for now, so that the call is to be made again.

    The server looked at nothing of the queue: an earlier try of the call may
    have been done, whatever this one says. A full server is not meant.
    """
    if isinstance(error, TorrelqueHandshakeError):
        return False
    if isinstance(error, TorrelqueReplyError):
        return error.code in UNAVAILABLE or TURNED_AWAY in str(error)
    return isinstance(error, TorrelqueConnectionError)


def is_demoted(reply: object) -> bool:
    """Whether a server answers that it is not the primary, so that its connections are to be dropped."""
    return isinstance(reply, TorrelqueReplyError) and reply.code in DEMOTED


def mark_unsent(error: Exception) -> None:
    """Note that the call that ends with this error was not sent, so that it is certain that it was not done."""
    error.__dict__['_unsent'] = True


def is_unsent(error: object) -> bool:
    """Whether it is certain that the call that ended with this error was not done, as nothing of it was sent."""
    return bool(getattr(error, '_unsent', False))


def is_transient(error: object) -> bool:
    """Whether an error passes by itself, so that the same call will work later.

    It is true for lost connections and for a server that is failing over,
    loading, full or busy; false for a wrong password, a missing permission and
    everything else. A ``Worker`` goes on after exactly these errors.

    Args:
        error: What a call raised. Anything that is no error of this library is not transient.

    """
    return is_unavailable(error) or (isinstance(error, TorrelqueReplyError) and error.code == FULL)


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
