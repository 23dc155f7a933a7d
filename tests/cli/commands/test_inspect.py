"""`stats`, `queues`, `workers`, `tasks`: what they find and how they show it."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import fields

import pytest

from tests import servers
from tests.cli.support import Command, put_foreign_keys, rows
from torrelque import Torrelque, TorrelqueQueueStats, TorrelqueTaskState, WorkerInfo, acl
from torrelque.engine import discovery

STATE_FIELDS = {'id', *TorrelqueTaskState._fields, 'result_encoding'}


async def fill(queue: Torrelque) -> None:
    """A task of each status; those enqueued first are delivered first."""
    for task_id in ('rejected', 'done', 'working', 'pending'):
        await queue.enqueue({'n': 1}, task_id=task_id, max_dequeues=5)
    await queue.enqueue('later', task_id='delayed', delay=3600)
    first, second, _ = [await queue.dequeue() for _ in range(3)]
    await queue.reject(first, 'no such\naddress')
    await queue.release(second, result=['done'])


def make_older(task_id: str, seconds: float, field: str = 'enqueue_time') -> None:
    servers.shared('valkey-9.1').command('HSET', f'trq:task:{task_id}', field, str(time.time() - seconds))


# stats ---------------------------------------------------------------------------------------------------------------


def at_once(text: str) -> str:
    """Ages as on a machine that takes no time."""
    return re.sub(r'\b(3m2|)\ds\b', r'\g<1>0s', text)


def test_stats(command: Command) -> None:
    command.do(fill)
    make_older('pending', 200)
    status, out, err = command('stats')
    assert (status, err) == (0, '')
    assert 'queue trq' in out
    assert rows(out)[:5] == [
        ['pending', '1', 'enqueued', '5'],
        ['working', '1', 'claimed', '3'],
        ['delayed', '1', 'completed', '1'],
        ['rejected', '1', 'requeued', '0'],
        ['rejected', '1'],
    ]
    assert 'oldest pending task was enqueued 3m2' in out


async def fill_groups(queue: Torrelque) -> None:
    await queue.limit(group='*', concurrency=1)
    await queue.enqueue_many([1, 2], group='acme')
    await queue.dequeue()
    await queue.enqueue(1, group='globex')
    await queue.enqueue(1, priority='low')


def test_groups(command: Command) -> None:
    command.do(fill)
    assert command('groups') == (0, '', 'no such groups\n')
    command.do(lambda queue: queue.delete(force=True))
    command.do(fill_groups)
    head, *found = [line.split() for line in command('groups').out.splitlines()]
    assert head == ['group', 'waiting', 'working', 'state']
    assert sorted(line[:4] for line in found) == [['acme', '1', '1', 'blocked'], ['globex', '1', '0', 'ready']]
    lines = command('groups', '--waiting', '--json').lines
    assert {line['name']: line['state'] for line in lines} == {'acme': 'blocked', 'globex': 'ready'}
    assert all(set(line) == {'name', 'waiting', 'working', 'state', 'since', 'until'} for line in lines)
    out = command('stats').out
    assert 'The queue has groups with waiting tasks: 1 ready, 1 blocked.' in out
    assert 'Of the pending tasks, 0 have high priority, 1 low priority.' in out
    assert 'groups: 1 ready, 1 blocked' in ' '.join(command('queues').out.split())
    assert command('stats', '--json').lines[0]['groups'] == {'ready': 1, 'blocked': 1, 'held': 0}


def test_stats_for_programs(command: Command) -> None:
    command.do(fill)
    (found,) = command('stats', '--json').lines
    assert set(found) == {'queue', *TorrelqueQueueStats._fields}
    assert (found['queue'], found['tasks'], found['rejected'], found['total_claimed']) == ('trq', 3, 1, 3)


# queues --------------------------------------------------------------------------------------------------------------


def test_queues(command: Command) -> None:
    assert command('queues') == (0, '', 'no queues\n')
    for queue in ('mail', 'a [red]queue\x1b'):
        command.do(lambda each: each.enqueue('task'), queue)
    status, out, err = command('queues')
    assert (status, err) == (0, '')
    assert rows(at_once(out)) == [
        ['a', '[red]queue\\x1b', '1', '0', '0', '0', '0s'],
        ['mail', '1', '0', '0', '0', '0s'],
    ]
    assert [line['queue'] for line in command('queues', '--json').lines] == ['a [red]queue\x1b', 'mail']


def test_keys_of_other_programs_are_no_queues(
    command: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(discovery, '_foreign', set())
    command.do(lambda queue: queue.enqueue('task'), 'mail')
    foreign = put_foreign_keys(servers.shared('valkey-9.1'))
    status, out, err = command('queues')
    assert (status, [row[:5] for row in rows(out)], err) == (0, [['mail', '1', '0', '0', '0']], '')
    assert [line['queue'] for line in command('queues', '--json').lines] == ['mail']
    assert sorted(str(record.args) for record in caplog.records) == sorted(f"(b'{name}:counters',)" for name in foreign)


def test_a_damaged_queue_does_not_hide_the_others(command: Command) -> None:
    server = servers.shared('valkey-9.1')
    command.do(lambda queue: queue.enqueue('task'), 'mail')
    server.command('HSET', 'broken:counters', 'enqueued', '1')
    server.command('SET', 'broken:pending', 'no list')
    status, out, err = command('queues')
    assert (status, [row[0] for row in rows(out)]) == (0, ['mail'])
    assert re.fullmatch(r"Skipped queue 'broken', which cannot be read: .*WRONGTYPE.*\n", err), err


def test_queues_that_the_user_may_not_read(command: Command) -> None:
    server = servers.shared('valkey-9.1')
    for name in ('mail', 'other'):
        command.do(lambda queue: queue.enqueue('task'), name)
    rules = acl.rules('observer', 'mail')
    server.command('ACL', 'SETUSER', 'eye', 'reset', 'resetchannels', 'on', '>secret', *rules, '+scan')
    status, out, err = command('queues', '--url', server.url.replace('://', '://eye:secret@'))
    assert (status, [row[0] for row in rows(out)]) == (0, ['mail'])
    assert re.fullmatch(r"Skipped queue 'other', which cannot be read: .*NOPERM.*\n", err), err


# workers -------------------------------------------------------------------------------------------------------------


def test_workers(command: Command) -> None:
    async def announce(queue: Torrelque) -> None:
        await queue.announce('1', name='web', concurrency=10, running=3, age=200)
        await queue.announce('2', name='a worker\x1b', concurrency=1)

    assert command('workers', '-q', 'mail') == (0, '', 'no workers of queue mail\n')
    command.do(announce)
    status, out, err = command('workers')
    assert (status, err) == (0, '')
    host, pid = socket.gethostname(), str(os.getpid())
    assert rows(at_once(out)) == [
        ['a', 'worker\\x1b', host, pid, '0s', '0/1', '0s', 'ago'],
        ['web', host, pid, '3m20s', '3/10', '0s', 'ago'],
    ]
    web = command('workers', '--json').lines[1]
    assert set(web) == {field.name for field in fields(WorkerInfo)}
    assert (web['id'], web['name'], web['running'], web['concurrency']) == ('1', 'web', 3, 10)
    assert web['seen'] - web['since'] == pytest.approx(200, abs=1e-3)


# tasks ---------------------------------------------------------------------------------------------------------------


def test_tasks(command: Command) -> None:
    command.do(fill)
    make_older('pending', 200)
    status, out, err = command('tasks')
    assert (status, err) == (0, '')
    header, *others = [line.split() for line in at_once(out).splitlines()]
    assert header == ['id', 'status', 'changed', 'tries', 'note']
    assert sorted(others) == [
        ['delayed', 'delayed', '0s', '0'],
        ['pending', 'pending', '3m20s', '0/5'],
        ['rejected', 'rejected', '0s', '1/5', 'no', 'such\\naddress'],
        ['working', 'working', '0s', '1/5'],
    ]


def test_tasks_on_a_terminal(command: Command) -> None:
    command.on_terminal = True
    command.do(fill)
    command.do(lambda queue: queue.enqueue_many(range(200)))
    make_older('pending', 200)
    servers.shared('valkey-9.1').command('HSET', 'trq:task:rejected', 'reason', 'long ' * 100)
    status, out, err = command('tasks', '--limit', '300')
    assert (status, err) == (0, '')
    assert '\x1b[31m' in out, 'in colours'
    shown = rows(at_once(re.sub(r'\x1b\[[\d;]*m', '', out)))
    assert len(shown) == 204
    assert shown[0] == ['pending', 'pending', '3m20s', '0/5'], 'what did not change for longest'
    (dead,) = [row for row in shown if row[0] == 'rejected']
    assert dead[4:6] == ['long', 'long']
    assert dead[-1].endswith('…'), 'cut off'
    assert max(map(len, re.sub(r'\x1b\[[\d;]*m', '', out).splitlines())) <= 80
    _, out, err = command('tasks')
    assert (out.count('\n'), err) == (102, 'only 100 are shown: --limit shows more\n')


@pytest.mark.parametrize('status', ['pending', 'working', 'delayed', 'rejected'])
def test_tasks_by_status(command: Command, status: str) -> None:
    command.do(fill)
    assert command('tasks', '--status', status, '--ids') == (0, f'{status}\n', '')


def test_tasks_that_are_completed(command: Command) -> None:
    command.do(fill)
    (found,) = command('tasks', '--status', 'completed', '--json').lines
    assert set(found) == STATE_FIELDS
    assert (found['id'], found['status'], found['dequeue_count']) == ('done', 'completed', 1)
    assert (found['result'], found['result_encoding']) == (['done'], 'json')


def test_tasks_by_age(command: Command) -> None:
    command.do(fill)
    make_older('pending', 3 * 3600)
    make_older('working', 3 * 3600)  # it was delivered just now
    assert command('tasks', '--older-than', '2h', '--ids').out == 'pending\n'
    assert command('tasks', '--older-than', '4h', '--ids').out == ''
    assert set(command('tasks', '--newer-than', '2h', '--ids').out.split()) == {'rejected', 'working', 'delayed'}
    assert command('tasks', '--newer-than', '4h', '--older-than', '1h', '--ids').out == 'pending\n'


def test_tasks_up_to_a_limit(command: Command) -> None:
    command.do(lambda queue: queue.enqueue_many(range(1200)))
    assert len(command('tasks', '-n', '2').out.splitlines()) == 3
    assert len(command('tasks', '-n', '2', '--json').lines) == 2
    assert len(set(command('tasks', '--ids').out.splitlines())) == 1200
    assert len(command('tasks').out.splitlines()) == 1201, 'all, where the output is no terminal'


def test_no_such_tasks(command: Command) -> None:
    command.do(lambda queue: queue.enqueue('task'))
    assert command('tasks', '-s', 'rejected') == (0, '', 'no such tasks\n')
    assert command('tasks', '-s', 'rejected', '--json') == (0, '', '')


@pytest.mark.parametrize('time', ['', 'x', '-1', '5y', '1h 2m', 'h'])
def test_what_is_no_time(command: Command, time: str) -> None:
    status, out, err = command('tasks', f'--older-than={time}')
    assert (status, out) == (2, '')
    assert 'is not a time such as 90, 1.5s, 10m, 2h30m or 7d (see torrelque tasks --help)' in err


def test_when_tasks_are_due_and_until_when_they_are_claimed(command: Command) -> None:
    async def fill(queue: Torrelque) -> None:
        await queue.enqueue('now', task_id='held', task_timeout=3600)
        await queue.dequeue()
        await queue.enqueue('later', task_id='late', delay=7200)

    command.do(fill)
    assert re.search(r'^late .* due in (2h|1h 59m)$', command('tasks', '-s', 'delayed').out, re.MULTILINE)
    assert re.search(r'^held .* claimed for (1h|59m)( 59s)? more$', command('tasks', '-s', 'working').out, re.MULTILINE)
    (late,) = command('tasks', '-s', 'delayed', '--json').lines
    assert late['due'] - late['enqueue_time'] == pytest.approx(7200, abs=1)
    command.on_terminal = True
    assert 'due in' in command('tasks', '-s', 'delayed').out


def test_progress(command: Command) -> None:
    async def fill(queue: Torrelque) -> None:
        await queue.enqueue('x', task_id='x', task_timeout=3600)
        await (await queue.dequeue()).progress(1, 4, 'a note')

    command.do(fill)
    assert re.search(
        r'^x .* claimed for .* more, 1/4 \(25%\) a note$', command('tasks', '-s', 'working').out, re.MULTILINE
    )
    assert re.search(r'^ *progress +1/4 \(25%\) a note, \d+s ago$', command('show', 'x').out, re.MULTILINE)
    (fields,) = command('show', 'x', '--json').lines
    assert (fields['progress']['value'], fields['progress']['note']) == (1, 'a note')


def test_by_whom_tasks_are_held(command: Command) -> None:
    async def fill(queue: Torrelque) -> None:
        await queue.enqueue('now', task_id='held', task_timeout=3600)
        await queue.dequeue()
        await queue.announce('1', name='web-1', concurrency=1)

    command.do(fill)
    shown = command('tasks', '-s', 'working').out
    assert re.search(r'^held .* claimed by web-1 for (1h|59m)( 59s)? more$', shown, re.MULTILINE)
    (held,) = command('tasks', '-s', 'working', '--json').lines
    assert held['held_by'] == 'web-1'
    assert held['consumer'] == command('workers', '--json').lines[0]['consumer']
    assert re.search(r'^held by +web-1 *$', command('show', 'held').out, re.MULTILINE)
    assert command('show', 'held', '--json').lines[0]['held_by'] == 'web-1'
    command.do(lambda queue: queue.retract('1'))
    assert 'claimed for' in command('tasks', '-s', 'working').out
    assert 'held by' not in command('show', 'held').out
