"""The exceptions that the library raises.

::

    TorrelqueError
    ├── TorrelqueTimeoutError           a dequeue, watch or wait timed out
    ├── TorrelqueTimeLimitError         a handler took longer than its time limit
    ├── TorrelqueExistsError            a task with this id already exists; nothing was changed
    ├── TorrelqueLookupError            no such task, or no live claim on it
    ├── TorrelqueLeaseLostError         the claim is no longer live; nothing was changed
    ├── TorrelqueDurabilityError        written, but the requested durability was not confirmed in time
    ├── TorrelqueUsageError             a call that cannot work; the message says what to do instead
    │   ├── TorrelqueShardsError        the queue has another number of shards
    │   └── TorrelqueNewerError         the queue uses features of a later version of this library
    ├── TorrelqueValueError             an argument has a bad value (also a ValueError)
    ├── TorrelqueTypeError              an argument has a bad type (also a TypeError)
    ├── TorrelqueConnectionError        the server cannot be reached, or the connection broke
    │   ├── TorrelqueResponseTimeout    the server did not answer in time
    │   └── TorrelqueHandshakeError     no connection can be set up, and trying again does not help
    │       └── TorrelqueRefusedError   user, password or database are wrong (also a TorrelqueReplyError)
    └── TorrelqueReplyError             the server replied with an error; ``code`` says which
        └── TorrelqueTooLargeError      a call or its reply is larger than the server allows (also a ValueError)

An adapter over another client raises subclasses of the connection and reply
errors that also derive from the client's own exceptions, so code that catches
those keeps working. This module imports no client.
"""

from __future__ import annotations

import re

__all__ = (
    'TorrelqueConnectionError',
    'TorrelqueDurabilityError',
    'TorrelqueError',
    'TorrelqueExistsError',
    'TorrelqueHandshakeError',
    'TorrelqueLeaseLostError',
    'TorrelqueLookupError',
    'TorrelqueNewerError',
    'TorrelqueRefusedError',
    'TorrelqueReplyError',
    'TorrelqueResponseTimeout',
    'TorrelqueShardsError',
    'TorrelqueTimeLimitError',
    'TorrelqueTimeoutError',
    'TorrelqueTooLargeError',
    'TorrelqueTypeError',
    'TorrelqueUsageError',
    'TorrelqueValueError',
)


class TorrelqueError(Exception):
    """Base class of all errors that this library raises."""


class TorrelqueTimeoutError(TorrelqueError):
    """The call did not complete within its ``timeout``."""


class TorrelqueTimeLimitError(TorrelqueError):
    """A handler took longer than its ``time_limit``. Passed to retry policies and events, not raised."""


class TorrelqueExistsError(TorrelqueError):
    """A task with the id ``task_id`` is queued or a dead letter; nothing was changed.

    ``status`` says why it could not be replaced: it is WORKING or REJECTED. It is None after ``if_exists='raise'``.
    """

    def __init__(self, message: str = '', task_id: str = '', status: int | None = None) -> None:
        super().__init__(message)
        self.task_id: str = task_id
        self.status: int | None = status


class TorrelqueLookupError(TorrelqueError):
    """The task is unknown, or has no live claim to act on."""


class TorrelqueLeaseLostError(TorrelqueError):
    """The claim has ended (its lease expired, or it was released); nothing was changed."""


class TorrelqueDurabilityError(TorrelqueError):
    """The write was made and stands, but the server did not confirm the requested durability in time.

    ``task_id`` is the id of the task that was written. You can enqueue it again
    under that id: this changes nothing while the task is queued, and waits again.
    """

    def __init__(self, message: str = '', task_id: str = '') -> None:
        super().__init__(message)
        self.task_id: str = task_id


class TorrelqueUsageError(TorrelqueError):
    """The call cannot work this way; the message says what to do instead."""


class TorrelqueShardsError(TorrelqueUsageError):
    """The queue has a different number of shards than the caller passed; nothing was changed."""


class TorrelqueNewerError(TorrelqueUsageError):
    """The queue uses features of a later version of this library; nothing was changed. Upgrade this client."""


class TorrelqueValueError(TorrelqueError, ValueError):
    """An argument has a bad value; nothing was sent."""


class TorrelqueTypeError(TorrelqueError, TypeError):
    """An argument has a bad type; nothing was sent."""


class TorrelqueConnectionError(TorrelqueError):
    """The server cannot be reached, or the connection broke for good."""


class TorrelqueResponseTimeout(TorrelqueConnectionError):  # noqa: N818 - describes what happened
    """The server was reached but did not answer in time."""


class TorrelqueHandshakeError(TorrelqueConnectionError):
    """A connection cannot be set up, and trying again does not help. For example, a certificate is not trusted."""


class TorrelqueReplyError(TorrelqueError):
    """The server replied with an error.

    ``code`` is the first word of the reply, in capitals, such as ``NOSCRIPT`` or
    ``OOM``, or ``ERR`` if the server gave no other code. Old servers put the code of
    a script's error inside the message; it is read from there. A missing permission
    is always ``NOPERM``, even within a script.
    """

    def __init__(self, message: str = '', code: str = '') -> None:
        super().__init__(message)
        self.code: str = code if code not in ('', 'ERR') else parse_code(message)


