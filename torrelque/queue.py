"""The public queue class."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from torrelque.core import checks, operations, presence, schedules
from torrelque.core.auditing import Violation
from torrelque.core.callables import check_function
from torrelque.core.codec import JSON, Serialiser, dump_payload, load_headers
from torrelque.core.commands import (
    CANCEL,
    ENQUEUE,
    EXTEND,
    GIVEBACK,
    NO_LINE,
    PURGE,
    REDRIVE,
    REJECT,
    RELEASE,
    REQUEUE,
    Answer,
    ClaimedTask,
    Command,
    EnqueueItem,
    IfExists,
    Item,
    Line,
    OnExpiry,
    Outcome,
    Priority,
    ReleaseItem,
    RequeueItem,
    cancel_item,
    check_if_exists,
    claim_error,
    claim_item,
    enqueue_words,
    exists_error,
    expiry_words,
    extend_item,
    headers_word,
    line_words,
    new_item,
    purge_item,
    redrive_item,
    reject_item,
    release_words,
    requeue_words,
    with_time_limit,
)
from torrelque.core.durability import Durability
from torrelque.core.keys import LOGICAL_NAMES, Keys
from torrelque.core.models import (
    Cancellation,
    Deadline,
    Payload,
    Receipt,
    Report,
    Running,
    Task,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
    add_stats,
)
from torrelque.core.presence import WorkerInfo
from torrelque.core.protocol import Arg, Call, Reply
from torrelque.core.schedules import Draft, Missed, Schedule
from torrelque.engine.cancellations import Cancellations
from torrelque.engine.dead_letters import DeadLetters
from torrelque.engine.deletion import delete
from torrelque.engine.dispatch import Dispatcher, Progress
from torrelque.engine.engine import Engine
from torrelque.engine.flow import FlowControl
from torrelque.engine.listing import Listing
from torrelque.engine.placing import make_schedules
from torrelque.engine.progress import Reporter
from torrelque.engine.runtime import Runtime
from torrelque.engine.sharded import ShardedDispatcher
from torrelque.engine.sweeper import Sweeper
from torrelque.engine.waits import WaitSharer
from torrelque.engine.watch import States, Watcher
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueDurabilityError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.transports.base import Client
from torrelque.transports.failover import LONGEST
from torrelque.worker.failures import describe, sendable

__all__ = ('Torrelque',)

T = TypeVar('T')

logger: logging.Logger = logging.getLogger('torrelque')


class Torrelque(FlowControl, Generic[Payload]):
    """A work queue.

    The class is generic in its payloads: ``Torrelque[Email](client, serialiser=...)`` has tasks whose ``data``
    is an ``Email``. The default is Any.

    On Trio you must enter the queue with ``async with``. On asyncio that is optional: the
    queue starts its background work with the first call, and `aclose` ends it.

    You can cancel any call without stranding a task. What was not sent is dropped, what was
    sent is finished, and tasks that were claimed for a caller that has gone are given back.

    Connection errors raise TorrelqueConnectionError, and error replies of the server raise
    TorrelqueReplyError. With redis-py and coredis these are also that client's own exceptions.

    Args:
        client: A ``Redis`` or ``RedisCluster`` of ``redis.asyncio`` or ``coredis``, the client that
            ``async with torrelque.connect(url) as client`` returns, or any
            :class:`~torrelque.transports.base.Transport`. You close it, not the queue.
        queue: Name of the queue; its keys begin with it.
        serialiser: Of payloads. Has ``dumps(value)``, which returns bytes, and ``loads(data)``; see
            :mod:`torrelque.serialisers`. The default is JSON.
        max_dequeues: Delivery limit of tasks that are enqueued without one. None sets no limit.
        max_rejected: Maximum number of dead letters to keep. When a call of this object exceeds it,
            the oldest are deleted. None keeps all.
        durability: Writes return once they are this durable. They raise TorrelqueDurabilityError if
            they were written but not confirmed in time, and TorrelqueUsageError, with nothing written,
            if the server cannot confirm them at all. None does not wait.
        failover_timeout: Seconds, at most 300, for which each call is repeated while the connection
            breaks or the server cannot serve it for now (READONLY, LOADING, CLUSTERDOWN, BUSY and the
            like; MOVED or ASK that could not be followed; not OOM). Then the last error is raised. 0
            repeats nothing. None is 10 on a cluster and through Sentinel, otherwise 0.
        shards: Number of parts to spread the queue over, on a cluster over its servers. Their keys begin
            with ``{queue:0}``, ``{queue:1}`` and so on. Tasks are first in, first out within a shard, and
            consumers take from all shards in turn. The number is recorded with the queue; an object that
            was given another raises TorrelqueShardsError. `reshard` changes it. None uses no shards.
        result_serialiser: Of results. None takes ``serialiser``.

    Raises:
        TorrelqueError: The client is of an unknown type.
        TorrelqueTypeError: An argument has a bad type.
        TorrelqueValueError: An argument has a bad value.
    """

    task_timeout: float = 300
    """Seconds until the lease of a task that was enqueued without a time-out expires."""

    result_ttl: float = 3600
    """Seconds for which a result is kept."""

    keys: Mapping[str, str] = dict(LOGICAL_NAMES)
    """Logical name -> key. On an instance the keys begin with the queue's name. Read at the first call."""

    sweep_interval: float = 30
    """Seconds between scheduled sweeps."""

    def __init__(
        self,
        client: Client,
        *,
        queue: str = 'trq',
        serialiser: Serialiser[Payload] = JSON,
        max_dequeues: int | None = None,
        max_rejected: int | None = None,
        durability: Durability | None = None,
        failover_timeout: float | None = None,
        shards: int | None = None,
        result_serialiser: Serialiser[Any] | None = None,
    ) -> None:
        self.queue: str = checks.check_text('queue', queue)
        self.max_dequeues: int | None = (
            None if max_dequeues is None else checks.check_count('max_dequeues', max_dequeues)
        )
        self.max_rejected: int | None = (
            None if max_rejected is None else checks.check_count('max_rejected', max_rejected)
        )
        if durability is not None and not isinstance(durability, Durability):
            raise TorrelqueTypeError(f'durability must be a torrelque.Durability, got {durability!r}')
        self.durability: Durability | None = durability
        self._serialiser = checks.check_serialiser('serialiser', serialiser)
        self._result_serialiser: Serialiser[Any] = (
            serialiser if result_serialiser is None else checks.check_serialiser('result_serialiser', result_serialiser)
        )
        self._client = client
        self.failover_timeout: float | None = checks.check_seconds('failover_timeout', failover_timeout)
        if (failover_timeout or 0) > LONGEST:
            raise TorrelqueValueError(f'failover_timeout must be at most {LONGEST:g} s, got {failover_timeout!r}')
        self.shards: int | None = None if shards is None else checks.check_count('shards', shards)
        runtime = self._runtime = self._make_runtime(client)
        self._transport = runtime.transport
        self._scripts = runtime.scripts
        self.keys = runtime.full_names
        self._dispatcher = self._make_dispatcher(runtime)
        self._sweeper = Sweeper(runtime, lambda: self.sweep())  # noqa: PLW0108 - a subclass or a test may replace it
        self._dead_letters = DeadLetters(self._dispatcher)
        self._schedules = make_schedules(self._dispatcher, self._serialiser.loads)
        self._report = self._make_reporter(self._dispatcher)

    def _make_runtime(self, client: object) -> Runtime:
        return Runtime(client, self, type(self).keys)

    def _make_dispatcher(self, runtime: Runtime) -> Dispatcher:
        return Dispatcher(runtime) if self.shards is None else ShardedDispatcher(runtime, self.shards)

    def _make_reporter(self, dispatcher: Dispatcher) -> Report:
        return Reporter(dispatcher).report

    # Lifecycle -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._engine.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._engine.leave()
        await self._runtime.close_transport()

    async def aclose(self) -> None:
        """Stop the background work of a queue that was not entered with ``async with``, on asyncio.

        Calls in progress get two seconds to finish. Safe to repeat.
        """
        self._sweeper.stop()
        await self._engine.aclose()
        await self._runtime.close_transport()

    @property
    def _engine(self) -> Engine:
        return self._runtime.engine

    @property
    def client(self) -> Client:
        """The client that the queue uses."""
        return self._client

    @contextmanager
    def share_waits(self, sharer: WaitSharer) -> Iterator[None]:
        """Within a context, let consumers of this queue share a blocking call with those of other queues.

        Subscriptions share a connection as well, or one for each node of a cluster, where each object makes its own
        blocking calls. A `Worker` with several queues does this itself. It has no effect if this object already shares
        its waits.

        Args:
            sharer: Makes the calls. Pass it to queue objects with the same client.
        """
        shares = not self._engine.shares_waits
        if shares:
            self._engine.share_waits(sharer)
        try:
            yield
        finally:
            if shares:
                self._engine.share_waits(None)

    # Producing -------------------------------------------------------------------------------------------------------

    async def enqueue(
        self,
        task: Payload,
        *,
        task_timeout: float | None = None,
        delay: float | None = None,
        pipeline: object = None,
        task_id: str | None = None,
        max_dequeues: int | None = None,
        headers: Mapping[str, str] | None = None,
        time_limit: float | None = None,
        if_exists: IfExists | None = None,
        replace: bool = False,
        expires_in: float | None = None,
        expires_at: datetime | float | None = None,
        on_expiry: OnExpiry | None = None,
        group: str | None = None,
        priority: Priority | None = None,
    ) -> str:
        """Add a task to the back of the queue, or for later.

        With your own ``task_id`` the call is safe to repeat: while that id is queued or a dead
        letter, it changes nothing, unless it replaces a task. If it is cancelled, the task is added
        or not; never twice.

        Args:
            task: The payload.
            task_timeout: Seconds that a consumer may hold the task before its lease expires. None or 0
                takes the queue's ``task_timeout``.
            delay: Seconds until the task is due. None, 0 and negative numbers mean now.
            pipeline: A pipeline of redis-py or coredis. The call queues one EVAL on it and returns at once.
            task_id: Your own id. None draws a random one.
            max_dequeues: Deliveries after which the task becomes a dead letter. None takes the queue's
                ``max_dequeues``.
            headers: Strings that travel with the task.
            time_limit: Seconds that a worker's handler may take; overrides the worker's own limit.
            if_exists: What to do if a task with this id is queued or a dead letter. ``'ignore'``, the default,
                returns its id, and ``'raise'`` raises TorrelqueExistsError; nothing is changed.
                ``'replace'`` replaces a pending or delayed task, with all its options. A pending task
                that gets no delay keeps its place. A running task and a dead letter cannot be replaced:
                TorrelqueExistsError is raised, and nothing is changed.
            replace: True is short for ``if_exists='replace'``.
            expires_in: Seconds after which no consumer gets the task. Retries keep this time. With None it
                does not expire.
            expires_at: The same as a point in time: a datetime with a time zone, or a Unix time.
            on_expiry: What to do with a task that expires. ``'drop'``, the default, ends it with the status
                EXPIRED. ``'reject'`` makes it a dead letter with the reason ``expired``.
            group: The group that the task belongs to, such as a tenant, or a key whose tasks run in order;
                at most 256 characters. Consumers take from groups in turn, and `limit` limits and orders
                them. In a queue with shards, a task in a group cannot have your own ``task_id``.
            priority: ``'high'``, ``'normal'`` or ``'low'``, for a task without a group. Consumers get 16 of
                high, 4 of normal and 1 of low priority in turn. None is normal.

        Returns:
            The id of the task.

        Raises:
            TorrelqueTypeError: An argument has a bad type. Nothing was sent, as with the next two.
            TorrelqueValueError: An argument has a bad value.
            Exception: The serialiser failed.
            TorrelqueExistsError: The id exists, and ``if_exists`` is ``'raise'`` or the task cannot be
                replaced. In a pipeline, its ``execute`` raises the client's own error in the second case.
            TorrelqueDurabilityError: The task was added, but not confirmed in time.
        """
        mode = 'ignore' if if_exists is None and replace is False else check_if_exists(if_exists, replace)
        if mode == 'replace':
            checks.check_given('task_id', task_id, "if_exists='replace'")
        words = enqueue_words(self.task_timeout, self.max_dequeues, task_timeout, delay, max_dequeues)
        expiry = expiry_words(expires_in, expires_at, on_expiry, delay)
        line = NO_LINE if group is None and priority is None else self._line(group, priority, task_id)
        if time_limit is not None:
            headers = with_time_limit(headers, time_limit)
        item = new_item(
            self._serialiser,
            self._dispatcher.new_id if group is None else partial(self._dispatcher.new_id, group),
            task,
            words,
            task_id,
            headers,
            replace=mode == 'replace',
            expiry=expiry,
            line=line,
        )
        if pipeline is not None:
            if mode == 'raise':
                raise TorrelqueUsageError(
                    "if_exists='raise' needs the answer of the server, and cannot be in a pipeline"
                )
            await self._append(pipeline, ENQUEUE, item, fenced=False)
        else:
            answer, item = await self._enqueue(item, drawn=task_id is None, group=group)
            if isinstance(answer, TorrelqueDurabilityError):
                raise answer
            if answer is not Outcome.NEW and (error := exists_error(item, answer, mode)) is not None:
                raise error
        return str(item[0], 'utf-8')  # type: ignore[arg-type]  # it is bytes

    async def _enqueue(self, item: Item, *, drawn: bool, group: str | None) -> tuple[Answer, Item]:
        """Add a task. Draw another id if its shard does not answer, or is no longer that of its group."""
        while True:
            try:
                answer = await self._dispatcher.one(self._dispatcher.add if drawn else ENQUEUE, item)
                if answer is not Outcome.AGAIN:
                    return answer, item
            except (TorrelqueConnectionError, TorrelqueReplyError) as error:
                if not (drawn and group is None and self._dispatcher.may_go_elsewhere(error)):
                    raise
            item = (self._dispatcher.new_id(group).encode(), *item[1:])

    def _line(self, group: str | None, priority: Priority | None, task_id: str | None) -> Line:
        """Check and write the group and the priority of a task."""
        if group is not None and task_id is not None and self.shards is not None:
            raise TorrelqueValueError(
                f'in a queue with shards a task in a group cannot have your own id, got {task_id!r}: '
                'the group decides on which shard it is'
            )
        return line_words(group, priority)

    async def enqueue_many(
        self,
        items: Iterable[Payload | EnqueueItem[Payload]],
        *,
        task_timeout: float | None = None,
        delay: float | None = None,
        max_dequeues: int | None = None,
        headers: Mapping[str, str] | None = None,
        time_limit: float | None = None,
        on_progress: Progress | None = None,
        if_exists: IfExists | None = None,
        replace: bool = False,
        expires_in: float | None = None,
        expires_at: datetime | float | None = None,
        on_expiry: OnExpiry | None = None,
        group: str | None = None,
        priority: Priority | None = None,
    ) -> list[str | Exception]:
        """Add many tasks, up to 250 per round trip.

        All items are checked and serialised before the first is sent, so if one is bad, the call
        raises and nothing is sent. Other event-loop tasks run meanwhile. The serialised items stay in
        memory until the call ends. If the call is cancelled, some of the tasks may have been added.
        Items with their own ids are safe to repeat.

        Args:
            items: Tasks, or :class:`~torrelque.EnqueueItem` for those that need their own arguments.
            task_timeout: As in `enqueue`, as are ``delay`` and ``max_dequeues``.
            delay: Seconds.
            max_dequeues: Number of deliveries.
            headers: As in `enqueue`, as is ``time_limit``. An EnqueueItem has its own.
            time_limit: Seconds.
            on_progress: Called as ``on_progress(done, total)`` after each round trip.
            if_exists: As in `enqueue`, for items with an id that do not have their own ``if_exists``. The list
                has TorrelqueExistsError in place of an id. Of items with the same id, the last one counts.
            replace: As in `enqueue`.
            expires_in: As in `enqueue`, as are ``expires_at`` and ``on_expiry``. An EnqueueItem has its own.
            expires_at: A datetime with a time zone, or a Unix time.
            on_expiry: ``'drop'`` or ``'reject'``.
            group: As in `enqueue`, as is ``priority``. An EnqueueItem has its own.
            priority: ``'high'``, ``'normal'`` or ``'low'``.

        Returns:
            For each item its id, or the exception if it was not added.

        Raises:
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
            Exception: The serialiser failed.
        """
        _check_progress(on_progress)
        defaults, new_id, serialiser = (self.task_timeout, self.max_dequeues), self._dispatcher.new_id, self._serialiser
        common = enqueue_words(*defaults, task_timeout, delay, max_dequeues)
        expiry = expiry_words(expires_in, expires_at, on_expiry, delay)
        line = self._line(group, priority, None)
        more = ('', *expiry, *(line if any(line) else ())) if any(expiry) or any(line) else ()
        rest = (*common, headers_word(with_time_limit(headers, time_limit)), *more)
        general = check_if_exists(if_exists, replace)

        def mode_of(item: EnqueueItem[Payload]) -> IfExists:
            mode = check_if_exists(item.if_exists, item.replace, general)
            if item.task_id is None and mode == 'replace' and (item.replace or item.if_exists):
                checks.check_given('task_id', item.task_id, "if_exists='replace'")
            return 'ignore' if item.task_id is None else mode

        def write(item: Payload | EnqueueItem[Payload]) -> Item:
            if not isinstance(item, EnqueueItem):
                return new_id(group).encode(), dump_payload(serialiser, item), *rest
            words = enqueue_words(*defaults, item.task_timeout, item.delay, item.max_dequeues)
            own = with_time_limit(item.headers, item.time_limit)
            replaces = mode_of(item) == 'replace'
            return new_item(
                serialiser,
                partial(new_id, item.group),
                item.task,
                words,
                item.task_id,
                own,
                replace=replaces,
                expiry=expiry_words(item.expires_in, item.expires_at, item.on_expiry, item.delay),
                line=self._line(item.group, item.priority, item.task_id),
            )

        entries = [*items]
        written = await self._dispatcher.write_all(entries, write)
        is_drawn = all(not isinstance(entry, EnqueueItem) or entry.task_id is None for entry in entries)
        command = self._dispatcher.add if is_drawn else ENQUEUE
        answers = await self._dispatcher.many(command, written, on_progress)
        if answers.count(Outcome.NEW) == len(answers):
            return [_id_of(item) for item in written]
        await self._enqueue_elsewhere(entries, written, answers, group)
        for at, entry in enumerate(entries):
            if isinstance(entry, EnqueueItem):
                answers[at] = exists_error(written[at], answers[at], mode_of(entry)) or answers[at]
        return [
            answer if isinstance(answer, Exception) else _id_of(item)
            for item, answer in zip(written, answers, strict=True)
        ]

    async def _enqueue_elsewhere(
        self, entries: Sequence[object], written: list[Item], answers: list[Answer | Exception], common: str | None
    ) -> None:
        """Give another id to those whose shard does not answer, or is no longer that of their group."""
        for at, answer in enumerate(answers):
            entry = entries[at]
            task_id, group = (entry.task_id, entry.group) if isinstance(entry, EnqueueItem) else (None, common)
            lost = isinstance(answer, Exception) and self._dispatcher.may_go_elsewhere(answer)
            if answer is Outcome.AGAIN or (lost and task_id is None and group is None):
                new = (self._dispatcher.new_id(group).encode(), *written[at][1:])
                try:
                    answers[at], written[at] = await self._enqueue(new, drawn=True, group=group)
                except (TorrelqueConnectionError, TorrelqueReplyError) as error:
                    answers[at] = error

    # Schedules -------------------------------------------------------------------------------------------------------

    async def schedule(
        self,
        schedule_id: str,
        task: Payload,
        *,
        cron: str | None = None,
        tz: str | None = None,
        every: float | None = None,
        missed: Missed = 'skip',
        overlap: bool = True,
        owner: str | None = None,
        task_timeout: float | None = None,
        delay: float | None = None,
        max_dequeues: int | None = None,
        headers: Mapping[str, str] | None = None,
        time_limit: float | None = None,
        expires_in: float | None = None,
        on_expiry: OnExpiry | None = None,
        group: str | None = None,
        priority: Priority | None = None,
    ) -> None:
        """Have the queue add a task at regular times, or change that schedule.

        The server keeps the schedule, so it survives restarts. Consumers add its tasks; there is no scheduler process.
        Each time adds exactly one task, with the id ``<schedule>@<Unix time>``. While no consumer takes tasks, because
        all are busy or stopped or the queue is paused, no task is added; ``missed`` says what happens afterwards.

        Call it at every start; if nothing has changed, it has no effect. The schedule keeps its times unless ``cron``,
        ``tz`` or ``every`` changes. Safe to cancel and to repeat.

        Args:
            schedule_id: The id of the schedule, without ``@``.
            task: The payload of its tasks.
            cron: A cron expression, such as ``'0 7 * * mon-fri'``: minute, hour, day of the month, month, day of the
                week. Needs ``pip install "torrelque[cron]"`` wherever the queue is scheduled or consumed.
            tz: The time zone of ``cron``, such as ``'Europe/Vienna'``. None is UTC. A time of day that is skipped when
                daylight saving time begins is made up for right after; one that comes twice when it ends counts
                once.
            every: Seconds between two times, at least 0.001. They count from the first call.
            missed: What to do with times at which no consumer took tasks. ``'skip'`` adds a task for the last of them
                only, ``'all'`` one for each.
            overlap: Whether to add a task while the last one is still queued or running. If not, that time is
                skipped. False cannot be combined with ``missed='all'``.
            owner: Only calls with the same owner may then change the schedule; see `set_schedules`.
            task_timeout: As in `enqueue`, as are the following.
            delay: Seconds, from the schedule's time.
            max_dequeues: Number of deliveries.
            headers: Strings that travel with each task.
            time_limit: Seconds.
            expires_in: Seconds, from the schedule's time.
            on_expiry: ``'drop'`` or ``'reject'``.
            group: The group of its tasks.
            priority: ``'high'``, ``'normal'`` or ``'low'``.

        Raises:
            TorrelqueTypeError: An argument has a bad type. Nothing was changed, as with the next two.
            TorrelqueValueError: An argument has a bad value, such as an unknown time zone.
            TorrelqueUsageError: Another owner holds the schedule, or the package for ``cron`` is missing.
        """
        options = {
            'task': task,
            'cron': cron,
            'tz': tz,
            'every': every,
            'missed': missed,
            'overlap': overlap,
            'owner': owner,
            'task_timeout': task_timeout,
            'delay': delay,
            'max_dequeues': max_dequeues,
            'headers': headers,
            'time_limit': time_limit,
            'expires_in': expires_in,
            'on_expiry': on_expiry,
            'group': group,
            'priority': priority,
        }
        await self._schedules.set(self._schedule_of(schedule_id, options), owner)

    def _schedule_of(self, schedule_id: str, options: Mapping[str, Any]) -> Draft:
        return schedules.draft(schedule_id, options, self._serialiser, (self.task_timeout, self.max_dequeues))

    async def set_schedules(self, wanted: Mapping[str, Mapping[str, Any]], *, owner: str) -> None:
        """Set all schedules of an owner: add and change those listed, and remove the others.

        Call it at every start with all schedules of your program. If two versions with different lists run at the
        same time, the last call wins. Schedules of other owners do not change. Schedules without an owner get this
        one if they are listed. Safe to cancel and to repeat.

        Args:
            wanted: Maps the id of each schedule to arguments of `schedule`:
                ``{'report': dict(task={'kind': 'daily'}, cron='0 7 * * mon-fri', tz='Europe/Vienna')}``.
            owner: A name for the program, such as ``'app'``.

        Raises:
            TorrelqueTypeError: An argument has a bad type. Nothing was changed, as with the next two.
            TorrelqueValueError: An argument has a bad value.
            TorrelqueUsageError: Another owner holds one of the schedules, or the package for ``cron`` is missing.
        """
        checks.check_text('owner', owner)
        drafts: list[Draft] = []
        for schedule_id, options in schedules.check_mapping(wanted).items():
            if options.get('owner') not in (None, owner):
                raise TorrelqueValueError(
                    f'owner of schedule {schedule_id!r} must be {owner!r}, as of all, got {options["owner"]!r}'
                )
            drafts.append(self._schedule_of(schedule_id, {**options, 'owner': owner}))
        await self._schedules.replace(drafts, owner)

    async def unschedule(self, schedule_id: str) -> None:
        """Remove a schedule, even that of another owner. Tasks that it has added stay. Safe to cancel and to repeat.

        Args:
            schedule_id: The id of the schedule.

        Raises:
            TorrelqueLookupError: There is no such schedule.
        """
        await self._schedules.remove(schedules.check_id(schedule_id))

    async def fire(self, schedule_id: str) -> str:
        """Have a schedule add a task now, even if its last one is still queued. Its times stay as they are.

        Each call adds a task. If it is cancelled, the task is added or not; never twice.

        Args:
            schedule_id: The id of the schedule.

        Returns:
            The id of the task.

        Raises:
            TorrelqueLookupError: There is no such schedule.
        """
        return await self._schedules.fire(schedules.check_id(schedule_id))

    def schedules(self) -> AsyncIterator[Schedule[Payload]]:
        """Iterate over the schedules of the queue, in no particular order. You can stop iterating at any point."""
        return self._schedules.list()

    # Consuming -------------------------------------------------------------------------------------------------------

    @overload
    async def dequeue(  # type: ignore[overload-overlap]  # 1 gives a task, as in 0.9, all else a list
        self, timeout: float | None = None, *, max_tasks: Literal[1] = 1
    ) -> Task[Payload]: ...
    @overload
    async def dequeue(self, timeout: float | None = None, *, max_tasks: int) -> list[Task[Payload]]: ...
    async def dequeue(self, timeout: float | None = None, *, max_tasks: int = 1) -> Task[Payload] | list[Task[Payload]]:
        """Wait for a task and claim it.

        Tasks are delivered first in, first out. A task that cannot be deserialised becomes a dead
        letter. If the call is cancelled, no task is lost or held.

        Args:
            timeout: Seconds to wait. None or 0 waits without limit.
            max_tasks: Maximum number of tasks to claim. If it may be 1, `dequeue_many` is easier to use.

        Returns:
            A :class:`~torrelque.Task`, which unpacks as ``(id, data)``. With ``max_tasks`` above 1, a list
            of at least one task, and of as many as are available.

        Raises:
            TorrelqueTimeoutError: No task arrived in time. A call that waits for the server's answer then ends at most
                two seconds later; what it may have claimed is given back, at the latest when the lease ends.
            TorrelqueConnectionError: The server cannot be reached, and ``timeout`` has not passed.
        """
        tasks = await self._claim(max_tasks, timeout)
        return tasks if max_tasks > 1 else tasks[0]

    async def dequeue_many(self, max_tasks: int, timeout: float | None = None) -> list[Task[Payload]]:
        """Wait for tasks and claim them, as `dequeue` does, but always return a list.

        If the call is cancelled, no task is lost or held.

        Args:
            max_tasks: Maximum number of tasks to claim.
            timeout: Seconds to wait. None or 0 waits without limit.

        Returns:
            At least one task, and as many as are available.

        Raises:
            TorrelqueTimeoutError: No task arrived in time. A call that waits for the server's answer then ends at most
                two seconds later; what it may have claimed is given back, at the latest when the lease ends.
            TorrelqueConnectionError: The server cannot be reached, and ``timeout`` has not passed.
        """
        return await self._claim(max_tasks, timeout)

    async def _claim(self, max_tasks: int, timeout: float | None) -> list[Task[Payload]]:
        deadline = checks.check_wait('timeout', timeout)
        if deadline < math.inf:
            deadline += self._transport.now()
        checks.check_count('max_tasks', max_tasks)
        if self.shards is not None:
            with self._engine.limit(deadline, lambda: TorrelqueTimeoutError('no task in time')):
                await self._dispatcher.ready()
        while True:
            tasks = self._load(await self._engine.dequeue(max_tasks, deadline))
            if tasks:
                return tasks

    async def dequeue_nowait(self, *, max_tasks: int = 1) -> list[Task[Payload]]:
        """Claim tasks that are available now, without waiting.

        If it finds none while this object gives tasks back, it looks again when that is done.
        If the call is cancelled, no task is lost or held.

        Args:
            max_tasks: Maximum number of tasks to claim.

        Returns:
            The tasks; an empty list if there are none.
        """
        checks.check_count('max_tasks', max_tasks)
        await self._dispatcher.ready()
        return self._load(await self._engine.dequeue_nowait(max_tasks))

    def _load(self, claimed: Sequence[ClaimedTask]) -> list[Task[Payload]]:
        tasks: list[Task[Payload]] = []
        loads, report, queue = self._serialiser.loads, self._report, self.queue
        for receipt, payload, deadline, header_data, expires, attempt, group, fence in claimed:
            try:
                data = loads(payload)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever a serialiser may raise
                said = describe(error)
                logger.warning('Cannot deserialise task:%s, rejecting it: %s', receipt.id, said)
                reason = sendable(f'cannot be deserialised: {said}'[:1000])
                item = reject_item(receipt, reason, self.max_rejected)
                self._dispatcher.fire_and_forget(REJECT, item)
            else:
                headers = load_headers(header_data)
                tasks.append(Task(receipt, data, deadline, expires, headers, attempt, report, queue, group, fence))
        return tasks

    # Ending claims ---------------------------------------------------------------------------------------------------

    async def requeue(
        self,
        task_id: str | Task,
        delay: float | None = None,
        *,
        task_timeout: float | None = None,
        pipeline: object = None,
        count: bool = True,
        group: bool = False,
    ) -> None:
        """Return a claimed task to the back of the queue, or for later.

        A task of an ordered group keeps its place, and the group waits for it. Safe to repeat: a second
        call finds no live claim and changes nothing.

        Args:
            task_id: The dequeued task, or an id. For an id without a live claim the call logs a
                warning and changes nothing.
            delay: Seconds until the task is due. None, 0 and negative numbers mean now.
            task_timeout: New time-out in seconds. None or 0 keeps the task's.
            pipeline: As in `enqueue`.
            count: Whether this delivery counts as an attempt. If not, the next one has the same ``attempt``,
                and ``max_dequeues`` does not count it.
            group: Whether the whole group of the task waits for the ``delay``, for example because a
                service replied "429 Too Many Requests". A task without a group waits alone.

        Raises:
            TorrelqueLeaseLostError: The claim of the dequeued task is no longer live. Nothing was changed.
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
        """
        target = checks.check_target(task_id)
        item = (*claim_item(target), *requeue_words(delay, task_timeout, count=count, group=group))
        if pipeline is not None:
            await self._append(pipeline, REQUEUE, item, fenced=isinstance(task_id, Task))
        else:
            self._warn('requeue', task_id, target, await self._dispatcher.one(REQUEUE, item))

    async def requeue_many(
        self,
        items: Iterable[str | Task | RequeueItem],
        *,
        delay: float | None = None,
        task_timeout: float | None = None,
        on_progress: Progress | None = None,
        count: bool = True,
        group: bool = False,
    ) -> list[Exception | None]:
        """Requeue many tasks, up to 250 per round trip.

        Safe to repeat. As in `enqueue_many`, nothing is sent if an item is bad.

        Args:
            items: Dequeued tasks, ids, or :class:`~torrelque.RequeueItem` for those that need their own
                arguments.
            delay: Seconds until the tasks are due. None, 0 and negative numbers mean now.
            task_timeout: New time-out in seconds. None or 0 keeps the tasks'.
            on_progress: Called as ``on_progress(done, total)`` after each round trip.
            count: As in `requeue`, as is ``group``.
            group: Whether the groups of the tasks wait as well.

        Returns:
            For each item None, or the exception if it was not requeued.

        Raises:
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
        """
        _check_progress(on_progress)
        common = requeue_words(delay, task_timeout, count=count, group=group)

        def write(item: str | Task | RequeueItem) -> Item:
            words = common
            if isinstance(item, RequeueItem):
                words = requeue_words(item.delay, item.task_timeout, count=item.count, group=item.group)
                item = item.task
            target = checks.check_target(item)
            targets.append(target)
            return *claim_item(target), *words

        targets: list[Receipt | str] = []
        entries = await self._dispatcher.write_all(items, write)
        return await self._end_many(REQUEUE, targets, entries, on_progress)

    async def release(
        self,
        task_id: str | Task,
        *,
        result: Any = None,  # noqa: ANN401 - whatever the result serialiser takes
        result_ttl: float | None = None,
        status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED,
        pipeline: object = None,
        finished_ttl: float | None = None,
    ) -> None:
        """Remove a claimed task from the queue, because it is done.

        Safe to repeat: a second call finds no live claim and changes nothing.

        Args:
            task_id: The dequeued task, or an id. For an id without a live claim the call logs a
                warning and changes nothing.
            result: Kept in the task's state. None means no result.
            result_ttl: Seconds for which the result is kept. None takes the queue's ``result_ttl``.
            status: COMPLETED or REJECTED; the final status that is reported and kept.
            pipeline: As in `enqueue`.
            finished_ttl: Seconds for which the state is kept if there is no result. None or 0 keeps no state.

        Raises:
            TorrelqueLeaseLostError: The claim of the dequeued task is no longer live. Nothing was changed.
            TorrelqueError: ``status`` is not a final one.
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
            Exception: The serialiser failed. Nothing was sent.
        """
        target = checks.check_target(task_id)
        words = release_words(self._result_serialiser, self.result_ttl, result, result_ttl, status, finished_ttl)
        item = (*claim_item(target), *words)
        if pipeline is not None:
            await self._append(pipeline, RELEASE, item, fenced=isinstance(task_id, Task))
        else:
            self._warn('release', task_id, target, await self._dispatcher.one(RELEASE, item))

    async def release_many(
        self,
        items: Iterable[str | Task | ReleaseItem],
        *,
        status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED,
        on_progress: Progress | None = None,
        finished_ttl: float | None = None,
    ) -> list[Exception | None]:
        """Release many tasks, up to 250 per round trip.

        Safe to repeat. As in `enqueue_many`, nothing is sent if an item is bad.

        Args:
            items: Dequeued tasks, ids, or :class:`~torrelque.ReleaseItem` for those that need their own
                arguments, such as a result.
            status: COMPLETED or REJECTED.
            on_progress: Called as ``on_progress(done, total)`` after each round trip.
            finished_ttl: As in `release`.

        Returns:
            For each item None, or the exception if it was not released.

        Raises:
            TorrelqueError: ``status`` is not a final one.
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
            Exception: The serialiser failed.
        """
        _check_progress(on_progress)
        defaults = self._result_serialiser, self.result_ttl
        common = release_words(*defaults, None, None, status, finished_ttl)

        def write(item: str | Task | ReleaseItem) -> Item:
            words = common
            if isinstance(item, ReleaseItem):
                words = release_words(*defaults, item.result, item.result_ttl, item.status, item.finished_ttl)
                item = item.task
            target = checks.check_target(item)
            targets.append(target)
            return *claim_item(target), *words

        targets: list[Receipt | str] = []
        entries = await self._dispatcher.write_all(items, write)
        return await self._end_many(RELEASE, targets, entries, on_progress)

    async def reject(self, task_id: str | Task, reason: str) -> None:
        """Move a claimed task to the dead letters.

        Its payload is kept until `redrive`, `purge` or ``max_rejected`` removes it. Safe to repeat: a
        second call finds no live claim and changes nothing.

        Args:
            task_id: The dequeued task, or an id.
            reason: Why; kept in the task's state.

        Raises:
            TorrelqueLeaseLostError: The claim of the dequeued task is no longer live. Nothing was changed.
            TorrelqueLookupError: The id has no live claim.
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
        """
        target = checks.check_target(task_id)
        item = reject_item(target, checks.check_text('reason', reason), self.max_rejected)
        self._raise(target, await self._dispatcher.one(REJECT, item))

    async def giveback(self, task_id: str | Task) -> None:
        """End a claim as if the task had not been delivered.

        The task returns to the front of the queue, and this delivery does not count. Safe to repeat:
        a second call finds no live claim and changes nothing.

        Args:
            task_id: The dequeued task, or an id.

        Raises:
            TorrelqueLeaseLostError: The claim of the dequeued task is no longer live. Nothing was changed.
            TorrelqueLookupError: The id has no live claim.
            TorrelqueTypeError: ``task_id`` is neither a task nor a string.
        """
        target = checks.check_target(task_id)
        self._raise(target, await self._dispatcher.one(GIVEBACK, claim_item(target)))

    async def extend(self, task_id: str | Task, timeout: float | None = None) -> Deadline:
        """Renew the lease of a claim, never shortening it.

        Safe to repeat.

        Args:
            task_id: The dequeued task, or an id.
            timeout: Seconds from now. None or 0 takes the task's own time-out.

        Returns:
            The new deadline, in Unix time on the server's clock. Its ``cancel_asked`` says whether
            ``cancel(task_id, running='ask')`` was called.

        Raises:
            TorrelqueLeaseLostError: The claim of the dequeued task is no longer live. Nothing was changed.
            TorrelqueLookupError: The id has no live claim.
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
        """
        target = checks.check_target(task_id)
        answer = await self._dispatcher.one(
            EXTEND, extend_item(target, checks.check_seconds('timeout', timeout) or None)
        )
        self._raise(target, answer)
        assert isinstance(answer, Deadline)  # noqa: S101 - what is left when nothing was raised
        return answer

    async def announce(
        self, worker_id: str, *, name: str, concurrency: int, running: int = 0, age: float = 0.0
    ) -> None:
        """List this process among the `workers` for the next 30 s.

        :class:`~torrelque.Worker` calls this every 10 s. Call it only in a consumer that you wrote yourself. Safe to
        cancel and to repeat.

        Args:
            worker_id: An id that no other worker has, such as ``uuid.uuid4().hex``. A second call replaces the
                first.
            name: A name for people.
            concurrency: Maximum number of tasks to handle at once.
            running: Number of tasks that are being handled.
            age: Seconds for which the worker has been running.

        Raises:
            TorrelqueTypeError: An argument has a bad type.
            TorrelqueValueError: An argument has a bad value.
        """
        operation = presence.announce(
            self._scripts,
            self._dispatcher.first,
            checks.check_text('worker_id', worker_id),
            checks.check_duration('age', age),
            name=checks.check_text('name', name),
            host=socket.gethostname(),
            pid=os.getpid(),
            concurrency=checks.check_count('concurrency', concurrency),
            running=checks.check_count('running', running, 0),
            consumer=self._engine.nonce,
        )
        await self._engine.run(operation)

    async def retract(self, worker_id: str) -> None:
        """Remove a worker from the `workers`, because it has ended. Safe to cancel and to repeat.

        Args:
            worker_id: The id that `announce` was called with.

        Raises:
            TorrelqueTypeError: ``worker_id`` is not a string.
            TorrelqueValueError: It is empty.
        """
        worker_id = checks.check_text('worker_id', worker_id)
        await self._engine.run(presence.retract(self._scripts, self._dispatcher.first, worker_id))

    # Reading ---------------------------------------------------------------------------------------------------------

    async def get_queue_stats(self) -> TorrelqueQueueStats:
        """Return how many tasks have each status, and totals since the queue's first task.

        The counts are those of one moment; with shards, of one moment on each.
        """
        stats = await self._dispatcher.each(partial(operations.queue_stats, self._scripts))
        return add_stats([*stats, *await self._dispatcher.totals_elsewhere()])

    async def get_server_time(self) -> float:
        """Return the server's time, as Unix time. Compare the times in states with it."""
        return await self._engine.run(operations.server_time(self._runtime.keys))

    async def get_task_state(self, task_id: str | Task) -> TorrelqueTaskState:
        """Return the state of a task, or of a finished task whose result is kept.

        States that are asked for at the same time are read in one call.

        Args:
            task_id: The task's id, or the task.

        Raises:
            TorrelqueLookupError: The task is unknown.
        """
        plain = str(checks.check_id(task_id))
        return self._with_result(await self._look(plain, partial(self._read_state, task_id=plain)))

    async def get_task(self, task_id: str | Task) -> TorrelqueTask[Payload]:
        """Return the payload, headers and state of a queued task or dead letter.

        Args:
            task_id: The task's id, or the task.

        Raises:
            TorrelqueLookupError: There is no such task.
        """
        plain = str(checks.check_id(task_id))
        found = await self._look(plain, partial(self._read_task, task_id=plain))
        return found._replace(data=self._serialiser.loads(found.data), state=self._with_result(found.state))

    def tasks(self, status: TorrelqueTaskStatus | None = None) -> AsyncIterator[tuple[str, TorrelqueTaskState]]:
        """Iterate over ids and states, in no particular order, in bounded steps while the queue is in use.

        Tasks that exist throughout come at least once, perhaps more often. You can stop
        iterating at any point.

        Args:
            status: Only tasks of this status; COMPLETED and EXPIRED yield those whose state is kept. None
                yields all queued tasks and the dead letters.
        """
        wanted = None if status is None else TorrelqueTaskStatus(status)

        async def page(keys: Keys, cursor: bytes) -> tuple[bytes, list[tuple[str, TorrelqueTaskState]]]:
            cursor, ids = await self._engine.run(operations.scan_tasks(self._scripts, keys, wanted, cursor))
            return cursor, await self._listed([(keys, ids)], wanted)

        async def results(near: Arg | None, cursor: bytes) -> tuple[bytes, list[tuple[str, TorrelqueTaskState]]]:
            cursor, found = await self._dispatcher.scan_states(near, cursor)
            return cursor, await self._listed(found, wanted)

        if wanted in (TorrelqueTaskStatus.COMPLETED, TorrelqueTaskStatus.EXPIRED):
            return Listing(self._dispatcher.scan_nodes, results)
        return Listing(self._dispatcher.keys, page)

    def workers(self) -> AsyncIterator[WorkerInfo]:
        """Iterate over the workers of the queue that announced themselves within the last 30 s, in no particular order.

        A worker that was killed is listed for up to 30 s. You can stop iterating at any point.
        """
        known: set[str] = set()

        async def places() -> Sequence[Keys]:
            await self._dispatcher.is_changed()
            return (self._dispatcher.first,)

        async def page(keys: Keys, cursor: bytes) -> tuple[bytes, list[WorkerInfo]]:
            cursor, found = await self._engine.run(presence.list_workers(self._scripts, keys, cursor))
            new = {worker.id: worker for worker in found if worker.id not in known}
            known.update(new)
            return cursor, list(new.values())

        return Listing(places, page)

    def rejected(self) -> AsyncIterator[tuple[str, TorrelqueTaskState]]:
        """Iterate over the ids and states of the dead letters, in no particular order, in bounded steps.

        In each state, ``reason`` is why the task was rejected, ``release_time`` when, and
        ``dequeue_count`` how often it had been delivered. `get_task` returns the payload.
        """
        return self.tasks(TorrelqueTaskStatus.REJECTED)

    def watch(self, task_id: str | Task, *, timeout: float | None = None) -> AsyncIterator[TorrelqueTaskState]:
        """Iterate over a task's state: now and after each change of status or progress, until a final one.

        If a task is released without a result, the final state is the last one with the new status. The
        iteration ends without a final state if the task is cancelled, or if the connection was down when it was
        released. Once the task was found, the iterator waits through outages of the
        server. You can stop iterating at any point.

        Args:
            task_id: The task's id, or the task.
            timeout: Seconds. None or 0 sets no limit.

        Raises:
            TorrelqueLookupError: The task is unknown.
            TorrelqueTimeoutError: The task did not end in time, or the server did not answer: a call that waits for
                its answer ends at most two seconds later.
            TorrelqueConnectionError: The server could not be reached at first, and ``timeout`` has not passed.
        """
        plain, seconds = str(checks.check_id(task_id)), checks.check_wait('timeout', timeout)
        return States(Watcher(self._dispatcher, plain, seconds), self._with_result)

    async def wait(self, task_id: str | Task, timeout: float | None = None) -> TorrelqueTaskState:
        """Wait until a task ends, and return its final state.

        If the task is released without a result, this is the last state seen, with the final status.
        Once the task was found, the call waits through outages of the server. Safe to cancel and to repeat.

        Args:
            task_id: The task's id, or the task.
            timeout: Seconds. None or 0 sets no limit.

        Raises:
            TorrelqueLookupError: The task is unknown, was cancelled, or was released
                without a result while the connection was down.
            TorrelqueTimeoutError: The task did not end in time, or the server did not answer: a call that waits for
                its answer ends at most two seconds later.
            TorrelqueConnectionError: The server could not be reached at first, and ``timeout`` has not passed.
        """
        plain, seconds = str(checks.check_id(task_id)), checks.check_wait('timeout', timeout)
        watcher = Watcher(self._dispatcher, plain, seconds)
        try:
            while not watcher.ended:
                await watcher.next_states()
            return self._with_result(watcher.final_state())
        finally:
            watcher.close()

    async def _look(self, task_id: str, read: Callable[[Keys], Awaitable[T | None]]) -> T:
        """Read something about a task, wherever it is.

        If nothing is found, reads the layout of the shards again, because the task may be elsewhere.

        Raises:
            TorrelqueLookupError: There is no such task.
        """
        layout = self._dispatcher.layout
        found = await read(await self._dispatcher.keys_of(task_id))
        if found is None and await self._dispatcher.is_changed(layout):
            found = await read(await self._dispatcher.keys_of(task_id))
        if found is None:
            raise TorrelqueLookupError(f'no task {task_id!r} in queue {self.queue!r}')
        return found

    async def _read_task(self, keys: Keys, task_id: str) -> TorrelqueTask | None:
        """A queued task, with payload and result still serialised."""
        return await self._engine.read(partial(operations.queued_task, keys, task_id), keys)

    async def _read_state(self, keys: Keys, task_id: str) -> TorrelqueTaskState | None:
        """The state of one task, with its result still serialised."""
        return await self._engine.read(partial(operations.task_state, keys, task_id), keys)

    async def _listed(
        self, found: Sequence[tuple[Keys, Sequence[str]]], wanted: TorrelqueTaskStatus | None
    ) -> list[tuple[str, TorrelqueTaskState]]:
        """Read the states of ids, and return those of the wanted status."""
        found = [(keys, ids) for keys, ids in found if ids]
        states = await self._engine.run_each([operations.task_states(keys, ids) for keys, ids in found])
        return [
            (task_id, self._with_result(state))
            for (_, ids), each in zip(found, states, strict=True)
            for task_id, state in zip(ids, each, strict=True)
            if state and wanted in (None, state.status)
        ]

    def _with_result(self, state: TorrelqueTaskState) -> TorrelqueTaskState:
        if state.result is None:
            return state
        return state._replace(result=self._result_serialiser.loads(state.result))

    # Maintenance -----------------------------------------------------------------------------------------------------

    async def cancel(self, task_id: str, *, running: Running | None = None) -> bool:
        """Remove a pending or delayed task, or end a running one.

        The cost grows with the number of pending tasks, because the server has to search for the id. Safe
        to cancel and to repeat.

        Args:
            task_id: The task's id.
            running: What to do if the task is running. ``'end'`` ends its claim and removes the task in one
                step: from then on, nothing that the consumer does to it has any effect. ``'ask'`` asks the
                consumer to end it. A `Worker` then cancels the handler, which may shield itself and still
                return a result. The task is never delivered again: unless it is released or becomes a dead
                letter, it is removed when its claim ends. With None, a running task does not change.

        Returns:
            Whether the task was running. If not, it was removed.

        Raises:
            TorrelqueLookupError: The task is neither pending nor delayed, nor, with ``running``, running.
                Nothing was changed.
            TorrelqueValueError: ``running`` has a bad value.
        """
        plain = checks.check_id(task_id)
        if running not in (None, 'end', 'ask'):
            raise TorrelqueValueError(f"running must be 'end', 'ask' or None, got {running!r}")
        outcome = await self._dispatcher.one(CANCEL, cancel_item(plain, running or ''))
        if outcome not in (Outcome.OK, Outcome.CLAIMED):
            places = 'pending or delayed' if running is None else 'pending, delayed or working'
            raise TorrelqueLookupError(f'no {places} task {str(plain)!r} in queue {self.queue!r}')
        return outcome is Outcome.CLAIMED

    def cancellations(self) -> AsyncGenerator[Cancellation | None, None]:
        """Iterate over cancellations of running tasks, as they are announced.

        A `Worker` listens to them; you need this only in a consumer of your own. An announcement is a hint: call
        `extend` to find out whether the claim is live. None means that announcements may have been missed, as at
        the beginning and after each interruption. All iterators of a queue object share a connection with its
        watchers. You can stop iterating at any point.
        """
        return Cancellations(self._dispatcher)

    async def redrive(self, task_ids: str | Iterable[str] | None = None, *, limit: int | None = None) -> int:
        """Return dead letters to the back of the queue and reset their delivery counts.

        They no longer expire. Works in bounded steps, the oldest dead letters first. Safe to cancel and to repeat.

        Args:
            task_ids: An id, or several. None takes all dead letters that exist now.
            limit: Maximum number of tasks to return.

        Returns:
            How many tasks were returned to the queue.

        Raises:
            TorrelqueLookupError: An id is not a dead letter. Nothing was changed.
        """
        return await self._dead_letters.do(REDRIVE, redrive_item, task_ids, 0.0, limit)

    async def purge(
        self, task_ids: str | Iterable[str] | None = None, *, older_than: float | None = None, limit: int | None = None
    ) -> int:
        """Delete dead letters.

        Give either ids or an age. Works in bounded steps, the oldest dead letters first. Safe to cancel
        and to repeat.

        Args:
            task_ids: An id, or several.
            older_than: Only tasks that were rejected at least this number of seconds ago; 0 takes all dead
                letters that exist now.
            limit: Maximum number of tasks to delete.

        Returns:
            How many tasks were deleted.

        Raises:
            TorrelqueLookupError: An id is not a dead letter. Nothing was changed.
            TorrelqueTypeError: Both ``task_ids`` and ``older_than`` were given, or neither.
        """
        age = checks.check_seconds('older_than', older_than)
        if (task_ids is None) == (age is None):
            raise TorrelqueTypeError(f'purge takes either task ids or older_than, got {task_ids!r} and {older_than!r}')
        return await self._dead_letters.do(PURGE, purge_item, task_ids, age or 0.0, limit)

    async def reshard(self, shards: int) -> bool:
        """Change the number of shards while the queue is in use.

        New tasks go to the shards that their ids now belong to. Tasks that are already queued stay where
        they are until they are done, and consumers take from there as well. Objects that know the old number
        follow; new objects must be given the new number. Safe to cancel and to repeat.

        Args:
            shards: The new number. Call with the same number again to ask whether the move is complete.

        Returns:
            True once no task and no result is left on a former shard. From then on, calls look for an id
            in one place only.

        Raises:
            TorrelqueUsageError: The queue has no shards.
        """
        dispatcher = self._dispatcher
        if not isinstance(dispatcher, ShardedDispatcher):
            raise TorrelqueUsageError(
                f'queue {self.queue!r} has no shards: give shards= to all its objects from the start'
            )
        return await dispatcher.reshard(checks.check_count('shards', shards))

    async def delete(self, *, force: bool = False) -> None:
        """Delete the queue with all its keys, including kept results.

        Stop producers and consumers first: an idle consumer creates a few keys again when it next
        looks for tasks, and a producer creates the queue again. Works in bounded steps, scans all keys of the
        database, and continues where a previous call stopped. Safe to cancel and to repeat. You can use the
        object afterwards.

        Args:
            force: Also delete schedules and tasks: pending, claimed and delayed ones, and dead letters. Calls that
                wait for one of them raise TorrelqueLookupError.

        Raises:
            TorrelqueUsageError: The queue has tasks or schedules and ``force`` was not given, in which case nothing was
                deleted; or tasks were added meanwhile.
        """
        await delete(self._dispatcher, force=checks.check_flag('force', force))

    async def audit(self, *, repair: bool = False) -> list[Violation]:
        """Check the queue's invariants and return the violations found.

        Runs on a live queue in bounded steps; work in progress is not reported. Scans all keys of the
        database and holds all task ids in memory. Safe to cancel and to repeat.

        Args:
            repair: Repair what is safe to repair, losing no task. ``repaired`` of each violation says
                whether it was.
        """
        return await self._dispatcher.audit(self.result_ttl, repair=checks.check_flag('repair', repair))

    async def sweep(self) -> tuple[int, int, int]:
        """Return stale, due and abandoned tasks to pending, and end expired tasks at the front.

        Waiting consumers do this anyway, except for tasks that a 0.9 consumer abandoned and expired
        tasks that no consumer may take, as in a paused queue or group. Works in bounded steps. Safe
        to cancel and to repeat.

        Returns:
            How many tasks were stale (their lease had expired), were due, and were abandoned.
        """
        counts = await self._dispatcher.each(partial(operations.sweep, self._scripts, max_rejected=self.max_rejected))
        stale, due, abandoned = (sum(each) for each in zip(*counts, strict=True))
        return stale, due, abandoned

    def schedule_sweep(self, interval: float | None = None) -> None:
        """Sweep now and then regularly, in the background.

        Args:
            interval: Seconds between sweeps. None or 0 takes ``sweep_interval``.
        """
        seconds = checks.check_seconds('interval', interval) or checks.check_seconds(
            'sweep_interval', self.sweep_interval
        )
        self._sweeper.start(seconds or type(self).sweep_interval)

    def unschedule_sweep(self) -> None:
        """Stop the sweeps that `schedule_sweep` started. Safe to repeat."""
        self._sweeper.stop()

    # Helpers ---------------------------------------------------------------------------------------------------------

    async def _end_many(
        self, command: Command, targets: Sequence[Receipt | str], items: Sequence[Item], on_progress: Progress | None
    ) -> list[Exception | None]:
        answers = await self._dispatcher.many(command, items, on_progress)
        if answers.count(Outcome.OK) == len(answers):
            return [None] * len(answers)
        return [
            answer if isinstance(answer, Exception) else claim_error(target, answer)
            for target, answer in zip(targets, answers, strict=True)
        ]

    async def _append(self, pipeline: object, command: Command, item: Item, *, fenced: bool) -> None:
        if self.durability is not None:
            raise TorrelqueUsageError(
                f'a write in a pipeline cannot be confirmed: use a queue object without durability for {command.name}'
            )
        script = self._scripts[command.name]
        keys, args = await self._dispatcher.keys_for(command, item)
        call = Call[Reply](script, keys.of(script), ('', 'raise' if fenced else '', '', *args))
        self._transport.append(pipeline, call)

    def _warn(self, action: str, given: str | Task, target: Receipt | str, answer: Answer) -> None:
        """Report a claim that is not live: raise if the task was given, log a warning as 0.9 did if an id was."""
        error = claim_error(target, answer)
        if error is None:
            return
        if isinstance(given, Task) or isinstance(error, (TorrelqueReplyError, TorrelqueDurabilityError)):
            self._raise(target, answer)
        else:
            logger.warning('Inconsistent %s of task:%s: %s', action, str(given), error)

    @staticmethod
    def _raise(target: Receipt | str, answer: Answer) -> None:
        error = claim_error(target, answer)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame, and to the task in the caller's


def _check_progress(on_progress: Progress | None) -> None:
    if on_progress is not None:
        check_function('on_progress', on_progress, 'done', 'total')


def _id_of(item: Item) -> str:
    return str(item[0], 'utf-8')  # type: ignore[arg-type]  # it is bytes
