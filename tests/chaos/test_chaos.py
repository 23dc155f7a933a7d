"""A short run of each scenario, and whether the driver would notice. ``make chaos`` is the long run."""

from __future__ import annotations

import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos import measured
from tests.chaos import stage as stages
from tests.chaos.clients import shift_clock
from tests.chaos.ledger import Books, Event, Ledger
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.chaos.scenarios import SCENARIOS, play
from tests.chaos.stage import Report, Stage
from tests.servers import MissingServerError, Server
from torrelque.core.protocol import Arg

MEASURED = {
    'killed_server': {'every process worked again after the server came back within'},
    'cancelled_dequeues': {'a cancelled task was available again after'},
    'severed_connections': {'after a cut a task was held or available within'},
    'due_at_once': {'the first due task was claimed after', 'slowest script'},
    'idle_crowd': {'one of the crowd had the task within'},
}
"""What is measured, but not judged here: a busy machine would fail it. ``make chaos`` tells what is exceeded."""

COUNTED = {
    'controlled_flow': {'paused', 'slots', 'rate'},
    'groups_and_schedules': {'paused', 'slots', 'turns compared', 'fences compared'},
}
"""What has to have happened."""

SHORT = 1.5
"""Seconds of chaos. Clearing up and looking comes on top, and the time until leases have run out."""


@pytest.mark.server
@pytest.mark.timeout(240)
@pytest.mark.parametrize('name', SCENARIOS)
def test_nothing_is_lost_or_done_twice_or_stranded(name: str) -> None:
    try:
        report = play(name, secrets.randbelow(1_000_000), SHORT)
    except MissingServerError as error:
        pytest.skip(str(error))
    print(report)
    assert report.figures['tasks'] > 0
    cancelled = report.figures['ended'] + report.figures['asked']  # before their consumer could note the claim, perhaps
    assert report.figures['claims'] + cancelled >= report.figures['tasks']
    assert not report.violations, report
    assert report.figures['clocks off by ten minutes'] > 0
    assert report.figures['audits'] > 0
    assert MEASURED.get(name, set()) <= report.measures.keys()
    assert COUNTED.get(name, set()) <= report.figures.keys()


# The driver itself ---------------------------------------------------------------------------------------------------

Entry = tuple[str, Event, str, int]

GOOD: list[Entry] = [
    ('a', 'enqueuing', 't', 0),
    ('a', 'enqueued', 't', 0),
    ('a', 'claimed', 't', 1),
    ('b', 'claimed', 't', 2),
    ('b', 'releasing', 't', 2),
    ('b', 'released', 't', 2),
    ('a', 'releasing', 't', 1),
    ('a', 'lost', 't', 1),
]


def books_of(entries: list[Entry], folder: Path) -> Books:
    for name, event, task_id, count in entries:
        with Ledger(folder, name) as ledger:
            ledger.write(event, task_id, count)
    return Books.read(folder)


def test_good_books(tmp_path: Path) -> None:
    books = books_of(GOOD, tmp_path)
    assert books.lost({'t': ('b', 2)}) == []
    assert books.duplicates({'t': ('b', 2)}) == []
    assert books.redeliveries == 1


def test_a_lost_task_is_noticed(tmp_path: Path) -> None:
    assert books_of(GOOD, tmp_path).lost({}) == ['t']


@pytest.mark.parametrize(
    ('more', 'problem'),
    [
        (('a', 'claimed', 't', 2), 'one delivery went to two'),
        (('a', 'claimed', 't', 3), 'claimed later'),
        (('a', 'requeued', 't', 2), 'but requeued'),
        (('a', 'released', 't', 1), 'acknowledged to'),
    ],
    ids=['two consumers', 'claimed later', 'requeued', 'released twice'],
)
def test_an_effect_of_a_stale_claim_is_noticed(tmp_path: Path, more: Entry, problem: str) -> None:
    (found,) = books_of([*GOOD, more], tmp_path).duplicates({'t': ('b', 2)})
    assert problem in found


@pytest.mark.parametrize('final', [('a', 2), ('c', 2)])
def test_a_release_by_somebody_else_is_noticed(tmp_path: Path, final: tuple[str, int]) -> None:
    assert 'who never asked for it' in books_of(GOOD, tmp_path).duplicates({'t': final})[0]


def test_a_task_from_nowhere_is_noticed(tmp_path: Path) -> None:
    assert 'never enqueued' in books_of(GOOD, tmp_path).duplicates({'x': ('b', 2)})[0]


