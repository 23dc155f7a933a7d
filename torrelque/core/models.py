"""The values that the API returns: tasks, their states, and statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeAlias

from torrelque.errors import TorrelqueUsageError

__all__ = (
    'KIND',
    'STATE_FIELDS',
    'TIME_LIMIT',
    'Cancellation',
    'Deadline',
    'GroupCounts',
    'GroupInfo',
    'Limits',
    'Pause',
    'Payload',
    'Receipt',
    'Report',
    'Running',
    'Task',
    'TaskId',
    'TaskProgress',
    'TorrelqueQueueStats',
    'TorrelqueTask',
    'TorrelqueTaskState',
    'TorrelqueTaskStatus',
    'add_stats',
    'make_group_limits',
    'make_limits',
    'make_pause',
    'make_state',
    'number_of',
)

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

KIND = 'torrelque.kind'
"""The header with the kind of a task, by which a router chooses its function."""

TIME_LIMIT = 'torrelque.time_limit'
"""The header with the time limit of a task, in seconds."""

if TYPE_CHECKING:  # only type checkers need the default, and they all know typing_extensions
    from typing_extensions import TypeVar

    Payload = TypeVar('Payload', default=Any)
    Payload_co = TypeVar('Payload_co', default=Any, covariant=True)
else:
    from typing import TypeVar

    Payload = TypeVar('Payload')
    Payload_co = TypeVar('Payload_co', covariant=True)


class TorrelqueTaskStatus(IntEnum):
    """The status of a task."""

    PENDING = 0
    """Waiting for a consumer."""
    WORKING = 1
    """Claimed by a consumer."""
    DELAYED = 2
    """Waiting until it is due."""
    COMPLETED = 3
    """Released. The state is kept only with a result or a ``finished_ttl``."""
    REJECTED = 4
    """A dead letter, or released with this status."""
    EXPIRED = 5
    """No consumer started it in time. Its state is kept for a minute."""

    def isfinal(self) -> bool:
        """Whether no consumer will get the task any more. A dead letter can still be redriven."""
        return self in (self.COMPLETED, self.REJECTED, self.EXPIRED)


class Receipt(NamedTuple):
    """Identifies a claim.

    Attributes:
        id: The task's id.
        token: The claim's token.
        dequeue_count: The number of the delivery, from 1.
    """

    id: str
    token: str
    dequeue_count: int


Running: TypeAlias = Literal['end', 'ask']
"""What to do about a running task: end its claim, or ask its consumer to end it."""


class Cancellation(NamedTuple):
    """An announcement that a running task was cancelled."""

    task_id: str
    running: Running


class Deadline(float):
    """When a claim becomes stale, in Unix time on the server's clock."""

    cancel_asked: bool = False
    """Whether ``cancel(task_id, running='ask')`` was called since the claim began."""

    @classmethod
    def parse(cls, text: bytes) -> Deadline:
        self = cls(text.removeprefix(b'a'))
        if text.startswith(b'a'):
            self.cancel_asked = True
        return self


class TaskId(str):
    """A task's id that carries the claim of its delivery.

    You can use it as the id wherever a string is expected. Copies and pickles keep the claim;
    ``str(task_id)``, JSON and string operations return the plain id.

    Attributes:
        receipt: The claim.
    """

    __slots__ = ('receipt',)
    receipt: Receipt

    def __new__(cls, receipt: Receipt) -> TaskId:
        self = str.__new__(cls, receipt.id)
        self.receipt = receipt
        return self

    def __reduce__(self) -> tuple[type[TaskId], tuple[Receipt]]:
        return TaskId, (self.receipt,)


Report: TypeAlias = Callable[['Receipt', float, 'float | None', 'str | None'], Awaitable[None]]
"""Writes the progress of a claimed task: value, total and note."""


