"""The exporter's metrics, read from the server at each scrape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import anyio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from torrelque import GroupCounts, Limits, Torrelque, TorrelqueError, TorrelqueQueueStats, Transport, WorkerInfo
from torrelque import queues as find_queues
from torrelque.cli.output import errors
from torrelque.cli.presence import try_workers
from torrelque.cli.settings import UnreadableQueueError, read_queue

__all__ = ('Source', 'families')

RETRY = 1.0
"""Seconds until the next search for queues after a failed one."""

STATUSES = ('pending', 'working', 'delayed', 'rejected')
TOTALS = {
    'enqueued': 'Tasks that were enqueued.',
    'claimed': 'Deliveries: a task that is tried again counts again.',
    'completed': 'Tasks that were released.',
    'requeued': 'Tasks requeued by consumers, or taken back from those that did not finish in time.',
    'rejected': 'Tasks that became dead letters.',
    'expired': 'Tasks that were dropped because no consumer started them in time.',
}


WORKERS: tuple[tuple[str, str, Callable[[list[WorkerInfo]], int]], ...] = (
    ('torrelque_workers', 'Workers that were seen within the last 30 s.', len),
    (
        'torrelque_worker_slots',
        'Tasks that the workers can handle at once.',
        lambda workers: sum(worker.concurrency for worker in workers),
    ),
    (
        'torrelque_worker_running',
        'Tasks that the workers were handling when they were last seen.',
        lambda workers: sum(worker.running for worker in workers),
    ),
)


class Found(NamedTuple):
    """A queue's figures. ``workers`` is None if they cannot be read, for example because a permission is missing."""

    stats: TorrelqueQueueStats
    workers: list[WorkerInfo] | None


class Source:
    """The queues of one server. Each scrape opens a new connection, so the server may be restarted.

    Args:
        connect: Returns a client that does not retry.
        names: The queues. With None, a search finds them in the background.
        timeout: Maximum duration of a scrape, in seconds.
        rescan: Time between two searches, in seconds.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Transport]],
        names: Iterable[str] | None,
        timeout: float,
        rescan: float,
    ) -> None:
        self._connect = connect
        self._names = set(names or ())
        self._finds = names is None
        self._timeout = timeout
        self._rescan = rescan
        self._searched = anyio.Event()
        self._failure: Exception | None = None
        """Why the last search failed."""
        self._unreadable: set[str] = set()
        self._reported = ''
        """The last error that was printed."""

    async def search(self) -> None:
        """Search for queues until cancelled, unless names were given."""
        while self._finds:
            found = set[str]()
            try:
                async with self._connect() as client:
                    async for name in find_queues(client):
                        found.add(name)
                        self._names.add(name)
            except TorrelqueError as error:
                self._failure = error
            else:
                self._failure = None
                self._names = found
                self._unreadable &= found
            self._searched.set()
            await anyio.sleep(self._rescan if self._failure is None else RETRY)

    async def read(self) -> Mapping[str, Found | None] | None:
        """Return each queue's figures, None for a damaged queue. Return None if the server cannot be read in time."""
        try:
            with anyio.fail_after(self._timeout):
                if self._finds:
                    await self._searched.wait()
                if self._failure is not None:
                    raise self._failure
                async with self._connect() as client:
                    found = {name: await self._read_one(client, name) for name in sorted(self._names)}
        except TimeoutError:
            self._report(f'the server did not answer within {self._timeout:g} s')
        except TorrelqueError as error:
            self._report(str(error))
        else:
            self._report('')
            return found
        return None

    async def _read_one(self, client: Transport, name: str) -> Found | None:
        try:
            found = await read_queue(client, name, _read)
        except UnreadableQueueError as error:
            if name not in self._unreadable:
                self._unreadable.add(name)
                errors().print(f'Left out {" ".join(str(error).split())}')
            return None
        self._unreadable.discard(name)
        return found

    def _report(self, trouble: str) -> None:
        """Print one line when the server becomes unreachable, and one when it is back."""
        if trouble and not self._reported:
            errors().print(f'The queues cannot be read: {" ".join(trouble.split())}')
        elif self._reported and not trouble:
            errors().print('The queues can be read again')
        self._reported = trouble


