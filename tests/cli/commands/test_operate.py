"""`requeue`, `reject`, `cancel`, `redrive`, `purge`, `sweep`, `audit`."""

from __future__ import annotations

import time

import pytest

from tests import servers
from tests.cli.support import Command
from torrelque import Torrelque


async def claim_two(queue: Torrelque) -> None:
    for task_id in ('a', 'b', 'c'):
        await queue.enqueue('task', task_id=task_id)
    await queue.dequeue(max_tasks=2)


async def reject_three(queue: Torrelque) -> None:
    for task_id in ('a', 'b', 'c'):
        await queue.enqueue('task', task_id=task_id)
        await queue.reject(await queue.dequeue(), 'no such address')


def ids(command: Command, status: str) -> set[str]:
    return set(command('tasks', '-s', status, '--ids').out.split())


# By id ---------------------------------------------------------------------------------------------------------------


def test_requeue(command: Command) -> None:
    command.do(claim_two)
    assert command('requeue', 'a', 'b', 'a') == (0, 'requeued 2 tasks\n', '')
    assert ids(command, 'pending') == {'a', 'b', 'c'}


def test_requeue_for_later(command: Command) -> None:
    command.do(claim_two)
    assert command('requeue', '-', '--delay', '1h', '--task-timeout', '7', stdin='a\n\n').status == 0
    (fields,) = command('show', 'a', '--json').lines
    assert (fields['status'], fields['timeout']) == ('delayed', 7)
    assert fields['due'] == pytest.approx(time.time() + 3600, abs=60)


def test_reject(command: Command) -> None:
    command.do(claim_two)
    assert command('reject', 'a', '--reason', 'no such address') == (0, 'rejected 1 task\n', '')
    assert command('reject', 'b').status == 0
    reasons = {line['id']: line['reason'] for line in command('tasks', '-s', 'rejected', '--json').lines}
    assert reasons == {'a': 'no such address', 'b': 'rejected by an operator'}


def test_cancel(command: Command) -> None:
    command.do(claim_two)
    assert command('cancel', 'c') == (0, 'cancelled 1 task\n', '')
    assert ids(command, 'pending') == set()
    assert command('cancel', 'a', '--running', 'ask') == (0, 'cancelled 1 task\n', '')
    assert command('show', 'a', '--json').lines[0]['cancel_time'] == pytest.approx(time.time(), abs=60)
    assert command('cancel', 'a', 'b', '--running', 'end') == (0, 'cancelled 2 tasks\n', '')
    assert ids(command, 'working') == set()


@pytest.mark.parametrize(('verb', 'wrong', 'status'), [
    ('requeue', 'c', 'pending'), ('reject', 'c', 'pending'), ('cancel', 'a', 'working'),
])  # fmt: skip
def test_where_nothing_can_be_done(command: Command, verb: str, wrong: str, status: str) -> None:
    command.do(claim_two)
    before = servers.shared('valkey-9.1').command('HGETALL', f'trq:task:{wrong}')
    command.assert_refused([verb, wrong], 1, f"task '{wrong}' is {status}; nothing was changed")
    command.assert_refused([verb, 'x'], 1, "there is no task 'x' in queue 'trq'")
    assert servers.shared('valkey-9.1').command('HGETALL', f'trq:task:{wrong}') == before


def test_to_some_but_not_to_others(command: Command) -> None:
    command.do(claim_two)
    status, out, err = command('requeue', 'x', 'a', 'c')
    assert (status, out) == (1, 'requeued 1 task\n')
    assert (
        err == "torrelque: there is no task 'x' in queue 'trq'\ntorrelque: task 'c' is pending; nothing was changed\n"
    )
    status, lines = (ended := command('reject', 'b', 'x', '--json')).status, ended.lines
    assert (status, lines) == (
        1,
        [
            {'id': 'b', 'done': True, 'error': None},
            {'id': 'x', 'done': False, 'error': "there is no task 'x' in queue 'trq'"},
        ],
    )


