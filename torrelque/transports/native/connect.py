"""Creates the native transport for a URL."""

from __future__ import annotations

import ssl

from torrelque.errors import TorrelqueTypeError, TorrelqueValueError
from torrelque.transports.native.options import Credentials, CredentialSource, Options
from torrelque.transports.native.transport import NativeTransport
from torrelque.transports.native.url import Target, parse_url

__all__ = ('connect',)


def connect(
    url: str,
    *,
    credentials: Credentials | None = None,
    sentinel_user: str | None = None,
    sentinel_password: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    retry_timeout: float = 30.0,
    connect_timeout: float = 5.0,
    response_timeout: float = 8.0,
) -> NativeTransport:
    """Create a client for the server at a URL. It is connected within its context.

    ::

        async with torrelque.connect('redis://localhost:6379/0') as client:
            queue = torrelque.Torrelque(client, queue='mail')

    This call checks its arguments, but does not connect. The forms of the URL are:

    - ``redis://[user[:password]@]host[:port][/db]``, with ``rediss://`` for TLS
    - ``unix://[user[:password]@]/path[?db=N]``
    - ``redis+cluster://[user[:password]@]host[:port][,host[:port]...]``, or
      ``rediss+cluster://``: any nodes of a cluster; the client finds the others
    - ``redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?db=N]``,
      or ``rediss+sentinel://``: the sentinels (default port 26379), which the
      client asks before each connection, and the name of the service; user,
      password and database are the server's

    TLS uses the system's certificate authorities. The options ``ssl_ca_certs``
    (authorities to trust instead), ``ssl_certfile`` and ``ssl_keyfile`` (the
    client's certificate and its key) in the URL name files in PEM format.

    Args:
        url: The URL of the server.
        credentials: Called for each new connection. Returns a user (or None for
            the default one) and a password, or an awaitable of them. They
            replace those in the URL. If it raises an error, the error is logged
            and the call is repeated, as after an error of the connection.
        sentinel_user: The user for the sentinels themselves, if they have users.
            Also ``sentinel_user`` in the URL.
        sentinel_password: The password for the sentinels themselves. Also
            ``sentinel_password`` in the URL.
        ssl_context: The TLS settings. They replace the options in the URL.
        retry_timeout: How long a call may be repeated when connections break,
            in seconds from its start. At most 300. With 0, a call is sent at most
            once.
        connect_timeout: Maximum duration of one attempt to connect, or of one
            call of ``credentials``, in seconds.
        response_timeout: How long the server may be silent while it owes an
            answer, in seconds. After that the connection counts as broken.

    Returns:
        The client. Enter it with ``async with``, or call its ``aopen``.

    Raises:
        TorrelqueValueError: An argument has an invalid value, or a certificate
            file cannot be read.
        TorrelqueTypeError: An argument has the wrong type.
    """
    target = parse_url(url)
    if credentials is not None and not callable(credentials):
        raise TorrelqueTypeError(f'credentials: expected a function, not {type(credentials).__name__}')
    options = Options(
        _context(target, ssl_context),
        retry_timeout,
        connect_timeout,
        response_timeout,
        None if credentials is None else CredentialSource(credentials),
    )
    if target.kind != 'sentinel' and (sentinel_user is not None or sentinel_password is not None):
        raise TorrelqueValueError('sentinel_user, sentinel_password: only a redis+sentinel:// URL has sentinels')
    if target.kind == 'cluster':
        from torrelque.transports.cluster.native import ClusterTransport  # noqa: PLC0415 - imported only when needed

        return ClusterTransport(target.addresses, options)
    if target.kind == 'sentinel':
        from torrelque.transports.native.sentinel import SentinelTransport  # noqa: PLC0415 - imported only when needed

        return SentinelTransport(
            target.addresses,
            target.service,
            options,
            target.sentinel_user if sentinel_user is None else sentinel_user,
            target.sentinel_password if sentinel_password is None else sentinel_password,
        )
    return NativeTransport(target.addresses[0], options)


def _context(target: Target, given: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if given is None:
        return target.ssl_context()
    if not isinstance(given, ssl.SSLContext):
        raise TorrelqueTypeError(f'ssl_context: expected an ssl.SSLContext, not {given!r}')
    if not target.addresses[0].tls:
        raise TorrelqueValueError('ssl_context: only a rediss:// URL connects with TLS')
    return given
