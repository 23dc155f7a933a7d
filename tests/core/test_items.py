"""What callers give is checked and written down before anything is sent; what the answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from torrelque import (
    Torrelque,
    TorrelqueDurabilityError,
    TorrelqueError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTaskStatus,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.core.codec import JSON
from torrelque.core.commands import Outcome, claim_error, enqueue_words, new_item, release_words, requeue_words
from torrelque.core.models import Receipt
from torrelque.engine.dispatch import CHUNK, random_id
from torrelque.testing import MemoryTransport

COMPLETED, REJECTED, WORKING = (
    TorrelqueTaskStatus.COMPLETED,
    TorrelqueTaskStatus.REJECTED,
    TorrelqueTaskStatus.WORKING,
)


def enqueue(
    task: Any = 1,  # noqa: ANN401 - any payload
    timeout: float = 300,
    limit: int | None = None,
    *,
    task_timeout: float | None = None,
    delay: Any = None,  # noqa: ANN401 - bad ones as well
    max_dequeues: int | None = None,
    **fields: Any,  # noqa: ANN401 - of an item
) -> Any:  # noqa: ANN401 - words of several kinds
    words = enqueue_words(timeout, limit, task_timeout, delay, max_dequeues)
    return new_item(JSON, random_id, task, words, **fields)


def test_ids_are_random_unless_given() -> None:
    assert len({random_id() for _ in range(100)} | {enqueue()[0].decode() for _ in range(100)}) == 200
    assert len(random_id()) == 32
    assert enqueue(task_id='mine')[0] == b'mine'


def test_what_is_written_of_a_new_task() -> None:
    plain = enqueue({'a': 1}, task_id='one')
    assert plain == enqueue({'a': 1}, task_id='one', delay=0, task_timeout=None)
    assert plain == enqueue({'a': 1}, task_id='one', task_timeout=300, timeout=7)
    assert plain != enqueue({'a': 1}, task_id='one', delay=1)
    assert enqueue(1, limit=3, task_id='a') == enqueue(1, max_dequeues=3, task_id='a')


@pytest.mark.parametrize(
    ('fields', 'error', 'said'),
    [
        ({'task_id': 7}, TorrelqueTypeError, 'task_id'),
        ({'task_timeout': -1}, TorrelqueValueError, 'task_timeout'),
        ({'timeout': 0}, TorrelqueValueError, 'Torrelque.task_timeout must be above 0, got 0'),
        ({'delay': 'x'}, TorrelqueTypeError, 'delay'),
        ({'max_dequeues': 0}, TorrelqueValueError, 'max_dequeues'),
        ({'headers': {'a': 1}}, TorrelqueTypeError, 'header'),
        ({'task': object()}, TypeError, 'not JSON serializable'),
    ],
)
def test_bad_tasks(fields: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        enqueue(**fields)


def test_what_is_written_of_a_claim() -> None:
    assert requeue_words(0, None) == requeue_words(None, 0) == requeue_words(None, None)
    assert requeue_words(5, None) != requeue_words(None, None) != requeue_words(None, 5)
    assert requeue_words(5, None, count=False) != requeue_words(5, None)


def release(
    result: object = None, result_ttl: float | None = None, status: TorrelqueTaskStatus | None = COMPLETED
) -> object:
    return release_words(JSON, 3600, result, result_ttl, status)


def test_what_is_written_of_a_release() -> None:
    assert release() == release(status=None) == release(result_ttl=5), 'without a result nothing is kept'
    assert release(status=REJECTED) != release()
    assert release(result=1) == release(result=1, result_ttl=3600) != release(result=1, result_ttl=5)
    for result, status in ((None, WORKING), (1, None)):
        with pytest.raises(TorrelqueError, match='Invalid status for released task'):
            release(result, None, status)
    with pytest.raises(TorrelqueValueError, match='result_ttl'):
        release(result=1, result_ttl=-1)


@pytest.mark.anyio
async def test_many_are_written_in_chunks_with_turns_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    turns: list[int] = []

    def write(number: int) -> int:
        written.append(number)
        return -number

    async with Torrelque(MemoryTransport()) as queue:
        dispatcher = queue._dispatcher

        async def note() -> None:
            turns.append(len(written))

        monkeypatch.setattr(queue._engine, 'checkpoint', note)
        assert await dispatcher.write_all(range(2 * CHUNK + 1), write) == [-number for number in range(2 * CHUNK + 1)]
        assert turns == [CHUNK, 2 * CHUNK]
        assert await dispatcher.write_all([], write) == []
        assert len(turns) == 2


def test_what_answers_mean_to_who_acted_on_a_claim() -> None:
    assert claim_error('a', Outcome.OK) is None
    for outcome, kind in ((Outcome.LOST, TorrelqueLeaseLostError), (Outcome.UNKNOWN, TorrelqueLookupError)):
        for target in ('a', Receipt('a', 'token', 1)):
            error = claim_error(target, outcome)
            assert type(error) is kind
            assert "task 'a'" in str(error)
            assert 'nothing was changed' in str(error)
    broken = claim_error('a', Outcome.BROKEN)
    assert isinstance(broken, TorrelqueReplyError)
    assert broken.code == 'WRONGTYPE'
    late = TorrelqueDurabilityError('late', 'a')
    assert claim_error('a', late) is late
