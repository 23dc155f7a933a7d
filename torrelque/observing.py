"""The part of a queue object that changes nothing: its life, and looking at tasks."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from types import TracebackType
from typing import Generic, Self, TypeVar

from torrelque.core import checks, operations
from torrelque.core.codec import JSON, Serialiser
from torrelque.core.durability import Confirmer, Durability
from torrelque.core.keys import LOGICAL_NAMES, Keys, shard_name, shard_of_name, tagged, untagged
from torrelque.core.models import (
    Task,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
    add_stats,
)
from torrelque.core.protocol import Arg
from torrelque.core.scripts import ScriptSet, load
from torrelque.core.session import Session
from torrelque.core.sharding import layout as sharding
from torrelque.engine.dispatch import Dispatcher
from torrelque.engine.engine import Engine, drive
from torrelque.engine.sharded import ShardedDispatcher
from torrelque.engine.watch import States, Watcher
from torrelque.errors import TorrelqueLookupError, TorrelqueTypeError, TorrelqueValueError
from torrelque.transports import Transport, adapt
from torrelque.transports.failover import LONGEST, patient

__all__ = ('Observer', 'queues', 'shards_of')

P = TypeVar('P')
T = TypeVar('T')

logger: logging.Logger = logging.getLogger('torrelque')

MOST_FOREIGN = 1000
"""Keys of other programs that are remembered, so that each is reported once."""

SCRIPTS: ScriptSet = load()
CLUSTER_SCRIPTS: ScriptSet = load(on_cluster=True)


@cache
def _scripts_for(*, on_cluster: bool, sharded: bool) -> ScriptSet:
    if sharded:
        return load(on_cluster=on_cluster, sharded=True)
    return CLUSTER_SCRIPTS if on_cluster else SCRIPTS


class Observer:
    """What `Torrelque` is built on: holds the transport and the engine, and reads."""

    task_timeout: float = 300
    """Seconds until a claim becomes stale, of tasks enqueued without a time-out."""

    result_ttl: float = 3600
    """Seconds for which a result is kept."""

    keys: Mapping[str, str] = dict(LOGICAL_NAMES)
    """Logical name -> key; on an instance with the queue's name in front. Read at the first call."""

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
        adapted = adapt(client)
        self._lent = adapted is client
        self._transport = patient(adapted, self.failover_timeout)
        self.shards: int | None = None if shards is None else checks.check_count('shards', shards)
        self._scripts = _scripts_for(on_cluster=self._transport.on_cluster, sharded=shards is not None)
        self._prefix = tagged(queue) if self._transport.on_cluster or shards is not None else queue
        self.keys = {name: f'{self._prefix}:{key}' for name, key in {**LOGICAL_NAMES, **type(self).keys}.items()}
        self._known_keys: Keys | None = None
        self._running_engine: Engine | None = None
        self._routes: Dispatcher = Dispatcher(self) if self.shards is None else ShardedDispatcher(self, self.shards)

    # Life ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._engine.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._engine.leave()
        await self._close_transport()

    async def aclose(self) -> None:
        """End what runs in the background without ``async with``, on asyncio. May be repeated."""
        await self._engine.aclose()
        await self._close_transport()

    async def _close_transport(self) -> None:
        if not self._lent:  # the caller's own stays open
            await self._transport.aclose()

    @property
    def _keys(self) -> Keys:
        if self._known_keys is None:
            defaults = {name: f'{self._prefix}:{key}' for name, key in LOGICAL_NAMES.items()}
            self._known_keys = Keys({**defaults, **self.keys})
        return self._known_keys

    @property
    def _engine(self) -> Engine:
        if self._running_engine is None:
            patience = 0.0 if self.durability is None else self.durability.timeout
            self._running_engine = Engine(self._transport, self._routes.make_session, patience)
        return self._running_engine

    def _session_of(self, keys: Keys, nonce: str) -> Session:
        return Session(
            self._scripts,
            keys,
            nonce=nonce,
            clock=self._transport.now,
            jitter=random.random,
            block_limit=self._transport.block_limit,
            max_rejected=self.max_rejected,
            confirmer=Confirmer(self.durability, self._scripts, keys) if self.durability else None,
            in_order=self._transport.in_order,
        )

    # Looking ---------------------------------------------------------------------------------------------------------

    async def get_queue_stats(self) -> TorrelqueQueueStats:
        """Counts at one moment, and totals."""
        stats = await self._routes.each(partial(operations.queue_stats, self._scripts))
        return add_stats([*stats, *await self._routes.totals_elsewhere()])

    async def get_server_time(self) -> float:
        """The server's clock, in Unix time: what the times of states are to be compared with."""
        return await self._engine.run(operations.server_time(self._keys))

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

        return Listing(self._routes.keys, page)

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
        return States(Watcher(self, plain, seconds), self._with_result)

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
        watcher = Watcher(self, plain, seconds)
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
        found = await read(await self._routes.keys_of(task_id))
        if found is None and await self._routes.is_changed():
            found = await read(await self._routes.keys_of(task_id))
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


