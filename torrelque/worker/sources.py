"""The queues that a worker consumes, as the user gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torrelque import Torrelque, TorrelqueTypeError, TorrelqueValueError
from torrelque.core import checks
from torrelque.core.callables import check_function
from torrelque.worker.router import Router

__all__ = ('Source', 'check_handler', 'check_reserve', 'check_sources')


class Source:
    """One of several queues of a worker: ``Worker({mails: Source(send, weight=6), reports: Source(build)}, ...)``.

    Args:
        handler: The handler of this queue's tasks, or a :class:`~torrelque.Router`. None takes the worker's.
        weight: The queue's share of the deliveries while all queues have tasks. None is 1.

    Raises:
        TorrelqueTypeError: An argument has a bad type.
        TorrelqueValueError: The weight is not above 0.
    """

    def __init__(self, handler: Callable[..., Any] | Router | None = None, *, weight: float | None = None) -> None:
        self.handler: Callable[..., Any] | Router | None = None if handler is None else check_handler(handler)
        self.weight: float | None = None if weight is None else checks.check_amount('weight', weight, least=0)

    def __repr__(self) -> str:
        return f'Source({self.handler!r}, weight={self.weight!r})'


def check_handler(handler: Any) -> Callable[..., Any] | Router:  # noqa: ANN401 - the type is what is checked
    """Return a handler. Raises TorrelqueTypeError for anything else."""
    if not isinstance(handler, Router):
        check_function('handler', handler, 'task', dependencies=True)
    elif not handler.kinds:
        raise TorrelqueTypeError(f'handler has no kinds of tasks: decorate functions with its task(), got {handler!r}')
    checked: Callable[..., Any] | Router = handler
    return checked


def check_sources(queues: Any, handler: Any, *, strict: bool) -> dict[Torrelque[Any], Source]:  # noqa: ANN401
    """Return the queues in order, each with its handler and weight.

    Args:
        queues: What the user gave.
        handler: The handler of queues without their own.
        strict: Whether the order decides, so that there must be no weights.

    Raises:
        TorrelqueTypeError: The queues or a handler have a bad type.
        TorrelqueValueError: There are no queues, a queue twice, a bad weight, or weights despite ``strict``.
    """
    sources: dict[Torrelque[Any], Source] = {}
    for queue, value in _pairs(queues):
        if not isinstance(queue, Torrelque):
            raise TorrelqueTypeError(f'queue must be a Torrelque, got {queue!r}')
        if any(other.queue == queue.queue and other.client is queue.client for other in sources):
            raise TorrelqueValueError(f'queue must not contain a queue twice, got {queue.queue!r} again')
        sources[queue] = _source_of(queue, value, handler)
        weight = sources[queue].weight
        if strict and weight is not None:
            raise TorrelqueValueError(
                f'strict=True takes the queues in order, without weights, got {weight!r} for {queue.queue!r}'
            )
    if not sources:
        raise TorrelqueValueError(f'queue must contain at least one queue, got {queues!r}')
    return sources


def _pairs(queues: Any) -> Iterable[tuple[Any, Any]]:  # noqa: ANN401 - checked by the caller
    if isinstance(queues, Mapping):
        return queues.items()
    if isinstance(queues, Sequence) and not isinstance(queues, (str, bytes)):
        return [(queue, Source()) for queue in queues]
    return [(queues, Source())]


def _source_of(queue: Torrelque[Any], value: Any, handler: Any) -> Source:  # noqa: ANN401 - checked here
    if isinstance(value, Source):
        return Source(check_handler(handler) if value.handler is None else value.handler, weight=value.weight)
    weight = checks.check_amount(f'the weight of queue {queue.queue!r}', value, least=0)
    return Source(check_handler(handler), weight=weight)


def check_reserve(
    reserve: Any,  # noqa: ANN401 - the type is what is checked
    queues: Iterable[Torrelque[Any]],
    concurrency: int,
) -> dict[Torrelque[Any], int]:
    """Return how many slots are reserved for which queues.

    Raises:
        TorrelqueTypeError: It is not a mapping of queues to whole numbers.
        TorrelqueValueError: A number is not above 0, a queue is unknown, or no slot would be left for a queue.
    """
    if reserve is None:
        return {}
    if not isinstance(reserve, Mapping):
        raise TorrelqueTypeError(f'reserve must map queues to numbers of slots, got {reserve!r}')
    known = list(queues)
    for queue, slots in reserve.items():
        if queue not in known:
            name = queue.queue if isinstance(queue, Torrelque) else queue
            raise TorrelqueValueError(f'reserve must name queues of this worker, got {name!r}')
        checks.check_count(f'reserve of queue {queue.queue!r}', slots)
    total = sum(reserve.values())
    if total > concurrency:
        raise TorrelqueValueError(f'reserve must be at most the concurrency, {concurrency}, got {total}')
    left_out = [queue.queue for queue in known if queue not in reserve]
    if total == concurrency and left_out:
        raise TorrelqueValueError(
            f'reserve must leave a slot for queue {left_out[0]!r}, got {total} of a concurrency of {concurrency}'
        )
    return dict(reserve)
