"""Actions on tasks, and their keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from torrelque import Torrelque, TorrelqueTask, TorrelqueTaskStatus

__all__ = ('ACTIONS', 'ALL_ACTIONS', 'Action', 'AllAction')

REASON = 'rejected by hand'
"""The reason of tasks rejected in the monitor."""


class Action(NamedTuple):
    """An action on one task."""

    key: str
    title: str
    statuses: frozenset[TorrelqueTaskStatus]
    question: str
    """Confirmation question; empty if the action can be undone."""
    done: str
    do: Callable[[Torrelque, str], Awaitable[object]]

    def fits(self, task: TorrelqueTask) -> bool:
        """Return whether the action applies to the task. None applies to a released task that left a result."""
        return task.state.status in self.statuses and task.data is not None


class AllAction(NamedTuple):
    """An action on all dead letters of a queue."""

    key: str
    title: str
    question: str
    done: str
    do: Callable[[Torrelque], Awaitable[int]]


async def _requeue(queue: Torrelque, task_id: str) -> None:
    (error,) = await queue.requeue_many([task_id])  # returns the error that `requeue` of an id would only log
    if error is not None:
        raise error


_WORKING = frozenset({TorrelqueTaskStatus.WORKING})
_WAITING = frozenset({TorrelqueTaskStatus.PENDING, TorrelqueTaskStatus.DELAYED})
_REJECTED = frozenset({TorrelqueTaskStatus.REJECTED})

ACTIONS = {
    'requeue': Action(
        'r',
        'Requeue',
        _WORKING,
        'Take {} from its worker and put it back into the queue?',
        'requeued: {}',
        _requeue,
    ),
    'reject': Action(
        'x',
        'Reject',
        _WORKING,
        'Take {} from its worker and put it among the dead letters?',
        'rejected: {}',
        lambda queue, task_id: queue.reject(task_id, REASON),
    ),
    'cancel': Action(
        'c',
        'Cancel',
        _WAITING | _WORKING,
        'Remove {} for good?',
        'cancelled: {}',
        lambda queue, task_id: queue.cancel(task_id, running='end'),
    ),
    'redrive': Action('d', 'Redrive', _REJECTED, '', 'redriven: {}', lambda queue, task_id: queue.redrive([task_id])),
    'purge': Action(
        'p', 'Purge', _REJECTED, 'Remove {} for good?', 'purged: {}', lambda queue, task_id: queue.purge([task_id])
    ),
}

ALL_ACTIONS = {
    'redrive': AllAction(
        'D',
        'Redrive all',
        'Put all {} dead letters of {} back into the queue?',
        'dead letters redriven: {}',
        lambda queue: queue.redrive(),
    ),
    'purge': AllAction(
        'P',
        'Purge all',
        'Remove all {} dead letters of {} for good?',
        'dead letters purged: {}',
        lambda queue: queue.purge(older_than=0),
    ),
}
