"""Parses the URLs of servers."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from torrelque.errors import TorrelqueTypeError, TorrelqueValueError

__all__ = ('Address', 'Target', 'parse_url')

FORMS = (
    'redis://[user[:password]@]host[:port][/db]',
    'rediss://[user[:password]@]host[:port][/db]',
    'unix://[user[:password]@]/path[?db=N]',
    'redis+cluster://[user[:password]@]host[:port][,host[:port]...]',
    'rediss+cluster://[user[:password]@]host[:port][,host[:port]...]',
    'redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?db=N]',
    'rediss+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?db=N]',
)
KIND = re.compile(r'(?i)(rediss?)\+(cluster|sentinel)(?=://)')
SCHEME = re.compile(r'(?i)(rediss?(\+cluster|\+sentinel)?|unix):/{0,2}')
PLACE = re.compile(r'([\w.-]*|\[[\w:.%]*\])(:\d*)?(,([\w.-]*|\[[\w:.%]*\])(:\d*)?)*(/\d*)?|/[^:]*')
"""The part of a URL that messages may show: hosts with ports and a database, or the path of a socket."""

SENTINEL_PORT = 26379
"""The default port of sentinels."""

DEFAULT_PORT = 6379
DB_DIGITS = 9
"""Maximum number of digits of a database. A larger number would overflow in the server."""

FILE_OPTIONS = ('ssl_ca_certs', 'ssl_certfile', 'ssl_keyfile')
SENTINEL_OPTIONS = ('sentinel_user', 'sentinel_password')
CREDENTIALS = ('user', 'username', 'password')
"""Options in other clients' URLs. Here user and password go before the host."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server and its credentials: a ``host`` with a ``port``, or the ``path`` of a Unix socket."""

    host: str = ''
    port: int = DEFAULT_PORT
    path: str = ''
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0

    def __str__(self) -> str:
        """Return the server's name for error messages, without the password."""
        if self.path:
            return self.path
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


