"""One queue of a worker, and the deliveries of its tasks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import anyio

from torrelque import (
    Task,
    Torrelque,
    TorrelqueError,
    TorrelqueTimeLimitError,
    TorrelqueTooLargeError,
    WaitSharer,
    events,
)
from torrelque.core.models import TIME_LIMIT, number_of
from torrelque.worker.cancelling import CancellationListener
from torrelque.worker.failures import describe, understand
from torrelque.worker.leases import LeaseKeeper
from torrelque.worker.loops import Clock
from torrelque.worker.outcomes import BACK_OFF, OutcomeWriter, may_pass, sleep
from torrelque.worker.presence import Announcer
from torrelque.worker.router import Handler, Router
from torrelque.worker.shares import Share

__all__ = ('Feed', 'Job', 'sharing_waits')

COMPLAINTS = 60.0
"""Minimum time between log lines about a task that is too large to be claimed, in seconds."""

logger: logging.Logger = logging.getLogger('torrelque.worker')


class Job:
    """One delivery: a task that this worker holds.

    Attributes:
        task: The task.
        feed: The queue that it is from.
        expires: When its lease expires.
        heard: Whether its claim was live at a time when the worker heard announcements of cancellations.
        scope: Its handler's.
        in_thread: Whether the handler runs in a thread now.
        ended: What a thread returned or raised.
        lost: Whether nothing is to be written any more.
        handler: The function that handles it.
        limit: The time limit, in seconds.
        over: If there is a time limit: set when the handler ends.
        timed_out: Whether the time limit has ended the handler.
        called_off: Whether the handler was cancelled because its task is to be, unless it is a thread.
        unfit: Why the result cannot be written.
    """

    __slots__ = (
        'called_off', 'ended', 'expires', 'feed', 'handler', 'heard', 'in_thread', 'limit', 'lost', 'over', 'scope',
        'task', 'timed_out', 'unfit',
    )  # fmt: skip

    def __init__(self, task: Task, feed: Feed, scope: anyio.CancelScope, *, heard: bool) -> None:
        self.task: Task = task
        self.feed: Feed = feed
        self.heard: bool = heard
        self.expires: float = task.expires
        self.scope: anyio.CancelScope = scope
        self.in_thread: bool = False
        self.ended: tuple[Any, BaseException | None] = (None, None)
        self.lost: bool = False
        self.handler: Handler
        self.limit: float = 0.0
        self.over: anyio.Event | None = None
        self.timed_out: bool = False
        self.called_off: bool = False
        self.unfit: Exception | None = None

    @property
    def label(self) -> str:
        """The task's name in log messages."""
        return f'{self.task.id}{self.feed.suffix}'

    @property
    def hears(self) -> bool:
        """Whether the worker hears announcements of cancellations now."""
        return self.feed.cancellations.hears

    @property
    def is_ending(self) -> bool:
        """Whether the handler, or the caller, is being cancelled."""
        return self.scope.cancel_called or anyio.current_effective_deadline() == -math.inf

    def call_off(self) -> None:
        """Cancel the handler, as its task is to be cancelled. If it shields itself or is a thread, it may finish."""
        if self.called_off or self.lost or self.timed_out or self.scope.cancel_called:
            return
        self.called_off = True
        logger.info(
            'Delivery %d of task:%s was asked to end, cancelling its handler', self.task.dequeue_count, self.label
        )
        if not self.in_thread:
            self.scope.cancel()

    def unfinished(self) -> events.Outcome:
        """Return the outcome if the handler was cancelled, but not because of its time limit."""
        return events.Cancelled(self.task) if self.called_off else events.GivenBack(self.task)

    def note_thread(self) -> None:
        """Log that the thread goes on."""
        logger.warning('The thread of task:%s is still running; its result is dropped', self.label)

    def time_limit(self, general: float | None) -> float | None:
        """Return the handler's time limit, in seconds. ``general`` is the worker's."""
        text = self.task.headers.get(TIME_LIMIT)
        own = number_of(text.encode()) if text else None
        return own if own is not None and own > 0 else self.handler.time_limit or general

    def late(self) -> TorrelqueTimeLimitError:
        """Return the error of a handler whose time is up."""
        return TorrelqueTimeLimitError(f'the handler took longer than {self.limit:g} s')

    def as_late(self, error: BaseException | None) -> BaseException | None:
        """Return the exception of a handler that may have been cancelled because of its time limit."""
        if not self.timed_out or (error is None and not self.scope.cancelled_caught):
            return error
        if error is not None:
            failure = understand(error)
            if failure.rejects or failure.delay is not None or failure.exit is not None:
                return error
        late = self.late()
        late.__cause__ = error
        return late