class Task(tuple[TaskId, Payload_co]):  # noqa: SLOT001 - a subclass of tuple cannot have slots
    """A task that this consumer has claimed. Unpacks as ``(id, data)``.

    Attributes:
        receipt: The claim.
        deadline: When the lease ends, in Unix time on the server's clock.
        expires: When the lease ends at the earliest, on this process's monotonic clock
            (``anyio.current_time()``): counted from before the claim was sent.
        headers: The headers that the producer gave the task.
        attempt: The number of this delivery since the task was enqueued or last redriven,
            from 1, without those that do not count (``Retry(count=False)``). Delivery limits
            and retry policies use it.
        queue: The name of its queue.
        group: The group that the task belongs to; None if it has none.
        fence: For a task in a group: a number that grows with every claim in the group. Have your database
            refuse writes with a number below one that it has seen. None for other tasks.
    """

    receipt: Receipt
    deadline: float
    expires: float
    headers: Mapping[str, str]
    attempt: int
    queue: str
    group: str | None
    fence: int | None
    _report: Report | None

    def __new__(
        cls,
        receipt: Receipt,
        data: Payload_co,
        deadline: float,
        expires: float,
        headers: Mapping[str, str] = NO_HEADERS,
        attempt: int | None = None,
        report: Report | None = None,
        queue: str = '',
        group: str | None = None,
        fence: int | None = None,
    ) -> Task[Payload_co]:
        self = tuple.__new__(cls, (TaskId(receipt), data))
        self.receipt = receipt
        self.deadline = deadline
        self.expires = expires
        self.headers = headers
        self.attempt = receipt.dequeue_count if attempt is None else attempt
        self.queue = queue
        self._report = report
        self.group = group
        self.fence = fence
        return self

    @property
    def id(self) -> TaskId:
        """The task's id, which carries the claim."""
        return self[0]

    @property
    def data(self) -> Payload_co:
        """The payload, deserialised."""
        return self[1]

    @property
    def kind(self) -> str | None:
        """The kind of the task, by which a router chooses its function; None if no router enqueued the task."""
        return self.headers.get(KIND)

    def with_data(self, data: Any) -> Task[Any]:  # noqa: ANN401 - any payload
        """Return a copy with another payload."""
        known = self.deadline, self.expires, self.headers, self.attempt, self._report, self.queue
        return Task(self.receipt, data, *known, self.group, self.fence)

    def progress(self, value: float, total: float | None = None, note: str | None = None) -> Awaitable[None]:
        """Report how far the work on this task has come: ``await task.progress(40, 100, 'resizing')``.

        Readers and watchers of the task see it until the claim ends. Only the holder of the live claim can
        report. Call it as often as you like: at most ten reports per second are written, always the last one; a
        report that waits for its turn is written in the background. A report does not renew the lease, and is
        dropped if the server cannot be reached. Safe to cancel and to repeat.

        With `torrelque.sync` the call blocks, there is nothing to await, and a report less than 0.1 s after the
        previous one is dropped.

        Args:
            value: How much is done, from 0.
            total: How much there is to do, above 0. None if that is unknown.
            note: Text of up to 500 characters.

        Raises:
            TorrelqueLeaseLostError: The claim is no longer live. Nothing was changed.
            TorrelqueTypeError: An argument has a bad type. This and the next two are raised at once.
            TorrelqueValueError: An argument has a bad value.
            TorrelqueUsageError: The task is a copy that was pickled or constructed.
        """
        if self._report is None:
            raise TorrelqueUsageError(f'this copy of task {self.id!r} has no queue to report to')
        return self._report(self.receipt, value, total, note)

    @property
    def dequeue_count(self) -> int:
        """The number of this delivery, from 1."""
        return self.receipt.dequeue_count

    def __reduce__(self) -> tuple[type[Task[Any]], tuple[Any, ...]]:
        known = self.deadline, self.expires, dict(self.headers), self.attempt, None, self.queue
        return Task, (self.receipt, self.data, *known, self.group, self.fence)


class Pause(NamedTuple):
    """A pause of a queue. Times are Unix times on the server's clock."""

    since: float
    until: float | None
    """When it ends; None if it lasts until the queue is resumed."""
    reason: str | None


class Limits(NamedTuple):
    """The limits of a queue or a group, as set by `Torrelque.limit`. None is no limit."""

    concurrency: int | None = None
    """Maximum number of tasks claimed at once."""
    rate: tuple[int, float] | None = None
    """Maximum number of deliveries in a number of seconds."""
    burst: int | None = None
    """How many of these deliveries may take place at once."""
    weight: int | None = None
    """For a group: its share compared with that of other groups; None is 1."""
    ordered: bool = False
    """For a group: whether its tasks run one at a time, in order."""
    dead: str | None = None
    """For a group: ``'hold'`` if a dead letter holds the group."""
    strict: bool = False
    """For a queue: whether a task is delivered only if none of a higher priority waits."""


class GroupCounts(NamedTuple):
    """How many groups of a queue have waiting tasks."""

    ready: int
    """Groups from which a consumer can take a task."""
    blocked: int
    """Groups that have reached their concurrency limit."""
    held: int
    """Groups that wait for their rate, a retry or a dead letter."""


