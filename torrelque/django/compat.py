"""Django's Tasks: its own in Django 6, or else the backport's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = (
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
    BaseTaskBackend: Any
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
    try:
        from django.tasks import signals, task_backends
        from django.tasks.backends.base import BaseTaskBackend
        from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django.tasks.exceptions import TaskResultDoesNotExist
        from django.utils.json import normalize_json
    except ImportError:
        from django_tasks import signals, task_backends
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django_tasks.exceptions import TaskResultDoesNotExist
        from django_tasks.utils import normalize_json
