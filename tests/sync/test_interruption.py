"""Callers that are interrupted at any moment: nothing is lost or held, and other threads notice nothing."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pytest
import redis

from tests import servers
from torrelque import TorrelqueError, sync

WITH_GEVENT = Path(__file__).with_name('with_gevent.py')
ROUNDS = 60

T = TypeVar('T')


class Interrupt(BaseException):
    """As KeyboardInterrupt, which would end the test run if it came late."""


class Interrupter:
    """Calls functions, and has a signal raise in the midst of them, in the main thread."""

    def __init__(self) -> None:
        self._is_armed = False

    def handle(self, _number: int, frame: FrameType | None) -> None:
        if self._is_armed and frame and frame.f_code is not Interrupter.ignore.__code__:
            self._is_armed = False
            raise Interrupt

    def ignore(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Interrupt again where a destructor swallowed it; else, redis-py left a socket to the garbage collector."""
        if isinstance(unraisable.exc_value, Interrupt):
            self._is_armed = True

    def call(self, seconds: float, function: Callable[[], T]) -> T | None:
        """The function's result; None if it was interrupted."""
        done = threading.Event()

        def send() -> None:
            while not done.wait(seconds):
                os.kill(os.getpid(), signal.SIGUSR1)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            try:
                self._is_armed = True
                return function()
            finally:
                self._is_armed = False
        except Interrupt:
            return None
        finally:
            done.set()
            sender.join()


@pytest.fixture
def interrupter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupter]:
    interrupter = Interrupter()
    # pytest's own hook runs in the main thread, too: an interruption in the midst of it would fail the test.
    monkeypatch.setattr(sys, 'unraisablehook', interrupter.ignore)
    former = signal.signal(signal.SIGUSR1, interrupter.handle)
    yield interrupter
    signal.signal(signal.SIGUSR1, former)
    gc.collect()


def test_a_consumer_that_waits(server: servers.Server, queue: sync.Torrelque, interrupter: Interrupter) -> None:
    assert interrupter.call(0.1, queue.dequeue) is None
    assert int(server.info('clients')['blocked_clients']) == 0
    task_id = queue.enqueue('a')
    task = queue.dequeue(5)
    assert (task.id, task.dequeue_count) == (task_id, 1)


def test_consumers_as_tasks_arrive(client: redis.Redis, queue: sync.Torrelque, interrupter: Interrupter) -> None:
    chance = random.Random(1)
    with sync.Torrelque(client, queue=queue.queue) as producer, ThreadPoolExecutor(1) as threads:
        taken = 0
        for number in range(ROUNDS):
            added = threads.submit(producer.enqueue, number)
            taken += interrupter.call(chance.random() * 0.004, queue.dequeue) is not None
            assert added.result(20)
        assert taken < ROUNDS
        # One may have been handed over just before its caller was interrupted: it is claimed, and nothing is lost.
        queue.dequeue_nowait(max_tasks=1000)
        stats = producer.get_queue_stats()
        assert stats.tasks == stats.pending + stats.working == ROUNDS
        assert producer.audit() == []


def test_producers_among_other_threads(queue: sync.Torrelque, interrupter: Interrupter) -> None:
    chance = random.Random(2)
    stop = threading.Event()
    kept: list[str] = []

    def produce() -> list[str]:
        added: list[str] = []
        while not stop.is_set():
            with suppress(TorrelqueError):  # the main thread was interrupted while it had the lock
                added.append(queue.enqueue('theirs'))
        return added

    def produce_interruptibly() -> None:
        while True:
            kept.append(queue.enqueue('mine'))

    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(produce) for _ in range(2)]
        try:
            for _ in range(ROUNDS):
                interrupter.call(chance.random() * 0.004, produce_interruptibly)
        finally:
            stop.set()
        kept += [task_id for each in others for task_id in each.result(20)]
    assert {task.id for task in queue.dequeue_nowait(max_tasks=100_000)} >= {*kept}
    assert queue.audit() == []


def test_with_gevent(server: servers.Server) -> None:
    pytest.importorskip('gevent', exc_type=ImportError)
    run = subprocess.run(
        [sys.executable, '-W', 'error', str(WITH_GEVENT), server.url],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr[-3000:]) == (0, 'all is well\n', '')
