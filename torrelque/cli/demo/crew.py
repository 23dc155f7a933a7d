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
"""Seconds that a worker has to end by itself."""


class Worker:
    """A process that takes tasks over one client on one event loop. It ends with this process, however that ends."""

    def __init__(self, number: int, loop: str, client: str, url: str, folder: Path) -> None:
        self.name: str = str(number)
        self.loop = loop
        self.client = client
        self.killed: bool = False
        self.replaces: Worker | None = None
        self._log = folder / f'{number}.log'
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(  # noqa: S603 - this package's own module
                [sys.executable, '-P', '-m', 'torrelque.cli.demo.worker', self.name, loop, client, url],
                stdin=subprocess.PIPE,  # never written to: it ends with this process
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which then ends its workers
            )

    async def ready(self) -> None:
        """Wait until it takes tasks. Raises TorrelqueError if it ends instead."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        if not await anyio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True):
            self._process.wait()
            self.check()

    def check(self) -> None:
        """Raise TorrelqueError if it ended without being killed by us."""
        status = self._process.poll()
        if status is not None and not self.killed:
            said = self._log.read_text(errors='replace').strip().splitlines()
            raise TorrelqueError(f'worker {self.name} ended with status {status}: {said[-1] if said else "no word"}')

    def kill(self) -> None:
        """End it with SIGKILL: it can neither finish nor give back what it has claimed."""
        self.killed = True
        self._process.kill()
        self._process.wait()

    def leave(self) -> None:
        """Ask it to end."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._process.stdin.close()

    def close(self) -> None:
        """See it end, and kill it if it does not do so in time."""
        try:
            self._process.wait(ENDING_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None  # noqa: S101 - as above
        self._process.stdout.close()


class Crew:
    """All workers that were ever started, those that were killed included."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.workers: list[Worker] = []

    def start(self, loop: str, client: str) -> Worker:
        worker = Worker(len(self.workers) + 1, loop, client, self._url, self._folder)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker) -> Worker:
        """Kill a worker, and start another one of its kind."""
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
        """A crew whose processes end with the context."""
        with tempfile.TemporaryDirectory(prefix='torrelque-') as folder:
            crew = cls(url, Path(folder))
            try:
                yield crew
            finally:
                for worker in crew.workers:
                    worker.leave()
                for worker in crew.workers:
                    worker.close()
