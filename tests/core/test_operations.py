"""Reading and sweeping."""

from __future__ import annotations

import pytest

from tests.core.support import KEYS, SCRIPTS, end, names, only
from torrelque.core import operations
from torrelque.core.keys import LOGICAL_NAMES, Keys
from torrelque.core.models import STATE_FIELDS, Limits, TorrelqueTaskStatus
from torrelque.core.operations import PAGE, FoundQueue
from torrelque.errors import TorrelqueReplyError

STATE = [{'status': b'1', 'timeout': b'300'}.get(name) for name in STATE_FIELDS]


def test_stats() -> None:
    operation = operations.queue_stats(SCRIPTS, KEYS)
    assert names(next(operation)) == ['stats']
    reply = [5, 2, 1, 2, 1, b'0.5', b'9', b'8', b'7', b'6', b'5', b'4', b'inf', b'1.5', b'why', b'2 - - -']
    stats = end(operation, [[*reply, 1, 0, 3, 2, 0, 4]])
    limits = Limits(2)
    known = 5, 2, 1, 2, 1, 0.5, 9, 8, 7, 6, 5, 4, (1.5, None, 'why'), limits, 1, 0, (3, 2, 0), 4
    assert tuple(stats) == known


def test_stats_of_an_empty_queue_have_no_age() -> None:
    operation = operations.queue_stats(SCRIPTS, KEYS)
    next(operation)
    stats = end(operation, [[0, 0, 0, 0, 0, b'', *[b'0'] * 6, b'', b'', b'', b'', 0, 0, 0, 0, 0, 0]])
    assert (stats.oldest_pending_age, stats.groups) == (None, None)


def test_states_of_many_tasks_take_one_round() -> None:
    operation = operations.task_states(KEYS, ['a', 'b'])
    batch = next(operation)
    assert [(call.command, call.keys) for call in batch] == [('HMGET', (b'q:task:a',)), ('HMGET', (b'q:task:b',))]
    known, unknown = end(operation, [STATE, [None] * len(STATE_FIELDS)])
    assert known is not None
    assert known.status is TorrelqueTaskStatus.WORKING
    assert unknown is None


def test_an_error_among_states_is_raised() -> None:
    operation = operations.task_states(KEYS, ['a', 'b'])
    next(operation)
    with pytest.raises(TorrelqueReplyError):
        operation.send([STATE, TorrelqueReplyError('WRONGTYPE not a hash')])


def test_a_task_is_read_with_its_state_in_one_round() -> None:
    operation = operations.queued_task(KEYS, 'a')
    batch = next(operation)
    assert names(batch) == ['HGET', 'HMGET', 'ZSCORE', 'ZSCORE']
    assert batch[0].args == (b'a',)
    task = end(operation, [b'payload', [*STATE, b'{"b": "c"}', b'17.500000 7:ab12.1:9'], b'17.5', b'12'])
    assert task is not None
    assert (task.id, task.data, task.headers) == ('a', b'payload', {'b': 'c'})
    assert task.state.status is TorrelqueTaskStatus.WORKING
    assert (task.deadline, task.due, task.consumer) == (17.5, None, 'ab12')


@pytest.mark.parametrize(
    ('claim', 'consumer'),
    [
        (b'17.500000 7:ab12.1:9', 'ab12'),
        (b'17.500000 7:ab12~3~.1f:9 2 5', 'ab12'),
        (b'7:ab12.1:9', None),  # in another format
        (b'x', None),
        (b'', None),
        (None, None),
        (b'1.0 \xff:\xff', '\ufffd'),
    ],
)
def test_whose_claim_it_is(claim: bytes | None, consumer: str | None) -> None:
    operation = operations.queued_task(KEYS, 'a')
    next(operation)
    task = end(operation, [b'payload', [*STATE, None, claim], b'17.5', None])
    assert task is not None
    assert task.consumer == consumer


@pytest.mark.parametrize(
    'replies', [[None, [*STATE, None, None], None, None], [b'payload', [None] * (len(STATE_FIELDS) + 2), None, None]]
)
def test_half_a_task_is_none(replies: list[object]) -> None:
    operation = operations.queued_task(KEYS, 'a')
    next(operation)
    assert end(operation, replies) is None


def test_a_sweep_goes_on_until_nothing_is_left() -> None:
    operation = operations.sweep(SCRIPTS, KEYS)
    assert only(next(operation)) == ('sweep', ('stale',))
    assert only(operation.send([[500, 1]])) == ('sweep', ('stale',))
    assert only(operation.send([[3, 0]])) == ('sweep', ('due',))
    assert only(operation.send([[2, 0]])) == ('sweep', ('expired',))
    assert only(operation.send([[1, 0]])) == ('LRANGE', (-PAGE, -1))
    assert only(operation.send([[]])) == ('SSCAN', (b'0', 'COUNT', PAGE))
    assert end(operation, [[b'0', []]]) == (503, 2, 0)


