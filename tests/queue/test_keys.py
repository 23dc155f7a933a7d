"""What lies in which key after each call: 0.9's keys, types and meaning."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import Client, Server
from torrelque import Torrelque, TorrelqueTaskStatus
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


class Keys:
    """A queue as redis-cli shows it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, *words: str | int) -> Any:  # noqa: ANN401 - whatever the command answers
        return self._client.command(*words)

    def names(self) -> dict[str, str]:
        """The keys of the queue and their types, without those of lanes."""
        found = {key.decode(): self.ask('TYPE', key.decode()).decode() for key in self.ask('KEYS', 'q:*')}
        return {key: kind for key, kind in found.items() if not re.fullmatch(r'q:lane:\d+', key)}

    def pending(self) -> list[str]:
        return [task_id.decode() for task_id in self.ask('LRANGE', 'q:pending', 0, -1)]

    def scores(self, name: str) -> dict[str, float]:
        words = [word.decode() for word in self.ask('ZRANGE', f'q:{name}', 0, -1, 'WITHSCORES')]
        return {task_id: float(score) for task_id, score in zip(words[::2], words[1::2], strict=True)}

    def state(self, task_id: str) -> dict[str, str]:
        words = [word.decode() for word in self.ask('HGETALL', f'q:task:{task_id}')]
        return dict(zip(words[::2], words[1::2], strict=True))


@pytest.fixture
def keys(server: Server) -> Iterator[Keys]:
    with server.client() as client:
        yield Keys(client)


def now() -> pytest.approx:  # type: ignore[valid-type]  # it is one, in spirit
    """Unix time on this machine, which is the server's; loosely."""
    return pytest.approx(time.time(), abs=ENOUGH)


async def test_a_pending_task(queue: Torrelque, keys: Keys) -> None:
    one, other = await queue.enqueue({'a': 1}, task_timeout=12.5), await queue.enqueue('b')
    assert keys.pending() == [other, one], 'in on the left, out on the right'
    assert keys.ask('HGETALL', 'q:tasks') == [one.encode(), b'{"a": 1}', other.encode(), b'"b"']
    state = keys.state(one)
    assert float(state.pop('enqueue_time')) == now()
    assert state == {'status': '0', 'timeout': '12.5'}
    assert keys.state(other)['timeout'] == '300'
    assert keys.names() == {
        'q:pending': 'list', 'q:tasks': 'hash', f'q:task:{one}': 'hash', f'q:task:{other}': 'hash',
        'q:wake': 'zset', 'q:counters': 'hash', 'q:epoch': 'string',
    }  # fmt: skip


async def test_a_claimed_task(queue: Torrelque, keys: Keys) -> None:
    task_id = await queue.enqueue('a', task_timeout=100)
    task = await queue.dequeue(ENOUGH)
    assert keys.pending() == []
    assert keys.scores('working') == {task_id: pytest.approx(task.deadline, abs=0.001)}
    state = keys.state(task_id)
    assert (state['status'], state['dequeue_count']) == ('1', '1')
    assert float(state['last_dequeue_time']) == now()
    assert task.deadline - float(state['last_dequeue_time']) == pytest.approx(100, abs=0.001)
    assert re.fullmatch(r'\d+\.\d{6}', state['last_dequeue_time'])
    assert keys.ask('HGET', 'q:tasks', task_id) == b'"a"'
    assert {'q:working', 'q:tasks'} <= keys.names().keys()
    assert 'q:dequeueing' not in keys.names()


async def test_a_delayed_task(queue: Torrelque, keys: Keys) -> None:
    task_id = await queue.enqueue('a', delay=60)
    assert keys.pending() == []
    assert keys.scores('delayed') == {task_id: pytest.approx(time.time() + 60, abs=ENOUGH)}
    state = keys.state(task_id)
    assert state['status'] == '2'
    assert keys.scores('delayed')[task_id] - float(state['enqueue_time']) == pytest.approx(60, abs=0.001)


