"""Scenarios that are about how soon: after a cut, with very many tasks due, with very many consumers."""

from __future__ import annotations

import time
from collections.abc import Mapping

import anyio

from tests.chaos.crews import ENOUGH
from tests.chaos.ledger import Ledger, Reader
from tests.chaos.proxy import Proxy
from tests.chaos.stage import COMBINATIONS, LONG_LEASE, QUEUE, Stage
from torrelque import EnqueueItem, Torrelque, connect

MILLION = 1_000_000
CROWD = 1000
LONG = 20.0
"""Seconds from which a run is a long one."""


# Cut connections ------------------------------------------------------------------------------------------------------


def severed_connections(stage: Stage, seconds: float) -> None:
    """All connections are cut in the middle of what they carry, again and again, with tasks on their way.

    A task that the server counts as claimed has to be in the hands of a consumer soon. Leases outlast the test.
    """
    with Proxy(stage.server.port, stage.report.seed, mean=None) as proxy:
        for name in [stage.start('take', url=proxy.url, lease=LONG_LEASE) for _ in COMBINATIONS]:
            stage.wait_for(name, 'ready')  # a client that cannot connect at first is an error
        anyio.run(_sever, stage, proxy, 25 if seconds >= LONG else 6)
        stage.nursery.kill_all()
        proxy.finish()
        stage.settle()
        stage.report.figures.update(proxy.done)


async def _sever(stage: Stage, proxy: Proxy, rounds: int) -> None:
    hands = Hands(stage)
    async with connect(stage.server.unix_url) as client, Torrelque(client, queue=QUEUE) as queue:
        with Ledger(stage.ledgers, 'driver') as ledger:
            for number in range(rounds):
                ids = [f'driver.{number}.{task}' for task in range(20)]
                proxy.sever()
                for task_id in ids:
                    ledger.write('enqueuing', task_id)
                    await queue.enqueue(number, task_id=task_id, task_timeout=LONG_LEASE)
                    ledger.write('enqueued', task_id)
                    await anyio.sleep(0.001)
                await hands.until_all_are_held(number == rounds - 1)
        for unheld in hands.unheld.values() or (0.0,):
            stage.report.measure('after a cut a task was held or available within', unheld, 1000)


class Hands:
    """Compares what the server counts as claimed with what the consumers say they have."""

    def __init__(self, stage: Stage) -> None:
        self.unheld: dict[tuple[str, int], float] = {}  # claims, and for how long nobody had them
        self._stage = stage
        self._readers = [Reader(stage.ledgers / name) for name in stage.nursery.names]
        self._held: set[tuple[str, int]] = set()
        self._since: dict[tuple[str, int], float] = {}

    async def until_all_are_held(self, last: bool) -> None:
        """Until each claim is held, and nothing is pending; the last time until all is done."""
        missing: set[tuple[str, int]] = set()
        with anyio.move_on_after(ENOUGH), self._stage.server.client() as client:
            while True:
                ids = client.command('ZRANGE', f'{QUEUE}:working', 0, -1)
                claims = {
                    (
                        task_id.decode(),
                        int(client.command('HGET', f'{QUEUE}:task:{task_id.decode()}', 'dequeue_count') or 0),
                    )
                    for task_id in ids
                }
                now = time.monotonic()
                for reader in self._readers:
                    self._held.update(
                        (task_id, count) for event, task_id, count, _ in reader.news() if event == 'claimed'
                    )
                missing = claims - self._held
                for claim in missing:
                    self.unheld[claim] = now - self._since.setdefault(claim, now)
                if not missing and not client.command('LLEN', f'{QUEUE}:pending') and not (last and claims):
                    return
                await anyio.sleep(0.002)
        self._stage.report.stranded.append(f'for {ENOUGH} s nobody had {sorted(missing)}')


# Very many due tasks --------------------------------------------------------------------------------------------------


def due_at_once(stage: Stage, seconds: float) -> None:
    """A million delayed tasks, far fewer in a short run, are due at one moment, with consumers waiting for them."""
    tasks = MILLION if seconds >= LONG else 10_000
    for _ in COMBINATIONS:
        stage.wait_for(stage.start('gulp', lease=LONG_LEASE), 'ready')
    anyio.run(_fall_due, stage, tasks)
    stage.nursery.kill_all()
    stage.note_slow_scripts()
    stage.check_keys(QUEUE)


