"""The audit: each thing that can be wrong is found, what is safe is repaired, and a moving queue is not wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from tests import servers
from tests.transports.settings import LOOPS, Setting
from torrelque import Torrelque, Violation, connect
from torrelque.core.keys import Keys
from torrelque.core.operations import PAGE
from torrelque.core.protocol import Arg, Call, Reply
from torrelque.testing import MemoryTransport
from torrelque.transports.base import Transport

pytestmark = pytest.mark.anyio

Command = Callable[..., Awaitable[Any]]

KEYS = Keys.of_queue('q')


# Each server, the event loops in turn: an audit is decided without one, by what servers answer.
SETTINGS = [
    Setting('memory', 'asyncio', 'none'),
    Setting('native', 'trio', 'redis-6.2'),
    Setting('native', 'asyncio+uvloop', 'redis-7.0'),
    Setting('native', 'trio', 'redis-8.2'),
    Setting('native', 'asyncio', 'valkey-9.1'),
]


def test_the_settings_cover_all_servers_and_event_loops() -> None:
    assert {setting.server for setting in SETTINGS} == {'none', *servers.SERVERS}
    assert {setting.loop for setting in SETTINGS} == set(LOOPS)


@pytest.fixture(params=SETTINGS, ids=str)
def setting(request: pytest.FixtureRequest) -> Setting:
    found: Setting = request.param
    return found


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


@pytest.fixture
async def transport(setting: Setting) -> AsyncIterator[Transport]:
    if setting.client == 'memory':
        yield MemoryTransport()
        return
    try:
        server = servers.shared(setting.server)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    server.flush()
    async with connect(server.url) as client:
        yield client


@pytest.fixture
async def queue(transport: Transport) -> AsyncIterator[Torrelque]:
    async with Torrelque(transport, queue='q') as queue:
        yield queue


@pytest.fixture
def command(transport: Transport) -> Command:
    async def command(name: str, *words: Arg) -> Reply:
        (reply,) = await transport.execute([Call[Reply](name, words[:1], words[1:])])
        assert not isinstance(reply, Exception)
        return reply

    return command


async def kinds(queue: Torrelque, *, repair: bool = False) -> list[tuple[str, str | None, bool]]:
    return [(found.kind, found.task_id, found.repaired) for found in await queue.audit(repair=repair)]


async def drain(queue: Torrelque) -> list[Any]:
    tasks = await queue.dequeue_nowait(max_tasks=1000)
    for task in tasks:
        await queue.release(task)
    assert await queue.dequeue_nowait() == []
    return [task.data for task in tasks]


async def assert_repaired(queue: Torrelque, kind: str, task_id: str | None = None) -> None:
    """It is found, without being touched; then repaired; then no more."""
    for _ in range(2):
        assert await kinds(queue) == [(kind, task_id, False)]
    assert await kinds(queue, repair=True) == [(kind, task_id, True)]
    assert await queue.audit() == []


async def test_nothing_is_wrong_with_tasks_in_every_place(queue: Torrelque) -> None:
    assert await queue.audit() == []
    for number in range(4):
        await queue.enqueue(number)
    await queue.enqueue('later', delay=3600)
    rejected, working, finished = await queue.dequeue(5, max_tasks=3)
    await queue.reject(rejected, 'no good')
    await queue.release(finished, result='good')
    assert await queue.audit(repair=True) == []
    await queue.extend(working)  # its claim was left alone


async def test_nothing_is_wrong_with_a_drained_queue(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a')
    assert await drain(queue) == ['a']
    assert await queue.audit() == []
    assert await command('EXISTS', KEYS['wake']) == 0


# Tasks ---------------------------------------------------------------------------------------------------------------


async def test_a_task_in_no_collection_goes_back_to_pending(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', task_id='1')
    await queue.dequeue(5)
    await command('ZREM', KEYS['working'], '1')
    await assert_repaired(queue, 'lost', '1')
    assert (await queue.dequeue(5)).dequeue_count == 2


@pytest.mark.parametrize('times', [2, 3])
async def test_a_task_listed_more_than_once_stays_at_the_front(queue: Torrelque, command: Command, times: int) -> None:
    await queue.enqueue('a', task_id='1')
    await queue.enqueue('b', task_id='2')
    for _ in range(times - 1):
        await command('LPUSH', KEYS['pending'], '1')
    await assert_repaired(queue, 'twice', '1')
    assert await drain(queue) == ['a', 'b']


@pytest.mark.parametrize('place', ['working', 'delayed', 'rejected'])
async def test_a_task_that_is_elsewhere_leaves_pending(queue: Torrelque, command: Command, place: str) -> None:
    await queue.enqueue('a', task_id='1', delay=3600 if place == 'delayed' else None)
    if place != 'delayed':
        task = await queue.dequeue(5)
        if place == 'rejected':
            await queue.reject(task, 'no good')
    await command('LPUSH', KEYS['pending'], '1')
    await assert_repaired(queue, 'twice', '1')
    assert await command('ZSCORE', KEYS[place], '1') is not None


async def test_a_task_in_two_sorted_sets_is_left_to_its_owner(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', task_id='1', delay=3600)
    await command('ZADD', KEYS['rejected'], '1', '1')
    assert await kinds(queue, repair=True) == [('twice', '1', False)]
    assert await command('ZSCORE', KEYS['delayed'], '1') is not None


@pytest.mark.parametrize('place', ['pending', 'dequeueing', 'working', 'delayed', 'rejected'])
async def test_an_id_without_a_payload_leaves(queue: Torrelque, command: Command, place: str) -> None:
    await queue.enqueue('a', delay=3600)
    if place in ('pending', 'dequeueing'):
        await command('LPUSH', KEYS[place], 'x')
    else:
        await command('ZADD', KEYS[place], '4000000000', 'x')
    await command('HSET', KEYS.state('x'), 'status', '0')
    await assert_repaired(queue, 'ghost', 'x')
    assert await command('PTTL', KEYS.state('x')) > 0


async def test_a_task_without_a_state_is_still_delivered(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', task_id='1')
    await command('DEL', KEYS.state('1'))
    assert await kinds(queue, repair=True) == [('state', '1', False)]
    await command('SET', KEYS.state('1'), 'a string')
    (violation,) = await queue.audit(repair=True)
    assert violation == Violation('state', 'q:task:1', '1', 'has in place of a state a string')
    await command('DEL', KEYS.state('1'))
    assert await drain(queue) == ['a']


async def test_a_state_that_tells_another_status_is_told(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', task_id='1')
    await command('HSET', KEYS.state('1'), 'status', '2')
    assert await kinds(queue, repair=True) == [('status', '1', False)]


async def test_a_state_that_would_expire_under_its_task_stays(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', task_id='1')
    await command('PEXPIRE', KEYS.state('1'), 60_000)
    await assert_repaired(queue, 'expiring', '1')
    assert await command('PTTL', KEYS.state('1')) == -1


@pytest.mark.parametrize('feature', ['expiry', 'cancellation'])
async def test_a_task_whose_end_is_ignored_ends_after_all(queue: Torrelque, command: Command, feature: str) -> None:
    """As after the server lost the queue's counters."""
    if feature == 'expiry':
        await queue.enqueue('a', task_id='1', expires_in=0.001)
    else:
        await queue.enqueue('a', task_id='1')
        task = await queue.dequeue(5)
        await queue.cancel('1', running='ask')
    await command('HDEL', KEYS['counters'], 'uses')
    assert [found.detail for found in await queue.audit()] == [f'its {feature} is ignored']
    await assert_repaired(queue, 'ignored', '1')
    if feature == 'cancellation':
        assert (await queue.extend(task)).cancel_asked
        await queue.giveback(task)
    assert await drain(queue) == []