async def test_a_requeued_task(queue: Torrelque, keys: Keys) -> None:
    task_id = await queue.enqueue('a')
    await queue.requeue(await queue.dequeue(ENOUGH), task_timeout=7)
    state = keys.state(task_id)
    assert keys.pending() == [task_id]
    assert keys.scores('working') == {}
    assert (state['status'], state['requeue_count'], state['timeout']) == ('0', '1', '7')
    assert float(state['last_requeue_time']) == now()
    assert 'claim' not in state


async def test_a_task_requeued_for_later(queue: Torrelque, keys: Keys) -> None:
    """A delayed requeue only sets the status."""
    task_id = await queue.enqueue('a')
    await queue.requeue(await queue.dequeue(ENOUGH), 60)
    state = keys.state(task_id)
    assert state['status'] == '2'
    assert 'requeue_count' not in state
    assert 'last_requeue_time' not in state
    assert keys.scores('delayed').keys() == {task_id}


async def test_a_released_task(queue: Torrelque, keys: Keys) -> None:
    await queue.enqueue('a')
    await queue.release(await queue.dequeue(ENOUGH))
    assert keys.names() == {'q:counters': 'hash', 'q:epoch': 'string'} | (
        {'q:wake': 'zset'} if 'q:wake' in keys.names() else {}
    )


async def test_a_task_released_with_a_result(queue: Torrelque, keys: Keys) -> None:
    task_id = await queue.enqueue('a')
    await queue.release(await queue.dequeue(ENOUGH), result=[1], result_ttl=0.5)
    state = keys.state(task_id)
    assert (state['status'], state['result']) == ('3', '[1]')
    assert float(state['release_time']) == now()
    assert 0 < keys.ask('PTTL', f'q:task:{task_id}') <= 500
    assert keys.ask('EXISTS', 'q:tasks', 'q:working', 'q:pending') == 0


async def test_the_default_ttl_of_a_result(client: NativeTransport, keys: Keys) -> None:
    class Longer(Torrelque):
        result_ttl = 7200

    async with Longer(client, queue='q') as queue:
        for seconds in (7200, 10):
            task_id = await queue.enqueue('a')
            await queue.release((await queue.dequeue(ENOUGH)).id, result=1)
            assert seconds - ENOUGH < keys.ask('PTTL', f'q:task:{task_id}') / 1000 <= seconds
            queue.result_ttl = 10


async def test_the_default_timeout(client: NativeTransport, keys: Keys) -> None:
    class Quick(Torrelque):
        task_timeout: float = 10

    async with Quick(client, queue='q') as queue:
        assert keys.state(await queue.enqueue('a'))['timeout'] == '10'
        queue.task_timeout = 0.25
        assert keys.state(await queue.enqueue('a'))['timeout'] == '0.25'
        assert keys.state(await queue.enqueue('a', task_timeout=0))['timeout'] == '0.25'


async def test_other_names_of_keys(client: NativeTransport, server: Server) -> None:
    class Renamed(Torrelque):
        keys = {'pending': 'todo'}  # noqa: RUF012 - as 0.9's users wrote it

    queue = Renamed(client, queue='q')
    assert isinstance(queue.keys, dict)
    assert queue.keys['pending'] == 'q:todo'
    assert set(queue.keys) >= {'pending', 'dequeueing', 'undequeued', 'working', 'delayed', 'tasks', 'task'}
    queue.keys['task'] = 'elsewhere'
    async with queue:
        task_id = await queue.enqueue('a')
    assert server.command('LRANGE', 'q:todo', 0, -1) == [task_id.encode()]
    assert server.command('EXISTS', f'elsewhere:{task_id}', 'q:tasks') == 2
    assert server.command('EXISTS', f'q:task:{task_id}', 'q:pending') == 0


async def test_abandoned_in_dequeueing(queue: Torrelque, keys: Keys) -> None:
    """By a 0.9 consumer that died: seen there by two sweeps running, a task goes back to pending."""
    ids = [await queue.enqueue(number) for number in range(3)]
    for _ in ids:
        keys.ask('RPOPLPUSH', 'q:pending', 'q:dequeueing')
    assert await queue.sweep() == (0, 0, 0)
    assert {task_id.decode() for task_id in keys.ask('SMEMBERS', 'q:undequeued')} == set(ids)
    keys.ask('LREM', 'q:dequeueing', 0, ids[0])  # claimed in time
    assert await queue.sweep() == (0, 0, 2)
    assert keys.ask('EXISTS', 'q:undequeued', 'q:dequeueing') == 0
    assert sorted(keys.pending()) == sorted(ids[1:])


