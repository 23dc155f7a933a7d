"""Reads the schedules of a backend from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from torrelque.core.schedules import check_id
from torrelque.django.compat import BaseTaskBackend, Task, normalize_json
from torrelque.errors import TorrelqueError

__all__ = ('level_of', 'schedules_of')

TIMING = frozenset({'cron', 'tz', 'every', 'missed', 'overlap', 'delay', 'expires_in', 'on_expiry'})
"""Keys that are arguments of `torrelque.Torrelque.schedule`."""

KEYS = TIMING | {'task', 'args', 'kwargs', 'queue_name'}


def schedules_of(backend: BaseTaskBackend, wanted: object) -> dict[str, dict[str, dict[str, Any]]] | None:
    """Check the schedules in the settings, and import their tasks.

    Args:
        backend: The backend.
        wanted: The value of the option: maps the id of each schedule to a mapping with the path of a ``task``, perhaps
            its ``args``, ``kwargs`` and ``queue_name``, and arguments of `torrelque.Torrelque.schedule`.

    Returns:
        By Django's name of the queue, what to pass to `torrelque.Torrelque.set_schedules`; None without the option.

    Raises:
        ImproperlyConfigured: Something is wrong. The message names it.
    """
    if wanted is None:
        return None
    where = f'TASKS[{backend.alias!r}]: OPTIONS: schedules'
    if not isinstance(wanted, Mapping):
        raise ImproperlyConfigured(f'{where} must map ids to dicts, got {wanted!r}')
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for schedule_id, options in wanted.items():
        try:
            check_id(schedule_id)
            name, arguments = _schedule_of(backend, options)
        except (ImproperlyConfigured, TorrelqueError) as error:
            raise ImproperlyConfigured(f'{where}: {schedule_id!r}: {error}') from None
        found.setdefault(name, {})[schedule_id] = arguments
    return found


def _schedule_of(backend: BaseTaskBackend, options: object) -> tuple[str, dict[str, Any]]:
    """Return the name of a queue, and the arguments of a schedule."""
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(f'must be a dict, got {options!r}')
    if unknown := sorted(options.keys() - KEYS):
        raise ImproperlyConfigured(f'has unknown keys: {", ".join(map(repr, unknown))}')
    if (options.get('cron') is None) == (options.get('every') is None):
        raise ImproperlyConfigured('needs either cron or every')
    task = _task_of(backend, options)
    args, kwargs = options.get('args', []), options.get('kwargs', {})
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise ImproperlyConfigured(f'args must be a list and kwargs a dict, got {args!r} and {kwargs!r}')
    try:
        given = {'args': normalize_json(list(args)), 'kwargs': normalize_json(dict(kwargs))}
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f'args and kwargs must be what JSON knows: {error}') from None
    payload = {'task': task.module_path, **given, 'queue': task.queue_name}
    arguments = {name: value for name, value in options.items() if name in TIMING}
    return task.queue_name, {'task': payload, **arguments, 'priority': level_of(task.priority)}


def _task_of(backend: BaseTaskBackend, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - Django's
    path = options.get('task')
    if not isinstance(path, str):
        raise ImproperlyConfigured(f'needs the path of a task, such as "mail.tasks.send_mail", got {path!r}')
    try:
        task = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f'cannot import the task {path!r}: {error}') from None
    if not isinstance(task, Task):
        raise ImproperlyConfigured(f'{path!r} is not a task: decorate it with @task')
    name = options.get('queue_name', task.queue_name)
    if backend.queues and name not in backend.queues:
        raise ImproperlyConfigured(f'the backend has the queues {sorted(backend.queues)}, not {name!r}')
    return task.using(queue_name=name, backend=backend.alias)


def level_of(priority: int) -> Literal['high', 'low'] | None:
    """Return the level for one of Django's priorities, from -100 to 100; 0 is the default."""
    return None if not priority else 'high' if priority > 0 else 'low'