async def _read(queue: Torrelque) -> Found:
    return Found(await queue.get_queue_stats(), await try_workers(queue))


def families(found: Mapping[str, Found | None] | None, begun: float) -> Iterator[Metric]:
    """Yield the metrics. ``begun`` is the time at which reading started, on the monotonic clock."""
    yield GaugeMetricFamily('torrelque_up', 'Whether the server could be read in time.', value=found is not None)
    yield GaugeMetricFamily(
        'torrelque_scrape_duration_seconds', 'How long reading took.', value=time.monotonic() - begun
    )
    known = {name: each.stats for name, each in (found or {}).items() if each is not None}
    yield _gauge('torrelque_queue_up', 'Whether the queue could be read.', {
        name: each is not None for name, each in (found or {}).items()
    })  # fmt: skip
    workers = {name: each.workers for name, each in (found or {}).items() if each and each.workers is not None}
    for metric, description, value in WORKERS:
        yield _gauge(metric, description, {name: value(some) for name, some in workers.items()})
    tasks = GaugeMetricFamily(
        'torrelque_tasks', 'Tasks by status; the rejected are dead letters.', labels=('queue', 'status')
    )
    for name, stats in known.items():
        for status in STATUSES:
            tasks.add_metric((name, status), getattr(stats, status))
    yield tasks
    yield _gauge(
        'torrelque_oldest_pending_age_seconds',
        'Time since the task at the front of the queue was enqueued; 0 if none is pending.',
        {name: stats.oldest_pending_age or 0.0 for name, stats in known.items()},
    )
    paused = GaugeMetricFamily('torrelque_paused', 'Whether the queue is paused, and why.', labels=('queue', 'reason'))
    for name, stats in known.items():
        paused.add_metric((name, stats.paused.reason or '' if stats.paused else ''), stats.paused is not None)
    yield paused
    limits = {name: stats.limits or Limits() for name, stats in known.items()}
    yield _gauge(
        'torrelque_concurrency_limit',
        'How many tasks of the queue may be claimed at once, if that is limited.',
        {name: each.concurrency for name, each in limits.items() if each.concurrency is not None},
    )
    yield _gauge(
        'torrelque_rate_limit',
        'How many deliveries of the queue may take place per second, if that is limited.',
        {name: each.rate[0] / each.rate[1] for name, each in limits.items() if each.rate is not None},
    )
    yield from _lines(known)
    yield _gauge('torrelque_schedules', 'Schedules of the queue.', {
        name: stats.schedules for name, stats in known.items()
    })  # fmt: skip
    for total, description in TOTALS.items():
        counter = CounterMetricFamily(f'torrelque_{total}', description, labels=('queue',))
        for name, stats in known.items():
            counter.add_metric((name,), getattr(stats, f'total_{total}'))
        yield counter


def _lines(known: Mapping[str, TorrelqueQueueStats]) -> Iterator[Metric]:
    """Yield metrics of priorities and groups. A group has no series of its own, as there may be any number of them."""
    priorities = GaugeMetricFamily(
        'torrelque_pending', 'Pending tasks by priority; those in groups are normal.', labels=('queue', 'priority')
    )
    for name, stats in known.items():
        high, low = stats.pending_high, stats.pending_low
        for priority, count in (('high', high), ('normal', max(0, stats.pending - high - low)), ('low', low)):
            priorities.add_metric((name, priority), count)
    yield priorities
    groups = GaugeMetricFamily(
        'torrelque_groups', 'Groups with waiting tasks, by what their next task waits for.', labels=('queue', 'state')
    )
    for name, stats in known.items():
        for state, count in (stats.groups or GroupCounts(0, 0, 0))._asdict().items():
            groups.add_metric((name, state), count)
    yield groups


def _gauge(name: str, description: str, values: Mapping[str, float]) -> Metric:
    gauge = GaugeMetricFamily(name, description, labels=('queue',))
    for queue, value in values.items():
        gauge.add_metric((queue,), value)
    return gauge
