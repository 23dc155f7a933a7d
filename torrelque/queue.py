"""The queue: an async facade over the core."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from torrelque.core import checks, operations
from torrelque.core.auditing import Violation, audit
from torrelque.core.codec import JSON, Serialiser, load_headers
from torrelque.core.commands import (
    CANCEL,
    ENQUEUE,
    EXTEND,
    GIVEBACK,
    PURGE,
    REDRIVE,
    REJECT,
    RELEASE,
    REQUEUE,
    Answer,
    ClaimedTask,
    Command,
    Item,
    Outcome,
    cancel_item,
    claim_item,
    extend_item,
    purge_item,
    redrive_item,
    reject_item,
)
from torrelque.core.durability import Durability
from torrelque.core.keys import LOGICAL_NAMES, Keys
from torrelque.core.models import (
    Receipt,
    Task,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
    add_stats,
)
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.engine.dead_letters import DeadLetters
from torrelque.engine.deletion import delete
from torrelque.engine.dispatch import Dispatcher, Progress
from torrelque.engine.engine import Engine
from torrelque.engine.items import (
    EnqueueItem,
    ReleaseItem,
    RequeueItem,
    claim_error,
    write_all,
    write_enqueue,
    write_release,
    write_requeue,
)
from torrelque.engine.listing import Listing
from torrelque.engine.runtime import Runtime
from torrelque.engine.sharded import ShardedDispatcher
from torrelque.engine.sweeper import Sweeper
from torrelque.engine.watch import States, Watcher
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueDurabilityError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.transports.failover import LONGEST
from torrelque.worker.failures import describe, sendable

__all__ = ('Torrelque',)

T = TypeVar('T')

logger: logging.Logger = logging.getLogger('torrelque')


class Torrelque:
    """A work queue.

    ``client`` is a ``Redis`` or ``RedisCluster`` of ``redis.asyncio`` or of ``coredis``, what
    ``async with torrelque.connect(url) as client`` gives, or any
    :class:`~torrelque.transports.base.Transport`; it stays the caller's to close.
    ``max_dequeues`` is the delivery limit of tasks enqueued without one.
    ``max_rejected`` is the most dead letters that are kept: those that this object
    adds beyond it, by whatever call, remove the oldest for good. With
    ``durability`` enqueue, release, requeue and reject, and their bulk calls,
    return once the write is as durable as that says; they raise TorrelqueDurabilityError
    where it was written but not confirmed in time, and TorrelqueUsageError,
    with nothing written, where the server cannot confirm it at all.
    ``failover_timeout`` is how long, in seconds from its start, each call is repeated while
    the connection breaks or the server answers that it cannot serve the call for now (READONLY,
    LOADING, CLUSTERDOWN, BUSY and the like, and MOVED or ASK where they could not be followed; not OOM);
    then the last error is raised. 0 repeats nothing; None, the default, is 10 on a cluster and by way
    of Sentinel, otherwise 0; 300 is the most.
    With ``shards`` the queue is spread over so many, on a cluster over its servers: the keys of each begin with
    ``{queue:0}`` and so on, tasks are first in, first out within a shard, and consumers take from all of
    them in turn. The number is recorded with the queue: an object with another raises
    TorrelqueShardsError; `reshard` changes it.

    ``async with Torrelque(...) as queue`` owns the background work: Trio needs
    it; on asyncio it is optional, and there the object starts what it needs by
    itself. Raises TorrelqueError for a client that it does not know.

    Cancelling any call leaves no task stranded: what was not sent is dropped,
    what was sent is finished, and tasks claimed for a caller that has gone are
    given back. Errors of the connection raise TorrelqueConnectionError, an
    error reply of the server TorrelqueReplyError; with redis-py and coredis
    they are that client's own exceptions, too.
    """

    task_timeout: float = 300
    """Seconds until a claim becomes stale, of tasks enqueued without a time-out."""

    result_ttl: float = 3600
    """Seconds for which a result is kept."""

    keys: Mapping[str, str] = dict(LOGICAL_NAMES)
    """Logical name -> key; on an instance with the queue's name in front. Read at the first call."""

    sweep_interval: float = 30
    """Seconds between scheduled sweeps."""

    def __init__(
        self,
        client: object,
        *,
        queue: str = 'trq',
        serialiser: Serialiser = JSON,
        max_dequeues: int | None = None,
        max_rejected: int | None = None,
        durability: Durability | None = None,
        failover_timeout: float | None = None,
        shards: int | None = None,
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
        if not (callable(getattr(serialiser, 'dumps', None)) and callable(getattr(serialiser, 'loads', None))):
            raise TorrelqueTypeError(f'serialiser must have dumps and loads, got {serialiser!r}')
        self._serialiser = serialiser
        self._client = client
        self.failover_timeout: float | None = checks.check_seconds('failover_timeout', failover_timeout)
        if (failover_timeout or 0) > LONGEST:
            raise TorrelqueValueError(f'failover_timeout must be at most {LONGEST:g} s, got {failover_timeout!r}')
        self.shards: int | None = None if shards is None else checks.check_count('shards', shards)
        runtime = self._runtime = Runtime(client, self, type(self).keys)
        self._transport = runtime.transport
        self._scripts = runtime.scripts
        self.keys = runtime.full_names
        self._dispatcher = Dispatcher(runtime) if self.shards is None else ShardedDispatcher(runtime, self.shards)
        self._sweeper = Sweeper(runtime, lambda: self.sweep())  # noqa: PLW0108 - a subclass or a test may replace it
        self._dead_letters = DeadLetters(self._dispatcher)

    # Life ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._engine.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._engine.leave()
        await self._runtime.close_transport()

    async def aclose(self) -> None:
        """End what runs in the background without ``async with``, on asyncio. May be repeated."""
        self._sweeper.stop()
        await self._engine.aclose()
        await self._runtime.close_transport()

    @property
    def _engine(self) -> Engine:
        return self._runtime.engine

    # Producing -------------------------------------------------------------------------------------------------------

    async def enqueue(
        self,
        task: Any,  # noqa: ANN401 - whatever the serialiser takes
        *,
        task_timeout: float | None = None,
        delay: float | None = None,
        pipeline: object = None,
        task_id: str | None = None,
        max_dequeues: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Add a task at the back of the queue, or for later; returns its id.

        ``task_timeout`` (s) is how long a consumer may work on it before its
        claim becomes stale; None or 0 takes the queue's. With ``delay`` (s) it
        is due that much later; None or 0 is now. ``max_dequeues`` limits its
        deliveries. ``headers`` travel with it.

        With a ``task_id`` of one's own the call is safe to repeat: while that id
        is queued (or a dead letter), nothing changes. With a ``pipeline`` of redis-py or coredis
        one EVAL is queued on it, and the id returned at once.

        Raises TorrelqueTypeError or TorrelqueValueError for bad arguments and
        whatever the serialiser raises, before anything is sent.
        """
        new_id, item = self._write_new(EnqueueItem(task, task_timeout, delay, task_id, max_dequeues, headers))
        if pipeline is not None:
            await self._append(pipeline, ENQUEUE, item, fenced=False)
        else:
            answer, item = await self._enqueue(item, drawn=task_id is None)
            new_id = str(item[0], 'utf-8')  # type: ignore[arg-type]  # it is bytes
            if isinstance(answer, TorrelqueDurabilityError):
                raise answer
        return new_id

    async def _enqueue(self, item: Item, *, drawn: bool) -> tuple[Answer, Item]:
        """Add a task. One whose id was ``drawn`` here gets another where the shard of the first does not answer."""
        while True:
            try:
                return await self._dispatcher.one(ENQUEUE, item), item
            except (TorrelqueConnectionError, TorrelqueReplyError) as error:
                if not (drawn and self._dispatcher.may_go_elsewhere(error)):
                    raise
                item = (self._dispatcher.new_id().encode(), *item[1:])

    async def enqueue_many(
        self,
        items: Iterable[Any],
        *,
        task_timeout: float | None = None,
        delay: float | None = None,
        max_dequeues: int | None = None,
        on_progress: Progress | None = None,
    ) -> list[str | Exception]:
        """Add many tasks, at most 250 a round trip.

        An item is a task, or an :class:`~torrelque.EnqueueItem` where one needs
        arguments of its own. Returns an id for each, or the exception of those
        that were not added. ``on_progress(done, total)`` is called after each
        round trip.

        All items are checked and serialised before the first is sent, so a bad
        one anywhere raises and nothing is sent. Other tasks run meanwhile. The
        serialised items stay in memory until the call ends.
        """

        def write(item: Any) -> Item:  # noqa: ANN401 - as above
            new = item if isinstance(item, EnqueueItem) else EnqueueItem(item, task_timeout, delay, None, max_dequeues)
            drawn.append(new.task_id is None)
            return self._write_new(new)[1]

        drawn: list[bool] = []
        written = await write_all(items, write)
        answers = await self._dispatcher.many(ENQUEUE, written, on_progress)
        for at, answer in enumerate(answers):
            if isinstance(answer, Exception) and drawn[at] and self._dispatcher.may_go_elsewhere(answer):
                new = (self._dispatcher.new_id().encode(), *written[at][1:])
                try:
                    answers[at], written[at] = await self._enqueue(new, drawn=True)
                except (TorrelqueConnectionError, TorrelqueReplyError) as error:
                    answers[at] = error
        return [
            answer if isinstance(answer, Exception) else str(item[0], 'utf-8')  # type: ignore[arg-type]  # it is bytes
            for item, answer in zip(written, answers, strict=True)
        ]

    def _write_new(self, new: EnqueueItem) -> tuple[str, Item]:
        return write_enqueue(new, self._serialiser, self.task_timeout, self.max_dequeues, self._dispatcher.new_id)

    # Consuming -------------------------------------------------------------------------------------------------------

    @overload
    async def dequeue(  # type: ignore[overload-overlap]  # 1 gives a task, as in 0.9, all else a list
        self, timeout: float | None = None, *, max_tasks: Literal[1] = 1
    ) -> Task: ...
    @overload
    async def dequeue(self, timeout: float | None = None, *, max_tasks: int) -> list[Task]: ...
    async def dequeue(self, timeout: float | None = None, *, max_tasks: int = 1) -> Task | list[Task]:
        """Wait for a task and claim it.

        Returns a :class:`~torrelque.Task`, which unpacks as ``(id, data)``; with
        ``max_tasks`` above 1 a list of at least one, and of as many as are there.
        First in, first out. Raises TorrelqueTimeoutError after ``timeout`` s;
        None or 0 waits without limit. A task that cannot be deserialised goes to
        the dead letters.

        When cancelled, no task is lost or held.
        """
        deadline = self._transport.now() + checks.check_wait('timeout', timeout)
        checks.check_count('max_tasks', max_tasks)
        await self._dispatcher.ready()
        while True:
            tasks = self._load(await self._engine.dequeue(max_tasks, deadline))
            if tasks:
                return tasks if max_tasks > 1 else tasks[0]

    async def dequeue_nowait(self, *, max_tasks: int = 1) -> list[Task]:
        """Claim up to ``max_tasks`` of the tasks that are there; perhaps none."""
        checks.check_count('max_tasks', max_tasks)
        await self._dispatcher.ready()
        return self._load(await self._engine.dequeue_nowait(max_tasks))

    def _load(self, claimed: Sequence[ClaimedTask]) -> list[Task]:
        tasks: list[Task] = []
        for task in claimed:
            try:
                data = self._serialiser.loads(task.payload)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a serialiser may raise
                said = describe(error)
                logger.warning('Cannot deserialise task:%s, rejecting it: %s', task.receipt.id, said)
                reason = sendable(f'cannot be deserialised: {said}'[:1000])
                item = reject_item(task.receipt, reason, self.max_rejected)
                self._dispatcher.fire_and_forget(REJECT, item)
            else:
                headers = load_headers(task.headers)
                tasks.append(Task(task.receipt, data, task.deadline, task.expires, headers, task.attempt))
        return tasks

    # Ending claims ---------------------------------------------------------------------------------------------------

    async def requeue(
        self,
        task_id: str | Task,
        delay: float | None = None,
        *,
        task_timeout: float | None = None,
        pipeline: object = None,
    ) -> None:
        """Return a claimed task to the back of the queue, or for ``delay`` s later.

        ``task_timeout`` redefines how long a consumer may work on it. Given the
        dequeued task, raises TorrelqueLeaseLostError if its claim is no longer
        the live one; given an id, logs a warning; nothing is changed then.
        """
        target, item = write_requeue(RequeueItem(task_id, delay, task_timeout))
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
    ) -> list[Exception | None]:
        """Requeue many, at most 250 a round trip; None for each that was, else why not.

        Bad items raise as in `enqueue_many`, with nothing sent.
        """

        def write(item: str | Task | RequeueItem) -> tuple[Receipt | str, Item]:
            return write_requeue(item if isinstance(item, RequeueItem) else RequeueItem(item, delay, task_timeout))

        entries = await write_all(items, write)
        return await self._end_many(REQUEUE, entries, on_progress)

    async def release(
        self,
        task_id: str | Task,
        *,
        result: Any = None,  # noqa: ANN401 - whatever the serialiser takes
        result_ttl: float | None = None,
        status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED,
        pipeline: object = None,
    ) -> None:
        """Remove a claimed task from the queue: it is done.

        With a ``result`` the task's state is kept, with it and the final
        ``status``, for ``result_ttl`` s. Given the dequeued task, raises
        TorrelqueLeaseLostError if its claim is no longer the live one; given an
        id, logs a warning; nothing is changed then.
        """
        target, item = self._write_release(ReleaseItem(task_id, result, result_ttl, status))
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
    ) -> list[Exception | None]:
        """Release many, at most 250 a round trip; None for each that was, else why not.

        Bad items raise as in `enqueue_many`, with nothing sent.
        """

        def write(item: str | Task | ReleaseItem) -> tuple[Receipt | str, Item]:
            return self._write_release(item if isinstance(item, ReleaseItem) else ReleaseItem(item, status=status))

        entries = await write_all(items, write)
        return await self._end_many(RELEASE, entries, on_progress)

    def _write_release(self, item: ReleaseItem) -> tuple[Receipt | str, Item]:
        return write_release(item, self._serialiser, self.result_ttl)

    async def reject(self, task_id: str | Task, reason: str) -> None:
        """Move a claimed task to the dead letters, its payload kept, until `redrive`, `purge` or ``max_rejected``.

        Raises TorrelqueLeaseLostError if its claim is no longer the live one,
        TorrelqueLookupError for a plain id without a live claim.
        """
        target = checks.check_target(task_id)
        item = reject_item(target, checks.check_text('reason', reason), self.max_rejected)
        self._raise(target, await self._dispatcher.one(REJECT, item))

    async def giveback(self, task_id: str | Task) -> None:
        """Return a claim as if the task had not been delivered: to the front, this delivery not counted.

        Raises as `reject` does.
        """
        target = checks.check_target(task_id)
        self._raise(target, await self._dispatcher.one(GIVEBACK, claim_item(target)))

    async def extend(self, task_id: str | Task, timeout: float | None = None) -> float:
        """Renew a claim for ``timeout`` s from now (None or 0: the task's own), never shortening it.

        Returns the new deadline, in Unix time on the server's clock. Safe to
        repeat. Raises as `reject` does.
        """
        target = checks.check_target(task_id)
        answer = await self._dispatcher.one(
            EXTEND, extend_item(target, checks.check_seconds('timeout', timeout) or None)
        )
        self._raise(target, answer)
        assert isinstance(answer, float)  # noqa: S101 - what is left when nothing was raised
        return answer

    # Looking ---------------------------------------------------------------------------------------------------------

    async def get_queue_stats(self) -> TorrelqueQueueStats:
        """Counts at one moment, and totals."""
        stats = await self._dispatcher.each(partial(operations.queue_stats, self._scripts))
        return add_stats([*stats, *await self._dispatcher.totals_elsewhere()])

    async def get_server_time(self) -> float:
        """The server's clock, in Unix time: what the times of states are to be compared with."""
        return await self._engine.run(operations.server_time(self._runtime.keys))

    async def get_task_state(self, task_id: str | Task) -> TorrelqueTaskState:
        """A task's state.

        States that are asked for at the same time are read in one call.

        Raises:
            TorrelqueLookupError: The task is unknown.
        """
        plain = str(checks.check_id(task_id))
        return self._with_result(await self._look(plain, partial(self._read_state, task_id=plain)))

    async def get_task(self, task_id: str | Task) -> TorrelqueTask:
        """Payload, headers and state of a queued task or dead letter.

        Raises:
            TorrelqueLookupError: There is no such task.
        """
        plain = str(checks.check_id(task_id))
        found = await self._look(plain, partial(self._read_task, task_id=plain))
        return found._replace(data=self._serialiser.loads(found.data), state=self._with_result(found.state))

    def tasks(self, status: TorrelqueTaskStatus | None = None) -> AsyncIterator[tuple[str, TorrelqueTaskState]]:
        """Ids and states, in no order, read in bounded steps while the queue goes on.

        Tasks that are there all the while come at least once, perhaps more often.
        Breaking off the iteration is safe.

        Args:
            status: Only tasks of this status; COMPLETED: those whose result is kept.
                By default all that are queued, and the dead letters.
        """
        wanted = None if status is None else TorrelqueTaskStatus(status)

        async def page(keys: Keys, cursor: bytes) -> tuple[bytes, list[tuple[str, TorrelqueTaskState]]]:
            if wanted is TorrelqueTaskStatus.COMPLETED:
                cursor, ids = await self._engine.run(operations.scan_results(keys, cursor))
            else:
                cursor, ids = await self._engine.run(operations.scan_tasks(self._scripts, keys, wanted, cursor))
            found = zip(ids, await self._states(keys, ids), strict=True)
            return cursor, [(each, state) for each, state in found if state and wanted in (None, state.status)]

        return Listing(self._dispatcher.keys, page)

    def rejected(self) -> AsyncIterator[tuple[str, TorrelqueTaskState]]:
        """The dead letters: ids and states, in no order, read in bounded steps.

        A state has the ``reason``, ``release_time`` when the task was rejected,
        and ``dequeue_count`` how often it was delivered; `get_task` its payload.
        """
        return self.tasks(TorrelqueTaskStatus.REJECTED)

    def watch(self, task_id: str | Task, *, timeout: float | None = None) -> AsyncIterator[TorrelqueTaskState]:
        """Yield the state now and at each change of status, until a final one.

        A task released without a result ends it without a final state; `wait`
        returns which it was. Once the task was found, an outage of the server is
        waited for. Breaking off the iteration is safe.

        Args:
            task_id: The task's id, or the task.
            timeout: Seconds; None for no limit.

        Raises:
            TorrelqueLookupError: The task is unknown.
            TorrelqueTimeoutError: The time is over.
        """
        plain, seconds = str(checks.check_id(task_id)), checks.check_wait('timeout', timeout)
        return States(Watcher(self._dispatcher, plain, seconds), self._with_result)

    async def wait(self, task_id: str | Task, timeout: float | None = None) -> TorrelqueTaskState:
        """Wait for a task's end and return its final state.

        Of a task released without a result it is the last state seen, with the
        final status. Once the task was found, an outage of the server is waited
        for. Safe to cancel and to repeat.

        Args:
            task_id: The task's id, or the task.
            timeout: Seconds; None for no limit.

        Raises:
            TorrelqueLookupError: The task is unknown, is cancelled, or was released
                without a result while the connection was cut.
            TorrelqueTimeoutError: The time is over.
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
        """Read something of a task where it is.

        Before it answers that there is none, it reads the layout of the shards again: the task may be elsewhere.

        Raises:
            TorrelqueLookupError: There is none.
        """
        layout = self._dispatcher.layout
        found = await read(await self._dispatcher.keys_of(task_id))
        if found is None and await self._dispatcher.is_changed(layout):
            found = await read(await self._dispatcher.keys_of(task_id))
        if found is None:
            raise TorrelqueLookupError(f'no task {task_id!r} in queue {self.queue!r}')
        return found

    async def _read_task(self, keys: Keys, task_id: str) -> TorrelqueTask | None:
        """A queued task, payload and result still serialised."""
        return await self._engine.read(partial(operations.queued_task, keys, task_id), keys)

    async def _read_state(self, keys: Keys, task_id: str) -> TorrelqueTaskState | None:
        """The state of one task, its result still serialised."""
        return await self._engine.read(partial(operations.task_state, keys, task_id), keys)

    async def _states(self, keys: Keys, ids: Sequence[str]) -> list[TorrelqueTaskState | None]:
        if not ids:
            return []
        states = await self._engine.run(operations.task_states(keys, ids))
        return [state and self._with_result(state) for state in states]

    def _with_result(self, state: TorrelqueTaskState) -> TorrelqueTaskState:
        if state.result is None:
            return state
        return state._replace(result=self._serialiser.loads(state.result))

    # Keeping order ---------------------------------------------------------------------------------------------------

    async def cancel(self, task_id: str) -> None:
        """Remove a pending or delayed task.

        The one call whose cost grows with the queue: the id is looked for. Raises
        TorrelqueLookupError if the task is neither, and leaves it alone.
        """
        plain = checks.check_id(task_id)
        if await self._dispatcher.one(CANCEL, cancel_item(plain)) is not Outcome.OK:
            raise TorrelqueLookupError(f'no pending or delayed task {str(plain)!r} in queue {self.queue!r}')

    async def redrive(self, task_ids: str | Iterable[str] | None = None, *, limit: int | None = None) -> int:
        """Return dead letters to the back of the queue, their deliveries counted anew; how many were.

        All that there are now, the oldest first, or those with the given ids; at
        most ``limit``. In bounded steps, safe to cancel and to repeat. Raises
        TorrelqueLookupError, and changes nothing, if an id is no dead letter.
        """
        return await self._dead_letters.do(REDRIVE, redrive_item, task_ids, 0.0, limit)

    async def purge(
        self, task_ids: str | Iterable[str] | None = None, *, older_than: float | None = None, limit: int | None = None
    ) -> int:
        """Remove dead letters for good; how many were.

        Those with the given ids, or those rejected ``older_than`` s ago and
        more (0: all that there are now), the oldest first; at most ``limit``. In
        bounded steps, safe to cancel and to repeat. Raises TorrelqueLookupError,
        and changes nothing, if an id is no dead letter.
        """
        age = checks.check_seconds('older_than', older_than)
        if (task_ids is None) == (age is None):
            raise TorrelqueTypeError(f'purge takes either task ids or older_than, got {task_ids!r} and {older_than!r}')
        return await self._dead_letters.do(PURGE, purge_item, task_ids, age or 0.0, limit)

    async def reshard(self, shards: int) -> bool:
        """Spread the queue over another number of shards from now on, while it is in use.

        New tasks go to the new homes of their ids. What is queued already stays
        where it is until it is done, and consumers take from there, too. Objects that
        know the old number follow by themselves; ones made later must be given the
        new one. True once no task and no result is left at a former home: then
        what is looked for by its id is looked for in one place again. Call it
        with the same number to ask again. Goes on where it was cut off; safe to cancel and to
        repeat. Raises TorrelqueUsageError without shards.
        """
        dispatcher = self._dispatcher
        if not isinstance(dispatcher, ShardedDispatcher):
            raise TorrelqueUsageError(
                f'queue {self.queue!r} has no shards: give shards= to all its objects from the start'
            )
        return await dispatcher.reshard(checks.check_count('shards', shards))

    async def delete(self, *, force: bool = False) -> None:
        """Delete the queue: remove its keys, with the results that are kept.

        Stop producers and consumers first. An idle consumer makes a few keys
        again when it next looks for tasks, and a producer makes the queue again.
        Works in bounded steps, walks through all keys of the database, and
        goes on where it was cut off: safe to cancel and to repeat. The object can be used afterwards.

        Args:
            force: Remove tasks as well: pending, claimed and delayed ones and
                dead letters. Calls that wait for one of them raise TorrelqueLookupError.

        Raises:
            TorrelqueUsageError: The queue has tasks and ``force`` was not given, so that
                nothing was removed; or tasks were added meanwhile.
        """
        await delete(self._dispatcher, force=checks.check_flag('force', force))

    async def audit(self, *, repair: bool = False) -> list[Violation]:
        """Check that everything in the queue is as it should be; what is not.

        Runs on a live queue, in bounded steps; what the queue does meanwhile is
        no violation. ``repair`` repairs what is safe to repair, losing no task:
        see ``repaired`` of each. It holds all ids in memory, and walks through all
        keys of the database. Safe to cancel and to repeat.
        """
        found = await self._dispatcher.audit(repair=repair)
        for keys in await self._dispatcher.keys():
            found += await self._engine.run(self._audit_of(keys, repair=repair))
        return found

    async def sweep(self) -> tuple[int, int, int]:
        """Return to pending what is stale, due, or abandoned by a 0.9 consumer; how many of each.

        Consumers that wait do the first two by themselves. Safe to cancel and to
        repeat.
        """
        counts = await self._dispatcher.each(partial(operations.sweep, self._scripts, max_rejected=self.max_rejected))
        stale, due, abandoned = (sum(each) for each in zip(*counts, strict=True))
        return stale, due, abandoned

    def schedule_sweep(self, interval: float | None = None) -> None:
        """Sweep now and every ``interval`` s (None: ``sweep_interval``) in the background."""
        seconds = checks.check_seconds('interval', interval) or checks.check_seconds(
            'sweep_interval', self.sweep_interval
        )
        self._sweeper.start(seconds or type(self).sweep_interval)

    def unschedule_sweep(self) -> None:
        """Stop what `schedule_sweep` started. May be repeated."""
        self._sweeper.stop()

    # Within ----------------------------------------------------------------------------------------------------------

    def _audit_of(self, keys: Keys, *, repair: bool) -> Operation[list[Violation]]:
        on_cluster = self._transport.on_cluster
        return audit(self._scripts, keys, self.result_ttl, repair=repair, on_cluster=on_cluster)

    async def _end_many(
        self, verb: Command, entries: list[tuple[Receipt | str, Item]], on_progress: Progress | None
    ) -> list[Exception | None]:
        answers = await self._dispatcher.many(verb, [item for _, item in entries], on_progress)
        return [
            answer if isinstance(answer, Exception) else claim_error(target, answer)
            for (target, _), answer in zip(entries, answers, strict=True)
        ]

    async def _append(self, pipeline: object, verb: Command, item: Item, *, fenced: bool) -> None:
        if self.durability is not None:
            raise TorrelqueUsageError(
                f'a write in a pipeline cannot be confirmed: use a queue object without durability for {verb.name}'
            )
        script = self._scripts[verb.name]
        keys, trailer = await self._dispatcher.keys_for(verb, item)
        call = Call[Reply](script, keys.of(script), ('', 'raise' if fenced else '', '', *item, *trailer))
        self._transport.append(pipeline, call)

    def _warn(self, action: str, given: str | Task, target: Receipt | str, answer: Answer) -> None:
        """0.9 logged a warning where an id had no claim to act on; whoever passes the task wants to know."""
        error = claim_error(target, answer)
        if isinstance(given, Task) or isinstance(error, (TorrelqueReplyError, TorrelqueDurabilityError)):
            self._raise(target, answer)
        elif error is not None:
            logger.warning('Inconsistent %s of task:%s: %s', action, str(given), error)

    @staticmethod
    def _raise(target: Receipt | str, answer: Answer) -> None:
        error = claim_error(target, answer)
        if error is not None:
            raise error