# Dead letters --------------------------------------------------------------------------------------------------------


def test_redrive(command: Command) -> None:
    command.do(reject_three)
    assert command('redrive', 'b') == (0, 'redriven 1 task\n', '')
    assert ids(command, 'pending') == {'b'}
    assert command('redrive', '--all', '--limit', '1', '--json').lines == [{'redriven': 1}]
    assert ids(command, 'pending') == {'b', 'a'}
    assert command('redrive', '-', stdin='c\n').status == 0
    assert command('redrive', '--all') == (0, 'redriven 0 tasks\n', '')


def test_redrive_of_none(command: Command) -> None:
    command.do(reject_three)
    command.assert_refused(['redrive', 'a', 'x'], 1, "no dead letters in queue 'trq': 'x'")
    command.assert_refused(['redrive'], 2, 'redrive takes either ids or --all')
    command.assert_refused(['redrive', 'a', '--all'], 2, 'redrive takes either ids or --all')
    assert ids(command, 'rejected') == {'a', 'b', 'c'}
    assert command('redrive', '-') == (0, 'redriven 0 tasks\n', ''), 'no ids are not all'


@pytest.mark.parametrize(('answer', 'status', 'left'), [('y\n', 0, set()), ('yes\n', 0, set()), ('n\n', 1, {*'abc'})])
def test_purge_asks_first(command: Command, answer: str, status: int, left: set[str]) -> None:
    command.do(reject_three)
    ended = command('purge', '--all', stdin=answer)
    assert (ended.status, ended.out) == (status, '' if status else 'purged 3 tasks\n')
    assert ended.err.startswith("Delete 3 tasks from the dead letters of queue 'trq'? [y/N] ")
    assert ended.err.endswith('torrelque: nothing was deleted\n') == bool(status)
    assert ids(command, 'rejected') == left


def test_purge_when_nobody_answers(command: Command) -> None:
    command.do(reject_three)
    status, out, err = command('purge', 'a')
    assert (status, out) == (2, '')
    assert err.endswith('torrelque: no answer on standard input: add --yes, or answer y\n')
    assert ids(command, 'rejected') == {'a', 'b', 'c'}


def test_purge_without_asking(command: Command) -> None:
    command.do(reject_three)
    assert command('purge', '--yes', 'b') == (0, 'purged 1 task\n', '')
    assert command('purge', '-y', '--all', '--limit', '1', '--json').lines == [{'purged': 1}]
    assert command('purge', '-y', '-', stdin='c').status == 0
    assert ids(command, 'rejected') == set()
    assert command('purge', '--all') == (0, 'purged 0 tasks\n', ''), 'there is nothing to ask about'


def test_purge_of_old_ones(command: Command) -> None:
    command.do(reject_three)
    server = servers.shared('valkey-9.1')
    long_ago = str(time.time() - 8 * 86_400)
    server.command('ZADD', 'trq:rejected', long_ago, 'a')
    server.command('HSET', 'trq:task:a', 'release_time', long_ago)
    ended = command('purge', '--older-than', '7d', stdin='y\n')
    assert (ended.status, ended.out) == (0, 'purged 1 task\n')
    assert 'Delete 1 task from' in ended.err
    assert ids(command, 'rejected') == {'b', 'c'}


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'purge takes either ids, --older-than or --all'),
        (['a', '--all'], 'purge takes either ids, --older-than or --all'),
        (['--all', '--older-than', '1s'], 'purge takes either ids, --older-than or --all'),
        (['-'], 'standard input cannot give both the ids and your answer: add --yes'),
    ],
)
def test_purge_of_what(command: Command, arguments: list[str], said: str) -> None:
    command.do(reject_three)
    command.assert_refused(['purge', *arguments], 2, said)
    assert ids(command, 'rejected') == {'a', 'b', 'c'}


# Order ---------------------------------------------------------------------------------------------------------------


# delete --------------------------------------------------------------------------------------------------------------
