"""The worker processes of the demonstration."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio.to_thread

from torrelque import TorrelqueError

__all__ = ('Crew', 'Worker')

ENDING_TIME = 5.0
"""Maximum time for a worker to exit when asked to, in seconds."""


class Worker:
    """A process that consumes tasks with one client on one event loop. It always ends when this process ends."""

    def __init__(self, number: int, loop: str, client: str, url: str, folder: Path) -> None:
        self.name: str = str(number)
        self.loop = loop
        self.client = client
        self.killed: bool = False
        self.replaces: Worker | None = None
        self._log = folder / f'{number}.log'
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(  # noqa: S603 - a module of this package
                [sys.executable, '-P', '-m', 'torrelque.cli.demo.worker', self.name, loop, client, url],
                stdin=subprocess.PIPE,  # never written to; its end tells the worker to exit
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # only this process gets Ctrl-C; it then shuts its workers down
            )

    async def ready(self) -> None:
        """Wait until the worker consumes. Raises TorrelqueError if it exits instead."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        if not await anyio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True):
            self._process.wait()
            self.check()

    def check(self) -> None:
        """Raise TorrelqueError if the worker exited without being killed by `kill`."""
        status = self._process.poll()
        if status is not None and not self.killed:
            said = self._log.read_text(errors='replace').strip().splitlines()
            raise TorrelqueError(f'worker {self.name} ended with status {status}: {said[-1] if said else "no output"}')

    def kill(self) -> None:
        """Send SIGKILL, so that the worker can neither finish its tasks nor give them back."""
        self.killed = True
        self._process.kill()
        self._process.wait()

    def leave(self) -> None:
        """Ask the worker to exit."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.close()

    def close(self) -> None:
        """Wait until the worker exits, and kill it if it does not do so in time."""
        try:
            self._process.wait(ENDING_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None  # noqa: S101 - see above
        self._process.stdout.close()


class Crew:
    """All workers that were started, including the killed ones."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.workers: list[Worker] = []

    def start(self, loop: str, client: str) -> Worker:
        worker = Worker(len(self.workers) + 1, loop, client, self._url, self._folder)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker) -> Worker:
        """Kill a worker and start another one with the same loop and client."""
        worker.kill()
        successor = self.start(worker.loop, worker.client)
        successor.replaces = worker
        return successor

    def check(self) -> None:
        for worker in self.workers:
            worker.check()

    @classmethod
    @contextmanager
    def hired(cls, url: str) -> Iterator[Crew]:
        """Return a crew whose processes exit at the end of the context."""
        with tempfile.TemporaryDirectory(prefix='torrelque-') as folder:
            crew = cls(url, Path(folder))
            try:
                yield crew
            finally:
                for worker in crew.workers:
                    worker.leave()
                for worker in crew.workers:
                    worker.close()
