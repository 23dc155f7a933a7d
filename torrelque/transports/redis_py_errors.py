"""Makes Torrelque's errors of redis-py's. They keep redis-py's type as well."""

from __future__ import annotations

from redis import exceptions

from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    parse_code,
)
from torrelque.transports import connections
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error
from torrelque.transports.tls import failed_handshake, reason_of

__all__ = ('as_failure', 'as_reply_error', 'handshake_failure', 'late_answer', 'late_connection')

CODES: dict[type[Exception], str] = {
    exceptions.AskError: 'ASK',
    exceptions.AuthenticationError: 'NOAUTH',
    exceptions.BusyLoadingError: 'LOADING',
    exceptions.ClusterCrossSlotError: 'CROSSSLOT',
    exceptions.ClusterDownError: 'CLUSTERDOWN',
    exceptions.ExecAbortError: 'EXECABORT',
    exceptions.MasterDownError: 'MASTERDOWN',
    exceptions.MovedError: 'MOVED',
    exceptions.NoPermissionError: 'NOPERM',
    exceptions.NoScriptError: 'NOSCRIPT',
    exceptions.OutOfMemoryError: 'OOM',
    exceptions.ReadOnlyError: 'READONLY',
    exceptions.TryAgainError: 'TRYAGAIN',
}
"""The error codes that redis-py removes from the message. Newer versions keep them as ``status_code``."""

ANSWERS_THAT_END_A_CONNECTION = (
    exceptions.BusyLoadingError,
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
)


def as_reply_error(error: Exception) -> TorrelqueReplyError:
    """Return an error reply as a value."""
    return dual_error(TorrelqueReplyError, error, code=_code(error))


def as_failure(error: Exception, address: str = 'the server', *, connected: bool = True) -> TorrelqueError:
    """Return the error to raise when the outcome of a call is unknown.

    Args:
        error: What redis-py raised. One of ours is returned unchanged.
        address: The server's address, for messages.
        connected: False while connecting, when more TLS errors are permanent.
    """
    if isinstance(error, TorrelqueError):
        return error
    reason = reason_of(error, connected=connected)
    if reason is not None:
        return handshake_failure(failed_handshake(address, reason))
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        return dual_error(TorrelqueRefusedError, error, code=_code(error))
    if isinstance(error, (exceptions.ResponseError, exceptions.BusyLoadingError)):
        return dual_error(TorrelqueAnsweredConnectionError, error, code=_code(error))
    if isinstance(error, exceptions.TimeoutError) and 'connecting' not in str(error):
        return dual_error(TorrelqueResponseTimeout, error)
    return dual_error(TorrelqueConnectionError, error)


def handshake_failure(message: str) -> TorrelqueHandshakeError:
    return dual_error(TorrelqueHandshakeError, exceptions.ConnectionError(message))


def _code(error: Exception) -> str:
    told: str | None = getattr(error, 'status_code', None)
    return parse_code(f'{told} {error}') if told else CODES.get(type(error)) or parse_code(str(error))


def late_connection() -> TorrelqueConnectionError:
    return dual_error(
        TorrelqueConnectionError, exceptions.TimeoutError(f'no connection within {connections.CONNECT_TIMEOUT:g} s')
    )


def late_answer(message: str) -> TorrelqueResponseTimeout:
    return dual_error(TorrelqueResponseTimeout, exceptions.TimeoutError(message))
