"""The values that callers get: tasks, their states, statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

__all__ = (
    'KIND',
    'STATE_FIELDS',
    'TIME_LIMIT',
    'Payload',
    'Receipt',
    'Task',
    'TaskId',
    'TorrelqueQueueStats',
    'TorrelqueTask',
    'TorrelqueTaskState',
    'TorrelqueTaskStatus',
    'add_stats',
    'make_state',
    'number_of',
)

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

KIND = 'torrelque.kind'
"""The header that tells a router the kind of a task."""

TIME_LIMIT = 'torrelque.time_limit'
"""The header with the time limit of a task, in seconds."""

if TYPE_CHECKING:  # only type checkers need the default, and all of them know typing_extensions
    from typing_extensions import TypeVar

    Payload = TypeVar('Payload', default=Any)
    Payload_co = TypeVar('Payload_co', default=Any, covariant=True)
else:
    from typing import TypeVar

    Payload = TypeVar('Payload')
    Payload_co = TypeVar('Payload_co', covariant=True)


class TorrelqueTaskStatus(IntEnum):
    """Where a task is."""

    PENDING = 0
    """Waits for a consumer."""
    WORKING = 1
    """Claimed by a consumer."""
    DELAYED = 2
    """Waits for its time."""
    COMPLETED = 3
    """Released; its state is kept only with a result."""
    REJECTED = 4
    """Among the dead letters, or released with this status."""

    def isfinal(self) -> bool:
        """Whether no consumer will get the task any more (a dead letter may still be redriven)."""
        return self in (self.COMPLETED, self.REJECTED)


class Receipt(NamedTuple):
    """What shows that a claim is meant: the task, the claim's token, and which delivery it was."""

    id: str
    token: str
    dequeue_count: int


class TaskId(str):
    """A task's id that remembers the claim it was handed out with.

    It is the id wherever a string is wanted. Copies and pickles keep the claim;
    ``str(task_id)``, JSON and string operations give the plain id.
    """

    __slots__ = ('receipt',)
    receipt: Receipt

    def __new__(cls, receipt: Receipt) -> TaskId:
        self = super().__new__(cls, receipt.id)
        self.receipt = receipt
        return self

    def __reduce__(self) -> tuple[type[TaskId], tuple[Receipt]]:
        return TaskId, (self.receipt,)


class Task(tuple[TaskId, Payload_co]):  # noqa: SLOT001 - a tuple cannot have slots of its own
    """A task that was handed to this consumer; unpacks as ``(id, data)``.

    ``receipt`` is the claim, ``headers`` what the producer sent along.
    ``deadline`` is when the claim becomes stale, in Unix time on the server's
    clock; ``expires`` is no later than that, on this process's monotonic clock
    (``anyio.current_time()``), counted from before the claim was sent.
    ``attempt`` is which delivery this is since the task was enqueued or last
    redriven, from 1: what delivery limits and retry policies count.
    """

    receipt: Receipt
    deadline: float
    expires: float
    headers: Mapping[str, str]
    attempt: int

    def __new__(
        cls,
        receipt: Receipt,
        data: Payload_co,
        deadline: float,
        expires: float,
        headers: Mapping[str, str] = NO_HEADERS,
        attempt: int | None = None,
    ) -> Task[Payload_co]:
        self = super().__new__(cls, (TaskId(receipt), data))
        self.receipt = receipt
        self.deadline = deadline
        self.expires = expires
        self.headers = headers
        self.attempt = receipt.dequeue_count if attempt is None else attempt
        return self

    @property
    def id(self) -> TaskId:
        """The task's id, which remembers the claim."""
        return self[0]

    @property
    def data(self) -> Payload_co:
        """The payload, deserialised."""
        return self[1]

    @property
    def kind(self) -> str | None:
        """Which of a router's functions handles the task; None if it was not enqueued by a router."""
        return self.headers.get(KIND)

    def with_data(self, data: Any) -> Task[Any]:  # noqa: ANN401 - any payload
        """Return a copy with another payload."""
        return Task(self.receipt, data, self.deadline, self.expires, self.headers, self.attempt)

    @property
    def dequeue_count(self) -> int:
        """Which delivery of the task this is, from 1."""
        return self.receipt.dequeue_count

    def __reduce__(self) -> tuple[type[Task[Any]], tuple[Any, ...]]:
        return Task, (self.receipt, self.data, self.deadline, self.expires, dict(self.headers), self.attempt)


