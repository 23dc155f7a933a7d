"""Several queues of one worker: what is accepted, and what is refused at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from torrelque import Router, Source, Task, Torrelque, TorrelqueTypeError, TorrelqueValueError, Worker
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

TRANSPORT = MemoryTransport()
CRITICAL, DEFAULT, LOW = (Torrelque(TRANSPORT, queue=name) for name in ('critical', 'default', 'low'))
AGAIN = Torrelque(TRANSPORT, queue='low')
ELSEWHERE = Torrelque(MemoryTransport(), queue='low')


async def handler(task: Task) -> None: ...


async def generator(task: Task) -> AsyncIterator[None]:
    yield


GOOD: list[tuple[Any, dict[str, Any]]] = [
    (LOW, {}),
    ([LOW], {}),
    ((CRITICAL, DEFAULT), {'strict': True}),
    ({CRITICAL: 6, DEFAULT: 0.5, LOW: Source(weight=1)}, {}),
    ({CRITICAL: Source(handler), LOW: Source(Router().task('a')(handler).function)}, {'handler': None}),
    ({CRITICAL: Source(handler), LOW: Source()}, {'strict': True}),
    ([LOW, ELSEWHERE], {}),
    ([CRITICAL, LOW], {'reserve': {CRITICAL: 9}}),
    ([CRITICAL, LOW], {'reserve': {CRITICAL: 9, LOW: 1}}),
    ([CRITICAL, LOW], {'reserve': {}, 'strict': True}),
    (LOW, {'reserve': {LOW: 10}}),
]


@pytest.mark.parametrize(('queues', 'options'), GOOD)
async def test_good(queues: Any, options: dict[str, Any]) -> None:  # noqa: ANN401 - the types are what is tested
    Worker(queues, **{'handler': handler, 'concurrency': 10, **options})


BAD: list[tuple[str, Any, dict[str, Any], str]] = [
    ('not a queue', None, {}, 'queue must be a Torrelque, got None'),
    ('a name', 'low', {}, "queue must be a Torrelque, got 'low'"),
    ('a name in a list', [LOW, 'low'], {}, "queue must be a Torrelque, got 'low'"),
    ('none', [], {}, r'queue must contain at least one queue, got \[\]'),
    ('none in a mapping', {}, {}, r'queue must contain at least one queue, got \{\}'),
    ('twice', [LOW, LOW], {}, "queue must not contain a queue twice, got 'low' again"),
    ('the same queue of two objects', [LOW, AGAIN], {}, "queue must not contain a queue twice, got 'low' again"),
    ('weight 0', {LOW: 0}, {}, "the weight of queue 'low' must be a finite number above 0, got 0"),
    ('a negative weight', {LOW: -1}, {}, "the weight of queue 'low' must be a finite number above 0, got -1"),
    ('no number', {LOW: 'high'}, {}, "the weight of queue 'low' must be a number, got 'high'"),
    ('no number at all', {LOW: None}, {}, "the weight of queue 'low' must be a number, got None"),
    ('a bool', {LOW: True}, {}, "the weight of queue 'low' must be a number, got True"),
    ('not finite', {LOW: float('inf')}, {}, "the weight of queue 'low' must be a finite number above 0, got inf"),
    ('strict with weights', {CRITICAL: 6, LOW: 1}, {'strict': True}, "without weights, got 6.0 for 'critical'"),
    ('strict with a weight', {LOW: Source(weight=2)}, {'strict': True}, "without weights, got 2.0 for 'low'"),
    ('not strict', [LOW], {'strict': 1}, 'strict must be a bool, got 1|strict must be .*, got 1'),
    ('no handler', {CRITICAL: Source(handler), LOW: 1}, {'handler': None}, 'handler must be a function, got None'),
    ('reserve is a number', [LOW], {'reserve': 2}, 'reserve must map queues to numbers of slots, got 2'),
    ('an unknown queue', [LOW], {'reserve': {DEFAULT: 1}}, "reserve must name queues of this worker, got 'default'"),
    ('a name in reserve', [LOW], {'reserve': {'low': 1}}, "reserve must name queues of this worker, got 'low'"),
    ('reserve 0', [LOW], {'reserve': {LOW: 0}}, "reserve of queue 'low' must be at least 1, got 0"),
    ('half a slot', [LOW], {'reserve': {LOW: 0.5}}, "reserve of queue 'low' must be a whole number, got 0.5"),
    ('too much', [LOW, DEFAULT], {'reserve': {LOW: 11}}, 'reserve must be at most the concurrency, 10, got 11'),
    (
        'too much in all',
        [LOW, DEFAULT],
        {'reserve': {LOW: 6, DEFAULT: 5}},
        'reserve must be at most the concurrency, 10, got 11',
    ),
    (
        'nothing is left',
        [LOW, DEFAULT],
        {'reserve': {LOW: 10}},
        "reserve must leave a slot for queue 'default', got 10 of a concurrency of 10",
    ),
]


@pytest.mark.parametrize(('queues', 'options', 'message'), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_bad(queues: Any, options: dict[str, Any], message: str) -> None:  # noqa: ANN401 - wrong on purpose
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match=message):
        Worker(queues, **{'handler': handler, 'concurrency': 10, **options})


@pytest.mark.parametrize('bad', [5, 'handler', generator, Router()])
async def test_a_bad_handler_of_a_source(bad: Any) -> None:  # noqa: ANN401 - wrong on purpose
    with pytest.raises(TorrelqueTypeError, match='handler'):
        Source(bad)


@pytest.mark.parametrize('bad', [0, -1, '3', True, float('nan')])
async def test_a_bad_weight_of_a_source(bad: Any) -> None:  # noqa: ANN401 - wrong on purpose
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='weight must be'):
        Source(handler, weight=bad)


async def test_a_source_shows_what_it_is() -> None:
    assert repr(Source(handler, weight=6)).endswith(', weight=6.0)')
