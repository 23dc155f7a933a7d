"""What the conformance suite does not tell of the queue for synchronous code."""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import pickle
import re
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from uuid import uuid4

import coredis
import pytest
import redis
import redis.asyncio
from redis.sentinel import Sentinel

import torrelque
import torrelque.engine.watch
from tests import clusters, sentinels, servers
from torrelque import (
    Router,
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    sync,
)
from torrelque.engine.progress import INTERVAL
from torrelque.testing import MemoryTransport

PATIENCE = 20.0
NOT_HERE = {'aclose', 'cancellations', 'share_waits', 'schedule_sweep', 'unschedule_sweep'}


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind, inspect.isfunction) if name[0] != '_'}


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def calls(server: servers.Server) -> int:
    """Scripts and blocking calls that were made, and nothing that scripts do."""
    stats = server.info('commandstats')
    names = ('cmdstat_evalsha', 'cmdstat_eval', 'cmdstat_bzpopmin', 'cmdstat_script|load', 'cmdstat_script')
    return sum(int(stats[name].partition('=')[2].partition(',')[0]) for name in names if name in stats)


# Progress -------------------------------------------------------------------------------------------------------------


def test_progress_blocks_and_drops_what_comes_too_early(server: servers.Server) -> None:
    with closing(redis.Redis(port=server.port)) as client, sync.Torrelque(client, queue='q') as queue:
        queue.enqueue('a', task_id='a')
        task = queue.dequeue(PATIENCE)
        before, begun = calls(server), time.monotonic()
        for number in range(1, 1000):
            task.progress(number, 1000)
        assert calls(server) - before <= 5 + (time.monotonic() - begun) / INTERVAL  # 3 with the script's loading
        time.sleep(0.1)
        task.progress(7, 8, 'note')
        progress = queue.get_task_state('a').progress
        assert progress is not None
        assert progress[:3] == (7, 8, 'note')
        with pytest.raises(TorrelqueTypeError, match="value must be a number, got 'x'"):
            task.progress('x')  # type: ignore[arg-type]  # on purpose
        queue.requeue('a')
        time.sleep(0.1)
        with pytest.raises(TorrelqueLeaseLostError):
            task.progress(8, 8)


# Watching -------------------------------------------------------------------------------------------------------------


def test_watches_what_0_9_changes(client: redis.Redis, queue: sync.Torrelque, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torrelque.engine.watch, 'REREAD', 0.05)
    for task_id in 'ab':  # the second watcher knows that 0.9 is there
        queue.enqueue(1, task_id=task_id)
        states = queue.watch(task_id, timeout=PATIENCE)
        assert next(states).status is TorrelqueTaskStatus.PENDING
        client.hset(f'{queue.queue}:task:{task_id}', 'status', 1)
        assert next(states).status is TorrelqueTaskStatus.WORKING
        client.delete(f'{queue.queue}:task:{task_id}')
        assert [state.status for state in states] == [TorrelqueTaskStatus.COMPLETED]


# The interface --------------------------------------------------------------------------------------------------------


def test_all_methods_are_here() -> None:
    assert public(sync.Torrelque).keys() - {'close'} == public(torrelque.Torrelque).keys() - NOT_HERE


@pytest.mark.parametrize('name', sorted({'__init__', *public(torrelque.Torrelque)} - NOT_HERE))
def test_signatures_agree(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(kind, name)) for kind in (torrelque.Torrelque, sync.Torrelque))
    assert [each for each in ours.parameters.values() if each.name != 'client'] == [
        each for each in theirs.parameters.values() if each.name != 'client'
    ]
    assert str(ours.return_annotation) == str(theirs.return_annotation).replace('AsyncIterator', 'Iterator')


@pytest.mark.parametrize('name', sorted({*public(torrelque.Torrelque)} - NOT_HERE))
def test_docstrings_agree(name: str) -> None:
    assert getattr(sync.Torrelque, name).__doc__ == getattr(torrelque.Torrelque, name).__doc__


def test_the_arguments_of_the_class_are_documented() -> None:
    documented = re.findall(r'(?m)^        (\w+): ', sync.Torrelque.__doc__ or '')
    assert documented[:-1] == list(inspect.signature(sync.Torrelque).parameters)