_foreign: set[bytes] = set()


class Listing(AsyncIterator[T], Generic[P, T]):
    """Items that are read page by page, at each of some places.

    Not an asynchronous generator: Trio warns of those that iteration was broken
    off of. This one may just be dropped.
    """

    def __init__(
        self,
        places: Callable[[], Awaitable[Iterable[P]]],
        page: Callable[[P, bytes], Awaitable[tuple[bytes, Iterable[T]]]],
    ) -> None:
        self._find_places = places
        self._page = page
        self._places: deque[P] | None = None
        self._cursor = b'0'
        self._items: deque[T] = deque()

    async def __anext__(self) -> T:
        while not self._items:
            if self._places is None:
                self._places = deque(await self._find_places())
            if not self._places:
                raise StopAsyncIteration
            self._cursor, items = await self._page(self._places[0], self._cursor)
            self._items.extend(items)
            if self._cursor == b'0':
                self._places.popleft()
        return self._items.popleft()

    async def aclose(self) -> None:
        """Stop reading. May be repeated."""
        self._places = deque()
        self._items.clear()


def queues(client: object) -> AsyncIterator[str]:
    """List the queues on a server, found by SCAN in bounded steps.

    A name may come twice. A queue with shards comes once, without their numbers.
    Queues that only 0.9 has used are not found. A key that is named like a
    queue's but holds something else is skipped, with one warning in the log.

    Args:
        client: What :class:`Torrelque` takes.

    Raises:
        TorrelqueConnectionError: The server cannot be reached.
        TorrelqueReplyError: The server refuses the commands.
    """
    transport = adapt(client)

    async def page(near: Arg | None, cursor: bytes) -> tuple[bytes, list[str]]:
        cursor, counters = await drive(transport, operations.scan_queues(cursor, near))
        return cursor, [name for key in counters if (name := await _queue_of(transport, key)) is not None]

    return Listing(transport.nodes, page)


async def _queue_of(transport: Transport, key: bytes) -> str | None:
    """The name of the queue whose counters are at a key; None if it has come by another key, or there is none."""
    found = await drive(transport, operations.examine(key))
    if found is None:
        _report_foreign(key)
        return None
    if found.shards is not None:  # beside the queue's own record there are those of its shards, and a mark
        is_record = found.name.startswith('{') and shard_of_name(found.name) is None
        return untagged(found.name) if is_record else None
    return untagged(found.name) if transport.on_cluster else found.name


def _report_foreign(key: bytes) -> None:
    if key in _foreign:
        return
    if len(_foreign) >= MOST_FOREIGN:
        _foreign.clear()
    _foreign.add(key)
    logger.warning('Skipped the key %r: it is named like the counters of a queue, but holds something else', key)


async def shards_of(client: object, queue: str) -> int | None:
    """How many shards are recorded with a queue, as `Torrelque` needs to be told; None for one without, or a new one.

    ``client`` is what :class:`Torrelque` takes.
    """
    name = tagged(checks.check_text('queue', queue))
    if '{' in queue or '}' in queue or shard_of_name(name) is not None:  # names that none with shards can have
        return None
    transport, newest = adapt(client), None
    try:
        for place in (name, shard_name(queue, 0)):  # where the queue's own record is lost, its shards have copies
            layout, begun = await drive(transport, sharding.read_layout(Keys.of_queue(place)))
            newest = newest or begun or layout
    finally:
        if transport is not client:
            await transport.aclose()
    return newest and newest.shards
