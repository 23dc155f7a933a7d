"""Where a server is, from a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from torrelque.errors import TorrelqueTypeError, TorrelqueValueError

__all__ = ('Address', 'is_of_cluster', 'is_of_sentinel', 'parse_sentinel_url', 'parse_url', 'parse_urls')

FORMS = (
    'redis://[user[:password]@]host[:port][/db]',
    'rediss://[user[:password]@]host[:port][/db]',
    'unix://[user[:password]@]/path[?db=N]',
    'redis+cluster://[user[:password]@]host[:port][,host[:port]...]',
    'rediss+cluster://[user[:password]@]host[:port][,host[:port]...]',
    'redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?db=N]',
    'rediss+sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?db=N]',
)
SENTINEL = re.compile(r'(?i)(rediss?)\+sentinel(?=://)')
SENTINEL_PORT = 26379
"""Where sentinels listen, unless the URL says otherwise."""

CLUSTER = re.compile(r'(?i)(rediss?)\+cluster(?=://)')
DEFAULT_PORT = 6379
DB_DIGITS = 9
"""More could not be a database, and overflow what a server reads."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server and how to introduce oneself to it: a ``host`` with a ``port``, or the ``path`` of a Unix socket."""

    host: str = ''
    port: int = DEFAULT_PORT
    path: str = ''
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0

    def __str__(self) -> str:
        """What error messages call the server: never with the password."""
        if self.path:
            return self.path
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


def parse_url(url: str) -> Address:
    """The address that ``url`` stands for.

    User, password, path and db are percent-decoded. The database is the path
    of redis:// and rediss://, or ``?db=N`` with any. Raises TorrelqueTypeError
    or TorrelqueValueError, whose message does not show a password.
    """
    if not isinstance(url, str):
        raise _no_text(url)
    try:
        return _parse(url)
    except ValueError as error:
        raise TorrelqueValueError(f'url {_redacted(url)!r}: {error}') from None


def _no_text(url: object) -> TorrelqueTypeError:
    return TorrelqueTypeError(f'url: expected a str such as {FORMS[0]!r}, not {type(url).__name__}')


def is_of_cluster(url: str) -> bool:
    return CLUSTER.match(url) is not None


def parse_urls(url: str) -> list[Address]:
    """The addresses that ``url`` stands for: of a cluster all the nodes that it lists, otherwise one.

    Raises like :func:`parse_url`, also for a database of a cluster that is not 0: there is no other.
    """
    if not isinstance(url, str):
        raise _no_text(url)
    if not is_of_cluster(url):
        return [parse_url(url)]
    try:
        return [_node(each) for each in _apart(CLUSTER.sub(r'\1', url))]
    except ValueError as error:
        raise TorrelqueValueError(f'url {_redacted(url)!r}: {error}') from None


def is_of_sentinel(url: object) -> bool:
    return isinstance(url, str) and SENTINEL.match(url) is not None


def parse_sentinel_url(url: str) -> tuple[str, list[Address]]:
    """The service, and the addresses of its sentinels with the user, password and database of its servers.

    Raises like :func:`parse_url`.
    """
    try:
        parts = [_sentinel(each) for each in _apart(SENTINEL.sub(r'\1', url))]
    except ValueError as error:
        raise TorrelqueValueError(f'url {_redacted(url)!r}: {error}') from None
    return parts[0][0], [address for _, address in parts]


def _sentinel(url: str) -> tuple[str, Address]:
    start, _, query = url.partition('?')
    scheme, _, rest = start.partition('://')
    place, _, path = rest.partition('/')
    service = _decoded(path)
    if not service or '/' in path:
        raise ValueError(f'expected the name of a service: {FORMS[5]}')
    server = f'{scheme}://{place}{"?" if query else ""}{query}'
    address = _parse(server)
    return service, replace(address, port=SENTINEL_PORT) if urlsplit(server).port is None else address


def _apart(url: str) -> list[str]:
    """A URL for each of the hosts in this one."""
    scheme, _, rest = url.partition('://')
    end = min((rest.find(mark) for mark in '/?#' if mark in rest), default=len(rest))
    credentials, at, hosts = rest[:end].rpartition('@')
    return [f'{scheme}://{credentials}{at}{host}{rest[end:]}' for host in hosts.split(',')]


def _node(url: str) -> Address:
    address = _parse(url)
    if address.db:
        raise ValueError(f'a cluster has only the database 0, not {address.db}')
    return address


def _parse(url: str) -> Address:
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
    option = _query(parts.query)
    db = '0' if option is None else option
    if parts.scheme == 'unix':
        if parts.netloc.rpartition('@')[2] or parts.path in ('', '/'):
            raise ValueError(f'expected the absolute path of a socket: {FORMS[2]}')
        return Address(path=_decoded(parts.path), user=user, password=password, db=_db(db))
    if not parts.hostname:
        raise ValueError(f'expected a host: {FORMS[0]}')
    in_path = parts.path.removeprefix('/')
    if in_path and option is not None:
        raise ValueError('the database is given twice, as path and as ?db=')
    return Address(
        host=_decoded(parts.hostname),
        port=_port(parts),
        tls=parts.scheme == 'rediss',
        user=user,
        password=password,
        db=_db(in_path or db),
    )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its message may hold the password
        raise ValueError('the host is malformed') from None


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    # An empty user is the server's default one: redis://:password@host
    user = unquote(parts.username, errors='strict') if parts.username else None
    password = unquote(parts.password, errors='strict') if parts.password is not None else None
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


def _query(query: str) -> str | None:
    options = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors='strict') if query else []
    for name, _ in options:
        if name != 'db':
            raise ValueError(f'unknown option {name!r}, the only one is db; other settings are arguments of connect()')
    if len(options) > 1:
        raise ValueError('the option db is given more than once')
    return options[0][1] if options else None


def _db(text: str) -> int:
    decoded = unquote(text, errors='strict')
    if not (decoded.isascii() and decoded.isdigit() and len(decoded) <= DB_DIGITS):
        raise ValueError(f'the database must be a number from 0, not {decoded!r}')
    return int(decoded)


def _redacted(url: str) -> str:
    # Up to the last @, since the password of a malformed URL may hold any delimiter.
    return re.sub(r'(?s)://.*@', '://***@', url)
