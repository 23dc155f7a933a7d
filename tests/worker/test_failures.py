"""What an exception of a handler means."""

from __future__ import annotations

import asyncio

import pytest
import trio

from torrelque.retry import Aborted, Reject, Retry
from torrelque.worker.failures import (
    LONGEST_DELAY,
    LONGEST_REASON,
    describe,
    is_cancellation,
    leaves_of,
    message_of,
    sendable,
    understand,
)


class Unspeakable(Exception):  # noqa: N818 - a user's name
    def __str__(self) -> str:
        raise ZeroDivisionError


def test_a_plain_error() -> None:
    error = ValueError('bad')
    failure = understand(error)
    assert (failure.cause, failure.error, failure.reason) == (error, error, 'ValueError: bad')
    assert (failure.rejects, failure.delay, failure.exit) == (False, None, None)


def test_a_group_of_one_is_that_one() -> None:
    error = ValueError('bad')
    assert understand(ExceptionGroup('outer', [ExceptionGroup('inner', [error])])).error is error


def test_a_group_of_several_is_itself() -> None:
    group = ExceptionGroup('several', [ValueError('a'), ExceptionGroup('inner', [KeyError('b')])])
    failure = understand(group)
    assert (failure.error, failure.reason) == (group, "ValueError: a; KeyError: 'b'")


def test_cancellations_follow_from_the_other_errors() -> None:
    error = ValueError('bad')
    assert understand(BaseExceptionGroup('', [asyncio.CancelledError(), error])).error is error
    alone = understand(asyncio.CancelledError())
    assert isinstance(alone.error, Aborted)
    assert isinstance(alone.error.__cause__, asyncio.CancelledError)


def test_a_rejection_anywhere_counts() -> None:
    failure = understand(ExceptionGroup('', [ValueError('a'), Reject('no good'), Retry(5), Reject('twice')]))
    assert (failure.rejects, failure.reason, failure.delay) == (True, 'no good; twice', None)
    spoilt = Reject('no')
    spoilt.reason = ''
    assert understand(spoilt).reason == 'Reject: no'


def test_a_retry_counts_alone() -> None:
    assert understand(Retry(5)).delay == 5
    assert understand(Retry(0)).delay == 0
    longest = understand(ExceptionGroup('', [Retry(5), Retry(7), Retry(6)]))
    assert (longest.delay, longest.cause) == (7, longest.error)
    assert understand(ExceptionGroup('', [Retry(5), ValueError('a')])).delay is None


def test_a_retry_counts_unless_all_say_that_it_does_not() -> None:
    assert understand(Retry(5)).counts
    assert understand(ValueError('a')).counts
    assert not understand(Retry(5, count=False)).counts
    assert not understand(ExceptionGroup('', [Retry(5, count=False), Retry(7, count=False)])).counts
    assert understand(ExceptionGroup('', [Retry(5, count=False), Retry(7)])).counts
    assert understand(ExceptionGroup('', [Retry(5, count=False), ValueError('a')])).counts


def test_a_retry_of_a_group() -> None:
    assert not understand(Retry(5)).group
    assert not understand(ValueError('a')).group
    assert understand(Retry(5, group=True)).group
    assert understand(ExceptionGroup('', [Retry(5), Retry(3, group=True)])).group
    assert not understand(ExceptionGroup('', [Retry(5, group=True), ValueError('a')])).group
    spoilt = Retry(5, group=True)
    spoilt.delay = 0
    assert not understand(spoilt).group, 'for no time'


@pytest.mark.parametrize('delay', [-1, LONGEST_DELAY * 2, float('nan'), 'soon', None])
def test_a_delay_that_was_spoilt_is_none(delay: object) -> None:
    error = Retry(5)
    error.delay = delay  # type: ignore[assignment]  # as a user's subclass may
    assert understand(error).delay is None


@pytest.mark.parametrize('ending', [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_the_process_is_handed_on(ending: SystemExit | KeyboardInterrupt) -> None:
    for error in (ending, BaseExceptionGroup('', [ValueError('a'), ending])):
        failure = understand(error)
        assert failure.exit is ending
        assert isinstance(failure.error, Exception)
    assert understand(BaseExceptionGroup('', [Reject('no'), ending])).exit is ending


def test_descriptions() -> None:
    assert describe(ValueError()) == 'ValueError'
    assert describe(ExceptionGroup('', [ValueError('a'), KeyError()])) == 'ValueError: a; KeyError'
    assert message_of(Unspeakable()) == '<str() raised ZeroDivisionError>'
    assert describe(Unspeakable()) == 'Unspeakable: <str() raised ZeroDivisionError>'


def test_reasons_are_short_and_can_be_sent() -> None:
    assert len(understand(ValueError('x' * 10_000)).reason) == LONGEST_REASON
    assert sendable('a\ud800ä') == 'a\\ud800ä'
    assert understand(ValueError('\udcff')).reason == 'ValueError: \\udcff'


def test_leaves_in_their_order_however_deep() -> None:
    leaves: list[Exception] = [ValueError(str(number)) for number in range(3)]
    group = ExceptionGroup('', [leaves[0], ExceptionGroup('', [leaves[1]]), leaves[2]])
    assert list(leaves_of(group)) == leaves
    deep: Exception = leaves[0]
    for _ in range(3000):
        deep = ExceptionGroup('', [deep])
    assert list(leaves_of(deep)) == leaves[:1]


def test_cancellations_of_each_event_loop() -> None:
    cancelled: list[BaseException] = []

    async def wait() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                cancelled.append(error)
                raise

    trio.run(wait)
    assert is_cancellation(cancelled[0])
    assert is_cancellation(asyncio.CancelledError())
    assert not is_cancellation(ValueError())
    assert not is_cancellation(KeyboardInterrupt())
