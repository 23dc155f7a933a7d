"""What a worker tells its ``on_event`` hook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from torrelque.core.models import Task

__all__ = (
    'Abandoned',
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
    """The handler returned, and the task was released with what it returned."""

    task: Task
    result: Any


@dataclass(frozen=True, slots=True)
class ResultDropped:
    """The handler returned, but its result could not be serialised, or the server refused it, because of ``error``.

    The task was released without a result. `Finished` follows, with None.
    """

    task: Task
    error: Exception


@dataclass(frozen=True, slots=True)
class Retried:
    """The handler raised ``error``, and the task was requeued, to be due after ``delay`` s."""

    task: Task
    delay: float
    error: Exception


@dataclass(frozen=True, slots=True)
class Rejected:
    """The handler raised ``error``, and the task was moved to the dead letters."""

    task: Task
    reason: str
    error: Exception


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The worker stopped, and the task was returned to the front of the queue, this delivery not counted."""

    task: Task


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The handler was cancelled and did not end; its claim is given back, and what it still does is dropped."""

    task: Task


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The claim is no longer this worker's: the handler was cancelled, its result is not written."""

    task: Task


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What became of the task could not be written, because of ``error``; its claim ends with its lease."""

    task: Task
    outcome: Outcome
    error: Exception


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The server is gone or refuses to work for now; no task is claimed until `Reconnected`."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The server works again."""


Outcome: TypeAlias = Finished | Retried | Rejected | GivenBack
"""How a delivery ended."""

WorkerEvent: TypeAlias = (
    Started | Outcome | ResultDropped | LeaseLost | Abandoned | Unsettled | Disconnected | Reconnected
)
