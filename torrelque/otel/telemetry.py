"""Spans and metrics of a queue's operations, named by OpenTelemetry's messaging conventions.

They follow version 1.44 of the semantic conventions for messaging spans and
messaging client metrics, whose status is "development".
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.metadata import version
from typing import NamedTuple

from opentelemetry import context as contexts
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode

from torrelque import Task, TorrelqueError
from torrelque.worker.failures import is_cancellation, message_of, understand

__all__ = (
    'Attributes',
    'Command',
    'Operation',
    'Telemetry',
    'creation_of',
    'describe',
    'error_type',
    'pushed',
    'working_context',
)

SCOPE = 'torrelque.otel'
SCHEMA = 'https://opentelemetry.io/schemas/1.44.0'

BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Bucket boundaries of both durations, in seconds, from the conventions."""

ERROR_TYPE = 'error.type'
MESSAGE_ID = 'messaging.message.id'
MESSAGE_COUNT = 'messaging.batch.message_count'
ATTEMPT = 'messaging.torrelque.message.delivery_attempt'
DELAY = 'messaging.torrelque.message.delay'
REASON = 'messaging.torrelque.message.reject_reason'
GROUP = 'messaging.torrelque.message.group'
PRIORITY = 'messaging.torrelque.message.priority'

Attributes = dict[str, str | int | float]

pushed: ContextVar[bool] = ContextVar('pushed', default=False)
"""Whether a worker dequeues tasks for a handler. In the conventions, pushed tasks have no "receive" span."""


class Command(NamedTuple):
    """An operation, described in the terms of the conventions."""

    name: str
    type: str
    kind: SpanKind = SpanKind.CLIENT


PROCESS = Command('process', 'process', SpanKind.CONSUMER)


class Telemetry:
    """The instruments of one queue."""

    def __init__(
        self,
        queue: str,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
    ) -> None:
        self.queue: str = queue
        self._tracer = trace.get_tracer(SCOPE, version('torrelque'), tracer_provider, SCHEMA)
        meter = metrics.get_meter(SCOPE, version('torrelque'), meter_provider, SCHEMA)
        self._sent = meter.create_counter(
            'messaging.client.sent.messages',
            '{message}',
            'Number of messages producer attempted to send to the broker.',
        )
        self._consumed = meter.create_counter(
            'messaging.client.consumed.messages',
            '{message}',
            'Number of messages that were delivered to the application.',
        )
        self._duration = meter.create_histogram(
            'messaging.client.operation.duration',
            's',
            'Duration of messaging operation initiated by a producer or consumer client.',
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )
        self._process_duration = meter.create_histogram(
            'messaging.process.duration',
            's',
            'Duration of processing operation.',
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )

        self._dropped = meter.create_counter(
            'torrelque.worker.results.dropped',
            '{result}',
            'Number of results that could not be written, of tasks that were completed without.',
        )

    def start(
        self,
        command: Command,
        attributes: Attributes,
        links: Sequence[Link] = (),
        context: Context | None = None,
        begun: int | None = None,
    ) -> Operation:
        """Start a span, by default as a child of the current one.

        Args:
            command: The operation.
            attributes: The span's attributes.
            links: The span's links.
            context: The parent's context; None for the current one.
            begun: The start in Unix nanoseconds; None for now.

        Returns:
            The operation, to be ended.
        """
        start = time.time_ns() if begun is None else begun
        span = self._tracer.start_span(
            f'{command.name} {self.queue}',
            context,
            command.kind,
            {**self._describe(command), **attributes},
            links,
            start,
        )
        inner = contexts.get_current() if context is None else context
        if span.get_span_context().is_valid:  # otherwise no SDK is set up, and the context stays as it is
            inner = trace.set_span_in_context(span, inner)
        return Operation(self, command, span, inner, start)

    def process(self, task: Task) -> Operation:
        """Start the span of a task's processing."""
        creation = creation_of(task.headers)
        links = [Link(creation)] if creation is not None else []
        return self.start(PROCESS, describe(task), links, working_context(task.headers))

    def sent(self, command: Command, count: int, error: str | None = None) -> None:
        """Count tasks that the producer sent or tried to send."""
        self._sent.add(count, self._describe(command, error))

    def consumed(self, command: Command, count: int) -> None:
        """Count tasks that were delivered to the application."""
        self._consumed.add(count, self._describe(command))

    def dropped(self, error: Exception) -> None:
        """Count a result that could not be written."""
        self._dropped.add(1, self._describe(PROCESS, error_type(error)))

    def lasted(self, command: Command, nanoseconds: int, error: str | None) -> None:
        """Record a duration, except for creating a message, which sends nothing."""
        seconds = max(0, nanoseconds) / 1e9  # the clock may have been set back
        if command.type == 'process':
            self._process_duration.record(seconds, self._describe(command, error))
        elif command.type != 'create':
            self._duration.record(seconds, self._describe(command, error))

    def _describe(self, command: Command, error: str | None = None) -> Attributes:
        attributes: Attributes = {
            'messaging.system': 'torrelque',
            'messaging.destination.name': self.queue,
            'messaging.operation.name': command.name,
            'messaging.operation.type': command.type,
        }
        if error is not None:
            attributes[ERROR_TYPE] = error
        return attributes


