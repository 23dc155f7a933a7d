"""Use the queue for synchronous code under gevent; run by test_interruption.py."""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import itertools
import sys
import threading
import time
from uuid import uuid4

import gevent
import gevent.pool
import redis

from torrelque import TorrelqueTimeoutError, sync


def main(url: str) -> None:
    client = redis.Redis.from_url(url)
    queue = sync.Torrelque(client, queue=f'gevent-{uuid4().hex}')
    ticks: list[float] = []

    def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0.01)

    ticker = gevent.spawn(tick)
    seen: list[int] = []

    def consume() -> None:
        while True:
            task = queue.dequeue()
            seen.append(task.data)
            queue.release(task, result=task.data)

    consumers = [gevent.spawn(consume) for _ in range(5)]
    pool = gevent.pool.Pool(50)
    ids = pool.map(queue.enqueue, range(300))
    assert [state.result for state in pool.map(lambda task_id: queue.wait(task_id, 20), ids)] == list(range(300))
    assert sorted(seen) == list(range(300))

    gevent.sleep(0.2)  # idle
    gevent.killall(consumers)
    try:
        with gevent.Timeout(0.1):
            queue.dequeue()
    except gevent.Timeout:
        pass
    else:
        raise AssertionError
    try:
        queue.dequeue(0.1)
    except TorrelqueTimeoutError:
        pass
    else:
        raise AssertionError
    for number in range(40):  # whatever was cut off, nothing is lost or delivered twice
        killed = gevent.spawn(queue.enqueue, number)
        others = [gevent.spawn(queue.enqueue, 'kept') for _ in range(3)]
        gevent.sleep(0.0001 * number)
        killed.kill()
        assert len({other.get(timeout=20) for other in others}) == 3
    data = [task.data for task in queue.dequeue_nowait(max_tasks=1000)]
    assert data.count('kept') == 120
    assert not queue.audit()
    assert client.info('clients')['blocked_clients'] == 0

    ticker.kill()
    gaps = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert sum(gap > 5 for gap in gaps) == 0, max(gaps)  # nothing has blocked the hub
    assert threading.active_count() == 1
    queue.delete(force=True)
    queue.close()
    print('all is well')


if __name__ == '__main__':
    main(sys.argv[1])
