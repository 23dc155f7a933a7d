"""Functions that users pass are checked before they are called."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any
from unittest.mock import Mock

import pytest

from tests.worker.support import Bench
from torrelque import Router, Task, TorrelqueTypeError

pytestmark = pytest.mark.anyio


async def handler(_task: Task) -> None: ...


class Unreadable:
    """A callable whose signature cannot be read."""

    @property
    def __signature__(self) -> object:
        raise RuntimeError

    def __call__(self, *_: object) -> float:
        return 1.0


def too_few() -> None: ...


def too_many(_a: object, _b: object) -> None: ...


def of_attempt(_attempt: int) -> None: ...


def needs_base(_attempt: int, _error: Exception, *, base: float) -> float:
    return base


WRONG: dict[str, tuple[str, list[Any]]] = {
    'handler': ('(task)', [too_few, too_many]),
    'retry': ('(attempt, error)', [of_attempt, needs_base]),
    'on_event': ('(event)', [too_few, too_many]),
    'lifespan': ('()', [of_attempt]),
}


@pytest.mark.parametrize(('name', 'bad'), [(name, bad) for name, (_, each) in WRONG.items() for bad in each])
async def test_functions_with_wrong_parameters_are_refused_at_once(bench: Bench, name: str, bad: Any) -> None:  # noqa: ANN401 - wrong on purpose
    with pytest.raises(TorrelqueTypeError) as raised:
        bench.worker(**{'handler': handler, name: bad})
    assert f'{name} must be callable with {WRONG[name][0]}, got {bad!r}' in str(raised.value)


async def test_functions_that_can_be_called_are_taken(bench: Bench) -> None:
    def wrapped(task: Task, database: object) -> None: ...

    @wraps(wrapped)
    def wrapper(*args: Any) -> None: ...  # noqa: ANN401 - any

    def with_dependencies(task: Task, *, database: object, cache: object = None) -> None: ...

    def of_event(_event: object, _extra: object = None) -> None: ...

    policies: list[Any] = [max, Unreadable(), partial(needs_base, base=1), Mock()]
    hooks: list[Any] = [[].append, print, of_event, Unreadable(), repr]
    handlers: list[Any] = [
        wrapper,
        with_dependencies,
        partial(wrapped, database=1),
        Unreadable(),
        print,
        [].append,
        Mock(),
    ]
    for each in handlers:
        bench.worker(each)
    for policy in policies:
        bench.worker(handler, retry=policy)
    for hook in hooks:
        bench.worker(handler, on_event=hook)


async def test_of_a_router_and_of_bulk_calls_too(bench: Bench) -> None:
    with pytest.raises(TorrelqueTypeError, match=r'retry must be callable with \(attempt, error\)'):
        Router().task('a', retry=too_few)  # type: ignore[arg-type]
    with pytest.raises(TorrelqueTypeError, match=r'serialiser must be callable with \(annotation\)'):
        Router(too_few)  # type: ignore[arg-type]
    queue: Any = bench.queue
    for call in (queue.enqueue_many, queue.requeue_many, queue.release_many):
        with pytest.raises(TorrelqueTypeError, match=r'on_progress must be callable with \(done, total\)'):
            await call(['a'], on_progress=too_few)
    assert bench.transport.batches == []
