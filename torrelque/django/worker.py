"""Runs the tasks of a backend's queues, with a `torrelque.Worker` for each queue, so that each has its own slots."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from traceback import format_exception
from typing import Any

import anyio
from django.db import close_old_connections
from django.utils import timezone

from torrelque import Reject, Retry, Task, Torrelque, Transport, WaitSharer, Worker, connect, retry
from torrelque.django.backend import Backend, failure_of
from torrelque.django.compat import TaskContext, TaskError, TaskResultStatus, normalize_json, signals
from torrelque.django.schedules import schedules_of
from torrelque.worker.starting import until_usable

__all__ = ('TaskRunner', 'work')


class TaskRunner:
    """A handler that runs Django's tasks, each in a thread. Its return value is kept as the result."""

    def __init__(self, backend: Backend, name: str, worker_id: str) -> None:
        self._backend = backend
        self._queue = backend.queue_of(name)
        self._worker_id = worker_id
        attempts = backend.settings.attempts
        self._policy = retry.exponential(attempts=attempts) if attempts > 1 else retry.never()

    def __call__(self, task: Task[Any]) -> dict[str, Any]:
        """Run a task. Raises Retry or Reject after a failure."""
        payload = {
            **task.data,
            'started': time.time(),
            'workers': ['torrelque'] * (task.attempt - 1) + [self._worker_id],
        }
        close_old_connections()  # as Django does around each request
        try:
            return self._run(task, payload)
        finally:
            close_old_connections()

    def _run(self, task: Task[Any], payload: dict[str, Any]) -> dict[str, Any]:
        state = self._queue.get_task_state(task.id)
        try:
            result = self._backend.result_of(task.id, payload, state)
        except Exception as error:  # the task's function is gone, for example
            raise Reject(failure_of(error, ''.join(format_exception(error)))) from error
        signals.task_started.send(type(self._backend), task_result=result)
        try:
            arguments = [TaskContext(task_result=result)] if result.task.takes_context else []
            value = normalize_json(result.task.call(*arguments, *result.args, **result.kwargs))
        except Exception as error:
            delay = self._policy(task.attempt, error)
            if delay is not None:
                raise Retry(delay) from error
            traceback = ''.join(format_exception(error))
            path = f'{type(error).__module__}.{type(error).__qualname__}'
            self._finish(
                result, TaskResultStatus.FAILED, errors=[TaskError(exception_class_path=path, traceback=traceback)]
            )
            raise Reject(failure_of(error, traceback)) from error
        self._finish(result, TaskResultStatus.SUCCESSFUL, _return_value=value)
        return {**payload, 'value': value}

    def _finish(self, result: Any, status: Any, **outcome: Any) -> None:  # noqa: ANN401 - Django's
        """Send the signal that a task has finished. Errors of receivers do not make the task run again."""
        for name, value in {'status': status, 'finished_at': timezone.now(), **outcome}.items():
            object.__setattr__(result, name, value)
        signals.task_finished.send_robust(type(self._backend), task_result=result)


async def work(
    backend: Backend, names: Sequence[str], *, concurrency: int, grace: float = 20.0, handle_signals: bool = False
) -> None:
    """Set the schedules of some of Django's queues, and run their tasks until shut down.

    Waits while the server is away.

    Args:
        backend: The backend of the queues.
        names: Django's names of the queues.
        concurrency: Maximum number of tasks of each queue to run at once.
        grace: Seconds that tasks have to finish on shutdown.
        handle_signals: Whether SIGTERM and SIGINT shut the workers down.
    """
    chosen = backend.settings
    schedules = schedules_of(backend, chosen.schedules)
    worker_id = f'{socket.gethostname()}:{os.getpid()}'
    async with AsyncExitStack() as stack:

        async def attempt() -> Transport:
            async with connect(chosen.url, retry_timeout=0):
                pass  # it fails at once, while the other tries for a while
            return await stack.enter_async_context(connect(chosen.url))

        client = await until_usable(attempt)
        workers, sharer = [], WaitSharer(len(names))
        for name in names:
            queue = await stack.enter_async_context(
                Torrelque[Any](
                    client,
                    queue=chosen.prefix + name,
                    max_dequeues=chosen.max_dequeues,
                    max_rejected=chosen.max_rejected,
                    failover_timeout=chosen.failover_timeout,
                    shards=chosen.shards,
                )
            )
            queue.task_timeout, queue.result_ttl = chosen.task_timeout, chosen.result_ttl
            if schedules is not None:
                await queue.set_schedules(schedules.get(name, {}), owner=f'django:{backend.alias}')
            if len(names) > 1:
                stack.enter_context(queue.share_waits(sharer))
            runner = TaskRunner(backend, name, worker_id)
            workers.append(Worker(queue, runner, concurrency=concurrency, grace=grace, handle_signals=handle_signals))
        async with anyio.create_task_group() as group:
            for worker in workers:
                group.start_soon(worker.run)
