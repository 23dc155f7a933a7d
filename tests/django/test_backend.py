"""The backend for Django's Tasks, and the command that runs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio
import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

from tests import servers
from tests.django import jobs
from torrelque import TorrelqueValueError, retry
from torrelque.django import Backend
from torrelque.django.clients import client_of
from torrelque.django.compat import TaskResultDoesNotExist, TaskResultStatus, signals, task_backends
from torrelque.django.worker import work

PATIENCE = 30.0
READY, RUNNING, FAILED, SUCCESSFUL = TaskResultStatus.values


def backend(alias: str = 'default') -> Backend:
    found: Backend = task_backends[alias]
    return found


@contextmanager
def at_work(alias: str = 'default') -> Iterator[None]:
    """A worker in another thread."""
    stop = threading.Event()

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: work(backend(alias), ['default', 'slow'], concurrency=3))
            await anyio.to_thread.run_sync(stop.wait)
            group.cancel_scope.cancel()

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(anyio.run, run)
        try:
            yield
        finally:
            stop.set()
            running.result(PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finished(result: Any) -> Any:  # noqa: ANN401 - Django's
    def is_finished() -> bool:
        result.refresh()
        return bool(result.is_finished)

    until(is_finished)
    return result


def test_tasks_and_their_results() -> None:
    heard: list[tuple[str, str]] = []

    def hear(name: str) -> Callable[..., None]:
        def receive(task_result: Any, **_: object) -> None:  # noqa: ANN401 - Django's
            heard.append((name, task_result.status))

        return receive

    receivers = {name: hear(name) for name in ('task_enqueued', 'task_started', 'task_finished')}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver)
    try:
        added = jobs.add.enqueue(2, other=3)
        assert (added.status, added.is_finished, added.attempts) == (READY, False, 0)
        assert jobs.add.get_result(added.id).status == READY
        with at_work():
            assert finished(added).return_value == 5
    finally:
        for name, receiver in receivers.items():
            getattr(signals, name).disconnect(receiver)
    assert heard == [('task_enqueued', READY), ('task_started', RUNNING), ('task_finished', SUCCESSFUL)]
    assert added.status == SUCCESSFUL
    assert (added.args, added.kwargs, added.attempts) == ([2], {'other': 3}, 1)
    assert added.enqueued_at <= added.started_at <= added.finished_at
    assert added.finished_at.tzinfo is not None
    assert added.worker_ids[0].partition(':')[2].isdecimal()


def test_kinds_of_tasks() -> None:
    with at_work():
        results = [jobs.add_later.enqueue(1, 2), jobs.tell.enqueue(), jobs.none.enqueue()]
        added, told, none = [finished(result) for result in results]
    assert added.return_value == 3
    assert told.return_value == [1, told.id]
    assert (none.return_value, none.status) == (None, SUCCESSFUL)


def test_a_task_that_fails() -> None:
    result = jobs.fail.enqueue('so wrong')
    with at_work():
        finished(result)
    assert result.status == FAILED
    (error,) = result.errors
    assert error.exception_class is ValueError
    assert 'so wrong' in error.traceback
    assert 'jobs.py' in error.traceback
    with pytest.raises(ValueError, match='Task failed'):
        _ = result.return_value
    ((task_id, _),) = list(backend().queue_of('default').rejected())
    assert task_id == result.id  # it can be redriven
    assert backend().queue_of('default').purge(older_than=0) == 1


def test_more_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, 'exponential', lambda attempts: retry.constant(0.01, attempts=attempts))
    result = jobs.try_again.enqueue()
    with at_work('again'):
        assert finished(result).return_value == 3
    assert jobs.attempts == [1, 2, 3]


def test_later() -> None:
    due = datetime.now(timezone.utc) + timedelta(seconds=0.5)  # noqa: UP017 - as users write it
    result = jobs.add.using(run_after=due).enqueue(1)
    with at_work():
        assert finished(result).return_value == 1
    assert result.started_at >= due - timedelta(seconds=0.1)


def test_priorities() -> None:
    for priority, level in ((-100, 'low'), (0, 'normal'), (1, 'high'), (100, 'high')):
        result = jobs.none.using(priority=priority).enqueue()
        queue = backend().queue_of('default')
        assert queue.get_task_state(result.id).priority == level
        assert backend().get_result(result.id).status == READY
        queue.cancel(result.id)


def test_from_asynchronous_code() -> None:
    @async_to_sync
    async def enqueue() -> Any:  # noqa: ANN401 - Django's
        result = await jobs.add.aenqueue(4)
        return await jobs.add.aget_result(result.id)

    result = enqueue()
    with at_work():
        assert finished(result).return_value == 4


def test_unknown_results() -> None:
    for unknown in ('', 'x', 'x@other', 'x@default'):
        with pytest.raises(TaskResultDoesNotExist):
            backend().get_result(unknown)


def test_a_task_that_is_gone_becomes_a_dead_letter() -> None:
    queue = backend().queue_of('default')
    task_id = queue.enqueue({'task': 'tests.django.jobs.gone', 'args': [], 'kwargs': {}}, task_id='gone@default')
    with at_work():
        state = queue.wait(task_id, PATIENCE)
    assert 'ImportError' in str(state.reason)
    assert queue.purge(task_id) == 1


def test_threads_share_a_queue() -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: backend().queue_of('default'), range(8)))
    assert len({id(queue) for queue in found}) == 1


def test_bad_settings() -> None:
    with pytest.raises(ImproperlyConfigured, match='url'):
        Backend('default', {})
    with pytest.raises(ImproperlyConfigured, match='colour'):
        Backend('default', {'OPTIONS': {'url': 'redis://', 'colour': 1}})
    (error,) = Backend('default', {'OPTIONS': {'url': 'http://localhost'}}).check()
    assert 'unknown scheme' in error.msg
    assert list(Backend('default', {'OPTIONS': {'url': 'redis://localhost'}}).check()) == []


def test_the_command_refuses_other_queues() -> None:
    with pytest.raises(CommandError, match=r"\['default', 'slow'\], not \['quick'\]"):
        call_command('torrelque_worker', '-q', 'quick')


def test_the_command_says_what_is_wrong() -> None:
    with pytest.raises(CommandError, match='concurrency must be at least 1, got 0'):
        call_command('torrelque_worker', '--concurrency', '0')


def test_ctrl_c_while_the_command_waits_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(anyio, 'run', interrupt)
    with pytest.raises(SystemExit) as caught:
        call_command('torrelque_worker')
    assert caught.value.code == 130


@pytest.mark.parametrize('kind', ['redis', 'redis+cluster'])
def test_a_server_that_is_away(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    server = servers.start('valkey-9.1')
    away = Backend('default', {'QUEUES': ['default'], 'OPTIONS': {'url': f'{kind}://127.0.0.1:{server.port}'}})
    server.kill()
    found = [message.id for message in away.check()]
    assert found == ([] if kind == 'redis' else ['torrelque.W001'])  # no error: Django's other commands go on

    async def start() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: work(away, ['default'], concurrency=1))
            await anyio.to_thread.run_sync(until, lambda: 'The server cannot be used yet' in caplog.text)
            if kind == 'redis':
                server.start()
                result = await anyio.to_thread.run_sync(away.enqueue, jobs.add, [2], {'other': 3})
                await anyio.to_thread.run_sync(until, lambda: away.get_result(result.id).is_finished)
            group.cancel_scope.cancel()

    with closing(server), caplog.at_level('WARNING'):
        anyio.run(start)


def test_clients_of_urls() -> None:
    plain: Any = client_of('rediss://joe:secret@example.org:7000/3')
    settings = plain.connection_pool.connection_kwargs
    assert {name: settings[name] for name in ('host', 'port', 'db', 'username', 'password')} == {
        'host': 'example.org', 'port': 7000, 'db': 3, 'username': 'joe', 'password': 'secret'
    }  # fmt: skip
    assert 'SSL' in plain.connection_pool.connection_class.__name__
    unix: Any = client_of('unix:///run/redis.sock?db=2')
    assert unix.connection_pool.connection_kwargs['path'] == '/run/redis.sock'
    sentinel: Any = client_of('redis+sentinel://a,b:7001/mail?db=4')
    assert sentinel.connection_pool.service_name == 'mail'
    assert sentinel.connection_pool.connection_kwargs['db'] == 4
    with pytest.raises(TorrelqueValueError):
        client_of('http://localhost')
