"""Runs the `worker` command in several processes, and starts them again when they die or when the code changes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import Process, TaskStatus

from torrelque import retry
from torrelque.cli.exit_codes import Exit, require
from torrelque.worker.signals import HANG_UP, STOPPING

__all__ = ('end_with_parent', 'is_supervised', 'supervise')

PARENT = 'TORRELQUE_PARENT'
"""Environment variable with the file descriptor of a pipe whose other end only the supervisor has."""

RESTART = retry.exponential(0.5, maximum=30.0)
"""Pauses before a process that died is restarted."""

HEALTHY = 60.0
"""Seconds of running after which the pauses start again from the first."""

FINAL = frozenset({Exit.OK, Exit.USAGE, Exit.SERVER})
"""Exit statuses after which a restart does not help."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


async def supervise(arguments: Sequence[str], processes: int, *, reload: bool) -> int:
    """Run a command line of torrelque in several processes until they have ended.

    A process that dies is restarted, with a back-off. If a process ends with a
    status after which a restart does not help, all are stopped. With ``reload``, a
    process that cannot start waits for the next change instead. Signals that stop a
    worker are passed on.

    Args:
        arguments: The arguments of each process.
        processes: Number of processes.
        reload: Restart all processes when a Python file below the working folder changes.

    Returns:
        The largest exit status of the processes that were not stopped.
    """
    if reload:
        require({'watchfiles': 'reload'})
        logging.getLogger('watchfiles').setLevel(logging.WARNING)
    return await _Supervisor(arguments, processes, reload=reload).run()


def is_supervised() -> bool:
    """Return whether a supervisor runs this process."""
    return PARENT in os.environ


def end_with_parent() -> None:
    """In a supervised process, make the end of the supervisor act like SIGTERM."""
    if (number := os.environ.pop(PARENT, '')).isdigit():
        threading.Thread(target=_wait_for_end, args=(int(number),), daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


class _Supervisor:
    def __init__(self, arguments: Sequence[str], processes: int, *, reload: bool) -> None:
        self._command = [sys.executable, '-m', 'torrelque', *arguments]
        self._count = processes
        self._folder = f'{Path.cwd()}{os.sep}'
        self._running: set[Process] = set()
        self._reload = reload
        self._stopping = False
        self._news = anyio.Event()  # set when files have changed, or when all processes are stopped
        self._restarting: set[Process] = set()
        self._status = 0
        self._pipe, self._own_end = os.pipe()

    async def run(self) -> int:
        async with anyio.create_task_group() as helpers:
            await helpers.start(self._pass_signals_on)
            if self._reload:
                helpers.start_soon(self._restart_on_changes)
            async with anyio.create_task_group() as group:
                for _ in range(self._count):
                    group.start_soon(self._keep_running)
            helpers.cancel_scope.cancel()
        os.close(self._pipe)
        os.close(self._own_end)
        return self._status

    async def _keep_running(self) -> None:
        deaths = 0
        while not self._stopping:
            begun, news = anyio.current_time(), self._news
            status, wanted = await self._run_once()
            if wanted:
                continue
            if self._stopping:
                if -status not in STOPPING:  # it was stopped before it handled signals
                    self._status = max(self._status, status if status >= 0 else 128 - status)
                return
            if self._reload and status == Exit.USAGE:
                logger.error('A worker process cannot start, waiting for a change')
                await news.wait()
                continue
            if status in FINAL:
                self._status = max(self._status, status)
                if status != Exit.OK:
                    self._stop(signal.SIGTERM)
                return
            deaths = 1 if anyio.current_time() - begun > HEALTHY else deaths + 1
            pause = RESTART(deaths, RuntimeError()) or 0.0
            logger.error('A worker process ended with status %d, starting another in %.1f s', status, pause)
            with anyio.move_on_after(pause):
                await news.wait()
                deaths = 0

    async def _run_once(self) -> tuple[int, bool]:
        """Run a process. Return its exit status, and whether it was stopped to be restarted."""
        process = await anyio.open_process(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=None,
            env={**os.environ, PARENT: str(self._pipe)},
            pass_fds=[self._pipe],
            start_new_session=True,  # this process passes Ctrl-C on, so that it arrives only once
        )
        self._running.add(process)
        try:
            if self._stopping:
                _send(process, signal.SIGTERM)
            status = await process.wait()
        finally:
            self._running.discard(process)
        wanted = process in self._restarting
        self._restarting.discard(process)
        return status, wanted and not self._stopping

    async def _pass_signals_on(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*STOPPING) as signals:
            task_status.started()
            async for number in signals:
                if not (self._stopping and number == HANG_UP):
                    self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        self._news.set()
        for process in self._running:
            # Workers treat both alike, but SIGINT would interrupt the imports of a worker that is starting.
            _send(process, signal.SIGTERM if number == signal.SIGINT else number)

    async def _restart_on_changes(self) -> None:
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - an optional package

        async for changes in awatch(self._folder, watch_filter=PythonFilter(), rust_timeout=500):
            names = ', '.join(sorted({path.removeprefix(self._folder) for _, path in changes}))
            logger.warning('Restarting because of changes in %s', names)
            self._news.set()
            self._news = anyio.Event()
            for process in self._running - self._restarting:
                self._restarting.add(process)
                _send(process, signal.SIGTERM)


def _send(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        process.send_signal(number)