class TorrelqueTooLargeError(TorrelqueReplyError, TorrelqueValueError):
    """A call or its reply is larger than the server allows, so the server closes the connection.

    Repeating the call does not help. ``size`` is the size of the call and ``limit``
    the server's maximum, both in bytes, or None if unknown. ``code`` is
    ``TOOLARGE``, which no server sends.
    """

    def __init__(self, message: str = '', size: int | None = None, limit: int | None = None) -> None:
        super().__init__(message, 'TOOLARGE')
        self.size: int | None = size
        self.limit: int | None = limit


class TorrelqueRefusedError(TorrelqueHandshakeError, TorrelqueReplyError):
    """The server refused the user, the password or the database; ``code`` says which."""


UNAVAILABLE = frozenset({
    'MOVED', 'ASK', 'TRYAGAIN', 'CLUSTERDOWN',  # another node serves the slot, or will
    'READONLY', 'LOADING', 'MASTERDOWN', 'NOREPLICAS', 'UNBLOCKED',  # another primary takes over, or just has
    'BUSY', 'MISCONF',  # the server refuses all calls until a script ends or its disk works again
})  # fmt: skip
"""Codes of servers that refused a call without changing the queue. A later call will succeed there or elsewhere.

Together with `FULL`, `CODES_BY_WORDS` and `TURNED_AWAY` this is the only table of transient replies. Fail-over, lanes,
routers and the worker use it through `is_unavailable` and `is_transient`.
"""

DEMOTED = frozenset({'READONLY', 'MASTERDOWN', 'UNBLOCKED'})
"""Codes of a server that is not the primary (any more). A new connection may lead to the primary."""

FULL = 'OOM'
"""Also transient, until memory is free again. But it is raised to the caller, because nothing was changed."""

TURNED_AWAY = 'max number of clients'
"""Part of the reply, which has no code, of a server that has reached its limit of connections."""

CODES_BY_WORDS = {
    'non local key': 'TRYAGAIN',  # a script used an undeclared key: the slot is being moved
    'slot not served': 'CLUSTERDOWN',
    'cluster is down': 'CLUSTERDOWN',
    'cannot be used with replica': 'READONLY',  # WAIT and WAITAOF
    'ACL failure in script': 'NOPERM',
    "The user executing the script can't": 'NOPERM',
}
"""Parts of messages that servers send without a code -> the equivalent code."""

_CODE_WITHIN = re.compile(r'\buser_script: ?\d+: -?(?!ERR )([A-Z]{2,}) ')
"""Finds the code after the script's location, which Redis 6.2, KeyDB and scripts that pass an error on put first."""


def parse_code(message: str) -> str:
    """Return the code of a server's error message, or ``ERR`` if it has none.

    The code is the first word. In a script's error it may be inside the message, or
    expressed in other words.
    """
    for words, code in CODES_BY_WORDS.items():  # first, because clients that strip ERR leave "WAIT cannot be used"
        if words in message:
            return code
    word = message.partition(' ')[0]
    if word.isalpha() and word.isupper() and word != 'ERR':
        return word
    within = _CODE_WITHIN.search(message)
    if within is None:
        return 'ERR'
    # A redirection inside a message has no address at its end, so it cannot be followed.
    return within[1] if within[1] not in ('MOVED', 'ASK') else 'TRYAGAIN'


def is_unavailable(error: object) -> bool:
    """Return whether the server or the connection to it is temporarily unavailable, so the call should be repeated.

    This attempt did not change the queue, but an earlier attempt of the same call may
    have done so. A full server does not count as unavailable.

    Args:
        error: The exception that a call raised, or its reply. Anything else counts as available.
    """
    if isinstance(error, TorrelqueHandshakeError):
        return False
    if isinstance(error, TorrelqueReplyError):
        return error.code in UNAVAILABLE or TURNED_AWAY in str(error)
    return isinstance(error, TorrelqueConnectionError)


def is_demoted(reply: object) -> bool:
    """Return whether a server replied that it is not the primary, so its connections should be dropped."""
    return isinstance(reply, TorrelqueReplyError) and reply.code in DEMOTED


def mark_unsent(error: Exception) -> None:
    """Record that the failed call was not sent, so it was certainly not executed."""
    error.__dict__['_unsent'] = True


def is_unsent(error: object) -> bool:
    """Return whether the failed call was certainly not executed, because it was not sent."""
    return bool(getattr(error, '_unsent', False))


def is_transient(error: object) -> bool:
    """Return whether an error is temporary, so that the same call will work later.

    A ``Worker`` keeps running after exactly these errors.

    Args:
        error: The exception that a call raised.

    Returns:
        True for lost connections and for a server that is failing over, loading,
        full or busy. False for a wrong password, a missing permission, any other
        error and anything that is not an error of this library.
    """
    return is_unavailable(error) or (isinstance(error, TorrelqueReplyError) and error.code == FULL)


def renew(error: Exception) -> Exception:
    """Return a copy of ``error`` with the same type, arguments and attributes.

    Use it to raise one failure in several callers. A shared instance would collect
    the tracebacks of all of them.

    Args:
        error: The exception to copy.

    Returns:
        The copy, without a traceback.
    """
    fresh = remake(type(error), error.args, error.__dict__)
    fresh.__cause__ = error.__cause__
    return fresh


def remake(kind: type[Exception], args: tuple[object, ...], attributes: dict[str, object]) -> Exception:
    """Create an error with these arguments and attributes, whatever the ``__init__`` of its type takes."""
    try:
        error = kind.__new__(kind, *args)
    except TypeError:  # a client's type with another signature, or a base class with another layout
        error = kind.__base__.__new__(kind, *args)  # type: ignore[assignment, arg-type] # an exception's base is one
    error.args = args
    error.__dict__.update(attributes)
    return error
