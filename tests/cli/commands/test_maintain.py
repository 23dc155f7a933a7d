"""`torrelque sweep`, `audit` and `delete`."""

from __future__ import annotations

import pytest

from tests import servers
from tests.cli.commands.test_operate import claim_two, reject_three
from tests.cli.support import Command
from torrelque import Torrelque, TorrelqueTaskStatus


def test_sweep(command: Command) -> None:
    command.do(claim_two)
    servers.shared('valkey-9.1').command('ZADD', 'trq:working', 1, 'a')
    assert command('sweep') == (0, 'returned to pending: 1 stale, 0 due, 0 abandoned by 0.9\n', '')
    assert command('sweep', '--json').lines == [{'stale': 0, 'due': 0, 'abandoned': 0}]


def test_pause(command: Command) -> None:
    command.do(claim_two)
    assert command('pause', '--reason', 'migration 114') == (0, 'paused queue trq\n', '')
    assert 'The queue is paused: migration 114.' in command('stats').out
    (fields,) = command('stats', '--json').lines
    assert fields['paused'] == {'since': fields['paused']['since'], 'until': None, 'reason': 'migration 114'}
    assert 'paused: migration 114' in command('queues').out
    assert command('pause', '--wait', '--timeout', '10ms').status == 4
    command.assert_refused(['pause', '--timeout', '10ms'], 2, '--timeout needs --wait')
    (fields,) = command('pause', '--for', '1h', '--json').lines
    assert fields == {'queue': 'trq', 'paused': True, 'until': fields['until']}
    assert 'paused until 2' in command('stats').out
    assert command('resume') == (0, 'resumed queue trq\n', '')
    assert command('resume', '--json').lines == [{'queue': 'trq', 'paused': False}]
    assert command('stats', '--json').lines[0]['paused'] is None
    assert 'note' not in command('queues').out
    command.do(release_all)
    assert command('pause', '--wait') == (0, 'paused queue trq; no task is running\n', '')


def test_limit(command: Command) -> None:
    command.do(claim_two)
    assert command('limit') == (0, 'queue trq: no limits\n', '')
    text = 'at most 50 at once, 100 per 60 s'
    assert command('limit', '--concurrency', '50', '--rate', '100/1m') == (0, f'queue trq: {text}\n', '')
    assert f'The queue has limits: {text}.' in command('stats').out
    assert text in command('queues').out
    (fields,) = command('stats', '--json').lines
    none = {'weight': None, 'ordered': False, 'dead': None, 'strict': False}
    assert fields['limits'] == {'concurrency': 50, 'rate': [100, 60.0], 'burst': 100, **none}
    (fields,) = command('limit', '--rate', '5/s', '--burst', '1', '--json').lines
    assert fields == {'queue': 'trq', 'group': None, 'concurrency': None, 'rate': [5, 1.0], 'burst': 1, **none}
    assert command('limit').out == 'queue trq: at most 5 per 1 s in bursts of 1\n'
    command.assert_refused(['limit', '--concurrency', '5', '--none'], 2, '--none goes with no option but --group')
    command.assert_refused(['limit', '--rate', 'fast'], 2, "--rate expects N/TIME such as 100/1m or 5/s, got 'fast'")
    command.assert_refused(['limit', '--concurrency', '0'], 2, 'concurrency must be at least 1, got 0: .*')
    command.assert_refused(['limit', '--burst', '5'], 2, 'burst needs a rate, .*')
    assert command('limit', '--none').out == 'queue trq: no limits\n'
    assert command('stats', '--json').lines[0]['limits'] is None


