"""Items are checked and written down before anything is sent; what their answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from torrelque import (
    EnqueueItem,
    ReleaseItem,
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
from torrelque.core.commands import Outcome
from torrelque.core.models import Receipt
from torrelque.engine.items import (
    CHUNK,
    RequeueItem,
    claim_error,
    random_id,
    write_all,
    write_enqueue,
    write_release,
    write_requeue,
)

COMPLETED, REJECTED, WORKING = (
    TorrelqueTaskStatus.COMPLETED,
    TorrelqueTaskStatus.REJECTED,
    TorrelqueTaskStatus.WORKING,
)


def enqueue(task: Any = 1, timeout: float = 300, limit: int | None = None, **fields: Any) -> tuple[str, Any]:  # noqa: ANN401 - fields of an item
    return write_enqueue(EnqueueItem(task, **fields), JSON, timeout, limit)


def test_ids_are_random_unless_given() -> None:
    assert len({random_id() for _ in range(100)} | {enqueue()[0] for _ in range(100)}) == 200
    assert len(random_id()) == 32
    assert enqueue(task_id='mine')[0] == 'mine'


def test_what_is_written_of_a_new_task() -> None:
    plain = enqueue({'a': 1}, task_id='one')[1]
    assert plain == enqueue({'a': 1}, task_id='one', delay=0, task_timeout=None)[1]
    assert plain == enqueue({'a': 1}, task_id='one', task_timeout=300, timeout=7)[1]
    assert plain != enqueue({'a': 1}, task_id='one', delay=1)[1]
    assert enqueue(1, limit=3, task_id='a')[1] == enqueue(1, max_dequeues=3, task_id='a')[1]


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
    assert write_requeue(RequeueItem('a'))[0] == 'a'
    assert write_requeue(RequeueItem('a', delay=0))[1] == write_requeue(RequeueItem('a'))[1]
    assert write_requeue(RequeueItem('a', delay=5))[1] != write_requeue(RequeueItem('a'))[1]


def release(**fields: Any) -> tuple[Any, Any]:  # noqa: ANN401 - fields of an item
    return write_release(ReleaseItem('a', **fields), JSON, 3600)


def test_what_is_written_of_a_release() -> None:
    assert release() == release(status=None) == release(result_ttl=5), 'without a result nothing is kept'
    assert release(status=REJECTED) != release()
    assert release(result=1) == release(result=1, result_ttl=3600) != release(result=1, result_ttl=5)
    for fields in ({'status': WORKING}, {'status': None, 'result': 1}):
        with pytest.raises(TorrelqueError, match='Invalid status for released task'):
            release(**fields)
    with pytest.raises(TorrelqueValueError, match='result_ttl'):
        release(result=1, result_ttl=-1)


@pytest.mark.anyio
async def test_many_are_written_in_chunks_with_turns_in_between() -> None:
    written: list[int] = []
    turns: list[int] = []

    async def checkpoint() -> None:
        turns.append(len(written))

    def write(number: int) -> int:
        written.append(number)
        return -number

    assert await write_all(range(2 * CHUNK + 1), write, checkpoint) == [-number for number in range(2 * CHUNK + 1)]
    assert turns == [CHUNK, 2 * CHUNK]
    assert await write_all([], write, checkpoint) == []
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