class GroupInfo(NamedTuple):
    """A group of a queue, as it was when it was read. Times are Unix times on the server's clock."""

    name: str
    waiting: int
    """How many tasks wait, without those that are not due yet."""
    working: int
    """How many tasks are claimed."""
    state: str
    """``'ready'`` if a consumer can take a task; ``'blocked'`` if the group has reached its concurrency limit;
    ``'held'`` if it waits for a time or a dead letter; ``'idle'`` if no task waits."""
    since: float | None = None
    """Since when it is blocked; None in other states."""
    until: float | None = None
    """When it is no longer held; None in other states, and if a dead letter holds it."""


class TorrelqueQueueStats(NamedTuple):
    """Counts at one moment, and totals since the queue's first task."""

    tasks: int
    """All tasks except dead letters."""
    pending: int
    working: int
    delayed: int
    rejected: int = 0
    """Dead letters."""
    oldest_pending_age: float | None = None
    """Seconds since the task at the front of pending was enqueued; None if no task is pending."""
    total_enqueued: int = 0
    total_claimed: int = 0
    total_completed: int = 0
    total_requeued: int = 0
    """Requeued by a consumer, or taken back when a claim became stale."""
    total_rejected: int = 0
    total_expired: int = 0
    """Dropped because no consumer started them in time. Those that became dead letters count as rejected."""
    paused: Pause | None = None
    """The pause in force; None if the queue is not paused."""
    limits: Limits | None = None
    """The limits of the whole queue; None if it has none."""
    pending_high: int = 0
    """Pending tasks of high priority."""
    pending_low: int = 0
    """Pending tasks of low priority."""
    groups: GroupCounts | None = None
    """How many groups have waiting tasks; None if none has."""
    schedules: int = 0
    """Number of schedules."""


def add_stats(parts: Sequence[TorrelqueQueueStats]) -> TorrelqueQueueStats:
    """Add up the statistics of all shards."""
    if len(parts) == 1:
        return parts[0]
    sums = {
        name: sum(getattr(part, name) for part in parts)
        for name in TorrelqueQueueStats._fields
        if name not in ('oldest_pending_age', 'paused', 'limits', 'groups')
    }
    ages = [part.oldest_pending_age for part in parts if part.oldest_pending_age is not None]
    paused = next((part.paused for part in parts if part.paused is not None), None)
    limits = next((part.limits for part in parts if part.limits is not None), None)
    groups = [part.groups for part in parts if part.groups is not None]
    return TorrelqueQueueStats(
        oldest_pending_age=max(ages, default=None),
        paused=paused,
        limits=limits,
        groups=GroupCounts(*map(sum, zip(*groups, strict=True))) if groups else None,
        **sums,
    )


class TaskProgress(NamedTuple):
    """The progress of a task, as its consumer last reported it."""

    value: float
    total: float | None
    note: str
    time: float
    """When it was written, in Unix time on the server's clock."""


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
    """Maximum number of deliveries. Then the task becomes a dead letter."""
    reason: str | None = None
    """Why the task is a dead letter."""
    revision: int = 1
    """Increases with each transition that 1.0 makes."""
    progress: TaskProgress | None = None
    """What the consumer reported; None if it reported nothing or the claim has ended."""
    expires: float | None = None
    """When the task expires. From then on no consumer gets it."""
    on_expiry: str | None = None
    """``reject`` if it then becomes a dead letter."""
    cancel_time: float | None = None
    """When the consumer was asked to end the task, by ``cancel(running='ask')``."""
    group: str | None = None
    """The group that the task belongs to; None if it has none."""
    priority: str = 'normal'
    """``high``, ``normal`` or ``low``."""


class TorrelqueTask(NamedTuple, Generic[Payload]):
    """A queued task, read without claiming it."""

    id: str
    data: Payload
    headers: Mapping[str, str]
    state: TorrelqueTaskState
    deadline: float | None = None
    """When the lease of a claimed task ends, in Unix time on the server's clock; None for other tasks."""
    due: float | None = None
    """When a delayed task is due, in Unix time on the server's clock; None for other tasks."""
    consumer: str | None = None
    """Identifies the queue object that holds the claim of a claimed task; compare :attr:`WorkerInfo.consumer`.

    None for a consumer of 0.9. If there are such consumers on the queue, it may be that of a former holder.
    """


STATE_FIELDS = (
    'status', 'timeout', 'result', 'dequeue_count', 'requeue_count', 'enqueue_time', 'last_dequeue_time',
    'last_requeue_time', 'release_time', 'max_dequeues', 'reason', 'revision',
    'progress', 'expires', 'on_expiry', 'cancel_time', 'group', 'level', 'claim',
)  # fmt: skip
"""The fields of a state's hash, in the order of :class:`TorrelqueTaskState`, and its claim."""


