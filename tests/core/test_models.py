"""The values that callers get."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from torrelque.core.models import STATE_FIELDS, Receipt, Task, TaskId, TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.core.models import make_state as state_of

RECEIPT = Receipt('id', '7:nonce:1', 3)


def task() -> Task:
    return Task(RECEIPT, {'a': 1}, 1300.0, 400.0, {'trace': 'x'}, 2)


def test_a_task_unpacks_as_id_and_data() -> None:
    task_id, data = task()
    assert (task_id, data) == ('id', {'a': 1})
    assert len(task()) == 2
    assert task() == ('id', {'a': 1})


def test_a_task_tells_of_its_claim() -> None:
    assert task().id.receipt == task().receipt == RECEIPT
    assert (task().dequeue_count, task().deadline, task().expires) == (3, 1300.0, 400.0)
    assert task().headers == {'trace': 'x'}
    assert task().attempt == 2
    assert Task(RECEIPT, None, 0, 0).attempt == 3  # a pickle that does not tell: it was never redriven
    assert Task(RECEIPT, None, 0, 0).headers == {}


def test_an_id_is_a_string_that_remembers_its_claim() -> None:
    task_id = TaskId(RECEIPT)
    assert isinstance(task_id, str)
    assert task_id == 'id'
    assert hash(task_id) == hash('id')


def pickled(value: object) -> Any:  # noqa: ANN401 - the same as was given
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - made here


@pytest.mark.parametrize('duplicate', [copy.copy, copy.deepcopy, pickled])
def test_copies_and_pickles_keep_the_claim(duplicate: Callable[[Any], Any]) -> None:
    task_id = duplicate(TaskId(RECEIPT))
    assert type(task_id) is TaskId
    assert task_id.receipt == RECEIPT
    again = duplicate(task())
    assert again == task()
    assert (again.receipt, again.deadline, again.expires, again.attempt) == (RECEIPT, 1300.0, 400.0, 2)
    assert dict(again.headers) == {'trace': 'x'}


def test_plain_strings_and_json_drop_the_claim() -> None:
    task_id = TaskId(RECEIPT)
    assert type(str(task_id)) is str
    assert json.loads(json.dumps(task_id)) == 'id'
    assert type(task_id + '') is str


def test_final_states() -> None:
    assert [status.name for status in TorrelqueTaskStatus if status.isfinal()] == ['COMPLETED', 'REJECTED', 'EXPIRED']
    assert [int(status) for status in TorrelqueTaskStatus] == [0, 1, 2, 3, 4, 5]


def values(**fields: bytes) -> list[bytes | None]:
    return [fields.get(name) for name in STATE_FIELDS]


def test_a_state_has_its_fields_in_order() -> None:
    known = [{'priority': 'level'}.get(name, name) for name in TorrelqueTaskState._fields]
    assert (*known, 'claim') == STATE_FIELDS


def test_a_state_as_09_wrote_it() -> None:
    state = state_of(values(status=b'0', timeout=b'300', enqueue_time=b'1000.25'))
    assert state is not None
    assert state[:9] == (TorrelqueTaskStatus.PENDING, 300.0, None, 0, 0, 1000.25, None, None, None)
    assert (state.max_dequeues, state.reason, state.revision) == (None, None, 1)


def test_a_state_in_full() -> None:
    fields = values(
        status=b'4', timeout=b'0.5', result=b'"r"', dequeue_count=b'2', requeue_count=b'1', enqueue_time=b'1',
        last_dequeue_time=b'2', last_requeue_time=b'3', release_time=b'4', max_dequeues=b'2', reason=b'n\xc3\xa9',
        revision=b'9', expires=b'5.5', on_expiry=b'reject', cancel_time=b'5', group=b'gr\xc3\xa9', level=b'low',
    )  # fmt: skip
    assert tuple(state_of(fields) or ()) == (
        TorrelqueTaskStatus.REJECTED, 0.5, b'"r"', 2, 1, 1.0, 2.0, 3.0, 4.0, 2, 'né', 9, None, 5.5, 'reject', 5.0,
        'gré', 'low',
    )  # fmt: skip


WORKING = {'status': b'1', 'timeout': b'300', 'dequeue_count': b'2', 'claim': b'9.5 7:n:1 2 5'}


@pytest.mark.parametrize(
    ('changed', 'progress'),
    [
        ({}, (3.0, 4.0, 'n\xe9 x', 5.5)),
        ({'progress': b'7:n:1 2 5.5 3 - '}, (3.0, None, '', 5.5)),
        ({'status': b'0'}, None),
        ({'dequeue_count': b'3'}, None),  # 0.9 has claimed it since
        ({'claim': b'9.5 8:n:1 2 5'}, None),
        ({'claim': b'7:n:1'}, None),  # in another format
        ({'progress': b'7:n:1 2'}, None),
        ({'progress': b'7:n:1 2 soon much - '}, None),
        ({'progress': b''}, None),
    ],
)
def test_progress_is_that_of_the_live_claim(changed: dict[str, bytes], progress: object) -> None:
    state = state_of(values(**{**WORKING, 'progress': b'7:n:1 2 5.5 3 4 n\xc3\xa9 x', **changed}))
    assert state is not None
    assert state.progress == progress


@pytest.mark.parametrize(
    ('revision', 'claim', 'expected'),
    [(None, b'9.5 7:n:1', 2), (b'4', b'9.5 7:n:1 2 5', 5), (b'4', None, 4), (b'4', b'9.5 7:n:1 2', 4)],
)
def test_the_claim_counts_its_own_transition(revision: bytes, claim: bytes, expected: int) -> None:
    state = state_of(values(status=b'1', revision=revision, claim=claim))
    assert state is not None
    assert state.revision == expected


def test_no_state_is_none() -> None:
    assert state_of(values()) is None
