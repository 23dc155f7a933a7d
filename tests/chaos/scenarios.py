"""What happens to workers, servers and connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from tests import servers
from tests.chaos.crews import ENOUGH, release
from tests.chaos.flow import controlled_flow
from tests.chaos.grouping import groups_and_schedules
from tests.chaos.ledger import Ledger, read
from tests.chaos.measured import due_at_once, idle_crowd, severed_connections
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.chaos.stage import COMBINATIONS, LEASE, LONG_LEASE, QUEUE, Report, Stage
from torrelque import Task, Torrelque, connect

DURABLE = ('--appendonly', 'yes', '--appendfsync', 'always')
RESUMED = 'every process worked again after the server came back within'
TELLING = ('--slowlog-log-slower-than', '1000', '--slowlog-max-len', '10000')


def killed_workers(stage: Stage, seconds: float, pause: float = 0.1) -> None:
    """Workers are killed and replaced, whatever they are doing."""
    for _ in COMBINATIONS:
        stage.serve()
    stage.until_all_work()  # on a machine under load, they could all be killed before they have begun
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(stage.rng.uniform(0, 2 * pause))
        stage.nursery.kill(stage.rng.choice(stage.nursery.names))
        stage.report.figures['workers killed'] += 1
        stage.serve()
    stage.nursery.kill_all()
    stage.settle()


def killed_server(stage: Stage, seconds: float, pause: float = 0.6) -> None:
    """The server is killed under load and comes back with what it acknowledged."""
    for _ in COMBINATIONS:
        stage.serve()
    end = time.monotonic() + seconds
    while stage.report.measures.get(RESUMED) is None or time.monotonic() < end:
        time.sleep(stage.rng.uniform(0, 2 * pause))
        stage.note_slow_scripts()
        stage.server.kill()
        stage.report.figures['servers killed'] += 1
        time.sleep(stage.rng.uniform(0, 0.3))
        stage.server.start()
        stage.favour_server()
        if stage.rng.random() < 0.3 or time.monotonic() > end:
            stage.report.measure(RESUMED, stage.until_all_work(), 1000)
    stage.nursery.kill_all()
    stage.settle()


def broken_connections(stage: Stage, seconds: float) -> None:
    """Connections are cut, stalled and half-delivered; what comes late comes even after its sender gave up."""
    with Proxy(stage.server.port, stage.report.seed) as proxy:
        stage.wait_for(stage.serve(), 'claimed')  # it loads the scripts, which are longer than most connections last
        for _ in 2 * COMBINATIONS:
            stage.serve(url=proxy.url)
        stage.until_all_work()
        time.sleep(seconds)
        stage.nursery.kill_all()
        proxy.finish()
        stage.settle()
        stage.report.figures.update(proxy.done)


def cancelled_dequeues(stage: Stage, seconds: float) -> None:
    """Consumers that wait are cancelled as a task comes, at least 500 of them in all.

    Their leases would outlast the test: what one of them kept is not delivered again.
    """
    rounds = 140 + int(20 * seconds)
    queues = [f'{QUEUE}{number}' for number in range(len(COMBINATIONS))]
    for queue in queues:  # one after the other, as their times are measured
        stage.nursery.join(name := stage.start('cancel', queue=queue, lease=LONG_LEASE, rounds=rounds))
        stage.report.figures['cancelled'] += (cancelled := stage.count(name, 'cancelled'))
        assert 0.1 * rounds < cancelled < 0.9 * rounds, f'{name}: {cancelled} of {rounds} were cancelled: no race'
        for event, _, microseconds, _ in read(stage.ledgers / name):
            if event == 'back':
                stage.report.measure('a cancelled task was available again after', microseconds / 1e6, 50)
            elif event == 'cancelled':
                stage.report.figures['within 2 ms of an enqueue'] += microseconds <= 2000
    stage.settle(*queues)


def stopped_workers(stage: Stage, seconds: float, tasks: int = 5) -> None:
    """Workers are stopped (SIGSTOP) past their leases and continued when others have claimed their tasks.

    First with a queue for each, where what it comes back to is known; then at any moment, under load.
    """
    queues = [f'{QUEUE}{number}' for number in range(len(COMBINATIONS))]
    names = [stage.start('hold', queue=queue, rounds=tasks, gate=str(stage.gate)) for queue in queues]
    anyio.run(_outlive, stage, queues, names, tasks)
    stage.report.figures['workers stopped'] += len(names)
    for _ in COMBINATIONS:
        stage.serve()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = stage.rng.choice(stage.nursery.names)
        stage.nursery.stop(name)
        time.sleep(stage.rng.uniform(LEASE, 1.5 * LEASE))
        stage.nursery.carry_on(name)
        stage.report.figures['workers stopped'] += 1
        time.sleep(stage.rng.uniform(0, 0.2))
    stage.nursery.kill_all()
    stage.settle(*queues, QUEUE)


async def _outlive(stage: Stage, queues: list[str], names: list[str], tasks: int) -> None:
    """Claim what the stopped workers hold, and hold it while they are continued and try to release it."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(stage.server.url))
        consumers = [await stack.enter_async_context(Torrelque(client, queue=queue)) for queue in queues]
        ledger = stack.enter_context(Ledger(stage.ledgers, 'driver'))
        for consumer in consumers:
            await _enqueue(consumer, tasks, ledger)
        for name in names:
            stage.wait_for(name, 'claimed', tasks)
            stage.nursery.stop(name)
        held = [(consumer, await _claim(consumer, ledger)) for _ in range(tasks) for consumer in consumers]
        stage.gate.touch()
        for name in names:
            stage.nursery.carry_on(name)
            stage.nursery.join(name)
        for consumer, task in held:
            await release(consumer, ledger, task)
    for name in names:
        lost, released = stage.count(name, 'lost'), stage.count(name, 'released')
        if (lost, released) != (tasks, 0):
            stage.report.stale.append(
                f'{name}, stopped for long: {released} releases changed something, {lost} did not'
            )


async def _enqueue(producer: Torrelque, tasks: int, ledger: Ledger) -> None:
    for number in range(tasks):
        ledger.write('enqueuing', task_id := f'{producer.queue}.{number}')
        await producer.enqueue(number, task_id=task_id, task_timeout=LEASE)
        ledger.write('enqueued', task_id)


async def _claim(consumer: Torrelque, ledger: Ledger) -> Task:
    task = await consumer.dequeue(ENOUGH)
    await consumer.extend(task, LONG_LEASE)
    ledger.write('claimed', task.id, task.dequeue_count)
    return task


SCENARIOS: dict[str, Callable[[Stage, float], None]] = {
    function.__name__: function
    for function in (
        killed_workers,
        killed_server,
        broken_connections,
        cancelled_dequeues,
        stopped_workers,
        controlled_flow,
        groups_and_schedules,
        severed_connections,
        due_at_once,
        idle_crowd,
    )
}


def play(name: str, seed: int, seconds: float) -> Report:
    """Play a scenario for about so long, then clear up and look; what was violated is in the report."""
    begun = time.monotonic()
    with TemporaryDirectory() as folder, _serving(name) as server, Nursery(Path(folder, 'log')) as nursery:
        stage = Stage(seed, Path(folder), server, nursery)
        stage.favour_server()
        SCENARIOS[name](stage, seconds)
        stage.report.seconds = time.monotonic() - begun
        return stage.report


@contextmanager
def _serving(name: str) -> Iterator[servers.Server]:
    server = servers.start('valkey-9.1', *TELLING, *(DURABLE if name == killed_server.__name__ else ()))
    try:
        yield server
    finally:
        server.close()
