"""Pages of tasks, read no further than they are looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from torrelque import Torrelque, TorrelqueConnectionError, TorrelqueTaskStatus
from torrelque.cli.top.paging import Pager, read_rows
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

PENDING, REJECTED = TorrelqueTaskStatus.PENDING, TorrelqueTaskStatus.REJECTED


@pytest.fixture(scope='module', params=['asyncio'])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Textual runs on asyncio only."""
    return request.param


@pytest.fixture
async def queue() -> AsyncIterator[Torrelque]:
    async with Torrelque(MemoryTransport(), queue='q') as queue:
        yield queue


async def test_pages(queue: Torrelque) -> None:
    names = {f'task-{number}' for number in range(5)}
    for name in names:
        await queue.enqueue(1, task_id=name)
    pager = Pager(queue, PENDING, 2)
    assert not pager.has(0)
    pages = [await pager.read(0)]
    assert (pager.has(0), pager.has(1)) == (True, True)
    pages += [await pager.read(1), await pager.read(2)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {name for page in pages for name in page} == names
    assert not pager.has(3)
    assert await pager.read(3) == []
    assert await pager.read(0) == pages[0], 'pages that were read stay as they are'


async def test_a_full_last_page_has_none_after_it(queue: Torrelque) -> None:
    await queue.enqueue_many(range(4))
    pager = Pager(queue, PENDING, 2)
    assert len(await pager.read(1)) == 2
    assert not pager.has(2)


async def test_no_more_is_read_than_is_shown(queue: Torrelque, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def tasks(status: TorrelqueTaskStatus) -> AsyncIterator[tuple[str, object]]:
        nonlocal asked
        state = await queue.get_task_state(await queue.enqueue(1))
        for number in range(100):
            asked += 1
            yield f'{number // 2}', state  # a task may be found twice

    monkeypatch.setattr(queue, 'tasks', tasks)
    pager = Pager(queue, PENDING, 3)
    assert await pager.read(0) == ['0', '1', '2']
    assert asked == 7
    await pager.read(0)
    assert asked == 7


async def test_only_tasks_that_are_wanted(queue: Torrelque) -> None:
    for name, reason in (('Mail-1', 'no address'), ('sms-1', 'Mailbox full'), ('sms-2', 'broken')):
        await queue.enqueue(1, task_id=name)
        await queue.reject(await queue.dequeue(), reason)
    assert set(await Pager(queue, REJECTED, 10, 'MAIL').read(0)) == {'Mail-1', 'sms-1'}


async def test_rows(queue: Torrelque, monkeypatch: pytest.MonkeyPatch) -> None:
    await queue.enqueue({'a': 1}, task_id='one')
    one, gone = await read_rows(queue, ['one', 'gone'])
    assert one.task is not None
    assert (one.id, one.task.data, one.trouble) == ('one', {'a': 1}, '')
    assert (gone.id, gone.task) == ('gone', None)
    assert 'gone' in gone.trouble

    async def lost(task_id: str) -> None:
        raise TorrelqueConnectionError('away')

    monkeypatch.setattr(queue, 'get_task', lost)
    with pytest.raises(TorrelqueConnectionError):
        await read_rows(queue, ['one', 'gone'])