class TorrelqueQueueStats(NamedTuple):
    """Counts at one moment, and totals since the queue's first task."""

    tasks: int
    """All but the rejected."""
    pending: int
    working: int
    delayed: int
    rejected: int = 0
    """Dead letters."""
    oldest_pending_age: float | None = None
    """Seconds since the task at the front of pending was enqueued; None where there is none."""
    total_enqueued: int = 0
    total_claimed: int = 0
    total_completed: int = 0
    total_requeued: int = 0
    """Requeued by a consumer, or taken back when a claim became stale."""
    total_rejected: int = 0


def add_stats(parts: Sequence[TorrelqueQueueStats]) -> TorrelqueQueueStats:
    """The stats of a whole of its parts'."""
    if len(parts) == 1:
        return parts[0]
    sums = {
        name: sum(getattr(part, name) for part in parts)
        for name in TorrelqueQueueStats._fields
        if name != 'oldest_pending_age'
    }
    ages = [part.oldest_pending_age for part in parts if part.oldest_pending_age is not None]
    return TorrelqueQueueStats(oldest_pending_age=max(ages, default=None), **sums)


class TorrelqueTaskState(NamedTuple):
    """A task's state. Times are Unix times on the server's clock."""

    status: TorrelqueTaskStatus
    timeout: float
    result: Any
    dequeue_count: int
    requeue_count: int
    enqueue_time: float | None
    last_dequeue_time: float | None
    last_requeue_time: float | None
    release_time: float | None
    max_dequeues: int | None = None
    """After how many deliveries the task is rejected."""
    reason: str | None = None
    """Why the task is among the dead letters."""
    revision: int = 1
    """Grows with each transition that 1.0 made."""


class TorrelqueTask(NamedTuple, Generic[Payload]):
    """A queued task, read without claiming it."""

    id: str
    data: Payload
    headers: Mapping[str, str]
    state: TorrelqueTaskState
    deadline: float | None = None
    """When the claim of a task that is worked on becomes stale, in Unix time on the server's clock; else None."""
    due: float | None = None
    """When a delayed task is due, likewise."""


STATE_FIELDS = (
    'status', 'timeout', 'result', 'dequeue_count', 'requeue_count', 'enqueue_time', 'last_dequeue_time',
    'last_requeue_time', 'release_time', 'max_dequeues', 'reason', 'revision',
)  # fmt: skip
"""Fields of the state's hash in the order of :class:`TorrelqueTaskState`."""


def number_of(text: bytes | float | None) -> float | None:
    """A finite number that a server holds; None for anything else."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _count(text: bytes | None, default: int = 0) -> int:
    value = number_of(text)
    return default if value is None else int(value)


def make_state(values: Sequence[bytes | None]) -> TorrelqueTaskState | None:
    """A state of the hash's fields, the result still serialised; None where there is no task.

    Fields that anybody damaged read as if they were missing.
    """
    status, timeout, result, dequeues, requeues, enqueued, dequeued, requeued, released, limit, reason, revision = (
        values
    )
    try:
        known = TorrelqueTaskStatus(_count(status, -1))
    except ValueError:
        return None
    return TorrelqueTaskState(
        status=known,
        timeout=number_of(timeout) or 300.0,
        result=result,
        dequeue_count=_count(dequeues),
        requeue_count=_count(requeues),
        enqueue_time=number_of(enqueued),
        last_dequeue_time=number_of(dequeued),
        last_requeue_time=number_of(requeued),
        release_time=number_of(released),
        max_dequeues=None if limit is None else _count(limit),
        reason=None if reason is None else reason.decode(errors='replace'),
        revision=_count(revision, 1),
    )
