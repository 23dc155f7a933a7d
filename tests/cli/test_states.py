"""States of tasks, for people and for programs."""

from __future__ import annotations

import pytest

from torrelque import TaskProgress, Torrelque, TorrelqueLookupError, TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.cli.settings import AS_BYTES
from torrelque.cli.states import STYLES, deliveries, last_change, progress, read_task, state_fields
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

COMPLETED, REJECTED = TorrelqueTaskStatus.COMPLETED, TorrelqueTaskStatus.REJECTED


def state(status: TorrelqueTaskStatus = COMPLETED, result: bytes | None = None) -> TorrelqueTaskState:
    return TorrelqueTaskState(status, 3.0, result, 2, 1, 10.0, 20.0, 15.0, None)


def test_every_status_has_a_style() -> None:
    assert set(STYLES) == set(TorrelqueTaskStatus)


@pytest.mark.parametrize(
    ('result', 'value', 'encoding'),
    [(None, None, None), (b'{"a": 1}', {'a': 1}, 'json'), (b'text', 'text', 'text'), (b'\xff\x00', 'ff 00', 'hex')],
)
def test_fields(result: bytes | None, value: object, encoding: str | None) -> None:
    fields = state_fields('one', state(REJECTED, result))
    assert (fields['id'], fields['status'], fields['dequeue_count']) == ('one', 'rejected', 2)
    assert (fields['result'], fields['result_encoding']) == (value, encoding)


def test_the_last_change_is_the_latest_time() -> None:
    assert last_change(state()) == 20.0
    assert last_change(state()._replace(release_time=30.0)) == 30.0
    none = state()._replace(enqueue_time=None, last_dequeue_time=None, last_requeue_time=None)
    assert last_change(none) is None


def test_deliveries_with_their_limit() -> None:
    assert deliveries(state()) == '2'
    assert deliveries(state()._replace(max_dequeues=5)) == '2/5'


@pytest.mark.parametrize(
    ('known', 'shown'),
    [
        (None, ''),
        (TaskProgress(3.0, None, '', 5.0), '3'),
        (TaskProgress(40.0, 100.0, 'a\x1bb', 5.0), '40/100 (40%) a\\x1bb'),
        (TaskProgress(1234567.5, 0.5, '', 5.0), '1234567.5/0.5 (246913500%)'),
    ],
)
def test_progress(known: TaskProgress | None, shown: str) -> None:
    assert progress(state()._replace(progress=known)) == shown
    assert state_fields('one', state()._replace(progress=known))['progress'] == (known and known._asdict())


async def test_tasks_that_are_queued_finished_or_unknown() -> None:
    async with Torrelque(MemoryTransport(), queue='q', serialiser=AS_BYTES) as queue:
        await queue.enqueue(b'payload', task_id='one')
        assert (await read_task(queue, 'one')).data == b'payload'
        await queue.release(await queue.dequeue(), result=b'done')
        finished = await read_task(queue, 'one')
        assert (finished.id, finished.data, finished.state.result) == ('one', None, b'done')
        with pytest.raises(TorrelqueLookupError):
            await read_task(queue, 'two')
