"""The queue for threads: a blocking facade that runs the code of the asynchronous queue without an event loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from redis import Redis, RedisCluster

from torrelque import queue as asynchronous
from torrelque.core.auditing import Violation
from torrelque.core.codec import JSON, Serialiser
from torrelque.core.commands import EnqueueItem, IfExists, Item, OnExpiry, Priority, ReleaseItem, RequeueItem
from torrelque.core.durability import Durability
from torrelque.core.keys import LOGICAL_NAMES, Keys
from torrelque.core.models import (
    Deadline,
    GroupInfo,
    Limits,
    Payload,
    Receipt,
    Report,
    Running,
    Task,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
)
from torrelque.core.presence import WorkerInfo
from torrelque.core.schedules import Missed, Schedule
from torrelque.core.session import Session
from torrelque.core.sharding.layout import Layout
from torrelque.core.sharding.session import ShardedSession
from torrelque.engine.dispatch import Dispatcher, Progress
from torrelque.engine.progress import Reporter
from torrelque.engine.runtime import Runtime
from torrelque.engine.sharded import ShardedDispatcher
from torrelque.sync.adapting import adapt
from torrelque.sync.engine import BlockingEngine
from torrelque.sync.suspending import ForkLock
from torrelque.transports.base import Transport

__all__ = ('Torrelque',)

T = TypeVar('T')


class Torrelque(Generic[Payload]):
    """A work queue for synchronous code.

    Methods have the names, arguments, errors and guarantees of :class:`torrelque.Torrelque`; they block instead of
    being awaited. One object serves any number of threads or greenlets (gevent, monkey-patched), and can be used after
    a fork. It has no thread and no event loop. Tasks that threads enqueue at the same time share a call.

    There is no ``schedule_sweep``, because nothing runs in the background. Call `sweep` from cron if no consumers run.

    Args:
        client: A ``redis.Redis``, also one from a Sentinel's ``master_for``, or a ``redis.RedisCluster``. You close it,
            not the queue.
        queue: Name of the queue; its keys begin with it.
        serialiser: Serialises payloads; an object with ``dumps`` and ``loads``.
        max_dequeues: Delivery limit of tasks that are enqueued without one. None sets no limit.
        max_rejected: Maximum number of dead letters to keep. Adding one more deletes the oldest.
        durability: How durable a write is when its call returns.
        failover_timeout: How long to repeat each call while the server fails over, in seconds from its start.
        shards: Number of shards of the queue.
        result_serialiser: Serialises results; by default ``serialiser`` does.

    Raises:
        TorrelqueUsageError: The client is not a supported one.
    """

    task_timeout: float = 300
    """Seconds until the lease of a task that was enqueued without a time-out expires."""

    result_ttl: float = 3600
    """Seconds for which a result is kept."""

    keys: Mapping[str, str] = dict(LOGICAL_NAMES)
    """Logical name -> key. On an instance the keys begin with the queue's name. Read at the first call."""

    def __init__(
        self,
        client: Redis | RedisCluster,
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
        inner = self._inner = _Queue[Payload](
            client,
            type(self).keys,
            queue=queue,
            serialiser=serialiser,
            max_dequeues=max_dequeues,
            max_rejected=max_rejected,
            durability=durability,
            failover_timeout=failover_timeout,
            shards=shards,
            result_serialiser=result_serialiser,
        )
        self.keys = inner.keys
        self.queue: str = queue
        self.max_dequeues: int | None = max_dequeues
        self.max_rejected: int | None = max_rejected
        self.durability: Durability | None = durability
        self.failover_timeout: float | None = inner.failover_timeout
        self.shards: int | None = shards

    # Lifecycle -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish calls in flight, fail calls that wait for tasks, and close connections.

        Optional: data left on the server expires, and connections close with the object. Safe to repeat. The object
        can be used again afterwards.
        """
        self._inner.close()

    # Producing -------------------------------------------------------------------------------------------------------

    def enqueue(
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
        return self._run(
            self._queue.enqueue(
                task,
                task_timeout=task_timeout,
                delay=delay,
                pipeline=pipeline,
                task_id=task_id,
                max_dequeues=max_dequeues,
                headers=headers,
                time_limit=time_limit,
                if_exists=if_exists,
                replace=replace,
                expires_in=expires_in,
                expires_at=expires_at,
                on_expiry=on_expiry,
                group=group,
                priority=priority,
            )
        )

    def enqueue_many(
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
        return self._run(
            self._queue.enqueue_many(
                items,
                task_timeout=task_timeout,
                delay=delay,
                max_dequeues=max_dequeues,
                headers=headers,
                time_limit=time_limit,
                on_progress=on_progress,
                if_exists=if_exists,
                replace=replace,
                expires_in=expires_in,
                expires_at=expires_at,
                on_expiry=on_expiry,
                group=group,
                priority=priority,
            )
        )

    # Schedules -------------------------------------------------------------------------------------------------------

    def schedule(
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
        return self._run(
            self._queue.schedule(
                schedule_id,
                task,
                cron=cron,
                tz=tz,
                every=every,
                missed=missed,
                overlap=overlap,
                owner=owner,
                task_timeout=task_timeout,
                delay=delay,
                max_dequeues=max_dequeues,
                headers=headers,
                time_limit=time_limit,
                expires_in=expires_in,
                on_expiry=on_expiry,
                group=group,
                priority=priority,
            )
        )

    def set_schedules(self, wanted: Mapping[str, Mapping[str, Any]], *, owner: str) -> None:
        return self._run(self._queue.set_schedules(wanted, owner=owner))

    def unschedule(self, schedule_id: str) -> None:
        return self._run(self._queue.unschedule(schedule_id))

    def fire(self, schedule_id: str) -> str:
        return self._run(self._queue.fire(schedule_id))

    def schedules(self) -> Iterator[Schedule[Payload]]:
        return _Blocking(self._inner, self._queue.schedules())

    # Consuming -------------------------------------------------------------------------------------------------------

    @overload
    def dequeue(  # type: ignore[overload-overlap]  # 1 returns a task, as in 0.9; any other number a list
        self, timeout: float | None = None, *, max_tasks: Literal[1] = 1
    ) -> Task[Payload]: ...
    @overload
    def dequeue(self, timeout: float | None = None, *, max_tasks: int) -> list[Task[Payload]]: ...
    def dequeue(self, timeout: float | None = None, *, max_tasks: int = 1) -> Task[Payload] | list[Task[Payload]]:
        return self._run(self._queue.dequeue(timeout, max_tasks=max_tasks))

    def dequeue_many(self, max_tasks: int, timeout: float | None = None) -> list[Task[Payload]]:
        return self._run(self._queue.dequeue_many(max_tasks, timeout))

    def dequeue_nowait(self, *, max_tasks: int = 1) -> list[Task[Payload]]:
        return self._run(self._queue.dequeue_nowait(max_tasks=max_tasks))

    # Ending claims ---------------------------------------------------------------------------------------------------

    def requeue(
        self,
        task_id: str | Task,
        delay: float | None = None,
        *,
        task_timeout: float | None = None,
        pipeline: object = None,
        count: bool = True,
        group: bool = False,
    ) -> None:
        self._run(
            self._queue.requeue(task_id, delay, task_timeout=task_timeout, pipeline=pipeline, count=count, group=group)
        )

    def requeue_many(
        self,
        items: Iterable[str | Task | RequeueItem],
        *,
        delay: float | None = None,
        task_timeout: float | None = None,
        on_progress: Progress | None = None,
        count: bool = True,
        group: bool = False,
    ) -> list[Exception | None]:
        return self._run(
            self._queue.requeue_many(
                items, delay=delay, task_timeout=task_timeout, on_progress=on_progress, count=count, group=group
            )
        )

    def release(
        self,
        task_id: str | Task,
        *,
        result: Any = None,  # noqa: ANN401 - whatever the result serialiser takes
        result_ttl: float | None = None,
        status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED,
        pipeline: object = None,
        finished_ttl: float | None = None,
    ) -> None:
        self._run(
            self._queue.release(
                task_id,
                result=result,
                result_ttl=result_ttl,
                status=status,
                pipeline=pipeline,
                finished_ttl=finished_ttl,
            )
        )

    def release_many(
        self,
        items: Iterable[str | Task | ReleaseItem],
        *,
        status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED,
        on_progress: Progress | None = None,
        finished_ttl: float | None = None,
    ) -> list[Exception | None]:
        return self._run(
            self._queue.release_many(items, status=status, on_progress=on_progress, finished_ttl=finished_ttl)
        )

    def reject(self, task_id: str | Task, reason: str) -> None:
        self._run(self._queue.reject(task_id, reason))

    def giveback(self, task_id: str | Task) -> None:
        self._run(self._queue.giveback(task_id))

    def extend(self, task_id: str | Task, timeout: float | None = None) -> Deadline:
        return self._run(self._queue.extend(task_id, timeout))

    def announce(self, worker_id: str, *, name: str, concurrency: int, running: int = 0, age: float = 0.0) -> None:
        self._run(self._queue.announce(worker_id, name=name, concurrency=concurrency, running=running, age=age))

    def retract(self, worker_id: str) -> None:
        self._run(self._queue.retract(worker_id))

    # Looking ---------------------------------------------------------------------------------------------------------

    def get_queue_stats(self) -> TorrelqueQueueStats:
        return self._run(self._queue.get_queue_stats())

    def get_server_time(self) -> float:
        return self._run(self._queue.get_server_time())

    def get_task_state(self, task_id: str | Task) -> TorrelqueTaskState:
        return self._run(self._queue.get_task_state(task_id))

    def get_task(self, task_id: str | Task) -> TorrelqueTask[Payload]:
        return self._run(self._queue.get_task(task_id))

    def tasks(self, status: TorrelqueTaskStatus | None = None) -> Iterator[tuple[str, TorrelqueTaskState]]:
        return _Blocking(self._inner, self._queue.tasks(status))

    def workers(self) -> Iterator[WorkerInfo]:
        return _Blocking(self._inner, self._queue.workers())

    def rejected(self) -> Iterator[tuple[str, TorrelqueTaskState]]:
        return _Blocking(self._inner, self._queue.rejected())

    def watch(self, task_id: str | Task, *, timeout: float | None = None) -> Iterator[TorrelqueTaskState]:
        return _Blocking(self._inner, self._queue.watch(task_id, timeout=timeout))

    def wait(self, task_id: str | Task, timeout: float | None = None) -> TorrelqueTaskState:
        return self._run(self._queue.wait(task_id, timeout))

    # Keeping order ---------------------------------------------------------------------------------------------------

    def cancel(self, task_id: str, *, running: Running | None = None) -> bool:
        return self._run(self._queue.cancel(task_id, running=running))

    def redrive(self, task_ids: str | Iterable[str] | None = None, *, limit: int | None = None) -> int:
        return self._run(self._queue.redrive(task_ids, limit=limit))

    def purge(
        self, task_ids: str | Iterable[str] | None = None, *, older_than: float | None = None, limit: int | None = None
    ) -> int:
        return self._run(self._queue.purge(task_ids, older_than=older_than, limit=limit))

    def pause(
        self,
        reason: str | None = None,
        *,
        until: datetime | float | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._run(self._queue.pause(reason, until=until, wait=wait, timeout=timeout))

    def resume(self) -> None:
        self._run(self._queue.resume())

    def limit(
        self,
        *,
        group: str | None = None,
        concurrency: int | None = None,
        rate: tuple[int, float] | None = None,
        burst: int | None = None,
        weight: int | None = None,
        ordered: bool | None = None,
        dead: Literal['hold', 'pass'] | None = None,
        strict: bool | None = None,
    ) -> None:
        self._run(
            self._queue.limit(
                group=group,
                concurrency=concurrency,
                rate=rate,
                burst=burst,
                weight=weight,
                ordered=ordered,
                dead=dead,
                strict=strict,
            )
        )

    def limits(self, group: str | None = None) -> Limits:
        return self._run(self._queue.limits(group))

    def groups(self) -> Iterator[GroupInfo]:
        return _Blocking(self._inner, self._queue.groups())

    def reshard(self, shards: int) -> bool:
        return self._run(self._queue.reshard(shards))

    def delete(self, *, force: bool = False) -> None:
        self._run(self._queue.delete(force=force))

    def audit(self, *, repair: bool = False) -> list[Violation]:
        return self._run(self._queue.audit(repair=repair))

    def sweep(self) -> tuple[int, int, int]:
        return self._run(self._queue.sweep())

    # Within ----------------------------------------------------------------------------------------------------------

    @property
    def _queue(self) -> _Queue[Payload]:
        """Return the queue, with the options that are set now."""
        inner = self._inner
        inner.keys = self.keys
        inner.task_timeout = self.task_timeout
        inner.result_ttl = self.result_ttl
        inner.max_dequeues = self.max_dequeues
        inner.max_rejected = self.max_rejected
        inner.durability = self.durability
        return inner

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._inner.run(coroutine)


for _name, _method in vars(Torrelque).items():  # the docstrings are those of the asynchronous queue
    if inspect.isfunction(_method) and _method.__doc__ is None and not _name.startswith('_'):
        _method.__doc__ = getattr(asynchronous.Torrelque, _name).__doc__


class _Queue(asynchronous.Torrelque[Payload]):
    """The asynchronous queue over a blocking engine: its coroutines suspend only for what the engine waits for."""

    def __init__(self, client: Any, renamed: Mapping[str, str], **options: Any) -> None:  # noqa: ANN401 - `adapt` checks it
        self._renamed = renamed
        super().__init__(client, **options)

    def _make_runtime(self, client: object) -> Runtime:
        return _BlockingRuntime(client, self, self._renamed)

    def _make_dispatcher(self, runtime: Runtime) -> Dispatcher:
        return Dispatcher(runtime) if self.shards is None else _BlockingShardedDispatcher(runtime, self.shards)

    def _make_reporter(self, dispatcher: Dispatcher) -> Report:
        reporter = _BlockingReporter(dispatcher)

        def report(receipt: Receipt, value: float, total: float | None, note: str | None) -> Awaitable[None]:
            self.run(reporter.report(receipt, value, total, note))
            return _Done()

        return report

    @property
    def blocking_engine(self) -> BlockingEngine:
        assert isinstance(self._engine, BlockingEngine)  # noqa: S101 - as the runtime has made it
        return self._engine

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.blocking_engine.run_blocking(coroutine)

    def close(self) -> None:
        self.blocking_engine.close()
        self.run(self._runtime.close_transport())


class _BlockingRuntime(Runtime):
    """The parts of a queue object, for threads."""

    def adapt(self, client: object) -> Transport:
        return adapt(client)

    def make_lock(self) -> ForkLock:
        return ForkLock()

    def run_with(self, make_session: Callable[[], Session | ShardedSession]) -> None:
        super().run_with(make_session)
        assert self.engine is not None  # noqa: S101 - made now, as threads may ask for it at the same time

    def make_engine(self) -> BlockingEngine:
        return BlockingEngine(self.transport, self._make_session, self.confirm_timeout)


class _BlockingReporter(Reporter):
    """Drops progress reports that come too early, because nothing runs in the background."""

    def _settle_in(self) -> None:
        pass

    async def _put_off(self, claim: object, item: Item) -> None:
        pass


class _Done(Awaitable[None]):
    """An awaitable that is already done."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


class _BlockingShardedDispatcher(ShardedDispatcher):
    """Guards state that several threads change with the lock of the session."""

    @property
    def _lock(self) -> Any:  # noqa: ANN401 - a reentrant lock
        engine = self._engine
        assert isinstance(engine, BlockingEngine)  # noqa: S101 - as the runtime has made it
        return engine.crew.lock

    def new_id(self, group: str | None = None) -> str:
        with self._lock:
            return super().new_id(group)

    def _adopt(self, layout: Layout) -> None:
        with self._lock:
            super()._adopt(layout)

    def _mark(self, shards: Any, error: Exception | None) -> None:  # noqa: ANN401 - as in the base class
        with self._lock:
            super()._mark(shards, error)

    def _shard(self, number: int) -> Keys:
        with self._lock:
            return super()._shard(number)


class _Blocking(Iterator[T], Generic[T]):
    """Makes an asynchronous iterator synchronous. It need not be closed."""

    def __init__(self, queue: _Queue[Any], inner: AsyncIterator[T]) -> None:
        self._queue = queue
        self._inner = inner

    def __next__(self) -> T:
        try:
            return self._queue.run(self._step())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _step(self) -> T:
        return await anext(self._inner)

    def close(self) -> None:
        """Stop. Safe to repeat."""
        aclose: Any = getattr(self._inner, 'aclose', None)
        if aclose is not None:
            self._queue.run(aclose())