class Operation:
    """A span that has started, and its error if it failed."""

    def __init__(self, telemetry: Telemetry, command: Command, span: Span, context: Context, start: int) -> None:
        self.span = span
        self.context = context
        self.goes_on: bool = False
        """Whether `running` leaves the span open."""
        self._telemetry = telemetry
        self._command = command
        self._start = start
        self._error: str | None = None

    def fail(self, error: BaseException, description: str | None = None) -> None:
        """Mark the span as failed. Only the first error counts."""
        if self._error is None:
            self._error = error_type(error)
            self.span.set_attribute(ERROR_TYPE, self._error)
            self.span.set_status(StatusCode.ERROR, description or message_of(error) or None)

    def end(self) -> None:
        """End the span, and record the same duration in the metric."""
        now = time.time_ns()
        self._telemetry.lasted(self._command, now - self._start, self._error)
        self.span.end(now)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Wrap a call of the queue. Errors mark the span as failed. The caller records the exception."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self.end()

    def _end_with(self, error: BaseException) -> None:
        failure = understand(error)
        if failure.rejects:
            self.span.add_event('torrelque.reject', {REASON: failure.reason})
            self.fail(failure.cause)
        elif failure.delay is not None:
            self.span.add_event('torrelque.retry', {DELAY: failure.delay})
        else:
            if isinstance(error, Exception):
                with suppress(BaseException):  # the exception's str() may fail
                    self.span.record_exception(error)
            self.fail(failure.cause)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Wrap work of the application. Its spans become children of this one."""
        self.goes_on = False
        token = contexts.attach(self.context)
        called = pushed.set(False)
        try:
            yield
        except BaseException as error:
            self._end_with(error)
            raise
        finally:
            pushed.reset(called)
            contexts.detach(token)
            if not self.goes_on:
                self.end()


def error_type(error: BaseException) -> str:
    """Return the name of an error's class, or ``cancelled``. Library errors have the same name over every client."""
    if is_cancellation(error):
        return 'cancelled'
    kinds = type(error).__mro__ if isinstance(error, TorrelqueError) else (type(error),)
    kind = next((kind for kind in kinds if kind.__module__ == TorrelqueError.__module__), type(error))
    return kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'


def describe(task: object) -> Attributes:
    """Return the attributes of a claimed task or a task's id."""
    if isinstance(task, Task):
        group: Attributes = {} if task.group is None else {GROUP: task.group}
        return {MESSAGE_ID: str(task.id), ATTEMPT: task.attempt, **group}
    return {MESSAGE_ID: str(task)} if isinstance(task, str) else {}


def creation_of(headers: Mapping[str, str]) -> SpanContext | None:
    """Return the span in which a task was created, if its headers contain it."""
    creation = trace.get_current_span(propagate.extract(headers, Context())).get_span_context()
    return creation if creation.is_valid else None


def working_context(headers: Mapping[str, str]) -> Context:
    """Return the context in which to process a task.

    This is the current context plus the baggage from the headers. Its span is the
    current span or, if there is none, the one in which the task was created.
    """
    current = contexts.get_current()
    inner = propagate.extract(headers, current)
    ambient = trace.get_current_span(current)
    return trace.set_span_in_context(ambient, inner) if ambient.get_span_context().is_valid else inner
