"""The worker processes of the demonstration: started, killed, replaced, and gone with their crew."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import anyio
import pytest

from tests import servers
from torrelque import Torrelque, TorrelqueError, connect
from torrelque.cli.demo.crew import Crew
from torrelque.cli.demo.worker import QUEUE

pytestmark = pytest.mark.anyio


@pytest.fixture(scope='module', params=['asyncio'])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def url() -> Iterator[str]:
    server = servers.shared('valkey-9.1')
    server.start()
    server.flush()
    yield server.url
    server.flush()


async def test_a_worker_works_and_is_replaced(url: str) -> None:
    with Crew.hired(url) as crew:
        first = crew.start('asyncio', 'native')
        with anyio.fail_after(50):
            await first.ready()
            crew.check()
            second = crew.replace(first)
            assert (first.killed, second.replaces, second.name) == (True, first, '2')
            crew.check()  # it was meant to be killed
            await second.ready()
            async with connect(url) as client, Torrelque(client, queue=QUEUE) as queue:
                task_id = await queue.enqueue(__file__)
                assert (await queue.wait(task_id)).result['worker'] == '2'
        pids = [worker._process.pid for worker in crew.workers]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_worker_that_ends_by_itself_is_an_error() -> None:
    with Crew.hired('redis://127.0.0.1:1') as crew, anyio.fail_after(50):
        worker = crew.start('asyncio', 'native')
        worker._process.send_signal(signal.SIGTERM)
        with pytest.raises(TorrelqueError, match='worker 1 ended with status -15'):
            await worker.ready()
        with pytest.raises(TorrelqueError, match='worker 1 ended'):
            crew.check()