@pytest.mark.parametrize(
    ('client', 'said'),
    [
        (redis.asyncio.Redis(), 'needs an event loop: use torrelque.Torrelque'),
        (MemoryTransport(), 'needs an event loop: use torrelque.Torrelque'),
        ('redis://localhost', 'redis.Redis.from_url'),
        (redis.Redis().pipeline(), 'pass its client here'),
        (None, 'not a supported client'),
    ],
)
def test_other_clients_are_refused(client: Any, said: str) -> None:  # noqa: ANN401 - that is what is tested
    with pytest.raises(TorrelqueUsageError, match=said):
        sync.Torrelque(client)


def test_coredis_is_refused() -> None:
    client: Any = coredis.Redis()
    with pytest.raises(TorrelqueUsageError, match='needs an event loop'):
        sync.Torrelque(client)


def test_the_blocking_client_is_told_where_it_belongs() -> None:
    client: Any = redis.Redis()
    with pytest.raises(TorrelqueUsageError, match=r'torrelque\.sync'):
        torrelque.Torrelque(client)


def test_options_can_be_set_later(queue: sync.Torrelque) -> None:
    class Short(sync.Torrelque):
        task_timeout = 7
        keys = {'pending': 'waiting'}  # noqa: RUF012 - as the class has it

    client: Any = queue._inner._client
    with Short(client, queue=queue.queue) as short:
        assert short.keys['pending'] == f'{queue.queue}:waiting'
        assert short.get_task_state(short.enqueue('a')).timeout == 7
        short.task_timeout = 8
        assert short.get_task_state(short.enqueue('a')).timeout == 8
        assert [short.dequeue(5).data for _ in range(2)] == ['a', 'a']


# Round trips ----------------------------------------------------------------------------------------------------------


def test_a_lone_enqueue_is_one_round_trip(server: servers.Server, queue: sync.Torrelque) -> None:
    queue.enqueue('a')  # makes the lane
    sent: list[int] = []
    transport = queue._inner._transport
    execute = transport.execute

    async def counted(batch: Any) -> Any:  # noqa: ANN401 - as it is there
        sent.append(len(batch))
        return await execute(batch)

    transport.execute = counted  # type: ignore[method-assign]
    before = calls(server)
    queue.enqueue('b')
    assert (calls(server) - before, sent) == (1, [1])


def test_what_threads_enqueue_at_once_goes_together(server: servers.Server, queue: sync.Torrelque) -> None:
    queue.enqueue('a')
    transport = queue._inner._transport
    execute, begun, go_on = transport.execute, threading.Event(), threading.Event()

    async def held(batch: Any) -> Any:  # noqa: ANN401 - as above
        if not begun.is_set():
            begun.set()
            go_on.wait(PATIENCE)
        return await execute(batch)

    transport.execute = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(21) as threads:
        first = threads.submit(queue.enqueue, 0)
        begun.wait(PATIENCE)
        before = calls(server)
        queue._inner.blocking_engine.crew.begun = float('inf')  # the call under way is not late
        others = [threads.submit(queue.enqueue, number) for number in range(1, 21)]
        eventually(lambda: len(queue._inner.blocking_engine.crew.sleepers) == 20)
        go_on.set()
        assert len({each.result(PATIENCE) for each in (first, *others)}) == 21
    assert calls(server) - before == 2
    assert queue.get_queue_stats().pending == 22


def test_a_slow_call_holds_up_no_other(queue: sync.Torrelque) -> None:
    queue.enqueue('a')
    transport = queue._inner._transport
    execute, begun, go_on = transport.execute, threading.Event(), threading.Event()

    async def held(batch: Any) -> Any:  # noqa: ANN401 - as above
        if not begun.is_set():
            begun.set()
            go_on.wait(PATIENCE)
        return await execute(batch)

    transport.execute = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(queue.enqueue, 'slow')
        begun.wait(PATIENCE)
        assert threads.submit(queue.enqueue, 'quick').result(PATIENCE)
        assert not slow.done()
        go_on.set()
        assert slow.result(PATIENCE)


def test_an_idle_consumer_blocks_on_the_server(server: servers.Server, queue: sync.Torrelque) -> None:
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(queue.dequeue, PATIENCE) for _ in range(8)]
        eventually(lambda: int(server.info('clients')['blocked_clients']) == 1)
        eventually(lambda: len(queue._inner.blocking_engine.crew.sleepers) == 7)
        before = calls(server)
        time.sleep(0.3)
        assert calls(server) - before == 0
        queue.enqueue_many(range(8))
        tasks = [each.result(PATIENCE) for each in waiting]
    assert sorted(task.data for task in tasks) == list(range(8))
    assert queue.release_many(tasks) == [None] * 8


