"""A worker that records its deliveries as spans."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import update_wrapper, wraps
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from torrelque import Receipt, Task, Torrelque, TorrelqueLeaseLostError, TorrelqueTypeError, Worker, events
from torrelque.otel.queue import InstrumentedTorrelque
from torrelque.otel.telemetry import Operation, Telemetry, pushed

__all__ = ('InstrumentedWorker',)

Handler = Callable[..., Any]


class InstrumentedWorker(Worker):
    """A Worker that reports each delivery to OpenTelemetry. Use it like Worker.

    Each call of the handler is a span like that of `InstrumentedTorrelque.processing`.
    An exception, a lost claim, or a cancellation because the worker stops marks it as
    failed. The decision of the retry policy is in the span of the queue's call that follows.

    Args:
        queue: The queue or queues, whose providers the worker uses.
        handler: As in `Worker`.
        on_event: Called with each event of the worker.
        **options: As in `Worker`.

    Raises:
        TorrelqueTypeError: A queue is not an InstrumentedTorrelque, or another argument has
            a bad type.
    """

    _deliveries: _Deliveries

    if not TYPE_CHECKING:  # the signature is Worker's

        @wraps(Worker.__init__)
        def __init__(self, queue, handler=None, *, on_event=None, **options) -> None:  # noqa: ANN001, ANN003
            for each in queue if isinstance(queue, (Mapping, list, tuple)) else [queue]:
                if not isinstance(each, InstrumentedTorrelque):
                    raise TorrelqueTypeError(f'queue must be an InstrumentedTorrelque, got {each!r}')
            self._deliveries = _Deliveries()
            super().__init__(queue, handler, on_event=self._deliveries.listen(on_event), **options)

    def _observe(self, call: Handler, queue: Torrelque[Any]) -> Handler:
        assert isinstance(queue, InstrumentedTorrelque)  # noqa: S101 - checked when the worker was made
        telemetry = Telemetry(queue.queue, queue.tracer_provider, queue.meter_provider)
        return self._deliveries.observe(call, telemetry)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until the worker is stopped. See `Worker.run`."""
        token = pushed.set(True)
        try:
            await super().run(task_status=task_status)
        finally:
            pushed.reset(token)


class _Deliveries:
    """The spans of the running handlers."""

    def __init__(self) -> None:
        self._telemetry: dict[str, Telemetry] = {}  # of each queue, by its name
        self._operations: dict[Receipt, Operation] = {}

    def observe(self, function: Handler, telemetry: Telemetry) -> Handler:
        """Wrap the handler in a span. A plain function stays plain, because the worker runs it in a thread."""

        @wraps(function, updated=())
        async def handle(task: Task) -> Any:  # noqa: ANN401 - what the handler returns
            with self._delivery(task, telemetry) as operation, operation.running():
                return await function(task)

        @wraps(function, updated=())
        def handle_plainly(task: Task) -> Any:  # noqa: ANN401 - what the handler returns
            with self._delivery(task, telemetry) as operation, operation.running():
                result = function(task)
                operation.goes_on = inspect.isawaitable(result)
            return self._rest(task, operation, result) if operation.goes_on else result

        self._telemetry[telemetry.queue] = telemetry
        return handle_plainly if _is_plain(function) else handle

    async def _rest(self, task: Task, operation: Operation, result: Awaitable[Any]) -> Any:  # noqa: ANN401 - what the handler returns
        """Await what a plain function returned, as part of the same span."""
        with self._known(task, operation), operation.running():
            return await result

    @contextmanager
    def _delivery(self, task: Task, telemetry: Telemetry) -> Iterator[Operation]:
        operation = telemetry.process(task)
        with self._known(task, operation):
            yield operation

    @contextmanager
    def _known(self, task: Task, operation: Operation) -> Iterator[None]:
        self._operations[task.receipt] = operation
        try:
            yield
        finally:
            del self._operations[task.receipt]

    def listen(self, on_event: Any) -> Any:  # noqa: ANN401 - the user's function
        """Wrap the worker's hook, which receives a lost claim before the handler is cancelled."""
        if on_event is not None and not _is_plain(on_event):
            return on_event

        def hear(event: events.WorkerEvent) -> None:
            if isinstance(event, events.LeaseLost) and (operation := self._operations.get(event.task.receipt)):
                operation.span.add_event('torrelque.lease_lost')
                operation.fail(TorrelqueLeaseLostError('the claim was lost while the handler ran'))
            if isinstance(event, events.Cancelled) and (operation := self._operations.get(event.task.receipt)):
                operation.span.add_event('torrelque.cancelled')
            if isinstance(event, events.ResultDropped):
                self._telemetry[event.task.queue].dropped(event.error)
            if on_event is not None:
                on_event(event)

        if on_event is not None:  # so that the worker checks the user's own parameters
            update_wrapper(hear, on_event, updated=())
            with suppress(Exception):
                hear.__signature__ = inspect.signature(on_event, follow_wrapped=False)  # type: ignore[attr-defined]
        return hear


def _is_plain(function: object) -> bool:
    """Return whether the worker calls a function without awaiting it."""
    return callable(function) and not (
        inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    )