@pytest.fixture
def stage(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(stages, 'ENOUGH', 0.5)
    return Stage(1, tmp_path, server, Nursery(tmp_path / 'log'))


@pytest.mark.parametrize('server', ['valkey-9.1'], indirect=True)
@pytest.mark.parametrize(
    ('command', 'problem'),
    [
        (('ZADD', 'chaos:working', 9e9, 't'), 'was not drained'),
        (('HSET', 'chaos:tasks', 't', '1'), 'was not drained'),
        (('ZADD', 'chaos:delayed', 9e9, 't'), 'was not drained'),
        (('HSET', 'chaos:task:t', 'status', 0), 'was left behind'),
    ],
    ids=['working', 'payload', 'delayed', 'state'],
)
def test_what_is_stranded_is_noticed(stage: Stage, command: tuple[Arg, ...], problem: str) -> None:
    stage.server.command(*command)
    stage.settle()
    assert problem in stage.report.stranded[0]


@pytest.mark.parametrize('server', ['valkey-9.1'], indirect=True)
def test_what_an_audit_finds_is_noticed(stage: Stage) -> None:
    stage.server.command('ZADD', 'chaos:working', 'inf', 'ghost')
    stage.settle()
    assert any('ghost' in found for found in stage.report.audited)
    assert set(stage.report.audited) <= set(stage.report.violations)


@pytest.mark.anyio
@pytest.mark.parametrize('server', ['valkey-9.1'], indirect=True)
async def test_a_claim_that_nobody_has_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, 'ENOUGH', 0.2)
    stage.server.command('ZADD', 'chaos:working', 9_000_000_000, 't')
    stage.server.command('HSET', 'chaos:task:t', 'dequeue_count', 3)
    hands = measured.Hands(stage)
    await hands.until_all_are_held(last=True)
    assert "('t', 3)" in stage.report.stranded[0]
    assert hands.unheld['t', 3] > 0


def test_what_takes_too_long_is_told() -> None:
    report = Report(1)
    report.measure('this', 0.002, 5)
    assert report.exceeded == []
    report.measure('this', 0.007, 5)
    assert 'this: 7.0 ms of 5' in report.exceeded[0]


def test_a_clock_can_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.time()
    for name in ('time', 'time_ns'):
        monkeypatch.setattr(time, name, getattr(time, name))
    shift_clock(-600)
    assert -601 < time.time() - before < -590
    assert -601 < time.time_ns() / 1e9 - before < -590


def test_a_worker_that_fails_is_noticed(tmp_path: Path) -> None:
    with Nursery(tmp_path / 'log') as nursery:
        stage = Stage(1, tmp_path, Server.__new__(Server), nursery)
        name = stage.start('no such crew', url='redis://127.0.0.1:1')
        with pytest.raises(AssertionError, match='no such crew'):
            nursery.join(name)


def pings(url: str, times: int) -> int:
    """How many of these answers come before the connection is cut."""
    port = int(url.rpartition(':')[2])
    received = b''
    with suppress(OSError), socket.create_connection(('127.0.0.1', port)) as connection:
        for _ in range(times):
            connection.sendall(b'PING\r\n')
            received += connection.recv(64)
    return received.count(b'+PONG')


@pytest.mark.parametrize('server', ['valkey-9.1'], indirect=True)
def test_the_proxy_delivers_and_breaks(server: Server) -> None:
    with Proxy(server.port, seed=1, mean=100) as proxy:
        counts = [pings(proxy.url, 100) for _ in range(10)]
    assert 0 < max(counts) < 100
    assert proxy.done['cuts'] > 0
    assert proxy.done['stalls'] > 0


@pytest.mark.parametrize('server', ['valkey-9.1'], indirect=True)
def test_the_proxy_severs_what_there_is(server: Server) -> None:
    with Proxy(server.port, seed=1, mean=None) as proxy:
        assert pings(proxy.url, 1000) == 1000
        with socket.create_connection(('127.0.0.1', int(proxy.url.rpartition(':')[2]))) as connection:
            connection.sendall(b'PING\r\n')
            assert connection.recv(64) == b'+PONG\r\n'
            proxy.sever()
            with suppress(OSError):
                answer = b'first'
                while answer:
                    connection.sendall(b'PING\r\n')
                    answer = connection.recv(64)
        assert proxy.done['cuts'] > 0