def test_what_waits_is_ended_with_its_consumer(server: servers.Server, queue: sync.Torrelque) -> None:
    with pytest.raises(TorrelqueTimeoutError):
        queue.dequeue(0.1)
    eventually(lambda: int(server.info('clients')['blocked_clients']) == 0)
    begun = time.monotonic()
    queue.enqueue('soon', delay=0.3)
    assert queue.dequeue(PATIENCE).data == 'soon'
    assert time.monotonic() - begun >= 0.3
    eventually(lambda: int(server.info('clients')['blocked_clients']) == 0)


def test_no_thread_and_few_connections(server: servers.Server, queue: sync.Torrelque) -> None:
    threads, before = threading.active_count(), int(server.info('clients')['connected_clients'])
    for number in range(200):
        queue.enqueue(number)
        queue.release(queue.dequeue(5))
    assert threading.active_count() == threads
    assert int(server.info('clients')['connected_clients']) <= before + 3


# Claims and results ---------------------------------------------------------------------------------------------------


def test_a_lost_claim_changes_nothing(queue: sync.Torrelque) -> None:
    task_id = queue.enqueue('a', task_timeout=0.05)
    first = queue.dequeue(5)
    second = queue.dequeue(5)
    assert first.id == second.id == task_id
    with pytest.raises(TorrelqueLeaseLostError):
        queue.release(first)
    queue.release(second, result=1)
    assert queue.get_task_state(task_id).result == 1


def test_waiting_for_results(client: redis.Redis, queue: sync.Torrelque) -> None:
    ids = queue.enqueue_many(range(4))
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(queue.wait, str(task_id), PATIENCE) for task_id in ids]
        channels = [f'{queue.queue}:task:{task_id}' for task_id in ids]
        eventually(lambda: [count for _, count in client.pubsub_numsub(*channels)] == [1] * 4)
        first, second, third = queue.dequeue(5, max_tasks=3)
        queue.release(first, result={'n': 1})
        queue.release(second)
        queue.reject(third, 'why')
        queue.cancel(str(ids[3]))
        states = [each.result(PATIENCE) for each in waiting[:3]]
        with pytest.raises(TorrelqueLookupError, match='was cancelled'):
            waiting[3].result(PATIENCE)
    completed, rejected = TorrelqueTaskStatus.COMPLETED, TorrelqueTaskStatus.REJECTED
    assert [(state.status, state.result) for state in states] == [
        (completed, {'n': 1}), (completed, None), (rejected, None)
    ]  # fmt: skip


def test_watching(queue: sync.Torrelque) -> None:
    task_id = queue.enqueue('a')
    watching = queue.watch(task_id, timeout=PATIENCE)
    seen = [next(watching)]
    task = queue.dequeue(5)
    seen.append(next(watching))
    queue.release(task, result=1)
    seen += watching
    assert [state.status.name for state in seen] == ['PENDING', 'WORKING', 'COMPLETED']
    with pytest.raises(TorrelqueTimeoutError):
        list(queue.watch(queue.enqueue('b'), timeout=0.05))


def test_a_watch_that_is_dropped_closes_its_connection(client: redis.Redis, queue: sync.Torrelque) -> None:
    task_id = queue.enqueue('a')
    watching = queue.watch(task_id)
    next(watching)
    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(next, watching)
        channel = f'{queue.queue}:task:{task_id}'
        eventually(lambda: client.pubsub_numsub(channel)[0][1] == 1)
        task = queue.dequeue(5)
        assert following.result(PATIENCE).status is TorrelqueTaskStatus.WORKING
    del watching, following
    eventually(lambda: client.pubsub_numsub(channel)[0][1] == 0)
    queue.release(task)


def test_schedules(queue: sync.Torrelque) -> None:
    queue.schedule('x', {'a': 1}, every=0.05)
    queue.set_schedules({'y': {'task': 2, 'cron': '* * * * * *'}}, owner='app')
    got = set[str]()
    while {task_id[0] for task_id in got} != {'x', 'y'}:
        task = queue.dequeue(PATIENCE)
        assert str(task.id) not in got
        got.add(str(task.id))
        queue.release(task)
    assert queue.fire('x').startswith('x@')
    assert {each.id: each.owner for each in queue.schedules()} == {'x': None, 'y': 'app'}
    queue.unschedule('x')


