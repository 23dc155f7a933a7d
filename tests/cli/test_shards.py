"""Queues over several shards: found out by the verbs, and `reshard`."""

from __future__ import annotations

import anyio
import pytest

from tests import clusters, servers
from tests.cli.support import Command
from torrelque import Torrelque, connect, queues, shards_of
from torrelque.cli.exporter.metrics import Source
from torrelque.cli.top.monitor import Monitor
from torrelque.testing import MemoryTransport


async def enqueue_twelve(queue: Torrelque) -> None:
    for number in range(12):
        await queue.enqueue('task', task_id=f't{number}')


def test_the_number_is_found_out(command: Command) -> None:
    command.do(enqueue_twelve, shards=4)
    assert command('stats', '--json').lines[0]['pending'] == 12
    assert command('stats', '--json', '--shards', '4').lines[0]['pending'] == 12
    assert len(command('tasks', '--ids').out.split()) == 12
    assert command('show', 't3', '--json').status == 0
    assert command('cancel', 't3', 't4').status == 0
    assert command('enqueue', '1', '--task-id', 't3').status == 0
    (listed,) = command('queues', '--json').lines
    assert (listed['queue'], listed['pending']) == ('trq', 11)
    assert command('audit').status == 0


def test_the_exporter_finds_it_out(command: Command) -> None:
    command.do(enqueue_twelve, shards=4)
    source = Source(lambda: connect(command.url, retry_timeout=0), ['trq'], 5.0, 30.0)
    found = anyio.run(source.read)
    assert found is not None
    queue = found['trq']
    assert queue is not None
    assert queue.stats.pending == 12


def test_top_finds_it_out(command: Command) -> None:
    command.do(enqueue_twelve, shards=4)

    async def sample() -> int | None:
        changed = anyio.Event()
        monitor = Monitor(command.url, queue='trq', interval=0.1, on_change=changed.set)
        async with anyio.create_task_group() as group:
            group.start_soon(monitor.run)
            with anyio.fail_after(20):
                await changed.wait()
            group.cancel_scope.cancel()
        latest = monitor['trq'].history.latest
        return latest and latest.pending

    assert anyio.run(sample) == 12


def test_another_number_is_told(command: Command) -> None:
    command.do(enqueue_twelve, shards=4)
    command.assert_refused(['stats', '--shards', '3'], 2, "queue 'trq' has 4 shards, not 3: pass shards=4")


def test_a_new_queue_with_shards(command: Command) -> None:
    assert command('--shards', '2', 'enqueue', '1').status == 0
    assert command.do(lambda queue: queue.get_queue_stats(), shards=2).pending == 1


def test_reshard(command: Command) -> None:
    command.do(enqueue_twelve, shards=2)
    ended = command('reshard', '5')
    assert (ended.status, ended.out) == (1, 'queue trq has 5 shards; some tasks are still on former shards\n')
    assert command('cancel', *[f't{number}' for number in range(12)]).status == 0
    ended = command('reshard', '5', '--json')
    assert (ended.status, ended.lines) == (0, [{'queue': 'trq', 'shards': 5, 'drained': True}])
    assert command('reshard', '5').out == 'queue trq has 5 shards; no tasks are on former shards\n'


def test_a_queue_without_shards_is_not_resharded(command: Command) -> None:
    command.do(enqueue_twelve)
    command.assert_refused(['reshard', '5'], 1, "queue 'trq' has no shards, or there is none on this server")


@pytest.mark.anyio
@pytest.mark.parametrize('name', ['email', 'a b'])
async def test_what_is_recorded(name: str) -> None:
    transport = MemoryTransport()
    assert await shards_of(transport, name) is None
    async with Torrelque(transport, queue=name, shards=3) as queue:
        await queue.enqueue('data')
        assert await shards_of(transport, name) == 3
        for other in (f'{{{name}}}', f'{{{name}:0}}', f'{name}:0', 'another'):
            assert await shards_of(transport, other) is None
        await queue.reshard(5)
        assert await shards_of(transport, name) == 5
        assert [found async for found in queues(transport)] == [name]


@pytest.mark.anyio
async def test_what_is_recorded_on_a_cluster() -> None:
    try:
        cluster = clusters.shared('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    cluster.flush()
    async with connect(f'redis+cluster://{cluster.hosts}') as client, Torrelque(client, shards=3) as queue:
        assert await shards_of(client, 'trq') is None
        await queue.enqueue('data')
        assert await shards_of(client, 'trq') == 3
