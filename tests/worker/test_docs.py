"""What docs/worker.md shows, run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from torrelque import Reject, Task, Torrelque, Worker, events, retry
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / 'docs' / 'worker.md'


@pytest.fixture(scope='module')
def shown() -> dict[str, Any]:
    """The names that the page's blocks define, its programs not started."""
    names: dict[str, Any] = {}
    for block in re.findall(r'^```python\n(.*?)^```$', PAGE.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL):
        exec(compile(block.replace('anyio.run(main)', ''), str(PAGE), 'exec'), names)  # noqa: S102 - our own page
    return names


async def test_the_handler(shown: dict[str, Any]) -> None:
    async with Torrelque(MemoryTransport()) as queue, anyio.create_task_group() as group:
        group.start_soon(Worker(queue, shown['send'], concurrency=1).run)
        with anyio.fail_after(10):
            state = await queue.wait(await queue.enqueue({'to': 'you'}))
        assert state.result == 'sent to you'
        group.cancel_scope.cancel()


def test_the_policy(shown: dict[str, Any]) -> None:
    assert shown['policy'](1, ValueError()) is None
    assert 4 <= shown['policy'](1, OSError()) <= 5


async def test_the_hook(shown: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    async def handler(task: Task) -> None:
        if task.data:
            raise Reject('no')

    hook, told = shown['on_event'], list[events.WorkerEvent]()

    def both(event: events.WorkerEvent) -> None:
        hook(event)
        told.append(event)
        if len(told) == 4:
            worker.stop()

    async with Torrelque(MemoryTransport()) as queue:
        task_id = await queue.enqueue(0)
        await queue.enqueue(1)
        worker = Worker(queue, handler, concurrency=1, retry=retry.never(), on_event=both)
        with anyio.fail_after(10):
            await worker.run()
    assert capsys.readouterr().out == f'done {task_id}\n'


async def test_the_test(shown: dict[str, Any]) -> None:
    await shown['test_a_slow_task_keeps_its_claim']()
