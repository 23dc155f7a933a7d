"""Schedules in Django's settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

from tests.django.test_backend import at_work, backend, until
from torrelque.django.compat import task_backends
from torrelque.django.schedules import schedules_of

PATH = 'tests.django.jobs.'
OWNER = 'django:scheduled'


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    del task_backends['scheduled']


def configure(monkeypatch: pytest.MonkeyPatch, schedules: object) -> None:
    """Change the settings. Each thread has a backend of its own."""
    monkeypatch.setitem(task_backends.settings['scheduled']['OPTIONS'], 'schedules', schedules)
    _ = backend('scheduled')
    del task_backends['scheduled']


def in_queue(name: str) -> dict[str, Any]:
    return {each.id: each for each in backend('scheduled').queue_of(name).schedules()}


def test_the_worker_sets_them_and_runs_their_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = {
        'sum': {'task': f'{PATH}add', 'args': [2], 'kwargs': {'other': 3}, 'every': 0.5},
        'tell': {'task': f'{PATH}tell', 'cron': '0 7 * * *', 'tz': 'Europe/Vienna', 'overlap': False},
        'moved': {
            'task': f'{PATH}none',
            'every': 3600,
            'queue_name': 'slow',
            'missed': 'all',
            'expires_in': 60,
            'on_expiry': 'reject',
        },
    }
    configure(monkeypatch, schedules)
    with at_work('scheduled'):
        until(lambda: len(in_queue('default')) == 1 and len(in_queue('slow')) == 2)
        found = in_queue('default')['sum']
        assert (found.owner, found.every, found.max_dequeues) == (OWNER, 0.5, 5)
        told = in_queue('slow')['tell']
        assert (told.cron, told.tz, told.overlap, told.task['queue']) == ('0 7 * * *', 'Europe/Vienna', False, 'slow')
        until(lambda: in_queue('default')['sum'].last is not None)
        last = in_queue('default')['sum'].last
        until(lambda: backend('scheduled').get_result(last).is_finished)
        result = backend('scheduled').get_result(last)
        assert (result.return_value, result.args, result.kwargs) == (5, [2], {'other': 3})
        assert result.task.queue_name == 'default'
    configure(monkeypatch, None)
    with at_work('scheduled'):
        pass
    assert in_queue('default').keys() == {'sum'}
    configure(monkeypatch, {'moved': schedules['moved']})
    with at_work('scheduled'):
        until(lambda: not in_queue('default') and in_queue('slow').keys() == {'moved'})


@pytest.mark.parametrize(
    ('schedules', 'said'),
    [
        (['x'], r"schedules must map ids to dicts, got \['x'\]"),
        ({'x': 5}, "'x': must be a dict, got 5"),
        ({'x@1': {}}, "'x@1': schedule id must not contain '@'"),
        ({'x': {'task': f'{PATH}add', 'evry': 5}}, "'x': has unknown keys: 'evry'"),
        ({'x': {'task': f'{PATH}add'}}, "'x': needs either cron or every"),
        ({'x': {'every': 5}}, "'x': needs the path of a task, .* got None"),
        ({'x': {'task': f'{PATH}sub', 'every': 5}}, "'x': cannot import the task 'tests.django.jobs.sub'"),
        ({'x': {'task': f'{PATH}attempts', 'every': 5}}, "'x': 'tests.django.jobs.attempts' is not a task"),
        (
            {'x': {'task': f'{PATH}add', 'every': 5, 'args': 'ab'}},
            "'x': args must be a list and kwargs a dict, got 'ab'",
        ),
        ({'x': {'task': f'{PATH}add', 'every': 5, 'args': [{1, 2}]}}, "'x': args and kwargs must be what JSON knows"),
        (
            {'x': {'task': f'{PATH}add', 'every': 5, 'queue_name': 'q'}},
            r"has the queues \['default', 'slow'\], not 'q'",
        ),
    ],
)
def test_bad_settings(monkeypatch: pytest.MonkeyPatch, schedules: Any, said: str) -> None:  # noqa: ANN401 - whatever
    with pytest.raises(ImproperlyConfigured, match=said):
        schedules_of(task_backends['scheduled'], schedules)
    configure(monkeypatch, schedules)
    (message,) = backend('scheduled').check()
    assert message.id == 'torrelque.E002'
    with pytest.raises(CommandError, match=said):
        call_command('torrelque_worker', backend='scheduled')


def test_bad_times(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, {'x': {'task': f'{PATH}add', 'cron': '* * *'}})
    with pytest.raises(CommandError, match=r"cron is not a cron expression .* got '\* \* \*'"):
        call_command('torrelque_worker', backend='scheduled')
    assert in_queue('default') == {}
