"""Heartbeats of worker processes, for `torrelque worker --probe`.

The event loop of each process touches a file at intervals. The file is locked as long as the process lives. So a file
without a lock was left by a process that was killed, even if another process has its id now.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio

from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.units import age
from torrelque.worker.loops import start_dedicated

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ('Heartbeat', 'check_alive')

INTERVAL = 5.0
"""Time between two heartbeats, in seconds."""

LATE = 30.0
"""Time without a heartbeat after which an event loop counts as stuck, in seconds."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class Heartbeat:
    """The heartbeat of this process. If it cannot be written, a warning is logged, and the worker runs without it.

    Args:
        name: The worker's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file = -1
        self._path: Path | None = None

    def start(self) -> None:
        """Write heartbeats from the running event loop until `stop`."""
        if fcntl is None:
            return
        try:
            folder = _folder()
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_own(folder)
            list(_beats(folder))  # removes the files of killed processes
            self._file, name = tempfile.mkstemp(prefix='.', dir=folder)
            self._path = Path(name)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.write(self._file, self._name.encode())
            self._path = self._path.rename(folder / f'{os.getpid()}{self._path.name}')
        except OSError as error:
            logger.warning('Cannot write a heartbeat, so --probe fails: %s', error)
        else:
            start_dedicated(self._beat)

    async def _beat(self) -> None:
        while self._file >= 0:
            with suppress(OSError):
                os.utime(self._file)
            await anyio.sleep(INTERVAL)

    def stop(self) -> None:
        """Stop, and remove the file. Safe to repeat."""
        file, self._file = self._file, -1
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        if file >= 0:
            os.close(file)


def check_alive(name: str | None) -> None:
    """Check that this user's worker processes on this machine are alive. Does not need the server.

    Args:
        name: Check only those with this name; None checks all.

    Raises:
        Refusal: No worker runs, or one is stuck.
    """
    if fcntl is None:
        raise Refusal('--probe needs a system with file locks, such as Linux', Exit.USAGE)
    who = 'worker' if name is None else f'worker named {name!r}'
    try:
        _check_own(_folder())
        found = [(silence, process) for process, owner, silence in _beats(_folder()) if name in (None, owner)]
    except FileNotFoundError:
        found = []
    except OSError as error:
        raise Refusal(f'cannot read the heartbeats: {error}') from error
    if not found:
        raise Refusal(f'no {who} runs here')
    silence, process = max(found)
    if silence > LATE:
        raise Refusal(f'process {process} is stuck: its event loop has not run for {age(silence)}')


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f'torrelque-workers-{os.getuid()}'


def _check_own(folder: Path) -> None:
    """Raise PermissionError if another user has created the folder, which everybody can."""
    status = folder.lstat()
    if status.st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f'{folder} belongs to another user')


def _beats(folder: Path) -> Iterator[tuple[str, str, float]]:
    """Yield each worker's process id, name, and seconds since its last heartbeat. Remove the files of killed ones."""
    now = time.time()
    for path in folder.iterdir():
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # it has just ended
            continue
        try:
            silence = now - os.fstat(file).st_mtime
            if _is_left(file):
                if silence > LATE:  # a file that is being created has no lock yet
                    path.unlink(missing_ok=True)
            elif not path.name.startswith('.'):
                yield path.name.partition('.')[0], os.read(file, 10_000).decode(errors='replace'), silence
        finally:
            os.close(file)


def _is_left(file: int) -> bool:
    """Return whether the process that locked a file is gone."""
    assert fcntl is not None  # noqa: S101 - callers have checked
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
