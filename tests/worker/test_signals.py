"""SIGTERM and SIGINT, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = """
import anyio, sys
from torrelque import Torrelque, Worker
from torrelque.testing import MemoryTransport

async def handler(task):
    print('started', flush=True)
    try:
        await anyio.sleep(float(task.data))
    except BaseException:
        print('cancelled', flush=True)
        raise
    print('finished', flush=True)

async def main(seconds, handle):
    async with Torrelque(MemoryTransport()) as queue:
        await queue.enqueue(seconds)
        worker = Worker(queue, handler, concurrency=2, grace=30, handle_signals=handle == 'handle')
        await worker.run()
        stats = await queue.get_queue_stats()
        print('pending', stats.pending, 'working', stats.working, flush=True)

anyio.run(main, *sys.argv[2:], backend=sys.argv[1])
"""

PATIENCE = 20


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs it until its handler has started."""
    process = subprocess.Popen([sys.executable, '-c', PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == 'started\n'
        yield process
    finally:
        process.kill()
        process.communicate()


def output(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=PATIENCE)
    return said.splitlines()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('loop', ['asyncio', 'trio'])
def test_a_signal_lets_the_handler_finish(loop: str, number: signal.Signals) -> None:
    with program(loop, '0.7', 'handle') as process:
        process.send_signal(number)
        assert output(process) == ['finished', 'pending 0 working 0']
        assert process.returncode == 0


@pytest.mark.parametrize('second', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('loop', ['asyncio', 'trio'])
def test_a_second_signal_allows_no_grace(loop: str, second: signal.Signals) -> None:
    with program(loop, '60', 'handle') as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(second)
        assert output(process) == ['cancelled', 'pending 1 working 0']
        assert process.returncode == 0


@pytest.mark.parametrize('loop', ['asyncio', 'trio'])
def test_signals_are_the_programs_own_unless_asked_for(loop: str) -> None:
    with program(loop, '60', 'leave') as process:
        process.send_signal(signal.SIGTERM)
        assert output(process) == []
        assert process.returncode == -signal.SIGTERM
