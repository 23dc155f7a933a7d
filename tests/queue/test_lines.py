"""Groups and priorities, as the scripts keep them on real servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests import servers
from tests.queue.lines import LinesQueue
from tests.servers import MissingServerError
from torrelque.core import groups
from torrelque.core.commands import Priority

PRIORITIES: tuple[Priority, ...] = ('normal', 'low', 'high')


@pytest.fixture(scope='module', params=['valkey-9.1', 'redis-6.2'])
def connection(request: pytest.FixtureRequest) -> Iterator[servers.Client]:
    try:
        server = servers.shared(request.param)
    except MissingServerError as error:
        pytest.skip(str(error))
    with server.client() as client:
        yield client


@pytest.fixture
def lines(connection: servers.Client) -> LinesQueue:
    return LinesQueue(connection)


def test_a_group_is_served_in_order(lines: LinesQueue) -> None:
    lines.enqueue('a1', 'a2', 'a3', group='a')
    (task,) = lines.claim()
    assert (task.receipt.id, task.group, task.payload) == ('a1', 'a', b'"a1"')
    assert task.fence is not None
    (again,) = lines.claim()
    assert again.fence is not None
    assert again.fence > task.fence
    assert lines.release('a1', 'a2') == 'oo'
    assert lines.take_all() == 'a3'


def test_groups_take_turns(lines: LinesQueue) -> None:
    lines.enqueue(*(f'a{n}' for n in range(6)), group='a')
    lines.enqueue('b0', 'b1', group='b')
    lines.enqueue('c0', group='c')
    lines.enqueue('p0', 'p1')
    assert lines.take_all() == 'p0 a0 b0 c0 p1 a1 b1 a2 a3 a4 a5'


@pytest.mark.parametrize('count', [1, 2, 7, 100])
def test_batches_take_turns_as_well(lines: LinesQueue, count: int) -> None:
    for n in range(6):
        for name in 'abc':
            lines.enqueue(f'{name}{n}', group=name)
    assert lines.take_all(count).split() == [f'{name}{n}' for n in range(6) for name in 'abc']


def test_weights(lines: LinesQueue) -> None:
    lines.limit('a', weight=3)
    lines.enqueue(*(f'a{n}' for n in range(100)), group='a')
    lines.enqueue(*(f'b{n}' for n in range(100)), group='b')
    taken = Counter(each[0] for _ in range(10) for each in lines.take(4).split())
    assert taken == {'a': 30, 'b': 10}


def test_the_entry_rule(lines: LinesQueue) -> None:
    for first in range(0, 700, 100):
        lines.enqueue(*(f'b{n}' for n in range(first, first + 100)), group='backlog')
    lines.enqueue('a0', group='a')
    lines.enqueue('z0', group='z')
    served = Counter[str]()
    for n in range(600):
        (task,) = lines.claim()
        assert task.group
        served[task.group] += 1
        lines.release(task.receipt.id)
        if task.group != 'backlog':
            lines.enqueue(f'{task.group}{n + 1}', group=task.group)
    assert max(served.values()) - min(served.values()) <= 1


MILLION = """
for first = 1, 1000000, 5000 do
  local ids = {}
  for number = first, first + 4999 do
    ids[#ids + 1] = 'more' .. number
  end
  redis.call('LPUSH', KEYS[1], unpack(ids))
end
"""


def test_a_tenant_with_a_million_tasks_delays_others_by_a_round(lines: LinesQueue) -> None:
    lines.enqueue(*(f'm{n}' for n in range(100)), group='many')
    lines.client.command('EVAL', MILLION, 1, lines.key('groups:pending:many'))  # behind those that are taken here
    lines.enqueue(*(f'o{n}' for n in range(100)), group='other')
    lines.enqueue(*(f'p{n}' for n in range(100)))
    assert lines.client.command('LLEN', lines.key('groups:pending:many')) == 1_000_100
    for at, count in enumerate((1, 5, 1, 5)):
        lines.take(5)
        lines.enqueue(f'new{at}', group=f'new{at}')
        taken = [each for _ in range(5 // count) for each in lines.take(count).split()]
        assert f'new{at}' in taken[:4], 'after one of each of the others at the most'
    lines.client.command('UNLINK', lines.key('groups:pending:many'))


def test_concurrency(lines: LinesQueue) -> None:
    lines.limit('*', concurrency=2)
    lines.limit('b', concurrency=1)
    lines.enqueue(*(f'a{n}' for n in range(5)), group='a')
    lines.enqueue(*(f'b{n}' for n in range(5)), group='b')
    assert lines.take(10) == 'a0 b0 a1'
    assert lines.index('blocked').keys() == {'a', 'b'}
    assert lines.take(10) == ''
    assert not lines.take_hint()
    lines.release('b0')
    assert lines.take_hint()
    assert lines.take(10) == 'b1'
    lines.requeue('a0')
    assert lines.take_hint()
    assert lines.take(10) == 'a2'
    lines.giveback('a1')
    assert lines.take(10) == 'a1'
    lines.reject('a1')
    assert lines.take(10) == 'a3'


def test_limits_change(lines: LinesQueue) -> None:
    lines.enqueue(*(f'a{n}' for n in range(9)), group='a')
    lines.take_hint()
    lines.limit('a', concurrency=0)
    assert not lines.take_hint()
    assert lines.take(9) == ''
    lines.limit('a', concurrency=1)
    assert lines.take_hint()
    assert lines.take(9) == 'a0'
    lines.limit('a', concurrency=3)
    assert lines.take_hint()
    assert lines.take(9) == 'a1 a2'
    lines.limit('a', concurrency=1)
    lines.release('a0', 'a1')
    assert lines.take(9) == ''
    lines.release('a2')
    assert lines.take(9) == 'a3'
    lines.limit('a')
    assert lines.take_hint()
    assert lines.take(2) == 'a4 a5'
    lines.limit('*', concurrency=3)
    assert lines.take(9) == ''
    lines.limit('*', concurrency=4)
    assert lines.take_hint()
    assert lines.take(9) == 'a6'
    assert lines.client.command('HKEYS', lines.key('groups:limits')) == [b'*']


def test_a_changed_default_does_not_depend_on_its_caller(lines: LinesQueue) -> None:
    lines.limit('*', concurrency=0)
    for n in range(300):
        lines.enqueue(f'x{n}', group=f'g{n}')
    lines.limit('h', concurrency=0)
    lines.enqueue('h', group='h')
    lines.take()
    lines.take_hint()
    item = groups.limits_item('*', 1, None, None, None, None, None)
    assert lines.do(groups.REGULATE, item) == 'o'
    taken = 0
    while lines.take_hint():
        taken += len(lines.claim(100))
    assert taken == 300
    assert lines.index('blocked').keys() == {'h'}


def test_times_of_groups_that_do_not_come_back_are_forgotten(lines: LinesQueue) -> None:
    lines.limit('*', rate=(2, 10))
    for number in range(200):
        lines.enqueue(f'a{number}', group=f'g{number}')
        assert lines.take() == f'a{number}'
        if number % 2:
            lines.requeue(f'a{number}', delay=2, hold='group')
            lines.cancel(f'a{number}')
        else:
            lines.release(f'a{number}')
        lines.at(1)
    assert lines.client.command('HLEN', lines.keys.of_groups('arrivals')) < 50


def test_rate(lines: LinesQueue) -> None:
    lines.limit('a', rate=(2, 10))
    lines.enqueue(*(f'a{n}' for n in range(5)), group='a')
    assert lines.take(9) == 'a0 a1'
    assert lines.index('held') == {'a': lines.now + 5}
    lines.at(4.999999)
    assert lines.take(9) == ''
    lines.at(0.000001)
    assert lines.take(9) == 'a2'
    lines.giveback('a2')
    assert lines.take(9) == 'a2'
    lines.limit('a')
    assert lines.take_hint()
    assert lines.take(9) == 'a3 a4'
    lines.at(100)


def test_ordered(lines: LinesQueue) -> None:
    lines.limit('*', ordered=True)
    lines.enqueue('a0', 'a1', 'a2', group='a')
    lines.enqueue('b0', group='b')
    assert lines.take(9) == 'a0 b0'
    lines.requeue('a0')
    assert lines.take(9) == 'a0'
    lines.giveback('a0')
    assert lines.take(9) == 'a0'
    lines.requeue('a0', delay=5)
    assert lines.index('held') == {'a': lines.now + 5}
    assert lines.take(9) == ''
    lines.at(5)
    assert lines.take(9) == 'a0'
    lines.requeue('a0', delay=5, hold='pass')
    assert lines.take(9) == 'a1'
    lines.at(5)
    lines.release('a1')
    assert lines.take_all(9) == 'a2 a0'


def test_the_head_of_an_ordered_group_is_cancelled(lines: LinesQueue) -> None:
    lines.limit('*', ordered=True)
    lines.enqueue('a0', 'a1', group='a')
    lines.take()
    lines.take_hint()
    lines.requeue('a0', delay=5)
    lines.take_hint()
    assert lines.cancel('a0') == 'o'
    assert lines.take_hint()
    assert lines.take(9) == 'a1'


def test_a_stale_task_of_an_ordered_group_keeps_its_place(lines: LinesQueue) -> None:
    lines.limit('*', ordered=True)
    lines.enqueue('a0', 'a1', group='a', timeout=10)
    (first,) = lines.claim(9)
    lines.at(11)
    (second,) = lines.claim(9)
    assert (second.receipt.id, second.attempt) == ('a0', 2)
    assert first.fence
    assert second.fence
    assert second.fence > first.fence
    lines.at(11)
    lines.tick()
    assert lines.take(9) == 'a0'


def test_a_group_is_held(lines: LinesQueue) -> None:
    lines.enqueue('a0', 'a1', 'a2', group='a')
    assert lines.take(2) == 'a0 a1'
    lines.requeue('a0', delay=5, hold='group')
    assert lines.take(9) == ''
    lines.release('a1')
    lines.enqueue('a3', group='a')
    assert lines.take(9) == ''
    lines.at(5)
    assert lines.take(9) == 'a0 a2 a3'


def test_dead_letters_hold_their_group(lines: LinesQueue) -> None:
    lines.limit('*', ordered=True, dead='hold')
    lines.enqueue('a0', 'a1', 'a2', group='a')
    lines.take()
    lines.reject('a0')
    assert lines.index('held') == {'a': float('inf')}
    assert lines.take(9) == ''
    lines.redrive('a0')
    assert lines.take(9) == 'a0'
    lines.reject('a0')
    lines.take_hint()
    lines.purge('a0')
    assert lines.take_hint()
    assert lines.take(9) == 'a1'
    lines.reject('a1')
    lines.enqueue('b0', group='b')
    assert lines.take(9) == 'b0'
    lines.reject('b0', cap=1)
    assert lines.take(9) == 'a2'


def test_dead_letters_hold_ready_groups_as_soon_as_that_is_the_default(lines: LinesQueue) -> None:
    lines.limit('*', dead='hold')
    lines.enqueue('a0', 'a1', 'a2', group='a')
    lines.take()
    lines.reject('a0')
    lines.limit('*', dead='pass')
    assert lines.index('held') == {}
    lines.limit('*', dead='hold')
    assert lines.take(9) == ''
    lines.purge('a0')
    assert lines.take(9) == 'a1 a2'


@pytest.mark.parametrize('delays', [(30, 10), (10, 30)])
def test_two_tasks_of_a_group_that_became_ordered_are_retried(lines: LinesQueue, delays: tuple[int, int]) -> None:
    lines.enqueue('a0', 'a1', 'a2', group='a')
    assert lines.take(2) == 'a0 a1'
    lines.limit('a', ordered=True)
    for task_id, delay in zip(('a0', 'a1'), delays, strict=True):
        lines.requeue(task_id, delay=delay)
    lines.at(10)
    assert lines.take(9) == ''
    lines.at(20)
    assert lines.take_all(9) == 'a1 a0 a2'


def test_groups_go_on_in_turn_after_the_counters_were_lost(lines: LinesQueue) -> None:
    lines.enqueue(*(f'a{n}' for n in range(100)), group='a')
    for _ in range(8):
        lines.release(*lines.take(10).split())
    lines.client.command('DEL', lines.key('counters'))
    lines.enqueue(*(f'b{n}' for n in range(100)), group='b')
    taken = Counter(each[0] for _ in range(4) for each in lines.take(4).split())
    assert taken == {'a': 8, 'b': 8}


def test_a_claim_notices_that_the_counters_were_lost(lines: LinesQueue) -> None:
    lines.limit('blocked', concurrency=1)
    for name in ('blocked', 'ready'):
        lines.enqueue(f'{name}-0', f'{name}-1', group=name)
    lines.enqueue('low', level='low')
    assert set(lines.take(9).split()) == {'blocked-0', 'ready-0', 'ready-1', 'low'}
    lines.enqueue('high', level='high')
    lines.client.command('DEL', lines.key('counters'))
    assert lines.claim() == []
    assert lines.last
    assert lines.last.again
    assert lines.take(9) == 'high'
    lines.release('blocked-0')
    assert lines.take(9) == 'blocked-1'


def test_by_default_a_dead_letter_lets_its_group_go_on(lines: LinesQueue) -> None:
    lines.limit('*', ordered=True)
    lines.enqueue('a0', 'a1', 'a2', group='a', most=1, timeout=10)
    lines.take()
    lines.at(11)
    assert lines.take(9) == 'a1'
    lines.reject('a1')
    assert lines.take(9) == 'a2'
    lines.redrive('a0')
    lines.release('a2')
    assert lines.take(9) == 'a0'


def test_delayed_tasks_join_their_group_when_they_are_due(lines: LinesQueue) -> None:
    lines.limit('*', ordered=True)
    lines.enqueue('a0', group='a', delay=10)
    lines.enqueue('a1', group='a')
    assert lines.take(9) == 'a1'
    lines.release('a1')
    lines.at(10)
    assert lines.take(9) == 'a0'


def test_expiry_within_a_group(lines: LinesQueue) -> None:
    lines.enqueue('a0', 'a1', group='a', expires=5)
    lines.enqueue('a2', group='a')
    lines.at(6)
    assert lines.take() == 'a2'


def test_a_sweep_ends_what_expired_in_any_group(lines: LinesQueue) -> None:
    lines.limit('blocked', concurrency=1)
    lines.limit('held', rate=(1, 60))
    for name in ('blocked', 'held'):
        lines.enqueue(f'{name}-first', group=name)
    assert lines.take(2) == 'blocked-first held-first'
    lines.limit('paused', concurrency=0)
    for name in ('blocked', 'held', 'paused', *(f'ready{number}' for number in range(60))):
        lines.enqueue(f'{name}-0', f'{name}-1', group=name, expires=5)
    lines.enqueue(*(f'deep-{number}' for number in range(300)), group='paused', expires=5)
    lines.enqueue('held-2', group='held')
    lines.enqueue('front', level='low')
    lines.enqueue('late', level='low', expires=5)
    lines.enqueue('claimed', group='other')
    lines.at(5)
    lines.sweep()
    assert lines.index('groups').keys() == {'other'}
    assert lines.index('blocked').keys() == set()
    assert lines.index('held').keys() == {'held'}
    assert lines.client.command('HGET', lines.key('counters'), 'expired') == b'427'
    assert sorted(lines.take(9).split()) == ['claimed', 'front']
    lines.at(60)
    assert lines.take(9) == 'held-2'


@pytest.mark.parametrize('hold', [True, False])
def test_a_dead_letter_of_a_sweep_holds_its_group(lines: LinesQueue, *, hold: bool) -> None:
    lines.limit('a', dead='hold' if hold else 'pass')
    lines.enqueue('a0', group='a', most=1, timeout=60, expires=5)
    lines.enqueue('a1', group='a')
    assert lines.take() == 'a0'
    lines.requeue('a0')
    lines.giveback(lines.take())  # a1
    lines.at(5)
    lines.sweep()
    assert lines.take() == ('' if hold else 'a1')


def test_a_sweep_leaves_what_another_program_put_into_another_group(lines: LinesQueue) -> None:
    lines.enqueue('a0', group='a', expires=5)
    lines.enqueue('b0', group='b', expires=5)
    lines.client.command('LPUSH', lines.key('groups:pending:b'), 'a0')
    lines.at(5)
    lines.sweep()
    assert lines.index('groups').keys() == {'b'}
    assert lines.take(9) == ''
    assert lines.index('groups').keys() == set()


def test_replacing(lines: LinesQueue) -> None:
    lines.enqueue('a0', 'a1', group='a')
    lines.enqueue('b0', group='b')
    assert lines.enqueue('a0', replace=True, group='a') == 'r'
    assert lines.enqueue('a0', replace=True, group='b') == 'r'
    assert lines.enqueue('a1', replace=True) == 'r'
    assert lines.index('groups').keys() == {'b'}
    assert lines.enqueue('b0', replace=True, delay=5) == 'r'
    assert lines.take_all(1) == 'a1 a0'
    lines.at(5)
    assert lines.take_all(1) == 'b0'


def test_the_21st_group_is_served(lines: LinesQueue) -> None:
    for n in range(30):
        lines.enqueue(f'x{n}', group=f'g{n:02}')
    for n in range(25):
        lines.client.command('HDEL', lines.key('tasks'), f'x{n}')
    assert lines.take() == ''
    assert lines.last
    assert lines.last.again
    assert lines.take() == 'x25'


def test_groups_with_broken_keys_are_passed_over(lines: LinesQueue) -> None:
    for n in range(3):
        lines.enqueue(f'x{n}', group=f'g{n}')
    lines.limit('g0', concurrency=1)
    lines.client.command('SET', lines.key('groups:working:g0'), 'x')
    lines.check = lambda: None  # type: ignore[method-assign]
    assert lines.take(9) == 'x1 x2'
    lines.client.command('DEL', lines.key('groups:pending:g0'))
    lines.client.command('SET', lines.key('groups:pending:g1'), 'x')
    lines.requeue('x1')
    assert lines.take(9) == ''
    assert lines.client.command('HGET', lines.key('task:x1'), 'reason') == b'the list of its group has a wrong type'


def test_a_grouped_id_in_pending_goes_to_its_group(lines: LinesQueue) -> None:
    lines.limit('*', ordered=True)
    lines.enqueue('a0', 'a1', group='a')
    lines.take()
    lines.client.command('LREM', lines.key('groups:pending:a'), 0, 'a1')
    lines.client.command('ZREM', lines.key('groups:blocked'), 'a')
    lines.client.command('LPUSH', lines.key('pending'), 'a1')
    assert lines.take(9) == ''
    assert lines.index('blocked').keys() == {'a'}
    lines.release('a0')
    assert lines.take(9) == 'a1'


def test_limits_of_the_queue_count_groups_too(lines: LinesQueue) -> None:
    lines.limit(concurrency=2)
    lines.enqueue('a0', 'a1', group='a')
    lines.enqueue('b0', group='b')
    assert lines.take(9) == 'a0 b0'
    assert lines.take(9) == ''
    lines.release('a0')
    assert lines.take_hint()
    assert lines.take(9) == 'a1'


# Priorities ---------------------------------------------------------------------------------------------------------


def fill(queue: LinesQueue, count: int) -> None:
    for level in PRIORITIES:
        queue.enqueue(*(f'{level}-{n}' for n in range(count)), level=level)


@pytest.mark.parametrize('count', [1, 6, 42])
def test_levels_are_served_in_turn(lines: LinesQueue, count: int) -> None:
    fill(lines, 40)
    got = ' '.join(lines.take(count) for _ in range(42 // count)).split()
    assert Counter(each.split('-')[0] for each in got) == pytest.approx({'high': 32, 'normal': 8, 'low': 2}, abs=1)
    for level in ('high', 'normal', 'low'):
        mine = [each for each in got if each.startswith(level)]
        assert mine == [f'{level}-{n}' for n in range(len(mine))]


def test_strict(lines: LinesQueue) -> None:
    lines.limit(strict=True)
    fill(lines, 20)
    assert [each.split('-')[0] for each in lines.take_all(7).split()] == ['high'] * 20 + ['normal'] * 20 + ['low'] * 20


def test_each_end_of_a_claim_keeps_the_level(lines: LinesQueue) -> None:
    lines.enqueue('x', 'y', level='high', timeout=10)
    assert lines.take(2) == 'x y'
    lines.giveback('x')
    lines.requeue('y')
    assert lines.take(2) == 'x y'
    lines.at(11)
    assert lines.take(2) == 'x y'
    lines.reject('x')
    lines.requeue('y', delay=1)
    lines.redrive('x')
    lines.at(1)
    assert lines.take(2) == 'x y'
    assert lines.release('x', 'y') == 'oo'


def test_cancel_and_replace(lines: LinesQueue) -> None:
    lines.enqueue('x', 'y', level='low')
    assert lines.cancel('x') == 'o'
    assert lines.enqueue('y', replace=True, level='high') == 'r'
    assert lines.client.command('EXISTS', lines.key('pending:low')) == 0
    lines.enqueue('z', level='high')
    assert lines.take_all(1) == 'y z'


def test_an_idle_consumer_is_woken(lines: LinesQueue) -> None:
    for level in PRIORITIES:
        lines.enqueue(level, level=level)
        assert lines.take_hint()
        assert lines.take(5) == level
        assert not lines.take_hint()
