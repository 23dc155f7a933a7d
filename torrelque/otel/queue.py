"""A queue that records its calls as spans and counts them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
    TorrelqueTimeoutError,
    TorrelqueTypeError,
)
from torrelque.otel.hooks import Invocation, hooked
from torrelque.otel.telemetry import (
    DELAY,
    GROUP,
    MESSAGE_COUNT,
    MESSAGE_ID,
    PRIORITY,
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
SHARED_OPTIONS = (
    'task_timeout', 'delay', 'max_dequeues', 'headers', 'time_limit', 'expires_in', 'expires_at', 'on_expiry', 'group',
    'priority',
)  # fmt: skip
"""Arguments of `enqueue_many` that apply to items without their own fields."""

DEQUEUE = Command('dequeue', 'receive')
SETTLE = {
    name: Command(name.removesuffix('_many'), 'settle')
    for name in ('release', 'release_many', 'requeue', 'requeue_many', 'reject', 'giveback')
}


class InstrumentedTorrelque(Torrelque):
    """A Torrelque that reports its calls to OpenTelemetry. Use it like Torrelque.

    The context travels in the tasks' headers; payloads are not changed.

    - Enqueueing is a span of kind PRODUCER, whose context travels with each task. If a task's headers already
      contain a context, it is kept, and the span links to it. With a ``pipeline`` the task is only created: nothing
      is counted as sent.
    - Dequeueing is a span from the call until tasks arrive, with links to the spans that created them. A wait that
      times out or is cancelled, and a `dequeue_nowait` that finds nothing, leave no span.
    - Release, requeue, reject and giveback are spans, one for each call. With a ``pipeline`` there is no span,
      because nothing is settled yet.
    """

    tracer_provider: TracerProvider | None = None
    """The provider for spans; None for the global one. Read at the first call."""

    meter_provider: MeterProvider | None = None
    """The provider for metrics; None for the global one. Read at the first call."""

    @cached_property
    def _telemetry(self) -> Telemetry:
        return Telemetry(self.queue, self.tracer_provider, self.meter_provider)

    @contextmanager
    def processing(self, task: Task) -> Iterator[Span]:
        """Wrap the work on a dequeued task in a span. Use it if you write the consumer's loop yourself.

        The span is of kind CONSUMER and links to the span that created the task. If there is no
        current span, it is also a child of that span. Within the context it is the current span, and
        the task's baggage is set. An exception marks it as failed and is raised again; `Retry` and
        `Reject` are recorded as events.

        Args:
            task: The task.

        Returns:
            A context manager whose value is the span.

        Raises:
            TorrelqueTypeError: It is not a task.
        """
        if not isinstance(task, Task):
            raise TorrelqueTypeError(f'task must be a dequeued Task, got {task!r}')
        operation = self._telemetry.process(task)
        with operation.running():
            yield operation.span

    # Hooks -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _sending(self, call: Invocation) -> Iterator[None]:
        headers = call.arguments['headers']
        command = ENQUEUE if call.arguments['pipeline'] is None else CREATE
        origin = _origin(headers)
        operation = self._telemetry.start(_kind_for(command, [origin]), _given(call.arguments), _links([origin]))
        if origin is None:
            call.arguments['headers'] = _with_context(headers, _carrier(operation))
        with self._counting_errors(command, 1), operation.calling():
            yield
            operation.span.set_attribute(MESSAGE_ID, call.answer)
        if command is ENQUEUE:
            self._telemetry.sent(command, 1)

    @contextmanager
    def _sending_many(self, call: Invocation) -> Iterator[None]:
        """Open one span for all tasks. Its context travels with each task that has none."""
        given = call.arguments
        options = {name: given[name] for name in SHARED_OPTIONS}
        entries = [item if isinstance(item, EnqueueItem) else EnqueueItem(item, **options) for item in given['items']]
        origins = [_origin(entry.headers) for entry in entries]
        operation = self._telemetry.start(_kind_for(ENQUEUE, origins), {MESSAGE_COUNT: len(entries)}, _links(origins))
        carrier = _carrier(operation)
        given['items'] = [
            entry if origin is not None else replace(entry, headers=_with_context(entry.headers, carrier))
            for entry, origin in zip(entries, origins, strict=True)
        ]
        with self._counting_errors(ENQUEUE, len(entries)), operation.calling():
            yield
            errors = _fail(operation, call.answer)
        if len(call.answer) > len(errors):
            self._telemetry.sent(ENQUEUE, len(call.answer) - len(errors))
        for error in errors:
            self._telemetry.sent(ENQUEUE, 1, error_type(error))

    @contextmanager
    def _counting_errors(self, command: Command, count: int) -> Iterator[None]:
        """Count failed sends. Calls that were refused before anything was sent do not count."""
        try:
            yield
        except BaseException as error:
            refused = isinstance(error, Exception) and not isinstance(
                error, (TorrelqueConnectionError, TorrelqueReplyError)
            )
            if not refused and command is ENQUEUE:
                self._telemetry.sent(command, count, error_type(error))
            raise

    @contextmanager
    def _receiving(self, call: Invocation) -> Iterator[None]:
        begun = time.time_ns()
        try:
            yield
        except TorrelqueTimeoutError:
            raise
        except Exception as error:
            if not pushed.get():
                operation = self._telemetry.start(DEQUEUE, {}, begun=begun)
                operation.fail(error)
                operation.end()
            raise
        batch = isinstance(call.answer, list)
        tasks: list[Task] = call.answer if batch else [call.answer]
        if not tasks:
            return
        self._telemetry.consumed(DEQUEUE, len(tasks))
        if not pushed.get():
            links = _links([creation_of(task.headers) for task in tasks], tasks if batch else ())
            attributes: Attributes = {MESSAGE_COUNT: len(tasks)} if batch else describe(tasks[0])
            self._telemetry.start(DEQUEUE, attributes, links, begun=begun).end()

    @contextmanager
    def _settling(self, call: Invocation) -> Iterator[None]:
        given, task = call.arguments, call.arguments['task_id']
        if given.get('pipeline') is not None:
            yield
            return
        attributes = describe(task)
        if isinstance(delay := given.get('delay'), (int, float)):
            attributes[DELAY] = delay
        if 'reason' in given:
            attributes[REASON] = str(given['reason'])
        command = SETTLE[call.operation]
        if isinstance(task, Task):
            links = _links([creation_of(task.headers)])
            operation = self._telemetry.start(command, attributes, links, working_context(task.headers))
        else:
            operation = self._telemetry.start(command, attributes)
        with operation.calling():
            yield

    @contextmanager
    def _settling_many(self, call: Invocation) -> Iterator[None]:
        entries = call.arguments['items'] = list(call.arguments['items'])
        tasks = [entry.task if isinstance(entry, (ReleaseItem, RequeueItem)) else entry for entry in entries]
        claimed = [task for task in tasks if isinstance(task, Task)]
        links = _links([creation_of(task.headers) for task in claimed], claimed)
        operation = self._telemetry.start(SETTLE[call.operation], {MESSAGE_COUNT: len(entries)}, links)
        with operation.calling():
            yield
            _fail(operation, call.answer)

    if not TYPE_CHECKING:  # the signatures are Torrelque's
        enqueue = hooked(Torrelque.enqueue, _sending)
        enqueue_many = hooked(Torrelque.enqueue_many, _sending_many)
        dequeue = hooked(Torrelque.dequeue, _receiving)
        dequeue_many = hooked(Torrelque.dequeue_many, _receiving)
        dequeue_nowait = hooked(Torrelque.dequeue_nowait, _receiving)
        requeue = hooked(Torrelque.requeue, _settling)
        requeue_many = hooked(Torrelque.requeue_many, _settling_many)
        release = hooked(Torrelque.release, _settling)
        release_many = hooked(Torrelque.release_many, _settling_many)
        reject = hooked(Torrelque.reject, _settling)
        giveback = hooked(Torrelque.giveback, _settling)


def _given(arguments: Mapping[str, Any]) -> Attributes:
    """Return attributes for arguments of `enqueue`, which are checked later."""
    delay = arguments['delay']
    attributes: Attributes = {DELAY: delay} if isinstance(delay, (int, float)) else {}
    for name, value in ((GROUP, arguments['group']), (PRIORITY, arguments['priority'])):
        if isinstance(value, str):
            attributes[name] = value
    return attributes


def _origin(headers: Any) -> SpanContext | None:  # noqa: ANN401 - they are checked later
    """Return the context that the producer chose for a task, if there is one."""
    if not isinstance(headers, Mapping) or not all(isinstance(value, str) for value in headers.values()):
        return None
    return creation_of(headers)


def _kind_for(command: Command, origins: Sequence[SpanContext | None]) -> Command:
    """Return the command, with the kind CLIENT if every task has its own context, so that none carries the span's."""
    return command._replace(kind=SpanKind.CLIENT) if origins and None not in origins else command


def _links(creations: Iterable[SpanContext | None], tasks: Sequence[Task] = ()) -> list[Link]:
    """Return links to the spans that created tasks. In a batch, each link names its task."""
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
    """Add the context to the headers. The producer's own headers are kept, and the queue checks them."""
    if headers is None:
        return carrier or None
    return {**carrier, **headers} if isinstance(headers, Mapping) else headers


def _fail(operation: Operation, answers: Sequence[object]) -> list[Exception]:
    """Return the errors of a batch. The first one marks its span as failed."""
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if errors:
        operation.fail(errors[0], f'{len(errors)} of {len(answers)}: {errors[0]}')
    return errors