@pytest.mark.parametrize('score', ['inf', '-inf'])
async def test_a_claim_for_ever_gets_the_deadline_of_its_task(queue: Torrelque, command: Command, score: str) -> None:
    await queue.enqueue('a', task_id='1', task_timeout=100)
    task = await queue.dequeue(5)
    await command('ZADD', KEYS['working'], score, '1')
    await assert_repaired(queue, 'deadline', '1')
    assert float(await command('ZSCORE', KEYS['working'], '1')) == pytest.approx(task.deadline, abs=60)
    await queue.release(task)


async def test_a_result_without_expiry_gets_one(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('later', delay=3600)
    await command('HSET', KEYS.state('1'), 'status', '3', 'result', '"r"')
    await assert_repaired(queue, 'result', '1')
    assert 0 < await command('PTTL', KEYS.state('1')) <= 3_600_000
    assert (await queue.get_task_state('1')).result == 'r'


async def test_a_state_of_nobody_is_told(queue: Torrelque, command: Command) -> None:
    await command('HSET', KEYS.state('1'), 'status', '1')
    await command('SET', KEYS.state('2'), 'a string')
    assert await kinds(queue, repair=True) == [('stray', '1', False), ('stray', '2', False)]
    assert await command('PTTL', KEYS.state('1')) == -1


async def test_ids_that_are_no_text_are_shown(queue: Torrelque, command: Command) -> None:
    await command('LPUSH', KEYS['pending'], b'\xff')
    assert await kinds(queue, repair=True) == [('ghost', '\ufffd', True)]


async def test_more_than_a_page(queue: Torrelque, command: Command) -> None:
    count = 2 * PAGE + 7
    ids = [f'{number:04}' for number in range(count)]
    await queue.enqueue_many(ids)
    assert await queue.audit() == []
    await command('LPUSH', KEYS['pending'], *ids)
    found = await queue.audit(repair=True)
    assert [(each.kind, each.task_id, each.repaired) for each in found] == [('ghost', each, True) for each in ids]
    assert await queue.audit() == []
    assert (await queue.get_queue_stats()).pending == count


# Groups --------------------------------------------------------------------------------------------------------------


def of_groups(what: str) -> bytes:
    return KEYS.of_groups(what)


DAMAGES: dict[str, tuple[str | None, list[tuple[Arg, ...]]]] = {
    'nowhere': (None, [('ZREM', KEYS['groups'], 'g')]),
    'in two indexes': (None, [('ZADD', of_groups('blocked'), '1', 'g')]),
    'without tasks': (None, [('ZADD', of_groups('held'), 'inf', 'nobody')]),
    'blocked': (None, [('ZREM', KEYS['groups'], 'g'), ('ZADD', of_groups('blocked'), '1', 'g')]),
    'held': (None, [('ZREM', KEYS['groups'], 'g'), ('ZADD', of_groups('held'), 'inf', 'g')]),
    'a claim that is none': ('x', [('SADD', of_groups('working:g'), 'x')]),
    "another group's claim": ('1', [('SADD', of_groups('working:h'), '1')]),
    'a claim that waits': ('2', [('SADD', of_groups('working:g'), '2')]),
    'a claim that does not count': ('1', [('SREM', of_groups('working:g'), '1')]),
    'a dead letter that is none': ('x', [('SADD', of_groups('rejected:g'), 'x')]),
}


@pytest.mark.parametrize('damage', DAMAGES)
async def test_a_group_is_placed_again(queue: Torrelque, command: Command, damage: str) -> None:
    for task_id in ('1', '2', '3'):
        await queue.enqueue(task_id, task_id=task_id, group='g')
    (task,) = await queue.dequeue_nowait()
    culprit, calls = DAMAGES[damage]
    for words in calls:
        await command(*words)
    await assert_repaired(queue, 'group', culprit)
    await queue.release(task)
    assert await drain(queue) == ['2', '3']
    assert await command('EXISTS', of_groups('working:g'), of_groups('rejected:g'), KEYS['groups']) == 0


async def test_an_id_that_blocks_its_group_for_ever(queue: Torrelque, command: Command) -> None:
    await queue.limit(group='g', concurrency=1)
    await command('SADD', of_groups('working:g'), 'x')
    await queue.enqueue('a', group='g')
    assert await queue.dequeue_nowait() == []
    await assert_repaired(queue, 'group', 'x')
    assert (await queue.dequeue(5)).data == 'a'


@pytest.mark.parametrize('line', [{'group': 'g'}, {'priority': 'low'}])
async def test_tasks_of_groups_and_levels_are_repaired_in_their_line(
    queue: Torrelque, command: Command, line: dict[str, Any]
) -> None:
    key = of_groups('pending:g') if 'group' in line else KEYS['pending'] + b':low'
    for task_id in ('1', '2'):
        await queue.enqueue(task_id, task_id=task_id, **line)
    await command('LREM', key, 0, '2')
    await assert_repaired(queue, 'lost', '2')
    await command('LPUSH', KEYS['pending'], '1')
    await command('LPUSH', key, '1')
    await assert_repaired(queue, 'twice', '1')
    assert await command('LRANGE', key, 0, -1) == [b'2', b'1']
    await command('LPUSH', key, 'x')
    await command('HSET', KEYS.state('x'), 'status', '0', *(('group', 'g') if 'group' in line else ('level', 'low')))
    await assert_repaired(queue, 'ghost', 'x')
    await command('HDEL', KEYS['counters'], 'uses')
    assert {each.detail for each in await queue.audit()} == {f'its {next(iter(line))} is ignored'}
    assert [found[0] for found in await kinds(queue, repair=True)] == ['ignored'] * 2
    assert await queue.audit() == []
    assert await drain(queue) == ['1', '2']


async def test_a_record_of_a_group_of_a_wrong_type_is_told(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', group='g')
    await command('SET', of_groups('working:g'), 'a string')
    assert [each.detail for each in await queue.audit(repair=True)] == ['is of a wrong type, not a set']


async def test_levels_of_a_queue_whose_name_begins_like_groups_are_left_alone(
    queue: Torrelque, transport: Transport
) -> None:
    await queue.enqueue('a', group='g')
    async with Torrelque(transport, queue='q:groups') as other:
        await other.enqueue('b', priority='high')
        assert await queue.audit(repair=True) == []
        assert await drain(queue) == ['a']
        assert await drain(other) == ['b']


# Keys ----------------------------------------------------------------------------------------------------------------


async def test_lanes_and_timer_have_to_expire(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', delay=3600)
    await command('SET', b'%b:7' % KEYS['lane'], '1 n closed ')
    await command('SET', KEYS['timer'], '7|4000000000')
    found = await queue.audit()
    assert [(each.kind, each.key) for each in found] == [('timer', 'q:timer'), ('lane', 'q:lane:7')]
    assert [each.repaired for each in await queue.audit(repair=True)] == [True, True]
    assert await queue.audit() == []
    assert 0 < await command('PTTL', b'%b:7' % KEYS['lane']) <= 900_000
    assert 0 < await command('PTTL', KEYS['timer']) <= 10_050


async def test_workers_have_to_expire_and_to_be_readable(queue: Torrelque, command: Command) -> None:
    await queue.announce('w', name='worker', concurrency=1)
    assert await queue.audit() == []
    await command('DEL', KEYS['workers'])
    await command('HSET', KEYS['workers'], 'odd', 'x')
    for repaired in (False, True):
        assert [(each.kind, each.detail, each.repaired) for each in await queue.audit(repair=repaired)] == [
            ('workers', 'does not expire', repaired),
            ('worker', "'odd' is no announcement", False),
        ]
    assert 0 < await command('PTTL', KEYS['workers']) <= 10_000
    await queue.announce('w', name='worker', concurrency=1)
    assert await queue.audit() == []


@pytest.mark.parametrize('name', ['pending', 'tasks', 'wake', 'epoch', 'counters'])
async def test_a_key_that_would_expire_stays(queue: Torrelque, command: Command, name: str) -> None:
    await queue.enqueue('a')
    await queue.enqueue('b')
    await command('PEXPIRE', KEYS[name], 60_000)
    await assert_repaired(queue, 'key')
    assert await command('PTTL', KEYS[name]) == -1


async def test_a_key_of_a_wrong_type_is_told(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a')
    await command('DEL', KEYS['wake'])
    await command('SET', KEYS['wake'], 'a string')
    (found,) = await queue.audit(repair=True)
    assert (found.kind, found.key, found.repaired) == ('key', 'q:wake', False)
    assert 'string' in found.detail


async def test_a_drained_queue_may_keep_a_hint_and_marks(queue: Torrelque, command: Command) -> None:
    await command('ZADD', KEYS['wake'], '0', '0')
    await command('SADD', KEYS['undequeued'], 'x')
    assert await queue.audit() == []
    assert await queue.audit(repair=True) == []
    assert await command('EXISTS', KEYS['wake'], KEYS['undequeued']) == 0
    assert await queue.audit() == []


async def test_a_queue_with_tasks_has_hint_and_marks(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a')
    await command('SADD', KEYS['undequeued'], 'x')
    assert await queue.audit(repair=True) == []
    assert await command('EXISTS', KEYS['wake'], KEYS['undequeued']) == 2


async def test_another_queue_whose_name_begins_as_a_state_is_left_alone(queue: Torrelque, transport: Transport) -> None:
    async with Torrelque(transport, queue='q:task:of') as other:
        await other.enqueue('a', task_id='1')
        await other.reject(await other.dequeue(5), 'no good')
        await other.enqueue('b')
        before = await other.get_task_state('1')
        assert {each.kind for each in await queue.audit(repair=True)} == {'stray'}
        assert not any(each.repaired for each in await queue.audit(repair=True))
        assert await other.audit() == []
        assert await other.get_task_state('1') == before


async def test_an_id_without_a_payload_is_set_aside_for_a_week(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', task_id='a')
    await queue.enqueue('b', task_id='b', delay=0.001)
    await command('HDEL', KEYS['tasks'], 'a', 'b')
    await command('ZADD', KEYS['missing'], 1, 'old')
    await anyio.sleep(0.01)
    assert await queue.dequeue_nowait() == []
    assert sorted(await command('ZRANGE', KEYS['missing'], 0, -1)) == [b'a', b'b']
    assert 604_000_000 < await command('PTTL', KEYS['missing']) <= 604_800_000


async def test_a_task_whose_payload_comes_back_is_brought_back(queue: Torrelque, command: Command) -> None:
    await queue.enqueue('a', task_id='a')
    await command('HDEL', KEYS['tasks'], 'a')
    assert await queue.dequeue_nowait() == []
    await command('HSET', KEYS['tasks'], 'a', '"a"')
    assert await kinds(queue) == [('lost', 'a', False)]
    assert await kinds(queue, repair=True) == [('lost', 'a', True)]
    assert await queue.audit() == []
    assert await command('EXISTS', KEYS['missing']) == 0
    assert (await queue.dequeue(5)).data == 'a'


# A queue that moves --------------------------------------------------------------------------------------------------


async def test_a_busy_queue_is_not_wrong(queue: Torrelque) -> None:
    await queue.enqueue('far off', delay=3600)  # so that it is never drained
    await queue.enqueue_many(range(300))
    done = 0
    found: list[Violation] = []

    async def consume() -> None:
        nonlocal done
        while True:
            for task in await queue.dequeue(max_tasks=3):
                if done % 7 == 0:
                    await queue.requeue(task)
                elif done % 5 == 0:
                    await queue.reject(task, 'no good')
                else:
                    await queue.release(task, result=done if done % 2 else None)
                done += 1
                await queue.enqueue(done)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(consume)
        with anyio.fail_after(60):
            audits = 0
            while audits < 4 or done < 200:
                found += await queue.audit(repair=True)
                audits += 1
        group.cancel_scope.cancel()
    assert found == []
    assert await queue.audit() == []
