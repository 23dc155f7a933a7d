"""A process that does not end by itself is ended, and says why."""

from __future__ import annotations

import subprocess
import sys
import threading

from torrelque.cli.deadline import Deadline

STUCK = """
import logging, threading, sys
from torrelque.cli.deadline import Deadline

logging.basicConfig(format='%(message)s')
deadline = Deadline(lambda: 'two threads')
deadline.end_within(0, 7)
if 'off' in sys.argv:
    deadline.call_off()
else:
    threading.Event().wait(30)
"""


def run(*arguments: str) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, '-c', STUCK, *arguments], capture_output=True, text=True, timeout=50, check=False
    )
    return ended.returncode, ended.stderr


def test_a_process_that_is_stuck_is_ended() -> None:
    assert run() == (7, 'The process does not exit, so it is ended: two threads\n')


def test_a_thread_that_is_left_keeps_the_process() -> None:
    over = threading.Event()
    deadline = Deadline(lambda: '')
    assert not deadline.is_kept(0)
    daemon, thread = (threading.Thread(target=over.wait, daemon=each) for each in (True, False))
    daemon.start()
    try:
        assert not deadline.is_kept(0)
        thread.start()
        assert deadline.is_kept(0.01)
    finally:
        over.set()
        daemon.join()
        thread.join()
    assert not deadline.is_kept(0)


def test_threads_from_before_do_not_count() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert not Deadline(lambda: '').is_kept(0)
    finally:
        over.set()
        thread.join()
