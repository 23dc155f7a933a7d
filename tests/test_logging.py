"""What the library logs: nothing on an ordinary day, and nothing that docs/monitoring.md does not list."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import torrelque
from tests import servers
from torrelque import Reject, Retry, Task, Torrelque, TorrelqueTimeoutError, Worker, connect
from torrelque.testing import MemoryTransport

PACKAGE = Path(torrelque.__file__).parent
PAGE = Path(__file__).parents[1] / 'docs' / 'monitoring.md'
LEVELS = {'exception': 'ERROR', **{name.lower(): name for name in ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')}}
ENOUGH = 20


@asynccontextmanager
async def opened(where: str) -> AsyncIterator[Torrelque]:
    if where == 'memory':
        async with Torrelque(MemoryTransport(), queue='q') as queue:
            yield queue
        return
    try:
        server = servers.shared(where)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    server.flush()
    async with connect(server.url) as client, Torrelque(client, queue='q') as queue:
        yield queue


async def handler(task: Task) -> str | None:
    """Does some, and asks for the others to be retried or rejected."""
    if task.data == 'later' and task.attempt == 1:
        raise Retry(0.01)
    if task.data == 'never':
        raise Reject('not wanted')
    return 'done' if task.data == 'result' else None


@pytest.mark.anyio
@pytest.mark.parametrize('where', ['memory', 'valkey-9.1'])
async def test_an_ordinary_day(where: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened(where) as queue:
        queue.schedule_sweep(0.01)
        task_id = await queue.enqueue('by hand')
        await queue.enqueue_many(['due', 'soon'], delay=0.01)
        await queue.requeue(await queue.dequeue(ENOUGH), delay=0.01)
        for _ in range(3):
            task = await queue.dequeue(ENOUGH)
            await queue.extend(task)
            await queue.release(task.id, result='done')
        assert [state.result async for state in queue.watch(task_id)] == ['done']
        with pytest.raises(TorrelqueTimeoutError):
            await queue.dequeue(0.01)
        await queue.audit()

        ids = [await queue.enqueue(data) for data in ('result', 'later', 'never', 'plain')]
        worker = Worker(queue, handler, concurrency=2)
        async with anyio.create_task_group() as group:
            await group.start(worker.run)
            with anyio.fail_after(ENOUGH):
                await queue.wait(ids[2])
                while (await queue.get_queue_stats()).tasks:  # noqa: ASYNC110 - that is what is waited for
                    await anyio.sleep(0.01)
            worker.stop()
        assert await queue.redrive() == 1
        assert await queue.dequeue(ENOUGH)  # the worker's last claim may have it, and gives it back
        queue.unschedule_sweep()
    heard = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert [each for each in heard if each[1] != 'DEBUG'] == [
        ('torrelque.worker', 'INFO', 'Stopping: waiting up to 20 s for 0 handlers')
    ]


def logged() -> Iterator[tuple[str, str, str]]:
    """Logger, level and message of each call of a logger in the package."""
    for path in PACKAGE.rglob('*.py'):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        names = [
            str(ast.literal_eval(node.value.args[0]))
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.target) == 'logger'
        ]
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) in ('logger', 'logging')
                and node.func.attr in LEVELS
            ):
                (name,) = names
                yield name, LEVELS[node.func.attr], str(ast.literal_eval(node.args[0]))


def test_the_list_is_complete() -> None:
    section = PAGE.read_text(encoding='utf-8').split('\n## Logging\n')[1].split('\n## ')[0]
    rows = re.findall(r'^\| `([\w.]+)` \| ([A-Z]+) \| `(.*?)` \|', section, re.MULTILINE)
    found = sorted(logged())
    assert len(found) >= 15
    assert len(rows) == len(found), found
    for (name, level, beginning), (real_name, real_level, message) in zip(sorted(rows), found, strict=True):
        assert (name, level) == (real_name, real_level)
        assert message.startswith(beginning)


def test_there_is_one_tree_of_loggers() -> None:
    names = {name for name, _, _ in logged()}
    assert names == {'torrelque', 'torrelque.worker'}
    assert not logging.getLogger('torrelque').handlers
    assert logging.getLogger('torrelque').level == logging.NOTSET
