"""Django's Tasks, from Django 6 or from the backport."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__all__ = (
    'AppConfig',
    'BaseCommand',
    'BaseTaskBackend',
    'Task',
    'TaskContext',
    'TaskError',
    'TaskResult',
    'TaskResultDoesNotExist',
    'TaskResultStatus',
    'normalize_json',
    'signals',
    'task_backends',
)

if TYPE_CHECKING:

    class AppConfig:
        """Django's class, which has no annotations."""

        name: str
        label: str
        verbose_name: str

    class BaseCommand:
        """As in Django."""

        help: str
        stdout: Any

    class BaseTaskBackend:
        """As in Django."""

        alias: str
        queues: set[str]
        options: dict[str, Any]
        supports_defer: bool
        supports_async_task: bool
        supports_get_result: bool

        def __init__(self, alias: str, params: Mapping[str, Any]) -> None: ...

        def validate_task(self, task: object) -> None: ...

    Task: Any
    TaskContext: Any
    TaskError: Any
    TaskResult: Any
    TaskResultDoesNotExist: Any
    TaskResultStatus: Any
    normalize_json: Any
    signals: Any
    task_backends: Any
else:
    from django.apps import AppConfig
    from django.core.management.base import BaseCommand

    try:
        from django.tasks import signals, task_backends
        from django.tasks.backends.base import BaseTaskBackend
        from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django.tasks.exceptions import TaskResultDoesNotExist
        from django.utils.json import normalize_json
    except ImportError:
        if find_spec('django_tasks') is None:
            raise ImportError('Django before 6.0 needs its backport of Tasks: pip install django-tasks') from None
        from django_tasks import signals, task_backends
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django_tasks.exceptions import TaskResultDoesNotExist
        from django_tasks.utils import normalize_json