class Files(NamedTuple):
    """Files in PEM format: the authorities to trust, and the client's certificate with its key."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed URL: a server, nodes of a cluster, or sentinels and the name of their ``service``."""

    addresses: tuple[Address, ...]
    kind: Literal['server', 'cluster', 'sentinel'] = 'server'
    service: str = ''
    files: Files = field(default_factory=Files)
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS settings of the URL; None without TLS.

        Raises TorrelqueValueError if a file cannot be read.
        """
        if not self.addresses[0].tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.files.ca_certs)
            if self.files.certfile is not None:
                # An empty password, because OpenSSL would otherwise ask for one at the terminal.
                context.load_cert_chain(self.files.certfile, self.files.keyfile, password='')
        except (OSError, ssl.SSLError) as error:
            files = ', '.join(filter(None, self.files))
            raise TorrelqueValueError(f'url: cannot use the certificates in {files}: {error}') from None
        return context


def parse_url(url: str) -> Target:
    """Parse a URL.

    User, password, path and options are percent-decoded. The database is the
    path of redis:// and rediss://, or ``?db=N`` in any URL. Raises
    TorrelqueTypeError or TorrelqueValueError; their messages show no secrets.
    """
    if not isinstance(url, str):
        raise TorrelqueTypeError(f'url: expected a str such as {FORMS[0]!r}, not {type(url).__name__}')
    match = KIND.match(url)
    try:
        if match is None:
            address, options = _parse(url)
            return Target((address,), files=_files(options, address))
        urls = _apart(f'{match[1]}{url[match.end() :]}')
        if match[2].lower() == 'cluster':
            return _cluster(urls)
        return _sentinels(urls)
    except ValueError as error:
        raise TorrelqueValueError(f'url {_redacted(url)!r}: {error}') from None


def _cluster(urls: list[str]) -> Target:
    nodes = [_parse(each) for each in urls]
    for address, _ in nodes:
        if address.db:
            raise ValueError(f'a cluster has only the database 0, not {address.db}')
    address, options = nodes[0]
    return Target(tuple(address for address, _ in nodes), 'cluster', files=_files(options, address))


def _sentinels(urls: list[str]) -> Target:
    addresses: list[Address] = []
    service = ''
    options: Mapping[str, str] = {}
    for url in urls:
        start, _, query = url.partition('?')
        scheme, _, rest = start.partition('://')
        place, _, path = rest.partition('/')
        service = _decoded(path)
        if not service or '/' in path:
            raise ValueError(f'expected the name of a service: {FORMS[5]}')
        server = f'{scheme}://{place}{"?" if query else ""}{query}'
        address, options = _parse(server, SENTINEL_OPTIONS)
        addresses.append(replace(address, port=SENTINEL_PORT) if urlsplit(server).port is None else address)
    user, password = map(options.get, SENTINEL_OPTIONS)
    return Target(tuple(addresses), 'sentinel', service, _files(options, addresses[0]), user, password)


def _files(options: Mapping[str, str], address: Address) -> Files:
    files = Files(*map(options.get, FILE_OPTIONS))
    if any(files) and not address.tls:
        raise ValueError('the options ssl_... need a rediss:// URL')
    if files.keyfile and not files.certfile:
        raise ValueError('ssl_keyfile needs the certificate in ssl_certfile')
    return files


def _apart(url: str) -> list[str]:
    """Split a URL with several hosts into one URL for each host."""
    scheme, _, rest = url.partition('://')
    end = min((rest.find(mark) for mark in '/?#' if mark in rest), default=len(rest))
    credentials, at, hosts = rest[:end].rpartition('@')
    return [f'{scheme}://{credentials}{at}{host}{rest[end:]}' for host in hosts.split(',')]


def _parse(url: str, further: tuple[str, ...] = ()) -> tuple[Address, dict[str, str]]:
    if re.search(r'[\x00-\x20\x7f]', url):
        raise ValueError('spaces and control characters must be percent-encoded')
    parts = _split(url)
    if parts.scheme not in ('redis', 'rediss', 'unix') or not url.lower().startswith(f'{parts.scheme}://'):
        raise ValueError(f'unknown scheme, expected one of {", ".join(FORMS)}')
    if parts.scheme != 'unix' and '@' in parts.path + parts.query + parts.fragment:
        raise ValueError('in a user or password, / ? # must be percent-encoded')
    if '#' in url:
        raise ValueError("a '#' must be written as %23")
    user, password = _credentials(parts)
    options = _query(parts.query, ('db', *FILE_OPTIONS, *further))
    option = options.get('db')
    db = '0' if option is None else option
    if parts.scheme == 'unix':
        if parts.netloc.rpartition('@')[2] or parts.path in ('', '/'):
            raise ValueError(f'expected the absolute path of a socket: {FORMS[2]}')
        return Address(path=_decoded(parts.path), user=user, password=password, db=_db(db)), options
    if not parts.hostname:
        raise ValueError(f'expected a host: {FORMS[0]}')
    in_path = parts.path.removeprefix('/')
    if in_path and option is not None:
        raise ValueError('the database is given twice, as path and as ?db=')
    address = Address(
        host=_decoded(parts.hostname),
        port=_port(parts),
        tls=parts.scheme == 'rediss',
        user=user,
        password=password,
        db=_db(in_path or db),
    )
    return address, options


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its message may contain the password
        raise ValueError('the host is malformed') from None


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    # An empty user means the server's default one: redis://:password@host
    try:
        user = unquote(parts.username, errors='strict') if parts.username else None
        password = unquote(parts.password, errors='strict') if parts.password is not None else None
    except UnicodeDecodeError:  # its message contains the password
        raise ValueError('user and password must be percent-encoded utf-8') from None
    if user is not None:
        return user, password or ''
    return None, password or None


def _decoded(text: str) -> str:
    decoded = unquote(text, errors='strict')
    if '\0' in decoded:
        raise ValueError('neither a host nor a path can hold a NUL character')
    return decoded


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError('expected a port from 1 to 65535')
    return DEFAULT_PORT if port is None else port


def _query(query: str, known: tuple[str, ...]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors='strict') if query else []
    except ValueError:  # its message may contain a secret
        raise ValueError('after the ? options are expected, as name=value') from None
    options: dict[str, str] = {}
    for name, value in pairs:
        if name in CREDENTIALS:
            raise ValueError(f'unknown option {name!r}: user and password stand before the host, {FORMS[0]}')
        if name not in known:
            listed = ', '.join(known)
            raise ValueError(f'unknown option {name!r}, expected {listed}; other settings are arguments of connect()')
        if name in options:
            raise ValueError(f'the option {name} is given more than once')
        options[name] = value
    return options


def _db(text: str) -> int:
    decoded = unquote(text, errors='strict')
    if not (decoded.isascii() and decoded.isdigit() and len(decoded) <= DB_DIGITS):
        raise ValueError('the database must be a number from 0')
    return int(decoded)


def _redacted(url: str) -> str:
    """Return the URL without possible secrets: credentials, options, and everything of an unexpected form."""
    start, mark, options = url.partition('?')
    if '@' in options:  # the password has a question mark
        start, mark = url, ''
    scheme = SCHEME.match(start)
    head = scheme[0] if scheme else ''
    _, at, place = start[len(head) :].rpartition('@')
    return f'{head}{"***@" if at else ""}{place if PLACE.fullmatch(place) else "***"}{"?***" if mark else ""}'
