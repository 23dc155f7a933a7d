"""Waits of several queues in one call: which of them an answer ends, and what becomes of the others."""

from __future__ import annotations

from torrelque import TorrelqueConnectionError, TorrelqueReplyError
from torrelque.core.shared_waits import LEAST, TOGETHER, Round, SharedWait, SharedWaits


def begun(waits: SharedWaits, *members: SharedWait, now: float = 0.0) -> tuple[Round, list[object], float]:
    for wait in members:
        round_, _ = waits.join(wait)
    call, seconds = waits.begin(round_, now)
    assert call.args == (f'{seconds:.3f}',)
    return round_, list(call.keys), seconds


def three() -> tuple[SharedWait, SharedWait, SharedWait]:
    return SharedWait(b'a', 8.0), SharedWait(b'b', 7.0), SharedWait(b'c', 7.5)


def test_one_call_waits_for_all_until_the_first_is_over() -> None:
    waits = SharedWaits(3)
    first, second, third = three()
    assert waits.join(first)[1], 'the first makes the call'
    round_, leads = waits.join(second)
    assert not leads
    assert not waits.is_complete(round_, 0.0)
    waits.join(third)
    assert waits.is_complete(round_, 0.0)
    call, seconds = waits.begin(round_, 1.0)
    assert (call.command, call.keys, seconds) == ('BZPOPMIN', (b'a', b'b', b'c'), 6.0)


def test_a_hint_ends_one_wait_and_the_key_goes_to_the_end() -> None:
    waits = SharedWaits(3)
    first, second, third = three()
    round_, _, _ = begun(waits, first, second, third)
    reply = [b'a', b'wake', b'0']
    waits.ended(round_, reply, 1.0)
    assert (first.state, first.reply, second.state, third.state) == ('ended', reply, 'waits', 'waits')
    again = SharedWait(b'a', 9.0)
    _, keys, _ = begun(waits, second, third, again)
    assert keys == [b'b', b'c', b'a'], 'a busy queue cannot hide the hints of the others'


def test_waits_that_are_nearly_over_end_together() -> None:
    waits = SharedWaits(3)
    first, second = SharedWait(b'a', 7.0), SharedWait(b'b', 7.0 + TOGETHER)
    third = SharedWait(b'c', 7.1 + TOGETHER)
    round_, _, _ = begun(waits, first, second, third)
    waits.ended(round_, None, 7.0)
    assert [(wait.state, wait.reply) for wait in (first, second, third)] == [
        ('ended', None), ('ended', None), ('waits', None),
    ]  # fmt: skip


def test_a_late_wait_ends_with_the_call_that_has_begun() -> None:
    waits = SharedWaits(3)
    begun(waits, SharedWait(b'a', 7.0))
    _, _, seconds = begun(waits, SharedWait(b'b', 9.0), now=2.0)
    assert seconds == 5.0
    _, _, seconds = begun(waits, SharedWait(b'c', 15.0), now=7.0 - LEAST)
    assert seconds > LEAST, 'servers end a block late'


def test_a_queue_is_not_waited_for_while_it_waits() -> None:
    waits = SharedWaits(3)
    begun(waits, SharedWait(b'a', 7.0), SharedWait(b'b', 7.0))
    round_, leads = waits.join(SharedWait(b'c', 7.0))
    assert leads
    assert waits.is_complete(round_, 0.0)
    assert not waits.is_complete(round_, 7.0 - LEAST), 'the others are about to join it'


def test_what_may_have_taken_any_hint_ends_all() -> None:
    for end in ('interrupted', 'as hinted'):
        waits = SharedWaits(3)
        members = three()
        round_, _, _ = begun(waits, *members)
        if end == 'interrupted':
            waits.interrupted(round_)
        else:
            waits.ended(round_, [b'a', b'', b'0'], 1.0)
        assert [(wait.state, wait.reply) for wait in members] == [('ended', [wait.key, b'', b'0']) for wait in members]
        waits.interrupted(round_)
        assert not waits.leave(round_, members[0])


def test_an_error_of_the_connection_is_each_ones() -> None:
    waits = SharedWaits(3)
    members = three()
    round_, _, _ = begun(waits, *members)
    waits.failed(round_, TorrelqueConnectionError('gone'))
    assert [(wait.state, str(wait.error)) for wait in members] == [('failed', 'gone')] * 3
    assert len({id(wait.error) for wait in members}) == 3


def test_an_error_of_the_server_may_concern_one_key_only() -> None:
    waits = SharedWaits(3)
    members = three()
    round_, _, _ = begun(waits, *members)
    error = TorrelqueReplyError('WRONGTYPE')
    waits.ended(round_, error, 1.0)
    assert [wait.state for wait in members] == ['alone'] * 3
    lonely = SharedWait(b'a', 8.0)
    round_, _, _ = begun(waits, lonely)
    waits.ended(round_, error, 1.0)
    assert (lonely.state, lonely.reply) == ('ended', error)


def test_who_leaves_before_the_call_is_not_in_it() -> None:
    waits = SharedWaits(3)
    first, second, _ = three()
    waits.join(first)
    round_, _ = waits.join(second)
    assert not waits.leave(round_, second)
    assert waits.begin(round_, 0.0)[0].keys == (b'a',)
    assert waits.leave(round_, first), 'the call on the server has to end'