async def _fall_due(stage: Stage, tasks: int) -> None:
    async with connect(stage.server.unix_url) as client, Torrelque(client, queue=QUEUE) as queue:
        begun = await queue.get_server_time()
        due = begun + 2 + tasks / 15_000
        readers = [Reader(stage.ledgers / name) for name in stage.nursery.names]
        for first in range(0, tasks, 10_000):
            delay = max(0.001, due - await queue.get_server_time())
            await queue.enqueue_many(
                [EnqueueItem(number, delay=delay, task_timeout=LONG_LEASE) for number in range(first, first + 10_000)]
            )
        late = await queue.get_server_time() - due
        stage.report.figures['tasks'] = tasks
        stage.report.figures['seconds too late to be due at once'] = max(0, round(late))
        assert (await queue.get_queue_stats()).delayed == tasks or late > 0
        moment = time.monotonic() - late
        stats = None
        with anyio.move_on_after(max(0.0, -late) + ENOUGH + tasks / 1000) as scope:
            while (stats := await queue.get_queue_stats()).tasks:  # noqa: ASYNC110 - only the server knows
                await anyio.sleep(0.02)
        news = [entry for reader in readers for entry in reader.news()]
        claimed = sum(count for event, _, count, _ in news if event == 'claimed')
        first_claim = min(when for event, _, _, when in news if event == 'claimed')
        stage.report.figures['claims'] = claimed
        stage.report.figures['tasks a second'] = round(tasks / (time.monotonic() - moment))
        stage.report.measure('the first due task was claimed after', max(0.0, first_claim - moment), 1000)
        if scope.cancelled_caught or stats is None:
            stage.report.stranded.append(f'not worked off in time: {stats}')
        elif not tasks == claimed == stats.total_claimed == stats.total_completed:
            stage.report.miscounted.append(
                f'{tasks} tasks, {claimed} deliveries told of, but the queue counted {stats}'
            )
        await queue.dequeue_nowait()
        await stage.audit(queue)


# Very many consumers --------------------------------------------------------------------------------------------------


def idle_crowd(stage: Stage, seconds: float) -> None:
    """A thousand consumers wait; one task comes, again and again. In a long run each has connections of its own."""
    each = CROWD // len(COMBINATIONS)
    names = [
        stage.start('wait', consumers=each, objects=each if seconds >= LONG else 3, lease=LONG_LEASE)
        for _ in COMBINATIONS
    ]
    for name in names:
        stage.wait_for(name, 'ready')
    stage.report.figures['consumers'] = each * len(names)
    anyio.run(_come_one_by_one, stage, 50 if seconds >= LONG else 10, min(seconds, 10.0))
    stage.nursery.kill_all()
    stage.settle()


async def _come_one_by_one(stage: Stage, tasks: int, seconds: float) -> None:
    readers = [Reader(stage.ledgers / name) for name in stage.nursery.names]
    async with connect(stage.server.unix_url) as client, Torrelque(client, queue=QUEUE) as queue:
        await _until_all_wait(stage)
        before = _calls(stage)
        await anyio.sleep(seconds)
        idle = _calls(stage)
        stage.report.figures['calls of the idle crowd in a second'] = round((idle - before) / seconds)
        with Ledger(stage.ledgers, 'driver') as ledger:
            for number in range(tasks):
                task_id = f'driver.{number}'
                before = _calls(stage)
                ledger.write('enqueuing', task_id)
                await queue.enqueue(number, task_id=task_id, task_timeout=LONG_LEASE)
                acknowledged = time.monotonic()
                ledger.write('enqueued', task_id)
                claimed = await _claimed(readers, task_id)
                stage.report.measure('one of the crowd had the task within', max(0.0, claimed - acknowledged), 1000)
                stage.report.figures['calls for one task at most'] = max(
                    stage.report.figures['calls for one task at most'], _calls(stage) - before
                )
        with anyio.fail_after(ENOUGH):
            while (await queue.get_queue_stats()).tasks:  # noqa: ASYNC110 - only the server knows
                await anyio.sleep(0.01)


async def _until_all_wait(stage: Stage) -> None:
    """All that can wait do: the number of blocked connections stays what it is."""
    with anyio.fail_after(ENOUGH):
        blocked, same = -1, 0
        while same < 5 or blocked < 1:
            await anyio.sleep(0.1)
            now = int(stage.server.info('clients')['blocked_clients'])
            same, blocked = (same + 1 if now == blocked else 0), now
    stage.report.figures['connections that wait'] = blocked


async def _claimed(readers: list[Reader], task_id: str) -> float:
    """When one of the processes wrote that it has the task."""
    with anyio.fail_after(ENOUGH):
        while True:
            for reader in readers:
                for event, each, _, moment in reader.news():
                    if (event, each) == ('claimed', task_id):
                        return moment
            await anyio.sleep(0.001)


def _calls(stage: Stage) -> int:
    """Scripts and waits that the server was asked for."""
    counts: Mapping[str, str] = stage.server.info('commandstats')
    asked = [counts.get(f'cmdstat_{name}', 'calls=0') for name in ('evalsha', 'bzpopmin')]
    return sum(int(text.split(',')[0].partition('=')[2]) for text in asked)