def test_in_a_pipeline(client: redis.Redis, queue: sync.Torrelque) -> None:
    with client.pipeline() as pipeline:
        pipeline.set(f'{queue.queue}:mine', 1)
        task_id = queue.enqueue('a', pipeline=pipeline)
        assert queue.get_queue_stats().pending == 0
        pipeline.execute()
    task = queue.dequeue(5)
    assert task.id == task_id
    with client.pipeline() as pipeline:
        queue.release(task, result=1, pipeline=pipeline)
        pipeline.execute()
    assert queue.get_task_state(task_id).result == 1
    with pytest.raises(TorrelqueTypeError, match='pipeline'):
        queue.enqueue('a', pipeline=client)
    with client.pipeline() as pipeline:
        pipeline.watch('x')  # type: ignore[no-untyped-call]
        with pytest.raises(TorrelqueUsageError, match='multi'):
            queue.enqueue('a', pipeline=pipeline)


def test_what_cannot_be_deserialised_is_rejected(client: redis.Redis, queue: sync.Torrelque) -> None:
    with sync.Torrelque(client, queue=queue.queue, serialiser=pickle) as other:
        other.enqueue('a')
    queue.enqueue('b')
    assert queue.dequeue(5).data == 'b'
    ((_, state),) = queue.rejected()
    assert 'cannot be deserialised' in str(state.reason)
    assert queue.redrive() == 1


def test_a_durable_write(fresh_server: Callable[..., servers.Server]) -> None:
    server = fresh_server('--appendonly', 'yes')
    with closing(redis.Redis.from_url(server.url)) as client:
        durability = torrelque.Durability(fsynced=True, timeout=PATIENCE)
        with sync.Torrelque(client, durability=durability) as queue:
            task_id = queue.enqueue('a')
            queue.release(queue.dequeue(5), result=1)
            assert queue.get_task_state(task_id).result == 1


# Life -----------------------------------------------------------------------------------------------------------------


def test_closing_fails_those_who_wait(server: servers.Server, client: redis.Redis) -> None:
    queue = sync.Torrelque(client, queue=f'{time.time_ns()}')
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(queue.dequeue) for _ in range(3)]
        eventually(lambda: len(queue._inner.blocking_engine.crew.sleepers) == 2)
        queue.close()
        for each in waiting:
            with pytest.raises(TorrelqueError, match='closed'):
                each.result(PATIENCE)
    eventually(lambda: int(server.info('clients')['blocked_clients']) == 0)
    queue.enqueue('again')
    assert queue.dequeue(5).data == 'again'
    queue.close()
    queue.close()


def _work(queue: sync.Torrelque, count: int) -> None:
    for number in range(count):
        queue.enqueue(number)


def test_after_a_fork(queue: sync.Torrelque) -> None:
    queue.enqueue('before')
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(queue.dequeue, PATIENCE) for _ in range(2)]  # hold locks, and block on the server
        eventually(lambda: any(each.done() for each in waiting))
        context = multiprocessing.get_context('fork')
        children = [context.Process(target=_work, args=(queue, 25)) for _ in range(2)]
        for child in children:
            child.start()
        for number in range(25):
            queue.enqueue(number)
        for child in children:
            child.join(PATIENCE)
        assert [child.exitcode for child in children] == [0, 0]
        taken = [each.result(PATIENCE).data for each in waiting]
    taken += [task.data for task in queue.dequeue_nowait(max_tasks=100)]
    assert sorted(map(str, taken)) == sorted(['before', *map(str, [*range(25)] * 3)])


def test_by_way_of_sentinel() -> None:
    with sentinels.Watched() as watched:
        sentinel = Sentinel([('127.0.0.1', port) for port in watched.ports])  # type: ignore[no-untyped-call]
        client = sentinel.master_for(sentinels.SERVICE)  # type: ignore[no-untyped-call]
        with closing(client), sync.Torrelque(client, failover_timeout=60) as queue, ThreadPoolExecutor(1) as threads:
            queue.enqueue('a')
            assert queue.dequeue(5).data == 'a'
            consumer = threads.submit(queue.dequeue, 60)
            eventually(lambda: int(watched.primary.info('clients')['blocked_clients']) == 1)
            watched.primary.kill()
            task_id = queue.enqueue('b')
            assert consumer.result(60).id == task_id


