"""The backend, which enqueues Django's tasks in Torrelque's queues and reads their results from there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from django import conf
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone as django_timezone
from django.utils.module_loading import import_string

from torrelque.core.models import TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.django.clients import client_of
from torrelque.django.compat import (
    BaseTaskBackend,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    signals,
)
from torrelque.django.schedules import level_of, schedules_of
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueLookupError
from torrelque.sync import Torrelque

__all__ = ('Backend', 'Options', 'failure_of')

STATUSES = {
    TorrelqueTaskStatus.PENDING: TaskResultStatus.READY,
    TorrelqueTaskStatus.DELAYED: TaskResultStatus.READY,
    TorrelqueTaskStatus.WORKING: TaskResultStatus.RUNNING,
    TorrelqueTaskStatus.COMPLETED: TaskResultStatus.SUCCESSFUL,
    TorrelqueTaskStatus.REJECTED: TaskResultStatus.FAILED,
    TorrelqueTaskStatus.EXPIRED: TaskResultStatus.FAILED,
}

SLOT = re.compile(r'[0-9]+(\.[0-9]+)?')

TRACEBACK = 8000
"""Maximum number of characters kept of a traceback, counted from its end."""


@dataclass(frozen=True)
class Options:
    """The keys of ``OPTIONS``.

    Attributes:
        url: A URL as for `torrelque.connect`.
        prefix: Prepended to Django's name of a queue.
        attempts: How often to run a task that fails, in all.
        task_timeout: Lease of a task, in seconds. The worker renews it.
        result_ttl: How long to keep results, in seconds.
        max_dequeues: Maximum number of deliveries, including those that end with the worker's process. None sets no
            limit.
        max_rejected: Maximum number of failed tasks to keep. None keeps all.
        failover_timeout: As for :class:`torrelque.Torrelque`.
        shards: As for :class:`torrelque.Torrelque`.
        schedules: Maps ids to schedules, which the worker's command sets at its start; see
            `torrelque.django.schedules.schedules_of`. None leaves those in the queues alone.
    """

    url: str
    prefix: str = 'django:'
    attempts: int = 1
    task_timeout: float = 300.0
    result_ttl: float = 86400.0
    max_dequeues: int | None = 5
    max_rejected: int | None = 10_000
    failover_timeout: float | None = None
    shards: int | None = None
    schedules: Mapping[str, Any] | None = None


class Backend(BaseTaskBackend):
    """The backend for ``TASKS``. See :mod:`torrelque.django`."""

    supports_defer: bool = True
    supports_async_task: bool = True
    supports_get_result: bool = True
    supports_priority: bool = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        try:
            self.settings: Options = Options(**self.options)
        except TypeError as error:
            raise ImproperlyConfigured(f'TASKS[{alias!r}]: OPTIONS: {error}') from None

    def check(self, **_: Any) -> Iterable[checks.CheckMessage]:  # noqa: ANN401 - as Django has it
        """Check the options. Opens no connection, except to a cluster.

        Returns:
            A message for an error in the options, if there is one.
        """
        try:
            schedules_of(self, self.settings.schedules)
        except ImproperlyConfigured as error:
            return [checks.Error(str(error), id='torrelque.E002')]
        try:
            self.queue_of('check')
        except TorrelqueConnectionError as error:
            return [checks.Warning(f'TASKS[{self.alias!r}]: {error}', id='torrelque.W001')]
        except TorrelqueError as error:
            return [checks.Error(f'TASKS[{self.alias!r}]: {error}', id='torrelque.E001')]
        return []

    def queue_of(self, name: str) -> Torrelque[Any]:
        """Return the queue for one of Django's queue names. All threads share it. Safe to repeat.

        Args:
            name: Django's name of the queue.

        Returns:
            The queue.

        Raises:
            TorrelqueError: An option is invalid.
            redis.RedisError: The cluster cannot be reached.
        """
        key = json.dumps([name, self.options], sort_keys=True, default=str)
        queue = _queues.get(key)
        if queue is None:
            queue = _queues.setdefault(key, self._make_queue(name))
        return queue

    def _make_queue(self, name: str) -> Torrelque[Any]:
        chosen = self.settings
        client = _clients.get(chosen.url) or _clients.setdefault(chosen.url, client_of(chosen.url))
        queue = Torrelque[Any](
            client,
            queue=chosen.prefix + name,
            max_dequeues=chosen.max_dequeues,
            max_rejected=chosen.max_rejected,
            failover_timeout=chosen.failover_timeout,
            shards=chosen.shards,
        )
        queue.task_timeout, queue.result_ttl = chosen.task_timeout, chosen.result_ttl
        return queue

    # Tasks -----------------------------------------------------------------------------------------------------------

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - as Django has it
        """Enqueue a task.

        Args:
            task: The task.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            A TaskResult, with the task's id.

        Raises:
            TorrelqueError: The task was not enqueued or, after a TorrelqueConnectionError, may have been.
        """
        self.validate_task(task)
        task_id = f'{uuid4().hex}@{task.queue_name}'
        result = self._result(task, task_id, TaskResultStatus.READY, args, kwargs)
        payload = {'task': task.module_path, 'args': result.args, 'kwargs': result.kwargs}
        delay = None
        if task.run_after is not None:
            now = django_timezone.now() if django_timezone.is_aware(task.run_after) else datetime.now()  # noqa: DTZ005
            delay = (task.run_after - now).total_seconds()
        self.queue_of(task.queue_name).enqueue(payload, task_id=task_id, delay=delay, priority=level_of(task.priority))
        object.__setattr__(result, 'enqueued_at', django_timezone.now())
        signals.task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:  # noqa: ANN401 - as Django has it
        """Read a task's state, and its return value or error. Safe to repeat.

        Args:
            result_id: The task's id.

        Returns:
            A TaskResult.

        Raises:
            TaskResultDoesNotExist: The task is unknown, or its result has expired.
            TorrelqueError: The queue cannot be read.
        """
        _, _, name = str(result_id).rpartition('@')
        names = [name] if name and (not self.queues or name in self.queues) else []
        if not names and SLOT.fullmatch(name):  # a task of a schedule, whose id does not name its queue
            names = sorted(self.queues)
        for each in names:
            with suppress(TorrelqueLookupError):
                return self._get_result(result_id, self.queue_of(each))
        raise TaskResultDoesNotExist(result_id)

    def _get_result(self, result_id: str, queue: Torrelque[Any]) -> Any:  # noqa: ANN401 - Django's
        with suppress(TorrelqueLookupError):
            found = queue.get_task(result_id)
            return self.result_of(result_id, found.data, found.state)
        state = queue.get_task_state(result_id)
        return self.result_of(result_id, state.result, state)

    def result_of(self, result_id: str, payload: Mapping[str, Any], state: TorrelqueTaskState) -> Any:  # noqa: ANN401
        """Return a TaskResult, made of a task's payload or of the result of one that has ended."""
        name = payload.get('queue') or result_id.rpartition('@')[2]
        task = import_string(payload['task']).using(queue_name=name, backend=self.alias)
        result = self._result(task, result_id, STATUSES[state.status], payload['args'], payload['kwargs'])
        last = _time(state.last_dequeue_time)
        known: dict[str, Any] = {
            'enqueued_at': _time(state.enqueue_time),
            'started_at': _time(payload.get('started')) or last,
            'last_attempted_at': last,
            'finished_at': _time(state.release_time),
            'worker_ids': payload.get('workers') or ['torrelque'] * (state.dequeue_count or 0),
        }
        if state.status is TorrelqueTaskStatus.COMPLETED:
            known['_return_value'] = payload.get('value')
        if state.status is TorrelqueTaskStatus.REJECTED and state.reason:
            path, _, rest = state.reason.partition(': ')
            known['errors'] = [TaskError(exception_class_path=path, traceback=rest.partition('\n\n')[2] or rest)]
        for name, value in known.items():
            object.__setattr__(result, name, value)
        return result

    def _result(self, task: Any, task_id: str, status: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - Django's
        return TaskResult(
            task=task,
            id=task_id,
            status=status,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )


_clients: dict[str, Any] = {}
_queues: dict[str, Torrelque[Any]] = {}
"""Django creates a backend for each thread. Clients and queues are shared."""


def failure_of(error: BaseException, traceback: str) -> str:
    """Return the reason for a dead letter: the type, the message and the traceback of the error."""
    path = f'{type(error).__module__}.{type(error).__qualname__}'
    return f'{path}: {error}\n\n{traceback[-TRACEBACK:]}'.encode(errors='replace').decode()


def _time(seconds: float | None) -> datetime | None:
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, timezone.utc)  # noqa: UP017 - Django's `timezone` is here, too
    return moment if conf.settings.USE_TZ else django_timezone.make_naive(moment)
