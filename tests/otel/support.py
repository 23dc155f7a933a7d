"""OpenTelemetry's own SDK, collecting in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode

from torrelque import Client
from torrelque.core.protocol import Batch, Reply
from torrelque.otel import InstrumentedTorrelque
from torrelque.testing import MemoryTransport, VirtualClock


class Telescope:
    """Sees what a queue tells."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer('application')

    def queue(self, client: Client, name: str = 'q') -> InstrumentedTorrelque:
        queue = InstrumentedTorrelque(client, queue=name)
        queue.tracer_provider = self.tracers
        queue.meter_provider = self.meters
        return queue

    def names(self) -> list[str]:
        """The names of the spans that have ended, in that order."""
        return [span.name for span in self.spans.get_finished_spans()]

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.all(name)
        return span

    def counted(self, metric: str) -> dict[tuple[str, str | None], int]:
        """A counter's values by operation and error."""
        found = {}
        for point in self.points(metric):
            assert isinstance(point, NumberDataPoint)
            found[key_of(point)] = int(point.value)
        return found

    def timed(self, metric: str) -> dict[tuple[str, str | None], tuple[int, float]]:
        """A histogram's counts and sums by operation and error."""
        found = {}
        for point in self.points(metric):
            assert isinstance(point, HistogramDataPoint)
            found[key_of(point)] = (point.count, round(point.sum, 9))
        return found

    def points(self, metric: str) -> Sequence[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.data.data_points
        ]


def key_of(point: NumberDataPoint | HistogramDataPoint) -> tuple[str, str | None]:
    assert point.attributes is not None
    assert point.attributes['messaging.system'] == 'torrelque'
    assert point.attributes['messaging.destination.name']
    error = point.attributes.get('error.type')
    return str(point.attributes['messaging.operation.name']), None if error is None else str(error)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """All but those that each span has."""
    assert span.attributes is not None
    assert span.attributes['messaging.system'] == 'torrelque'
    common = ('messaging.system', 'messaging.destination.name', 'messaging.operation.name', 'messaging.operation.type')
    return {name: value for name, value in span.attributes.items() if name not in common}


def operation(span: ReadableSpan) -> tuple[str, str, str]:
    """Name, type and kind."""
    assert span.attributes is not None
    name, kind = span.attributes['messaging.operation.name'], span.attributes['messaging.operation.type']
    assert span.name == f'{name!s} {span.attributes["messaging.destination.name"]!s}'
    return str(name), str(kind), span.kind.name


def seconds(*spans: ReadableSpan) -> float:
    """How long they lasted in all."""
    return round(sum((span.end_time or 0) - (span.start_time or 0) for span in spans) / 1e9, 9)


def identity(context: SpanContext | ReadableSpan | None) -> tuple[int, int] | None:
    """Trace and span."""
    found = context.get_span_context() if isinstance(context, ReadableSpan) else context
    return None if found is None else (found.trace_id, found.span_id)


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return identity(span.parent)


def links(span: ReadableSpan) -> list[tuple[int, int] | None]:
    return [identity(link.context) for link in span.links]


def failed(span: ReadableSpan) -> tuple[str, str | None] | None:
    """The error's type and its description; None if all went well."""
    kind = (span.attributes or {}).get('error.type')
    assert (kind is not None) == (span.status.status_code is StatusCode.ERROR)
    return None if kind is None else (str(kind), span.status.description)


def events(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, dict(event.attributes or {})) for event in span.events]


class FailingTransport(MemoryTransport):
    """Answers each call with ``error`` while there is one, or raises it if it is no reply."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        super().__init__(clock=clock)
        self.reply: Exception | None = None
        self.error: Exception | None = None

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if self.error is not None:
            raise self.error
        if self.reply is not None:
            return [self.reply for _ in batch]
        return await super().execute(batch)