def test_an_outage(fresh_server: Callable[..., servers.Server]) -> None:
    server = fresh_server()
    client = redis.Redis.from_url(server.url, retry=None)
    with closing(client), sync.Torrelque(client) as queue:
        queue.enqueue('a')
        server.kill()
        with pytest.raises((TorrelqueConnectionError, redis.ConnectionError)) as raised:
            queue.enqueue('b')
        assert isinstance(raised.value, TorrelqueConnectionError)
        assert isinstance(raised.value, redis.ConnectionError)
        server.start()
        queue.enqueue('c')
        assert queue.dequeue(5).data == 'c'


def test_no_file_can_be_opened() -> None:
    class NoFile(redis.Connection):
        def __init__(self, **_: object) -> None:
            raise OSError(24, 'Too many open files')

    client = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=NoFile))
    with closing(sync.Torrelque(client)) as queue, pytest.raises(TorrelqueConnectionError, match='Too many open files'):
        queue.enqueue('a')


def test_a_claim_asks_for_fewer_tasks_until_they_fit(fresh_server: Callable[..., servers.Server]) -> None:
    server = fresh_server('--client-output-buffer-limit', 'normal 500kb 0 0')
    payloads = [f'{number} {"x" * 100_000}' for number in range(12)]
    with redis.Redis.from_url(server.url) as client, closing(sync.Torrelque(client)) as queue:
        queue.enqueue_many(payloads)
        got: list[str] = []
        while len(got) < len(payloads):
            tasks = queue.dequeue(10, max_tasks=12)
            got += [task.data for task in tasks]
            queue.release_many(tasks)
        assert got == payloads


def test_an_outage_is_waited_out(fresh_server: Callable[..., servers.Server]) -> None:
    server = fresh_server()
    client = redis.Redis.from_url(server.url, retry=None)
    with closing(client), sync.Torrelque(client, failover_timeout=PATIENCE) as queue, ThreadPoolExecutor(2) as threads:
        queue.enqueue('a')
        assert queue.dequeue(5).data == 'a'
        consumer = threads.submit(queue.dequeue, PATIENCE)
        eventually(lambda: int(server.info('clients')['blocked_clients']) == 1)
        server.kill()
        producer = threads.submit(queue.enqueue, 'b')
        time.sleep(0.1)
        server.start()
        assert consumer.result(PATIENCE).id == producer.result(PATIENCE)


def test_shards_on_a_cluster_in_a_pipeline() -> None:
    cluster = clusters.shared('valkey-9.1')
    client = redis.RedisCluster(host='127.0.0.1', port=cluster.nodes[0].port)
    with closing(client), sync.Torrelque(client, queue=f'sync-{time.time_ns()}', shards=4) as queue:
        ids = [queue.enqueue(number) for number in range(40)]  # each of another shard
        pipeline = client.pipeline()  # type: ignore[no-untyped-call]
        ids.append(queue.enqueue(40, pipeline=pipeline))
        pipeline.execute()
        tasks = queue.dequeue_nowait(max_tasks=41)
        while len(tasks) < 41:
            tasks += queue.dequeue(5, max_tasks=41)
        assert sorted(task.id for task in tasks) == sorted(map(str, ids))
        assert queue.reshard(2) is False
        queue.release_many(tasks)
        assert queue.reshard(2) is True
        queue.delete()


def test_an_object_that_is_dropped_leaves_no_sockets(server: servers.Server) -> None:
    with closing(redis.Redis.from_url(server.url)) as client:
        queue = sync.Torrelque(client, queue=uuid4().hex)
        with pytest.raises(TorrelqueTimeoutError):
            queue.dequeue(timeout=0.01)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            del queue
            gc.collect()
    assert not [each for each in caught if 'unclosed' in str(each.message)]


def test_a_schedule_of_a_kind(queue: sync.Torrelque) -> None:
    router = Router()

    @router.task('count')
    def count(number: int) -> None: ...

    count.schedule(queue, 'x', 5, every=3600)
    (found,) = queue.schedules()
    assert (found.id, found.task, found.headers) == ('x', 5, {'torrelque.kind': 'count'})
