"""Finds out why TLS could not be set up. These errors are permanent."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import anyio

__all__ = ('EXPECTED', 'diagnose', 'failed_handshake', 'is_refused', 'reason_of')

EXPECTED = 'the server expects TLS, which the client is not set to use (rediss://)'

DIAGNOSIS_TIMEOUT = 2.0
"""Maximum time to search for the reason, in seconds."""

ALERT_TIMEOUT = 0.5
"""How long after a successful handshake a server may still refuse the certificate, in seconds."""


def failed_handshake(address: str, reason: str) -> str:
    """Return the message of a TorrelqueHandshakeError."""
    return f'TLS handshake with {address} failed: {reason}'


def reason_of(error: BaseException, *, connected: bool = False) -> str | None:
    """Return why TLS failed, in OpenSSL's words; None if TLS is not the cause of an error.

    Args:
        error: The error. Its causes are searched as well.
        connected: The connection was already in use. Then only an alert from the
            server counts, for example that it requires a certificate.
    """
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f'certificate verify failed: {each.verify_message}'
        if isinstance(each, ssl.SSLError) and not isinstance(each, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            reason = (getattr(each, 'reason', None) or '').replace('_', ' ').lower()
            if 'alert' in reason or not connected:
                return reason or str(each)
    return None


def is_refused(error: BaseException) -> bool:
    """Return whether no server listens at the address."""
    return any(isinstance(each, ConnectionRefusedError) for each in _chain(error))


async def diagnose(host: str, port: int, context: ssl.SSLContext | None) -> str | None:
    """Connect, and return why the server closes connections before it answers; None if TLS is not the reason.

    Args:
        host: The server's host.
        port: The server's port.
        context: The client's TLS context; None if it connects without TLS.
    """
    trial = context or _without_verification()
    try:
        with anyio.fail_after(DIAGNOSIS_TIMEOUT):
            stream = await anyio.connect_tcp(host, port, ssl_context=trial, tls_standard_compatible=False)
            async with stream:
                if context is None:
                    return EXPECTED
                # Sends nothing, because a reset could then hide the server's alert.
                with anyio.move_on_after(ALERT_TIMEOUT):
                    await stream.receive()
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:  # TimeoutError is an OSError
        reason = reason_of(error)
        if context is None:
            return EXPECTED if reason and 'alert' in reason else None
        return reason
    return None


def _without_verification() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing is sent on it
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _chain(error: BaseException | None, depth: int = 8) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    if error is None or not depth:
        return
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _chain(each, depth - 1)
    yield from _chain(error.__cause__ or error.__context__, depth - 1)
