"""Each role can do its work and nothing else, and whatever right it has is needed for its work."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import redis.asyncio
from redis.exceptions import NoPermissionError

from tests.acl.users import as_user, has_selectors, make_user, password_url, refusals, rules
from tests.acl.works import WORKS, Stage, Unsteady, Work, replaces, schedules
from tests.servers import Server
from torrelque import (
    Durability,
    Task,
    Torrelque,
    TorrelqueDurabilityError,
    TorrelqueReplyError,
    TorrelqueTaskStatus,
    Worker,
    acl,
    connect,
)
from torrelque.core.protocol import Call, Reply, Script

pytestmark = pytest.mark.anyio

each_role = pytest.mark.parametrize('role', acl.ROLES)
each_kind = pytest.mark.parametrize('kind', ['native', 'redis_py', 'coredis'])


@asynccontextmanager
async def staged(server: Server, kind: str, user: str) -> AsyncIterator[Stage]:
    """A stage on a server that knows neither the queue nor the scripts."""
    with server.client() as client:
        client.command('FLUSHALL')
        client.command('SCRIPT', 'FLUSH')
        async with (
            connect(server.unix_url) as native,
            Torrelque(native, queue='q') as others,
            as_user(server, kind, user) as transport,
        ):
            network = Unsteady(transport)
            async with Torrelque(network, queue='q') as queue:
                yield Stage(queue, network, others, client.command)


# What each can do -----------------------------------------------------------------------------------------------------


@each_kind
@each_role
async def test_a_role_can_do_its_work(server: Server, role: str, kind: str) -> None:
    make_user(server, role, rules(server, role, 'q'))
    refusals(server)
    for work in WORKS[role]:
        async with staged(server, kind, role) as stage:
            await work(stage)
        assert refusals(server) == set(), work.__name__


async def test_a_worker_is_a_consumer(server: Server) -> None:
    make_user(server, 'consumer', rules(server, 'consumer', 'q'))
    refusals(server)
    renewed = anyio.Event()

    async def handle(task: Task) -> str:
        if task.data == 'bad' and task.dequeue_count == 1:
            raise ValueError('bad')
        if task.data == 'slow':
            await renewed.wait()
        return 'done'

    async with staged(server, 'native', 'consumer') as stage:
        worker = Worker(stage.queue, handle, concurrency=2, retry=lambda *_: 0.01)
        slow = await stage.others.enqueue('slow', task_timeout=1)
        ids = [slow, *[await stage.others.enqueue(data) for data in ('good', 'bad')]]
        deadline = None
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                await tasks.start(worker.run)
                while not renewed.is_set():
                    previous, deadline = deadline, (await stage.others.get_task(slow)).deadline
                    if previous and deadline and deadline > previous:
                        renewed.set()
                    await anyio.sleep(0.01)
                for task_id in ids:
                    assert (await stage.others.wait(task_id)).result == 'done'
                worker.stop()
    assert refusals(server) == set()


@pytest.mark.parametrize('role', ['producer', 'consumer'])
async def test_pipelines_are_an_extra(server: Server, role: str) -> None:
    server.flush()
    own = ['(~mine +set)'] if has_selectors(server) else ['~mine', '+set']
    for pipelines in (False, True):
        words = acl.rules(role, 'q', selectors=has_selectors(server), pipelines=pipelines)
        make_user(server, role, [*words, *own])
        async with redis.asyncio.Redis.from_url(password_url(server, role)) as client:
            queue = Torrelque(client, queue='q')
            async with client.pipeline() as pipeline:
                pipeline.set('mine', 1)
                if role == 'consumer':
                    await queue.release('nobody', pipeline=pipeline)
                else:
                    await queue.enqueue('a', pipeline=pipeline)
                if pipelines:
                    assert await pipeline.execute() == [True, int(role == 'producer')]
                else:
                    with pytest.raises(NoPermissionError):
                        await pipeline.execute()


@pytest.mark.parametrize('capped', [False, True])
async def test_a_cap_on_dead_letters_is_an_extra(server: Server, capped: bool) -> None:
    make_user(server, 'consumer', rules(server, 'consumer', 'q', capped=capped))
    async with (
        staged(server, 'native', 'consumer') as stage,
        Torrelque(stage.network, queue='q', max_rejected=1) as queue,
    ):
        await stage.others.enqueue_many(range(2))
        if capped or not has_selectors(server):
            for task in await queue.dequeue(20, max_tasks=2):
                await queue.reject(task, 'why')
            assert (await stage.others.get_queue_stats()).rejected == 1
        else:
            before = contents(server)
            with pytest.raises(TorrelqueReplyError) as caught:
                await queue.dequeue_nowait()
            assert caught.value.code == 'NOPERM'
            assert contents(server) == before


@pytest.mark.parametrize(('extra', 'work'), [('replacing', replaces), ('scheduling', schedules)])
async def test_all_rights_of_an_extra_are_needed(server: Server, extra: str, work: Work) -> None:
    words, plain = rules(server, 'producer', 'q', **{extra: True}), dict(with_one_less(rules(server, 'producer', 'q')))  # type: ignore[arg-type]  # one of them
    for less, left in [('', words), *(each for each in with_one_less(words) if each[0] not in plain)]:
        make_user(server, 'producer', left)
        refusals(server)
        async with staged(server, 'native', 'producer') as stage:
            with suppress(Exception if less else KeyError):
                await work(stage)
        assert bool(refusals(server)) == bool(less), less


async def test_to_replace_tasks_is_an_extra(server: Server) -> None:
    make_user(server, 'producer', rules(server, 'producer', 'q'))
    async with staged(server, 'native', 'producer') as stage:
        await stage.queue.enqueue('a', task_id='1')
        before = contents(server)
        with pytest.raises(TorrelqueReplyError) as caught:
            await stage.queue.enqueue('b', task_id='1', replace=True)
        assert caught.value.code == 'NOPERM'
        assert contents(server) == before


@pytest.mark.parametrize('allowed', [False, True])
async def test_to_wait_until_a_write_is_safe_is_an_extra(server: Server, allowed: bool) -> None:
    durability = Durability(replicas=1, timeout=0.01)
    words = acl.rules('producer', 'q', selectors=has_selectors(server), durability=durability if allowed else None)
    make_user(server, 'producer', words)
    async with (
        staged(server, 'native', 'producer') as stage,
        as_user(server, 'native', 'producer') as transport,
        Torrelque(transport, queue='q', durability=durability) as queue,
    ):
        with pytest.raises(TorrelqueDurabilityError if allowed else TorrelqueReplyError):
            await queue.enqueue('a')
        assert (await stage.others.get_queue_stats()).tasks == int(allowed)


def test_the_right_to_wait_until_a_write_is_fsynced() -> None:
    words = acl.rules('producer', 'q', durability=Durability(fsynced=True))
    assert set(words) - set(acl.rules('producer', 'q')) == {'+waitaof'}


# What none needs ------------------------------------------------------------------------------------------------------


def with_one_less(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """All ways to take one thing away: a word, or one command on one key."""
    for index, word in enumerate(words):
        before, after = words[:index], words[index + 1 :]
        if not word.startswith('('):
            yield word, [*before, *after]
            continue
        keys, commands = re.findall(r'~\S+', word[:-1]), re.findall(r'\+\S+', word[:-1])
        for key in keys:
            alike = [f'({other} {" ".join(commands)})' for other in keys if other != key]
            for command in commands:
                left = ' '.join(each for each in commands if each != command)
                own = [f'({key} {left})'] if left else []
                yield f'{key} {command}', [*before, *alike, *own, *after]


async def commands_of(server: Server, role: str, work: Callable[[Stage], Awaitable[None]]) -> set[str]:
    """What the server ran for a work, in scripts as well."""
    async with staged(server, 'native', role) as stage:
        stage.command('CONFIG', 'RESETSTAT')
        await work(stage)
        return set(re.findall(r'cmdstat_([^:]+)', stage.command('INFO', 'commandstats').decode()))


async def is_refused(server: Server, role: str, work: Work) -> bool:
    """Whether anything that a work does is refused. It ends then: some works go on for long."""
    refused = False
    async with anyio.create_task_group() as tasks:

        async def attempt() -> None:
            # How a work fails without a right is its own business: the server reports what was missed.
            with suppress(Exception, pytest.fail.Exception):
                async with staged(server, 'native', role) as stage:
                    await work(stage)
            tasks.cancel_scope.cancel()

        tasks.start_soon(attempt)
        with anyio.move_on_after(3):  # or it repeats what is refused
            while not refused:
                await anyio.sleep(0.05)
                refused = bool(refusals(server))
        tasks.cancel_scope.cancel()
    return refused or bool(refusals(server))


@pytest.mark.timeout(240)  # hundreds of works on a machine under load
@each_role
@pytest.mark.parametrize('server', ['valkey-9.1', 'redis-6.2'], indirect=True)  # one with selectors, one without
async def test_all_rights_are_needed(server: Server, role: str) -> None:
    all_rights = rules(server, role, 'q')
    make_user(server, role, all_rights)
    uses = [(work, await commands_of(server, role, work)) for work in WORKS[role]]
    needless, found = [], dict[str, Callable[[Stage], Awaitable[None]]]()
    for less, words in with_one_less(all_rights):
        make_user(server, role, words)
        refusals(server)
        key, _, command = less.rpartition('+')
        # Those that use it first, and the one that needed another command on that key: fewer are run.
        for work, _ in sorted(uses, key=lambda each: (command not in each[1], each[0] is not found.get(key))):
            if await is_refused(server, role, work):
                found[key] = work
                break
        else:
            needless.append(less)
    assert needless == []


@each_kind
async def test_who_may_not_load_scripts_is_told_so(server: Server, kind: str) -> None:
    words = [word for word in rules(server, 'producer', 'q') if not word.startswith('+script')]
    make_user(server, 'producer', words)
    async with staged(server, kind, 'producer') as stage:
        with pytest.raises(TorrelqueReplyError, match=r"SCRIPT LOAD was refused.*'script") as caught:
            await stage.queue.enqueue('a')
        assert caught.value.code == 'NOPERM'


# What is refused ------------------------------------------------------------------------------------------------------


async def listed(queue: Torrelque, status: TorrelqueTaskStatus | None = None) -> None:
    async for _ in queue.tasks(status):
        pass


async def listed_workers(queue: Torrelque) -> None:
    async for _ in queue.workers():
        pass


Command = Callable[[Torrelque, Task], Awaitable[Any]]

VERBS: Mapping[str, Command] = {
    'enqueue': lambda queue, _: queue.enqueue('x'),
    'enqueue later': lambda queue, _: queue.enqueue('x', delay=60),
    'dequeue': lambda queue, _: queue.dequeue_nowait(),
    'release': lambda queue, task: queue.release(task),
    'release with a result': lambda queue, task: queue.release(task, result=1),
    'requeue': lambda queue, task: queue.requeue(task),
    'requeue for later': lambda queue, task: queue.requeue(task, delay=60),
    'reject': lambda queue, task: queue.reject(task, 'why'),
    'giveback': lambda queue, task: queue.giveback(task),
    'extend': lambda queue, task: queue.extend(task, 1000),
    'cancel': lambda queue, _: queue.cancel('pending'),
    'cancel a delayed one': lambda queue, _: queue.cancel('delayed'),
    'end': lambda queue, task: queue.cancel(task.id, running='end'),
    'ask': lambda queue, task: queue.cancel(task.id, running='ask'),
    'redrive': lambda queue, _: queue.redrive('rejected'),
    'redrive all': lambda queue, _: queue.redrive(),
    'purge': lambda queue, _: queue.purge('rejected'),
    'purge all': lambda queue, _: queue.purge(older_than=0),
    'sweep': lambda queue, _: queue.sweep(),
    'audit': lambda queue, _: queue.audit(repair=True),
    'announce': lambda queue, _: queue.announce('w', name='worker', concurrency=1),
    'workers': lambda queue, _: listed_workers(queue),
    'schedule': lambda queue, _: queue.schedule('x', 1, every=5),
    'unschedule': lambda queue, _: queue.unschedule('scheduled'),
    'fire': lambda queue, _: queue.fire('scheduled'),
    'stats': lambda queue, _: queue.get_queue_stats(),
    'state': lambda queue, _: queue.get_task_state('pending'),
    'task': lambda queue, _: queue.get_task('pending'),
    'tasks': lambda queue, _: listed(queue),
    'results': lambda queue, _: listed(queue, TorrelqueTaskStatus.COMPLETED),
    'watch': lambda queue, _: queue.wait('completed'),
}
ENDINGS = {
    'release',
    'release with a result',
    'requeue',
    'requeue for later',
    'reject',
    'giveback',
    'extend',
    'progress',
}
ADDING = {'enqueue', 'enqueue later'}
DEAD = {'redrive', 'redrive all', 'purge', 'purge all'}
LOOKING = {'state', 'watch'}

MAY: Mapping[str, set[str]] = {
    'producer': ADDING,
    'consumer': {'dequeue', 'announce', *ENDINGS, 'cancel a delayed one', 'sweep', 'stats', *LOOKING},
    'observer': {'stats', 'task', 'tasks', 'workers', *LOOKING},
    'operator': {
        'unschedule',
        'cancel',
        'cancel a delayed one',
        'end',
        'ask',
        *DEAD,
        'sweep',
        'audit',
        'tasks',
        'results',
        'workers',
        *LOOKING,
    },
}
"""A consumer that sweeps returns what is stale or due, as its claims do, and is refused the rest."""

MAY_WITHOUT_SELECTORS: Mapping[str, set[str]] = {
    'producer': LOOKING,
    'consumer': {*ADDING, *DEAD, 'task'},
    'observer': set(),
    'operator': {*ADDING, *ENDINGS, 'dequeue', 'task', 'announce', 'schedule'},
}
"""Besides. An operator that dequeues sweeps, and is refused the rest."""


def contents(server: Server) -> dict[bytes, bytes]:
    """All but the records of clients."""
    with server.client() as client:
        keys = client.command('KEYS', '*')
        return {key: client.command('DUMP', key) for key in keys if not re.match(b'q:(lane:|epoch$)', key)}


async def fill(stage: Stage) -> Task:
    """A task in each place, two of which a claim or a sweep would move; returns the one that is claimed."""
    for task_id in ('completed', 'rejected', 'working', 'stale'):
        await stage.others.enqueue(task_id, task_id=task_id, task_timeout=0.001 if task_id == 'stale' else 300)
    completed, rejected, working, _ = await stage.others.dequeue(20, max_tasks=4)
    await stage.others.release(completed, result='done')
    await stage.others.reject(rejected, 'why')
    await stage.others.enqueue('pending', task_id='pending')
    await stage.others.enqueue('delayed', task_id='delayed', delay=60)
    await stage.others.schedule('scheduled', 1, every=3600)
    await stage.others.enqueue('due', task_id='due', delay=0.001)
    await anyio.sleep(0.002)
    return working


@each_role
async def test_other_roles_work_is_refused_and_changes_nothing(server: Server, role: str) -> None:
    make_user(server, role, rules(server, role, 'q'))
    may = MAY[role] | (set() if has_selectors(server) else MAY_WITHOUT_SELECTORS[role])
    refused = VERBS.keys() - may
    assert refused
    async with staged(server, 'native', role) as stage:
        task = await fill(stage)
        stage.command('LPUSH', 'q:pending', 'ghost')  # for an audit to repair
        before = contents(server)
        for name in refused:
            with pytest.raises(TorrelqueReplyError) as caught:
                await VERBS[name](stage.queue, task)
            assert (name, caught.value.code) == (name, 'NOPERM')
            assert contents(server) == before, name


@each_role
async def test_other_queues_are_out_of_reach(server: Server, role: str) -> None:
    make_user(server, role, rules(server, role, 'q*'))
    async with staged(server, 'native', role) as stage:
        async with Torrelque(stage.network, queue='q*') as own:
            match role:
                case 'producer':
                    await own.enqueue('a')
                case 'consumer':
                    assert await own.dequeue_nowait() == []
                case 'observer':
                    assert (await own.get_queue_stats()).tasks == 0
                case _:
                    assert await own.audit() == []
        task = await fill(stage)
        before = contents(server)
        for name, verb in VERBS.items():
            with pytest.raises(TorrelqueReplyError) as caught:
                await verb(stage.queue, task)
            assert (name, caught.value.code) == (name, 'NOPERM')
        assert contents(server) == before


FORBIDDEN = (
    'KEYS *',
    'FLUSHALL',
    'FLUSHDB',
    'CONFIG GET *',
    'ACL LIST',
    'CLIENT LIST',
    'INFO',
    'MONITOR',
    'SHUTDOWN',
    'SCRIPT FLUSH',
    'SWAPDB 0 1',
    'RENAME q:pending q:elsewhere',
    'SORT q:pending',
    'PSUBSCRIBE *',
    'SUBSCRIBE elsewhere',
    'PUBLISH elsewhere x',
    'GET elsewhere',
    'SET elsewhere x',
)


@each_kind
@each_role
async def test_the_rest_of_the_server_is_out_of_reach(server: Server, role: str, kind: str) -> None:
    make_user(server, role, rules(server, role, 'q'))
    async with staged(server, kind, role) as stage:
        for line in FORBIDDEN:
            (error,) = await stage.network.execute([Call[Reply](line)])
            assert isinstance(error, TorrelqueReplyError), line
            assert (line, error.code) == (line, 'NOPERM')


OWN_SCRIPTS = {
    'producer': ("'HGET', 'q:tasks', 'pending'", "'HGET', 'q:task:completed', 'result'", "'DEL', 'q:pending'"),
    'consumer': ("'HSET', 'q:tasks', 'pending', 'x'", "'DEL', 'q:pending'", "'SET', 'q:counters', 'x'"),
    'observer': ("'DEL', 'q:pending'", "'HSET', 'q:tasks', 'pending', 'x'", "'GET', 'q:epoch'"),
    'operator': ("'HGET', 'q:tasks', 'pending'", "'HSET', 'q:tasks', 'pending', 'x'", "'DEL', 'q:pending'"),
}


@each_role
async def test_a_script_of_ones_own_can_do_no_more(server: Server, role: str) -> None:
    if not has_selectors(server):
        return  # every command of the role on every key of the role, as the documentation says
    make_user(server, role, rules(server, role, 'q'))
    async with staged(server, 'native', role) as stage:
        await fill(stage)
        before = contents(server)
        for words in OWN_SCRIPTS[role]:
            script = f'return redis.call({words})'
            _, error = await stage.network.execute(
                [Call[Reply]('SCRIPT LOAD', args=(script,)), Call[Reply](Script('mine', script, ()))]
            )
            assert isinstance(error, TorrelqueReplyError), words
            assert error.code == 'NOPERM'
        assert contents(server) == before
