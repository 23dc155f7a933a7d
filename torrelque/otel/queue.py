"""A queue whose calls are spans, and are counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, overload

from opentelemetry import propagate
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TracerProvider

from torrelque import (
    EnqueueItem,
    ReleaseItem,
    RequeueItem,
    Task,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueReplyError,
    TorrelqueTaskStatus,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
)
from torrelque.otel.telemetry import (
    DELAY,
    MESSAGE_COUNT,
    MESSAGE_ID,
    REASON,
    Attributes,
    Command,
    Operation,
    Telemetry,
    creation_of,
    describe,
    error_type,
    pushed,
    working_context,
)

__all__ = ('InstrumentedTorrelque',)

CREATE = Command('enqueue', 'create', SpanKind.PRODUCER)
ENQUEUE = Command('enqueue', 'send', SpanKind.PRODUCER)
DEQUEUE = Command('dequeue', 'receive')
RELEASE = Command('release', 'settle')
REQUEUE = Command('requeue', 'settle')
REJECT = Command('reject', 'settle')
GIVEBACK = Command('giveback', 'settle')


class InstrumentedTorrelque(Torrelque):
    """A Torrelque that tells OpenTelemetry what it does, and is used like any other.

    The context travels in the tasks' headers, and payloads are left alone. With
    nothing configured it goes to the global providers.
    """

    tracer_provider: TracerProvider | None = None
    """Where spans go; None is the global one. Read at the first call."""

    meter_provider: MeterProvider | None = None
    """Where metrics go; None is the global one. Read at the first call."""

    @cached_property
    def _telemetry(self) -> Telemetry:
        return Telemetry(self.queue, self.tracer_provider, self.meter_provider)

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
        """As in Torrelque: a span of kind PRODUCER, whose context goes along with the task.

        Unless the headers have one: then that stays, and is linked to. With a
        ``pipeline`` the task is only created: nothing is counted as sent.
        """
        verb = ENQUEUE if pipeline is None else CREATE
        origin = _origin(headers)
        operation = self._telemetry.start(_sending(verb, [origin]), _delay(delay), _links([origin]))
        with self._counting_errors(verb, 1), operation.calling():
            new_id = await super().enqueue(
                task,
                task_timeout=task_timeout,
                delay=delay,
                pipeline=pipeline,
                task_id=task_id,
                max_dequeues=max_dequeues,
                headers=headers if origin is not None else _with_context(headers, _carrier(operation)),
            )
            operation.span.set_attribute(MESSAGE_ID, new_id)
        if verb is ENQUEUE:
            self._telemetry.sent(verb, 1)
        return new_id

    async def enqueue_many(
        self,
        items: Iterable[Any],
        *,
        task_timeout: float | None = None,
        delay: float | None = None,
        max_dequeues: int | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> list[str | Exception]:
        """As in Torrelque: one span for all, whose context goes along with each task that has none of its own."""
        entries = [
            item if isinstance(item, EnqueueItem) else EnqueueItem(item, task_timeout, delay, None, max_dequeues)
            for item in items
        ]
        origins = [_origin(entry.headers) for entry in entries]
        operation = self._telemetry.start(_sending(ENQUEUE, origins), {MESSAGE_COUNT: len(entries)}, _links(origins))
        carrier = _carrier(operation)
        with self._counting_errors(ENQUEUE, len(entries)), operation.calling():
            answers = await super().enqueue_many(
                [
                    entry if origin is not None else replace(entry, headers=_with_context(entry.headers, carrier))
                    for entry, origin in zip(entries, origins, strict=True)
                ],
                on_progress=on_progress,
            )
            errors = _fail(operation, answers)
        if len(answers) > len(errors):
            self._telemetry.sent(ENQUEUE, len(answers) - len(errors))
        for error in errors:
            self._telemetry.sent(ENQUEUE, 1, error_type(error))
        return answers

    @contextmanager
    def _counting_errors(self, verb: Command, count: int) -> Iterator[None]:
        """What was refused before anything was sent is not counted."""
        try:
            yield
        except BaseException as error:
            refused = isinstance(error, Exception) and not isinstance(
                error, (TorrelqueConnectionError, TorrelqueReplyError)
            )
            if not refused and verb is ENQUEUE:
                self._telemetry.sent(verb, count, error_type(error))
            raise

    # Consuming -------------------------------------------------------------------------------------------------------

    @overload
    async def dequeue(  # type: ignore[overload-overlap]  # as in Torrelque
        self, timeout: float | None = None, *, max_tasks: Literal[1] = 1
    ) -> Task: ...
    @overload
    async def dequeue(self, timeout: float | None = None, *, max_tasks: int) -> list[Task]: ...
    async def dequeue(self, timeout: float | None = None, *, max_tasks: int = 1) -> Task | list[Task]:
        """As in Torrelque: a span from the call to what it received, linked to where the tasks were created.

        A wait that ends with its time-out, or is cancelled, leaves none.
        """
        with self._receiving() as begun:
            received: Task | list[Task] = await super().dequeue(timeout, max_tasks=max_tasks)
            self._receive(begun, received)
        return received

    async def dequeue_many(self, max_tasks: int, timeout: float | None = None) -> list[Task]:
        """As in Torrelque, with a span as of `dequeue`."""
        with self._receiving() as begun:
            received = await super().dequeue_many(max_tasks, timeout)
            self._receive(begun, received)
        return received

    async def dequeue_nowait(self, *, max_tasks: int = 1) -> list[Task]:
        """As in Torrelque: a span as of `dequeue`; none where there was nothing to receive."""
        with self._receiving() as begun:
            received = await super().dequeue_nowait(max_tasks=max_tasks)
            if received:
                self._receive(begun, received)
        return received

    @contextmanager
    def _receiving(self) -> Iterator[int]:
        begun = time.time_ns()
        try:
            yield begun
        except TorrelqueTimeoutError:
            raise
        except Exception as error:
            if not pushed.get():
                operation = self._telemetry.start(DEQUEUE, {}, begun=begun)
                operation.fail(error)
                operation.end()
            raise

    def _receive(self, begun: int, received: Task | list[Task]) -> None:
        tasks = received if isinstance(received, list) else [received]
        self._telemetry.consumed(DEQUEUE, len(tasks))
        if pushed.get():
            return
        attributes: Attributes = {MESSAGE_COUNT: len(tasks)} if isinstance(received, list) else describe(received)
        links = _links([creation_of(task.headers) for task in tasks], tasks if isinstance(received, list) else ())
        self._telemetry.start(DEQUEUE, attributes, links, begun=begun).end()

    @contextmanager
    def processing(self, task: Task) -> Iterator[Span]:
        """A span around the work on a dequeued task, for consumers that write the loop themselves.

        Of kind CONSUMER, and linked to where the task was created; also a child
        of that, unless there is a current span. It is the current span within,
        where the task's baggage is there, too. An exception makes it an error, and
        is raised again; `Retry` and `Reject` are events.
        """
        if not isinstance(task, Task):
            raise TorrelqueTypeError(f'task must be a dequeued Task, got {task!r}')
        operation = self._telemetry.process(task)
        with operation.running():
            yield operation.span

    # Ending claims ---------------------------------------------------------------------------------------------------

    async def requeue(
        self,
        task_id: str | Task,
        delay: float | None = None,
        *,
        task_timeout: float | None = None,
        pipeline: object = None,
    ) -> None:
        """As in Torrelque, in a span; with a ``pipeline`` there is none, as nothing is settled yet."""
        if pipeline is not None:
            await super().requeue(task_id, delay, task_timeout=task_timeout, pipeline=pipeline)
            return
        with self._settling(REQUEUE, task_id, _delay(delay)):
            await super().requeue(task_id, delay, task_timeout=task_timeout)

    async def requeue_many(
        self,
        items: Iterable[str | Task | RequeueItem],
        *,
        delay: float | None = None,
        task_timeout: float | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> list[Exception | None]:
        """As in Torrelque, in one span."""
        entries = list(items)
        with self._settling_many(REQUEUE, entries) as operation:
            answers = await super().requeue_many(
                entries, delay=delay, task_timeout=task_timeout, on_progress=on_progress
            )
            _fail(operation, answers)
        return answers

    async def release(
        self,
        task_id: str | Task,
        *,
        result: Any = None,  # noqa: ANN401 - whatever the serialiser takes
        result_ttl: float | None = None,
        status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED,
        pipeline: object = None,
    ) -> None:
        """As in Torrelque, in a span; with a ``pipeline`` there is none, as nothing is settled yet."""
        if pipeline is not None:
            await super().release(task_id, result=result, result_ttl=result_ttl, status=status, pipeline=pipeline)
            return
        with self._settling(RELEASE, task_id):
            await super().release(task_id, result=result, result_ttl=result_ttl, status=status)

    async def release_many(
        self,
        items: Iterable[str | Task | ReleaseItem],
        *,
        status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> list[Exception | None]:
        """As in Torrelque, in one span."""
        entries = list(items)
        with self._settling_many(RELEASE, entries) as operation:
            answers = await super().release_many(entries, status=status, on_progress=on_progress)
            _fail(operation, answers)
        return answers

    async def reject(self, task_id: str | Task, reason: str) -> None:
        """As in Torrelque, in a span."""
        with self._settling(REJECT, task_id, {REASON: str(reason)}):
            await super().reject(task_id, reason)

    async def giveback(self, task_id: str | Task) -> None:
        """As in Torrelque, in a span."""
        with self._settling(GIVEBACK, task_id):
            await super().giveback(task_id)

    @contextmanager
    def _settling(self, verb: Command, task: str | Task, more: Attributes | None = None) -> Iterator[None]:
        attributes = {**describe(task), **(more or {})}
        if isinstance(task, Task):
            context, links = working_context(task.headers), _links([creation_of(task.headers)])
            operation = self._telemetry.start(verb, attributes, links, context)
        else:
            operation = self._telemetry.start(verb, attributes)
        with operation.calling():
            yield

    @contextmanager
    def _settling_many(self, verb: Command, entries: Sequence[object]) -> Iterator[Operation]:
        tasks = [entry.task if isinstance(entry, (ReleaseItem, RequeueItem)) else entry for entry in entries]
        claimed = [task for task in tasks if isinstance(task, Task)]
        links = _links([creation_of(task.headers) for task in claimed], claimed)
        operation = self._telemetry.start(verb, {MESSAGE_COUNT: len(entries)}, links)
        with operation.calling():
            yield operation


def _origin(headers: Any) -> SpanContext | None:  # noqa: ANN401 - they are checked later
    """The context that the producer chose for a task, if there is one."""
    if not isinstance(headers, Mapping) or not all(isinstance(value, str) for value in headers.values()):
        return None
    return creation_of(headers)


def _sending(verb: Command, origins: Sequence[SpanContext | None]) -> Command:
    """A span whose context no task takes along is none of kind PRODUCER."""
    return verb._replace(kind=SpanKind.CLIENT) if origins and None not in origins else verb


def _links(creations: Iterable[SpanContext | None], tasks: Sequence[Task] = ()) -> list[Link]:
    """Links to where tasks were created; those of a batch tell which task it is."""
    named = [describe(task) for task in tasks]
    return [
        Link(creation, named[number] if named else None)
        for number, creation in enumerate(creations)
        if creation is not None
    ]


def _carrier(operation: Operation) -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier, operation.context)
    return carrier


def _with_context(headers: Any, carrier: Mapping[str, str]) -> Any:  # noqa: ANN401 - they are checked later
    """The headers with the context; what the producer wrote itself stays, and is checked as ever."""
    if headers is None:
        return carrier or None
    return {**carrier, **headers} if isinstance(headers, Mapping) else headers


def _delay(delay: object) -> Attributes:
    return {DELAY: delay} if isinstance(delay, (int, float)) else {}


def _fail(operation: Operation, answers: Sequence[object]) -> list[Exception]:
    """The errors of a batch, which as a whole fails as the first of them."""
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if errors:
        operation.fail(errors[0], f'{len(errors)} of {len(answers)}: {errors[0]}')
    return errors
