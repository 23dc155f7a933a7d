"""No script holds the server for long, however full its call: in processor time, which no busy machine changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.servers import Client, MissingServerError, Server
from torrelque.core.claiming import claim
from torrelque.core.commands import (
    ENQUEUE,
    EXTEND,
    GIVEBACK,
    MAX_ITEMS,
    PROGRESS,
    PURGE,
    REDRIVE,
    REJECT,
    RELEASE,
    REQUEUE,
    ClaimedTask,
    Command,
    Item,
    claim_item,
    enqueue_item,
    extend_item,
    progress_item,
    purge_item,
    redrive_item,
    reject_item,
    release_item,
    requeue_item,
)
from torrelque.core.keys import Keys
from torrelque.core.lanes import MAX_CLAIM, Lane, Lanes
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.core.operations import sweep
from torrelque.core.protocol import Batch, Reply, Script, blocking_drive
from torrelque.core.scripts import load

LIMIT = 0.010
"""Seconds."""

DEEP = 20_000
PAYLOAD = b'x' * 100


class Meter:
    """Runs operations on a server that has nothing else to do, and notes the processor time of each script."""

    def __init__(self, server: Server, client: Client) -> None:
        self._spent = Path(f'/proc/{server.pid}/task/{server.pid}/schedstat')
        self._client = client
        self._lanes = Lanes(load(), Keys.of_queue('q'), 'n')
        self._lane = Lane()
        self._count = 0
        self.worst: dict[str, float] = {}

    def execute(self, batch: Batch) -> list[Reply]:
        replies = []
        for call in batch:
            before = self._now()
            replies += self._client.execute([call])
            if isinstance(call.command, Script):
                name = call.command.name
                self.worst[name] = max(self.worst.get(name, 0.0), self._now() - before)
        return replies

    def _now(self) -> float:
        return int(self._spent.read_text().split()[0]) / 1e9

    def do(self, verb: Command, items: list[Item]) -> None:
        for first in range(0, len(items), verb.limit):
            words = verb.arguments(items[first : first + verb.limit])
            if verb.laned:
                blocking_drive(self._lanes.call(verb.name, words, verb.parse), self.execute)
            else:
                blocking_drive(iter(self._lanes.script(verb.name, ('', '', '', *words), verb.parse)), self.execute)

    def enqueue(
        self, count: int, *, delay: float | None = None, timeout: float = 300.0, limit: int | None = None
    ) -> None:
        ids = [f't{self._count + number}' for number in range(count)]
        self._count += count
        self.do(ENQUEUE, [enqueue_item(task_id, PAYLOAD, timeout, delay, limit, b'') for task_id in ids])

    def claim(self, count: int, cap: int | None = None) -> list[ClaimedTask]:
        tasks: list[ClaimedTask] = []
        while len(tasks) < count:
            wanted = min(MAX_CLAIM, count - len(tasks))
            answer = blocking_drive(claim(self._lanes, wanted, 0.0, self._lane, 0.0, cap), self.execute)
            tasks += answer.tasks
            if not answer.tasks and not answer.again:
                break
        return tasks

    def sweep(self, cap: int | None = None) -> None:
        blocking_drive(sweep(load(), Keys.of_queue('q'), cap), self.execute)


@pytest.fixture
def meter() -> Iterator[Meter]:
    try:
        server = servers.start('valkey-9.1')
    except MissingServerError as error:
        pytest.skip(str(error))
    try:
        if not Path(f'/proc/{server.pid}/task/{server.pid}/schedstat').exists():
            pytest.skip('this system does not tell the processor time of a process')
        with server.client() as client:
            yield Meter(server, client)
    finally:
        server.close()


def test_full_calls(meter: Meter) -> None:
    meter.enqueue(DEEP)
    meter.enqueue(MAX_ITEMS, delay=3600)
    receipts = [task.receipt for task in meter.claim(6 * MAX_ITEMS)]
    parts = [receipts[first : first + MAX_ITEMS] for first in range(0, len(receipts), MAX_ITEMS)]
    meter.do(EXTEND, [extend_item(receipt, 60) for receipt in parts[0]])
    meter.do(PROGRESS, [progress_item(receipt, 1, 2, 'x' * 500) for receipt in parts[0]])
    meter.do(RELEASE, [release_item(each, TorrelqueTaskStatus.COMPLETED, 60, PAYLOAD) for each in parts[0]])
    meter.do(RELEASE, [release_item(each, TorrelqueTaskStatus.COMPLETED, None, b'') for each in parts[1]])
    meter.do(REQUEUE, [requeue_item(each, 60, 5) for each in parts[2]])
    meter.do(GIVEBACK, [claim_item(each) for each in parts[3]])
    meter.do(REJECT, [reject_item(each, 'why') for each in parts[4]])
    meter.do(REJECT, [reject_item(each, 'why', 1) for each in parts[5]])  # removes as many, and twenty more
    dead = [task.receipt for task in meter.claim(2 * MAX_ITEMS)]
    meter.do(REJECT, [reject_item(each, 'why') for each in dead])
    meter.do(REDRIVE, [redrive_item(each.id, 0.0) for each in dead[:MAX_ITEMS]])
    meter.do(PURGE, [purge_item(each.id, 9e9) for each in dead[MAX_ITEMS:]])
    # A backlog of stale and due tasks, with dead letters among them and a cap on these.
    meter.enqueue(DEEP // 2, delay=-1)
    meter.enqueue(1000, timeout=0.0001, limit=1)
    meter.claim(DEEP)
    meter.enqueue(1000, delay=-1)
    meter.claim(MAX_CLAIM, cap=10)
    meter.sweep(cap=10)
    print({name: f'{seconds * 1000:.1f} ms' for name, seconds in meter.worst.items()})
    assert {'enqueue', 'claim', 'release', 'requeue', 'reject', 'giveback', 'extend', 'redrive', 'purge', 'sweep'} <= (
        meter.worst.keys()
    )
    assert {name: seconds for name, seconds in meter.worst.items() if seconds > LIMIT} == {}