class Feed:
    """One queue of a worker.

    Args:
        queue: The queue.
        handler: Its handler.
        share: Its share of the slots.
        suffix: What log messages add to name the queue; empty if the worker has only one.
    """

    keeper: LeaseKeeper[Job]
    writer: OutcomeWriter[Job]
    announcer: Announcer
    cancellations: CancellationListener

    def __init__(self, queue: Torrelque[Any], handler: Callable[..., Any] | Router, share: Share, suffix: str) -> None:
        self.queue: Torrelque[Any] = queue
        self.share: Share = share
        self.suffix: str = suffix
        self.running: int = 0
        """Number of its handlers that are running."""
        self._handler = handler
        self._kinds: dict[str, Handler] | None = None
        self._only: Handler | None = None
        self._next_complaint = -math.inf

    # Handlers --------------------------------------------------------------------------------------------------------

    def bind(self, context: Any) -> list[Handler]:  # noqa: ANN401 - the user's
        """Bind the handlers to their dependencies, and return them."""
        if isinstance(self._handler, Router):
            self._kinds = {name: kind.handler(context) for name, kind in self._handler.kinds.items()}
            return list(self._kinds.values())
        self._only = Handler(self._handler)
        self._only.bind(context, self._handler)
        return [self._only]

    def handler_of(self, task: Task) -> Handler | None:
        """Return the function that handles a task; None if there is none of its kind."""
        return self._only if self._kinds is None else self._kinds.get(task.kind or '')

    # Claiming --------------------------------------------------------------------------------------------------------

    def begin(
        self,
        clock: Clock,
        room: Callable[[], int],
        away: Callable[[Feed], None],
        tell: Callable[[events.WorkerEvent], None],
    ) -> None:
        """Prepare for a run.

        Args:
            clock: What leases are timed on.
            room: Returns how many tasks to claim once the server is back.
            away: Called with this queue when a claim failed, before it is tried again.
            tell: Called with events.
        """
        self._clock = clock
        self._room = room
        self._away = away
        self._tell = tell
        self._make_scope = type(anyio.CancelScope())  # finding out on which event loop it runs takes most of the time

    def announce_as(self, name: str, concurrency: int) -> None:
        """Have the worker listed on this queue, with a name and the number of slots that it may take."""
        self.announcer = Announcer(
            self.queue,
            self._clock,
            name=name,
            concurrency=concurrency,
            running=lambda: self.running,
            suffix=self.suffix,
        )

    async def claim(self, many: int, *, waits: bool) -> list[Job]:
        """Claim tasks, and wait for them or take what is available now. While the server is away, try again.

        Safe to cancel.

        Raises:
            TorrelqueError: An error that waiting cannot fix.
        """
        heard = self.cancellations.hears
        try:
            if waits:
                tasks = await self.queue.dequeue_many(many)
            else:
                tasks = await self.queue.dequeue_nowait(max_tasks=many)
        except Exception as error:  # noqa: BLE001 - judged below
            away = self._note_failed_claim(error, away=False)
            tasks = await self._until_back(error, away)
        if tasks:
            self.cancellations.begin()
        return [Job(task, self, self._make_scope(), heard=heard) for task in tasks]

    async def _until_back(self, error: Exception, away: bool) -> list[Task[Any]]:
        """Try again until the server answers, and return the tasks that were claimed then.

        Args:
            error: The error of the first claim that failed.
            away: Whether the server has been reported as unusable.
        """
        self._away(self)
        for failures in count(1):
            await sleep(self._clock, BACK_OFF(failures, error) or 0.0)
            try:
                tasks = await self.queue.dequeue_nowait(max_tasks=max(1, self._room()))
            except Exception as failure:  # noqa: BLE001 - raised if waiting cannot fix it
                away = self._note_failed_claim(failure, away)
            else:
                if away:
                    logger.info('The server can be used again%s', self.suffix)
                    self._tell(events.Reconnected(queue=self.queue.queue))
                return tasks
        raise AssertionError('there is always another try')  # for type checkers

    def _note_failed_claim(self, error: Exception, away: bool) -> bool:
        """Report an error if it is new, or raise it if waiting cannot fix it.

        Returns:
            Whether the server has now been reported as unusable.
        """
        if isinstance(error, TorrelqueTooLargeError):
            if self._clock.now() >= self._next_complaint:
                self._next_complaint = self._clock.now() + COMPLAINTS
                logger.error('A task is too large to be claimed, trying again: %s%s', error, self.suffix)
            return away
        if not may_pass(error):
            raise error
        if not away:
            shown = error if isinstance(error, TorrelqueError) else describe(error)
            logger.warning('The server cannot be used, trying again until it can: %s%s', shown, self.suffix)
            self._tell(events.Disconnected(error, queue=self.queue.queue))
        return True


@contextmanager
def sharing_waits(feeds: Sequence[Feed]) -> Iterator[None]:
    """Let queues with the same client wait for tasks with one blocking call, within this context."""
    of_client: dict[int, list[Torrelque[Any]]] = {}
    for feed in feeds:
        of_client.setdefault(id(feed.queue.client), []).append(feed.queue)
    with ExitStack() as stack:
        for queues in of_client.values():
            sharer = WaitSharer(len(queues))
            for queue in queues if len(queues) > 1 else ():
                stack.enter_context(queue.share_waits(sharer))
        yield