_CLAIM = re.compile(rb'(-?\d+\.\d+) (\S+)(?: (-?\d+) (\d+))?')


class ClaimMark(NamedTuple):
    """The claim in a task's state. Without count and revision, it is the first delivery, and the second transition.

    Attributes:
        deadline: The score in working that the claim has while it is live.
        token: The claim's token.
        dequeue_count: The task's dequeue_count.
        revision: The task's revision.
    """

    deadline: float
    token: bytes
    dequeue_count: int = 1
    revision: int = 2

    @classmethod
    def parse(cls, text: bytes | None) -> ClaimMark | None:
        """Parse the field of a state; None if there is none, or it is malformed."""
        match = _CLAIM.fullmatch(text) if text else None
        return match and cls(float(match[1]), match[2], int(match[3] or 1), int(match[4] or 2))

    def __bytes__(self) -> bytes:
        text = b'%.6f %b' % (self.deadline, self.token)
        return text if self[2:] == (1, 2) else b'%b %d %d' % (text, *self[2:])


def number_of(text: bytes | float | None) -> float | None:
    """Return a finite number that a server has stored; None for anything else."""
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


def make_pause(until: bytes, since: bytes, reason: bytes) -> Pause | None:
    """Parse the record of a pause; None if there is none. Without a finite end, it lasts until the queue is resumed."""
    if not until:
        return None
    return Pause(number_of(since) or 0.0, number_of(until), reason.decode(errors='replace') or None)


def make_limits(text: bytes) -> Limits | None:
    """Parse the record of limits; None if there are none. What is malformed is no limit, as for the scripts."""
    words = (text.split() + [b''] * 5)[:5]
    limits = Limits(_whole(words[0]) or None, *_rate(*words[1:4]), strict=words[4] == b'strict')
    return None if limits == Limits() else limits


def make_group_limits(own: bytes, default: bytes) -> Limits:
    """Parse the records of a group's limits and of the default; return what is in force for the group.

    What its own record does not name is as in the default. What is malformed is no limit, as for the scripts.
    """
    records = [(text.split() + [b'-'] * 8)[1:8] for text in (own, default)]
    if records[0][1] == b'-':
        records[0][1:4] = records[1][1:4]  # a rate and its burst belong together
    words = [word if word != b'-' else other for word, other in zip(*records, strict=True)]
    concurrency, count, period, burst, weight, ordered, dead = words
    return Limits(
        _whole(concurrency),
        *_rate(count, period, burst),
        weight=_whole(weight) or None,
        ordered=ordered == b'1',
        dead='hold' if dead == b'hold' else None,
    )


def _whole(word: bytes) -> int | None:
    return int(word) if word.isdigit() else None


def _rate(count: bytes, period: bytes, burst: bytes) -> tuple[tuple[int, float] | None, int | None]:
    """Parse a rate and its burst; None for both if there is none."""
    number, time, most = _whole(count), _whole(period), _whole(burst)
    return ((number, time / 1_000_000), most) if number and time and most else (None, None)


def make_state(values: Sequence[bytes | None]) -> TorrelqueTaskState | None:
    """Make a state from the fields of its hash.

    Args:
        values: The values of `STATE_FIELDS`. Damaged values count as missing.

    Returns:
        The state, with the result still serialised; None if there is no task.
    """
    (
        status, timeout, result, dequeues, requeues, enqueued, dequeued, requeued, released, limit, reason, revision,
        progress, expires, on_expiry, cancelled, group, level, claim,
    ) = values  # fmt: skip
    mark = ClaimMark.parse(claim)
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
        revision=max(_count(revision, 1), mark.revision if mark else 1),
        progress=_progress(progress, mark, dequeues) if known is TorrelqueTaskStatus.WORKING and progress else None,
        expires=number_of(expires),
        on_expiry=None if on_expiry is None else on_expiry.decode(errors='replace'),
        cancel_time=number_of(cancelled),
        group=None if group is None else group.decode(errors='replace'),
        priority='normal' if level is None else level.decode(errors='replace'),
    )


def _progress(text: bytes, claim: ClaimMark | None, dequeues: bytes | None) -> TaskProgress | None:
    """Parse the last report; None if it belongs to an earlier claim, or is malformed."""
    token, _, rest = text.partition(b' ')
    count, time, value, total, note = (rest.split(b' ', 4) + [b''] * 5)[:5]
    reported, moment = number_of(value), number_of(time)
    if token != (claim.token if claim else b'') or _count(count, -1) != _count(dequeues):
        return None
    if reported is None or moment is None:
        return None
    return TaskProgress(reported, number_of(total), note.decode(errors='replace'), moment)
