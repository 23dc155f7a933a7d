"""States of tasks, as lines for people and as fields of machine output."""

from __future__ import annotations

from typing import Any

from torrelque import Torrelque, TorrelqueLookupError, TorrelqueTask, TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.cli.params import name_of
from torrelque.cli.payloads import show_bytes

__all__ = ('STYLES', 'deliveries', 'last_change', 'read_task', 'state_fields')

STYLES = {
    TorrelqueTaskStatus.PENDING: '',
    TorrelqueTaskStatus.WORKING: 'yellow',
    TorrelqueTaskStatus.DELAYED: 'blue',
    TorrelqueTaskStatus.COMPLETED: 'green',
    TorrelqueTaskStatus.REJECTED: 'red',
}


def state_fields(task_id: str, state: TorrelqueTaskState) -> dict[str, Any]:
    """The machine output of a state: its own fields, the status by name, and how the result is encoded."""
    fields = {'id': task_id, **state._asdict(), 'status': name_of(state.status)}
    shown = None if state.result is None else show_bytes(state.result)
    fields['result'] = shown and shown.value
    fields['result_encoding'] = shown and shown.encoding
    return fields


def last_change(state: TorrelqueTaskState) -> float | None:
    """When something is known to have happened to a task for the last time: the latest of its state's times."""
    times = (state.enqueue_time, state.last_dequeue_time, state.last_requeue_time, state.release_time)
    return max((time for time in times if time is not None), default=None)


def deliveries(state: TorrelqueTaskState) -> str:
    """How often it was delivered, and how often it may be."""
    return f'{state.dequeue_count}' + (f'/{state.max_dequeues}' if state.max_dequeues else '')


async def read_task(queue: Torrelque, task_id: str) -> TorrelqueTask:
    """Read a task that is queued, or whose result is kept; the latter's payload is gone, so its data is None.

    Raises TorrelqueLookupError for any other.
    """
    try:
        return await queue.get_task(task_id)
    except TorrelqueLookupError:
        return TorrelqueTask(task_id, None, {}, await queue.get_task_state(task_id))