def test_limits_of_a_group(command: Command) -> None:
    command.do(claim_two)
    text = 'at most 2 at once, 5 per 1 s; one at a time, in order; weight 3; held by dead letters'
    words = ['--concurrency', '1', '--rate', '5/s', '--ordered', '--weight', '3', '--dead', 'hold']
    assert command('limit', '--group', '*', *words).out == f'queue trq, group *: {text.replace("2", "1", 1)}\n'
    assert command('limit', '-g', 'acme', '--concurrency', '2').out == f'queue trq, group acme: {text}\n'
    ended = command('limit', '-g', 'acme', '--unordered', '--dead', 'pass')
    assert ended.out == 'queue trq, group acme: at most 1 at once, 5 per 1 s; weight 3\n'
    assert command('limit', '-g', 'acme', '--none').out.startswith('queue trq, group acme: at most 1')
    assert command('limit', '-g', '*', '--none').out == 'queue trq, group *: no limits\n'
    assert command('limit', '--strict').out == 'queue trq: priorities are strict\n'
    command.assert_refused(['limit', '--weight', '2'], 2, 'weight needs a group, .*')
    command.assert_refused(['limit', '-g', 'acme', '--strict'], 2, 'strict is for the whole queue, .*')
    command.assert_refused(['limit', '-g', 'acme', '--ordered', '--concurrency', '2'], 2, 'ordered=True lets one .*')


async def release_all(queue: Torrelque) -> None:
    async for task_id, _ in queue.tasks(TorrelqueTaskStatus.WORKING):
        await queue.release(task_id)


def test_audit(command: Command) -> None:
    command.do(claim_two)
    assert command('audit') == (0, '0 violations\n', '')
    server = servers.shared('valkey-9.1')
    server.command('ZREM', 'trq:working', 'a')
    server.command('HSET', 'trq:tasks', '\x1b[31m', '1')
    ended = command('audit')
    assert (ended.status, ended.err) == (1, '')
    assert ended.out.endswith('3 violations\n')
    assert '\x1b' not in ended.out
    lines = command('audit', '--json').lines
    assert {line['task_id'] for line in lines} == {'a', '\x1b[31m'}
    assert set(lines[0]) == {'kind', 'key', 'task_id', 'detail', 'repaired'}
    ended = command('audit', '--repair')
    assert ended.out.count(' (repaired)\n') == 2
    assert (ended.status, ended.out.splitlines()[-1]) == (1, '2 repaired, 1 violation left')
    assert command('audit', '--json') == (0, '', ''), 'the repair of one made the other right'


async def fill(queue: Torrelque) -> None:
    await reject_three(queue)
    await queue.enqueue('pending')
    await queue.enqueue('delayed', delay=60)
    await queue.enqueue('done', task_id='done')
    tasks = await queue.dequeue(max_tasks=2)
    await queue.release(tasks[-1], result='kept')


@pytest.mark.parametrize('shards', [None, 3])
def test_delete(command: Command, shards: int | None) -> None:
    server = servers.shared('valkey-9.1')
    command.do(fill, 'mail', shards=shards)
    command.do(lambda queue: queue.enqueue('task'), 'other')
    said = "queue 'mail' has 5 tasks and dead letters: --force deletes them as well"
    command.assert_refused(['delete', 'mail'], 1, said)
    command.assert_refused(['delete', 'mail', '--yes'], 1, said)
    ended = command('delete', 'mail', '--force', stdin='n\n')
    assert (ended.status, ended.out) == (1, '')
    assert ended.err.startswith("Delete queue 'mail' with 5 tasks and dead letters? [y/N] ")
    assert command('stats', '-q', 'mail', '--json').lines[0]['total_enqueued'] == 6
    assert command('delete', 'mail', '--force', stdin='y\n').out == 'deleted queue mail\n'
    assert not server.command('KEYS', '*mail*')
    assert [line['queue'] for line in command('queues', '--json').lines] == ['other']
    command.assert_refused(['delete', 'mail', '--yes'], 1, "there is no queue 'mail' on this server; .*")


def test_delete_an_empty_queue(command: Command) -> None:
    async def use(queue: Torrelque) -> None:
        await queue.enqueue('task')
        await queue.release(await queue.dequeue())
        await queue.schedule('hourly', 'task', every=3600)

    command.do(use)
    command.assert_refused(['delete', 'trq'], 1, "queue 'trq' has 1 schedule: --force deletes them as well")
    command.do(lambda queue: queue.unschedule('hourly'))
    ended = command('delete', 'trq', stdin='')
    assert (ended.status, ended.err) == (
        2,
        "Delete queue 'trq'? [y/N] torrelque: no answer on standard input: add --yes, or answer y\n",
    )
    assert command('delete', 'trq', '--yes', '--json').lines == [{'deleted': 'trq'}]
    assert not servers.shared('valkey-9.1').command('KEYS', 'trq*')
