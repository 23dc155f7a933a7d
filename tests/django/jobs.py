"""Tasks of Django's for the tests."""

# mypy: allow-untyped-decorators
from __future__ import annotations

import importlib
import importlib.util
from typing import Any, TypeAlias

TaskContext: TypeAlias = Any
tasks = importlib.import_module('django.tasks' if importlib.util.find_spec('django.tasks') else 'django_tasks')
task: Any = tasks.task

attempts: list[int] = []


@task
def add(one: int, other: int = 0) -> int:
    return one + other


@task
async def add_later(one: int, other: int) -> int:
    return one + other


@task
def fail(message: str) -> None:
    raise ValueError(message)


@task(queue_name='slow', takes_context=True)
def tell(context: TaskContext) -> list[Any]:
    return [context.attempt, context.task_result.id]


@task(backend='again', takes_context=True)
def try_again(context: TaskContext) -> int:
    attempts.append(context.attempt)
    if context.attempt < 3:
        raise OSError('not yet')
    return int(context.attempt)


@task
def none() -> None:
    pass
