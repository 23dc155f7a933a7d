"""How long calls with a time-out take when the server is gone, or silent, and that they lose nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis

from tests import clusters, servers
from torrelque import TorrelqueTimeoutError, sync

TIMEOUT = 0.3
LONGEST = 5.0
"""Seconds: a time-out, the two seconds after it that are promised, and as much again for a machine under load."""

Queue = sync.Torrelque[str]


def gone(server: servers.Server) -> None:
    server.kill()


def silent(server: servers.Server) -> None:
    os.kill(server.pid, signal.SIGSTOP)


def calls(queue: Queue, task_id: str) -> list[Callable[[], object]]:
    return [
        lambda: queue.dequeue(timeout=TIMEOUT),
        lambda: queue.dequeue_many(2, timeout=TIMEOUT),
        lambda: queue.wait(task_id, timeout=TIMEOUT),
        lambda: list(queue.watch(task_id, timeout=TIMEOUT)),
        lambda: queue.pause(wait=True, timeout=TIMEOUT),
    ]


def took(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    with pytest.raises(TorrelqueTimeoutError):
        call()
    return time.monotonic() - begun


@pytest.mark.parametrize('trouble', [gone, silent])
def test_a_time_out_holds_without_a_server(
    fresh_server: Callable[..., servers.Server], trouble: Callable[[servers.Server], None]
) -> None:
    server = fresh_server()
    with ExitStack() as stack:
        client = stack.enter_context(closing(redis.Redis(port=server.port)))  # it repeats calls for several seconds
        options: tuple[dict[str, Any], ...] = ({}, {'shards': 3}, {'failover_timeout': 20})
        known = [stack.enter_context(Queue(client, queue=f'q{at}', **each)) for at, each in enumerate(options)]
        new = stack.enter_context(Queue(client, queue='new', shards=3))
        alone = stack.enter_context(Queue(client, queue='alone'))
        together = [call for queue in known for call in calls(queue, queue.enqueue('a'))]
        together += [*calls(new, '?'), lambda: alone.dequeue(timeout=TIMEOUT)]
        trouble(server)
        with ThreadPoolExecutor(len(together)) as threads:
            times = list(threads.map(took, together))
        assert max(times) < LONGEST, times
        if trouble is silent:
            os.kill(server.pid, signal.SIGCONT)
        else:
            server.start()
        for queue in (*known, new):
            queue.resume()
            queue.enqueue('b')
            left = {'a', 'b'} if queue in known and trouble is silent else {'b'}
            while left:
                left -= {task.data for task in queue.dequeue_many(2, timeout=20)}


def test_a_call_with_a_time_out_takes_no_task_with_it(fresh_server: Callable[..., servers.Server]) -> None:
    server = fresh_server()
    with closing(redis.Redis(port=server.port)) as client, Queue(client, queue='q') as queue:
        queue.enqueue('a')
        silent(server)
        assert took(lambda: queue.dequeue(timeout=TIMEOUT)) < LONGEST
        os.kill(server.pid, signal.SIGCONT)
        begun = time.monotonic()
        queue.enqueue('b')  # settles the claim
        assert queue.dequeue(timeout=20).data == 'a'
        assert time.monotonic() - begun < LONGEST


def test_a_time_out_holds_on_a_cluster() -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(clusters.Cluster('valkey-9.1'))
        client = stack.enter_context(closing(redis.RedisCluster(host='127.0.0.1', port=cluster.nodes[0].port)))
        known = stack.enter_context(Queue(client, queue='known'))
        new = stack.enter_context(Queue(client, queue='new', shards=3))
        together = [*calls(known, known.enqueue('a')), *calls(new, '?')]
        for node in cluster.nodes:
            silent(node)
            stack.callback(os.kill, node.pid, signal.SIGCONT)
        with ThreadPoolExecutor(len(together)) as threads:
            times = list(threads.map(took, together))
        assert max(times) < LONGEST, times
