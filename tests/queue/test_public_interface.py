"""The names, signatures and texts that 0.9's users rely on, and what is public."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from typing import Any

import pytest

import torrelque
from torrelque import (
    Receipt,
    Task,
    TaskId,
    Torrelque,
    TorrelqueError,
    TorrelqueLookupError,
    TorrelqueQueueStats,
    TorrelqueTaskSerialiser,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    errors,
)
from torrelque.core.codec import JSON
from torrelque.testing import MemoryTransport

NAMES_OF_0_9 = {
    'Torrelque', 'TorrelqueQueueStats', 'TorrelqueTaskStatus', 'TorrelqueTaskState', 'TorrelqueError',
    'TorrelqueTimeoutError', 'TorrelqueLookupError', 'TorrelqueTaskSerialiser',
}  # fmt: skip

# A star stands before keywords; what follows the bar is new.
SIGNATURES = {
    '__init__': (
        "client, *, queue='trq', serialiser=JSON | max_dequeues=None, max_rejected=None, durability=None, "
        'failover_timeout=None, shards=None, result_serialiser=None'
    ),
    'enqueue': 'task, *, task_timeout=None, delay=None, pipeline=None | task_id=None, max_dequeues=None, '
    'headers=None, time_limit=None, if_exists=None, replace=False, expires_in=None, expires_at=None, on_expiry=None, '
    'group=None, priority=None',
    'dequeue': 'timeout=None, *, max_tasks=1',
    'requeue': 'task_id, delay=None, *, task_timeout=None, pipeline=None | count=True, group=False',
    'release': 'task_id, *, result=None, result_ttl=None, status=COMPLETED, pipeline=None | finished_ttl=None',
    'watch': 'task_id, *, timeout=None',
    'sweep': '',
    'schedule_sweep': 'interval=None',
    'unschedule_sweep': '',
    'get_queue_stats': '',
    'get_task_state': 'task_id',
}
FIELDS = {
    TorrelqueQueueStats: ('tasks', 'pending', 'working', 'delayed'),
    TorrelqueTaskState: (
        'status', 'timeout', 'result', 'dequeue_count', 'requeue_count', 'enqueue_time', 'last_dequeue_time',
        'last_requeue_time', 'release_time',
    ),
    TorrelqueTaskSerialiser: ('dumps', 'loads'),
}  # fmt: skip


def described(function: Any) -> str:  # noqa: ANN401 - any callable
    """The parameters as in SIGNATURES."""
    words, keywords = list[str](), False
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            words.append('*')
        default = parameter.default
        shown = {id(JSON): 'JSON', id(TorrelqueTaskStatus.COMPLETED): 'COMPLETED'}
        written = '' if default is parameter.empty else f'={shown.get(id(default), repr(default))}'
        words.append(parameter.name + written)
    return ', '.join(words)


@pytest.mark.parametrize('name', SIGNATURES)
def test_signatures(name: str) -> None:
    assert described(getattr(Torrelque, name)) == SIGNATURES[name].replace(' | ', ', ')


@pytest.mark.parametrize('kind', FIELDS)
def test_fields_come_first_and_in_order(kind: Any) -> None:  # noqa: ANN401 - a named tuple
    known = FIELDS[kind]
    assert kind._fields[: len(known)] == known
    assert set(kind._fields[len(known) :]) == set(kind._field_defaults), 'new ones have defaults'
    assert kind._make(range(len(kind._fields)))[: len(known)] == tuple(range(len(known)))


def test_statuses() -> None:
    assert [(status.name, int(status), status.isfinal()) for status in TorrelqueTaskStatus] == [
        ('PENDING', 0, False), ('WORKING', 1, False), ('DELAYED', 2, False), ('COMPLETED', 3, True),
        ('REJECTED', 4, True), ('EXPIRED', 5, True),
    ]  # fmt: skip


def test_class_attributes() -> None:
    assert (Torrelque.task_timeout, Torrelque.sweep_interval, Torrelque.result_ttl) == (300, 30, 3600)
    names = {'pending', 'dequeueing', 'undequeued', 'working', 'delayed', 'tasks', 'task'}
    assert {name: Torrelque.keys[name] for name in names} == {name: name for name in names}
    queue = Torrelque(MemoryTransport())
    assert {name: queue.keys[name] for name in names} == {name: f'trq:{name}' for name in names}
    assert Torrelque.keys['pending'] == 'pending', 'an instance has keys of its own'


def test_what_is_a_coroutine() -> None:
    for name in SIGNATURES:
        function = getattr(Torrelque, name)
        assert inspect.iscoroutinefunction(function) == (
            name not in ('__init__', 'watch', 'schedule_sweep', 'unschedule_sweep')
        )
    watching = Torrelque(MemoryTransport()).watch('a')
    assert aiter(watching) is watching
    assert inspect.iscoroutinefunction(watching.aclose)  # type: ignore[attr-defined]  # as 0.9's generator has it


def test_exceptions() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, TorrelqueError)
        assert getattr(torrelque, name) is error
    assert issubclass(TorrelqueTimeoutError, TorrelqueError)
    assert issubclass(TorrelqueLookupError, TorrelqueError)
    assert issubclass(errors.TorrelqueValueError, ValueError)
    assert issubclass(errors.TorrelqueTypeError, TypeError)


# What is public ------------------------------------------------------------------------------------------------------


def test_the_names_of_0_9_are_there() -> None:
    assert set(torrelque.__all__) >= NAMES_OF_0_9


def modules() -> list[str]:
    skipped = ('torrelque.testing.conformance', 'torrelque.cli')  # they need pytest, typer and rich
    found = (module.name for module in pkgutil.walk_packages(torrelque.__path__, 'torrelque.'))
    return [name for name in found if not name.startswith(skipped) and '__main__' not in name]


@pytest.mark.parametrize('module', ['torrelque', *modules()])
def test_what_a_module_exports_is_there(module: str) -> None:
    exported = getattr(importlib.import_module(module), '__all__', ())
    assert sorted(set(exported)) == sorted(exported), 'once each'
    for name in exported:
        getattr(importlib.import_module(module), name)


@pytest.mark.parametrize('name', torrelque.__all__)
def test_public_names_are_documented(name: str) -> None:
    assert inspect.getdoc(getattr(torrelque, name))


@pytest.mark.parametrize('name', [name for name in dir(Torrelque) if not name.startswith('_')])
def test_methods_are_documented_and_annotated(name: str) -> None:
    method = getattr(Torrelque, name)
    if callable(method):
        assert inspect.getdoc(method)
        signature = inspect.signature(method)
        assert signature.return_annotation is not signature.empty
        for parameter in list(signature.parameters.values())[1:]:
            assert parameter.annotation is not parameter.empty


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec('from torrelque import *', names)  # noqa: S102 - that is what is tested
    assert set(names) - {'__builtins__'} == set(torrelque.__all__)


# Values --------------------------------------------------------------------------------------------------------------


def test_a_task_is_a_pair() -> None:
    task = Task(Receipt('id', 'token', 2), {'a': 1}, 5.0, 6.0, {'b': 'c'}, 1)
    task_id, data = task
    assert tuple(task) == ('id', {'a': 1})
    assert (task_id, data, len(task)) == ('id', {'a': 1}, 2)
    copied = pickle.loads(pickle.dumps(task))  # noqa: S301 - one's own
    assert isinstance(copied, Task)
    for name in ('id', 'data', 'dequeue_count', 'attempt', 'deadline', 'expires', 'receipt', 'headers'):
        assert getattr(copied, name) == getattr(task, name)
    assert copied.id.receipt == task.receipt


def test_an_id_is_a_string() -> None:
    task_id = TaskId(Receipt('id', 'token', 1))
    assert (task_id, hash(task_id), {'id': 1}[task_id]) == ('id', hash('id'), 1)
    assert type(str(task_id)) is str
    assert type(f'{task_id}') is str
    assert task_id.upper() == 'ID'
