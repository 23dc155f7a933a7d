"""Events that a worker passes to its ``on_event`` hook."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torrelque.core.models import Task

__all__ = (
    'Abandoned',
    'Cancelled',
    'Disconnected',
    'Finished',
    'GivenBack',
    'LeaseLost',
    'Outcome',
    'Reconnected',
    'Rejected',
    'ResultDropped',
    'Retried',
    'Started',
    'Unsettled',
    'WorkerEvent',
)


@dataclass(frozen=True, slots=True)
class Started:
    """A handler is about to be called."""

    task: Task


@dataclass(frozen=True, slots=True)
class Finished:
    """The handler returned, and the task was released with its result."""

    task: Task
    result: Any


@dataclass(frozen=True, slots=True)
class ResultDropped:
    """The handler returned, but its result could not be serialised or was refused by the server, because of ``error``.

    The task was released without a result. `Finished` follows, with the result None.
    """

    task: Task
    error: Exception


@dataclass(frozen=True, slots=True)
class Retried:
    """The handler raised ``error``, and the task was requeued. It is due after ``delay`` seconds.

    ``count`` is False if the delivery does not count as an attempt, and ``group`` is True if the group of the task
    waits as well, see :class:`~torrelque.retry.Retry`.
    """

    task: Task
    delay: float
    error: Exception
    count: bool = True
    group: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """The handler raised ``error``, and the task is now a dead letter."""

    task: Task
    reason: str
    error: Exception


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The worker returned the task to the front of the queue. This delivery does not count.

    It shut down, or, with several queues, the task arrived when another one had taken the last free slot.
    """

    task: Task


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The task was cancelled while its handler ran, which was cancelled as well. It is no longer in the queue."""

    task: Task


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The handler was cancelled but did not end. Its claim is given back, and its outcome is discarded."""

    task: Task


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The worker lost the claim. The handler was cancelled, and its result is not written."""

    task: Task


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The outcome could not be written because of ``error``. The claim ends when its lease expires."""

    task: Task
    outcome: Outcome
    error: Exception


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The server of ``queue`` is unreachable or refuses calls for now.

    No task of this queue is claimed until `Reconnected`.
    """

    error: Exception
    queue: str = field(default='', kw_only=True, compare=False)


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The server of ``queue`` works again."""

    queue: str = field(default='', kw_only=True, compare=False)


Outcome: TypeAlias = Finished | Retried | Rejected | GivenBack | Cancelled
"""How a delivery ended."""

WorkerEvent: TypeAlias = (
    Started | Outcome | ResultDropped | LeaseLost | Abandoned | Unsettled | Disconnected | Reconnected
)