@pytest.mark.parametrize('field', ['status', 'timeout', 'dequeue_count', 'requeue_count', 'revision', 'max_dequeues'])
@pytest.mark.parametrize('value', ['', 'abc', 'nan', 'inf', '-1e400', '\ud7ff'])
async def test_a_damaged_state_does_no_harm(queue: Torrelque, keys: Keys, field: str, value: str) -> None:
    task_id = await queue.enqueue('damaged')
    keys.ask('HSET', f'q:task:{task_id}', field, value)
    other = await queue.enqueue('sound')
    tasks = await queue.dequeue_nowait(max_tasks=9)
    assert [task.id for task in tasks] == [task_id, other]
    await queue.get_task_state(task_id)
    assert await queue.release_many(tasks) == [None, None]


async def test_a_state_of_a_wrong_type_spoils_no_bulk(queue: Torrelque, keys: Keys) -> None:
    bad = await queue.enqueue('bad')
    good = await queue.enqueue('good')
    keys.ask('DEL', f'q:task:{bad}')
    keys.ask('SET', f'q:task:{bad}', 'mine')
    assert [task.id for task in await queue.dequeue_nowait(max_tasks=9)] == [good]
    assert keys.scores('rejected').keys() == {bad}
    assert (await queue.get_queue_stats())[:5] == (1, 0, 1, 0, 1)


async def test_ghosts_are_passed_over(queue: Torrelque, keys: Keys) -> None:
    """Row 8: an id listed twice, or without its task, failed the bulk halfway."""
    ids = [await queue.enqueue(number) for number in range(4)]
    for ghost in ('nobody', ids[0], ids[2], 'nobody', ids[1]):
        keys.ask('RPUSH', 'q:pending', ghost)
    tasks = await queue.dequeue(ENOUGH, max_tasks=10)
    assert sorted(task.id for task in tasks) == sorted(ids)
    assert keys.pending() == []
    assert keys.scores('working').keys() == set(ids)
    keys.ask('LPUSH', 'q:pending', ids[3])
    assert await queue.dequeue_nowait() == []


@pytest.mark.parametrize('anyio_backend', ['asyncio'])  # what matters happens in the server
@pytest.mark.parametrize('place', ['working', 'delayed', 'dequeueing'])
async def test_9000_stale_due_or_abandoned_tasks(queue: Torrelque, keys: Keys, place: str) -> None:
    """Row 4: from 8,000 on every sweep failed, for ever."""
    count = 9_000
    ids = await queue.enqueue_many(range(count), delay=-1 if place == 'delayed' else None)
    if place == 'working':
        assert len(await queue.dequeue_nowait(max_tasks=count)) == count
        keys.ask('ZADD', 'q:working', 'XX', *(word for task_id in ids for word in (1, str(task_id))))
    elif place == 'dequeueing':
        keys.ask('RENAME', 'q:pending', 'q:dequeueing')
        assert await queue.sweep() == (0, 0, 0)
    counts = {'working': (count, 0, 0), 'delayed': (0, count, 0), 'dequeueing': (0, 0, count)}
    assert await queue.sweep() == counts[place]
    assert keys.ask('LLEN', 'q:pending') == count


async def test_times_are_the_servers(queue: Torrelque, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 16: staleness and due times were on the clients' clocks."""
    real = time.time
    monkeypatch.setattr(time, 'time', lambda: real() + 1_000_000)
    task_id = await queue.enqueue('a', delay=60)
    assert abs(keys.scores('delayed')[task_id] - real() - 60) < ENOUGH
    await queue.enqueue('b', task_timeout=50)
    task = await queue.dequeue(ENOUGH)
    assert abs(task.deadline - real() - 50) < ENOUGH
    await queue.release(task, result=1)
    state = await queue.get_task_state(task.id)
    assert state.status is TorrelqueTaskStatus.COMPLETED
    assert state.release_time is not None
    assert abs(state.release_time - real()) < ENOUGH
