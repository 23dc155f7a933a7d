"""The demonstration: hashes real files in real processes, kills one of them, and checks every result."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
import time
from pathlib import Path

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from torrelque import Torrelque, TorrelqueError, TorrelqueTaskState, TorrelqueTaskStatus, connect
from torrelque.cli.demo.crew import Crew
from torrelque.cli.demo.report import Report
from torrelque.cli.demo.worker import QUEUE, TASK_TIMEOUT
from torrelque.embedded import EmbeddedServer

__all__ = ('run',)

CREW = (('asyncio', 'redis-py'), ('asyncio', 'native'), ('trio', 'coredis'), ('trio', 'native'))
VICTIM = 1
"""Index of the worker that is killed."""

OTHERS_PACKAGES = {'site-packages', 'dist-packages'}
"""Folders in the standard library's folder that do not belong to the library."""

LOOK = 0.05
"""Seconds between two checks of the progress."""


def run(path: Path | None) -> bool:
    """Run the demonstration. Return whether all digests are correct. Raises TorrelqueError and OSError."""
    console = Console()
    root = path or Path(sysconfig.get_path('stdlib'))
    if not root.is_dir():
        raise TorrelqueError(f'no such folder: {root}')
    files, unreadable = find_files(root, set() if path else OTHERS_PACKAGES)
    if not files:
        raise TorrelqueError(f'no readable files below {root}')
    with EmbeddedServer() as server, Crew.hired(server.url) as crew:
        report = anyio.run(demonstrate, console, files, server.url, crew)
    report.unreadable = unreadable
    report.show(console, crew.workers)
    return report.right


async def demonstrate(console: Console, files: list[str], url: str, crew: Crew) -> Report:
    """Let the workers hash the files, and check the results."""
    async with connect(url) as client, Torrelque(client, queue=QUEUE) as queue:
        for loop, name in CREW:
            crew.start(loop, name)
        for worker in crew.workers:
            await worker.ready()
        start = time.monotonic()
        with Progress(
            TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        ) as progress:
            ids = await enqueue(queue, files, progress)
            await follow(queue, crew, len(files), progress)
        seconds = time.monotonic() - start
        states = {task_id: state async for task_id, state in queue.tasks(TorrelqueTaskStatus.COMPLETED)}
        rejected = {task_id: state async for task_id, state in queue.tasks(TorrelqueTaskStatus.REJECTED)}
    report = check(dict(zip(ids, files, strict=True)), states, rejected)
    report.seconds = seconds
    return report


async def enqueue(queue: Torrelque, files: list[str], progress: Progress) -> list[str]:
    """Enqueue all files in a few round trips. Return the task ids."""
    bar = progress.add_task('enqueued', total=len(files))
    ids = []
    for answer in await queue.enqueue_many(
        files, task_timeout=TASK_TIMEOUT, on_progress=lambda done, _: progress.update(bar, completed=done)
    ):
        if isinstance(answer, Exception):
            raise answer
        ids.append(answer)
    return ids


async def follow(queue: Torrelque, crew: Crew, total: int, progress: Progress) -> None:
    """Wait until all tasks are done; kill a worker half-way. Raises TorrelqueError if a worker exits unexpectedly."""
    bar = progress.add_task('hashed', total=total)
    victim = crew.workers[VICTIM]
    done = 0
    while done < total or not victim.killed:
        crew.check()
        stats = await queue.get_queue_stats()
        done = stats.total_completed + stats.rejected
        progress.update(bar, completed=done)
        if done * 2 >= total and not victim.killed:
            successor = crew.replace(victim)
            progress.console.print(f'{done:,} done: killed worker {victim.name}, started worker {successor.name}')
        await anyio.sleep(LOOK)


def check(
    files: dict[str, str], states: dict[str, TorrelqueTaskState], rejected: dict[str, TorrelqueTaskState]
) -> Report:
    """Compare each result with the file's digest, computed in this process."""
    report = Report(files=len(files))
    for task_id, file in files.items():
        state = states.get(task_id)
        if state is None:
            reason = rejected[task_id].reason if task_id in rejected else 'no result'
            report.missing.append(f'{file}: {reason}')
            continue
        report.by_worker[state.result['worker']] += 1
        report.redelivered += state.dequeue_count - 1
        try:
            digest, size = digest_of(file)
        except OSError as error:
            report.wrong.append(f'{file}: cannot be checked: {error.strerror}')
        else:
            report.size += size
            if digest != state.result['sha256']:
                report.wrong.append(file)
    return report


def digest_of(file: str) -> tuple[str, int]:
    """Return a file's SHA-256 and size."""
    with Path(file).open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest(), stream.tell()


def find_files(root: Path, left_out: set[str]) -> tuple[list[str], list[str]]:
    """Return the regular files below a folder, and the unreadable ones with the reasons."""
    readable: list[str] = []
    unreadable: list[str] = []

    def note(error: OSError) -> None:
        unreadable.append(f'{error.filename}: {error.strerror}')

    for folder, folders, names in os.walk(root.absolute(), onerror=note):
        folders[:] = sorted(set(folders) - left_out)
        for name in sorted(names):
            file = os.path.join(folder, name)  # noqa: PTH118 - thousands of paths are not worth an object each
            try:
                if stat.S_ISREG(os.stat(file).st_mode):  # noqa: PTH116 - see above
                    os.close(os.open(file, os.O_RDONLY))
                    readable.append(file)
            except OSError as error:
                note(error)
    return readable, unreadable
