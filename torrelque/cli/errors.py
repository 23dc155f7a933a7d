"""Reports errors to the user: one line that says what to do, and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from torrelque import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueNewerError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueShardsError,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.cli.exit_codes import Exit, fail
from torrelque.worker.failures import message_of

__all__ = ('Refusal', 'first_of', 'reported')

DEBUG = 'TORRELQUE_DEBUG'
"""Environment variable that shows errors with their tracebacks."""

ADVICE = {
    'NOAUTH': 'it needs a password: redis://[user]:password@host in --url or TORRELQUE_URL',
    'WRONGPASS': 'check the user and password in --url or TORRELQUE_URL',
    'NOPERM': 'this user lacks a permission; torrelque.acl.rules() lists those of each role',
    'OOM': 'the server is full',
    'LOADING': 'it is loading its data; try again later',
    'READONLY': 'this is a replica; give the primary with --url or TORRELQUE_URL',
}
"""Code of an error reply -> advice to the user."""


STATUSES: dict[type[Exception], Exit] = {
    TorrelqueShardsError: Exit.USAGE,
    TorrelqueNewerError: Exit.USAGE,
    TorrelqueTypeError: Exit.USAGE,
    TorrelqueValueError: Exit.USAGE,
    TorrelqueReplyError: Exit.SERVER,
    TorrelqueConnectionError: Exit.SERVER,
    TorrelqueTimeoutError: Exit.TIMEOUT,
    TorrelqueError: Exit.NEGATIVE,
    OSError: Exit.USAGE,
}
"""Type of error -> exit status. The first matching type counts."""


class Refusal(TorrelqueError):  # noqa: N818 - an answer, not an error
    """Raised by a command to end with this message and exit status."""

    def __init__(self, message: str, status: Exit = Exit.NEGATIVE) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def reported() -> Iterator[None]:
    """Print one line and exit if the block raises anything."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - anything, including exception groups of event loops
        _report(first_of(error), error)


def first_of(error: BaseException) -> BaseException:
    """Return the first exception of a group, however deeply nested; Ctrl-C takes precedence."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_of(each) for each in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, KeyboardInterrupt)), leaves[0])


def _report(error: BaseException, whole: BaseException) -> NoReturn:
    if isinstance(error, KeyboardInterrupt):
        fail('interrupted', Exit.INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        quiet_output()
        raise SystemExit(int(Exit.BROKEN_PIPE))
    if os.environ.get(DEBUG) or not isinstance(error, Exception) or type(error).__module__.startswith('typer'):
        raise whole
    message, status = explain(error)
    fail(message, status)


def quiet_output() -> None:
    """Discard buffered output, because its reader is gone and Python would report an error at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def explain(error: Exception) -> tuple[str, Exit]:
    """Return the message for an exception, and the exit status."""
    text = message_of(error) or type(error).__name__
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), Exit.BUG)
    match error:
        case Refusal():
            status = error.status
        case TorrelqueReplyError():
            advice = ADVICE.get(error.code, '')
            text = f'the server refuses: {text}{advice and f" ({advice})"}'
        case TorrelqueHandshakeError() | TorrelqueResponseTimeout():
            pass
        case TorrelqueConnectionError():
            text += '. Is the server running, and is --url or TORRELQUE_URL right?'
        case OSError() if error.filename:
            text = f'{error.filename}: {error.strerror}'
    if status is Exit.BUG:
        text = f'unexpected {type(error).__name__}: {text} (set {DEBUG}=1 to see where)'
    return text, status
