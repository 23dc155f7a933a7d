"""Signs of life: when a process shows some, and when it is taken for dead."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import anyio
import pytest

from torrelque.cli import heartbeat
from torrelque.cli.errors import Refusal
from torrelque.cli.heartbeat import LATE, Heartbeat, check_alive

pytestmark = pytest.mark.anyio

KILLED = """
import os, sys, anyio
from torrelque.cli.heartbeat import Heartbeat

async def main():
    Heartbeat('killed').start()
    await anyio.sleep(0)
    os._exit(9)

anyio.run(main)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where signs of life are left."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    return tmp_path / f'torrelque-workers-{os.getuid()}'


def grow_old(folder: Path, seconds: float = LATE + 5) -> None:
    then = time.time() - seconds
    for path in folder.iterdir():
        os.utime(path, (then, then))


def touch(path: Path) -> None:
    path.touch()


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def silence(folder: Path) -> float:
    return max(time.time() - path.stat().st_mtime for path in folder.iterdir())


def refused(name: str | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        check_alive(name)
    assert caught.value.status == 1
    return str(caught.value)


async def test_it_is_alive_from_start_to_stop(folder: Path) -> None:
    assert refused() == 'no worker runs here'
    beating = Heartbeat('mail')
    beating.start()
    try:
        check_alive(None)
        check_alive('mail')
        assert refused('other') == "no worker named 'other' runs here"
        assert os.stat(folder).st_mode & 0o777 == 0o700  # noqa: PTH116 - Ruff takes the other way to block
    finally:
        beating.stop()
        beating.stop()
    assert refused() == 'no worker runs here'
    assert left(folder) == []


async def test_the_event_loop_beats(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, 'INTERVAL', 0.001)
    beating = Heartbeat('mail')
    beating.start()
    try:
        grow_old(folder)
        deadline = time.monotonic() + 20
        while silence(folder) > LATE:
            assert time.monotonic() < deadline
            await anyio.sleep(0.001)
        check_alive(None)
    finally:
        beating.stop()


async def test_one_of_several_is_stuck(folder: Path) -> None:
    stuck, well = Heartbeat('stuck'), Heartbeat('well')
    stuck.start()
    try:
        grow_old(folder)
        well.start()
        assert re.fullmatch(r'process \d+ is stuck: its event loop has not run for 35s', refused())
        assert 'is stuck' in refused('stuck')
        check_alive('well')
    finally:
        stuck.stop()
        well.stop()


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_what_a_killed_process_left_is_no_sign_and_goes(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, 'TMPDIR': str(tmp_path)}
    killed = await anyio.run_process([sys.executable, '-c', KILLED], env=environment, check=False)
    assert killed.returncode == 9
    assert len(left(folder)) == 1
    assert refused() == 'no worker runs here'
    grow_old(folder)
    touch(folder / '.half-made')
    beating = Heartbeat('next')
    beating.start()
    beating.stop()
    assert left(folder) == ['.half-made'], 'one that is just being made stays'


@pytest.mark.parametrize('why', ['nobody may write', 'a link'])
async def test_where_none_can_be_left(folder: Path, why: str, caplog: pytest.LogCaptureFixture) -> None:
    if why == 'a link':
        os.symlink(folder.parent, folder)  # noqa: PTH211 - as above
    else:
        touch(folder)
    beating = Heartbeat('mail')
    beating.start()
    beating.stop()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert 'Cannot write a heartbeat' in caplog.text
    assert 'cannot read the heartbeats' in refused()