def test_a_sweep_returns_what_two_running_saw_in_dequeueing() -> None:
    operation = operations.sweep(SCRIPTS, KEYS)
    next(operation)
    for _ in range(3):
        operation.send([[0, 0]])
    operation.send([[b'new', b'again']])
    assert only(operation.send([[b'5', [b'again']]])) == ('SSCAN', (b'5', 'COUNT', PAGE))
    assert only(operation.send([[b'0', [b'gone']]])) == ('undequeue', (1, 0, b'again'))
    assert only(operation.send([1])) == ('undequeue', (0, 1, b'new'))
    assert only(operation.send([0])) == ('undequeue', (0, 0, b'gone'))
    assert end(operation, [0]) == (0, 0, 1)


def test_a_sweep_reads_and_returns_dequeueing_in_pages() -> None:
    ids = [b'%d' % number for number in range(PAGE + 2)]
    operation = operations.sweep(SCRIPTS, KEYS)
    next(operation)
    for _ in range(3):
        operation.send([[0, 0]])
    assert only(operation.send([ids[2:]])) == ('LRANGE', (-2 * PAGE, -PAGE - 1))
    operation.send([ids[:2]])
    # What is about to be abandoned longest is returned first.
    assert only(operation.send([[b'0', ids]])) == ('undequeue', (PAGE, 0, *ids[:1:-1]))
    assert only(operation.send([PAGE])) == ('undequeue', (2, 0, ids[1], ids[0]))
    assert end(operation, [2]) == (0, 0, PAGE + 2)


@pytest.mark.parametrize(
    ('status', 'place'),
    [
        (None, 'tasks'),
        (TorrelqueTaskStatus.PENDING, 'tasks'),
        (TorrelqueTaskStatus.WORKING, 'working'),
        (TorrelqueTaskStatus.DELAYED, 'delayed'),
        (TorrelqueTaskStatus.REJECTED, 'rejected'),
    ],
)
def test_tasks_are_listed_where_their_status_keeps_them(status: TorrelqueTaskStatus | None, place: str) -> None:
    operation = operations.scan_tasks(SCRIPTS, KEYS, status, b'0')
    assert only(next(operation))[1][:2] == (place, b'0')
    assert end(operation, [[b'7', b'a', b'b']]) == (b'7', ['a', 'b'])


def test_results_are_found_by_the_prefix_taken_literally() -> None:
    keys = Keys({**LOGICAL_NAMES, 'task': 'q*[1]?:task'})
    operation = operations.scan_results(keys, b'0')
    assert only(next(operation))[1] == (b'0', 'MATCH', rb'q\*\[1\]\?:task:*', 'COUNT', PAGE)
    assert end(operation, [[b'0', [b'q*[1]?:task:a']]]) == (b'0', ['a'])


def test_queues_are_found_by_their_counters() -> None:
    operation = operations.scan_queues(b'0')
    assert only(next(operation)) == ('SCAN', (b'0', 'MATCH', b'*:counters', 'COUNT', PAGE))
    assert end(operation, [[b'0', [b'email:counters', b'a:b:counters']]]) == (
        b'0',
        [b'email:counters', b'a:b:counters'],
    )


def examined(key: bytes, **fields: bytes) -> FoundQueue | None:
    operation = operations.examine(key)
    names = [call.args[0] for call in next(operation)]
    found: FoundQueue | None = end(operation, [fields.get(str(name)) for name in names])
    return found


def test_what_marks_a_queue() -> None:
    assert examined(b'a:b:counters', enqueued=b'1') == FoundQueue('a:b', None)
    assert examined(b'{q}:counters', generation=b'2', shards=b'3 5') == FoundQueue('{q}', 3)
    assert examined(b'{q}:counters', intended=b'1 4') == FoundQueue('{q}', 4)
    assert examined(b'{q:0}:counters', shards=b'3', claimed=b'7') == FoundQueue('{q:0}', 3)


@pytest.mark.parametrize(('key', 'fields'), [
    (b'a:counters', {}),
    (b'a:counters', {'shards': b'many'}),
    (b'a:counters', {'shards': b'0'}),
    (b'a:counters', {'shards': b''}),
    (b'a:counters', {'intended': b'3'}),
    (b'a:counters', {'enqueued': b'a few'}),
    (b'a:counters', {'enqueued': b'nan'}),
    (b'a:counters', {'shards': '\N{SUPERSCRIPT TWO}'.encode()}),
    (b':counters', {'enqueued': b'1'}),
    (b'\xff:counters', {'enqueued': b'1'}),
])  # fmt: skip
def test_what_is_no_queue(key: bytes, fields: dict[str, bytes]) -> None:
    assert examined(key, **fields) is None


@pytest.mark.parametrize(('code', 'found'), [('WRONGTYPE', None), ('NOPERM', FoundQueue('a', None))])
def test_a_key_that_cannot_be_read(code: str, found: FoundQueue | None) -> None:
    operation = operations.examine(b'a:counters')
    assert end(operation, [TorrelqueReplyError(f'{code} no') for _ in next(operation)]) == found


def test_a_key_that_a_server_in_trouble_does_not_tell_of() -> None:
    operation = operations.examine(b'a:counters')
    replies = [TorrelqueReplyError('LOADING later') for _ in next(operation)]
    with pytest.raises(TorrelqueReplyError, match='LOADING'):
        operation.send(replies)
