"""Calls whose connection broke are sent again, and those alone that may have broken it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
)
from torrelque.transports.repeating import LARGE, TRIES_OF_ANSWER, PoolFullError, demoted, mark_cut, repeat

pytestmark = pytest.mark.anyio

SMALL: Call[Reply] = Call('GET', (b'small',))
HUGE: Call[Reply] = Call('SET', (b'huge',), (b'x' * LARGE,))
BROKEN = TorrelqueConnectionError('reset')
CUT = TorrelqueConnectionError('cut')
mark_cut(CUT)
"""After it was sent."""


class Server:
    """Answers with the words of the calls; ``fail`` may raise or answer for a batch."""

    def __init__(self, fail: Callable[[Server, Batch], Sequence[Reply] | None] = lambda *_: None) -> None:
        self.batches: list[Batch] = []
        self._fail = fail

    async def attempt(self, batch: Batch) -> Sequence[Reply]:
        self.batches.append(batch)
        said = self._fail(self, batch)
        if said is not None:
            return said
        return [[b'limit', b'1000'] if call.command == 'CONFIG GET' else call.command.encode() for call in batch]  # type: ignore[union-attr]


async def three_times(function: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - a client's policy
    for left in (2, 1, 0):
        try:
            return await function()
        except TorrelqueConnectionError:
            if not left:
                raise
    raise AssertionError


def fail(times: int, error: Exception = BROKEN) -> Server:
    """Breaks that often."""

    def answer(server: Server, batch: Batch) -> None:
        if len(server.batches) <= times:
            raise error

    return Server(answer)


@pytest.mark.parametrize('times', [0, 1, 3])
async def test_again_and_then_as_often_as_the_client_says(times: int) -> None:
    server = fail(times)
    assert await repeat([SMALL], server.attempt, three_times) == [b'GET']
    assert len(server.batches) == times + 1


async def test_no_longer_than_that() -> None:
    server = fail(100)
    with pytest.raises(TorrelqueConnectionError, match='reset'):
        await repeat([SMALL], server.attempt, three_times)
    assert len(server.batches) == 4


@pytest.mark.parametrize('error', [TorrelqueHandshakeError('no TLS'), PoolFullError('full')])
@pytest.mark.parametrize('first', [True, False])
async def test_what_lasts_is_raised_at_once(error: Exception, *, first: bool) -> None:
    def answer(server: Server, batch: Batch) -> None:
        raise error if first or len(server.batches) > 1 else BROKEN

    server = Server(answer)
    with pytest.raises(type(error)):
        await repeat([SMALL], server.attempt, three_times)
    assert len(server.batches) == (1 if first else 2)


@pytest.mark.parametrize('code', ['READONLY', 'MASTERDOWN', 'UNBLOCKED'])
async def test_a_server_that_is_a_replica_now_may_lead_to_another(code: str) -> None:
    no = TorrelqueReplyError(f'{code} no')
    assert demoted([None, no])
    server = Server(lambda server, _: [no] if len(server.batches) == 1 else None)
    assert await repeat([SMALL], server.attempt, three_times) == [b'GET']


def never_alone(server: Server, batch: Batch) -> None:
    """Breaks over any batch with the huge call."""
    if HUGE in batch:
        raise BROKEN


async def test_only_the_call_that_is_too_large_fails() -> None:
    server = Server(never_alone)
    before, error, after = await repeat([SMALL, HUGE, SMALL], server.attempt, three_times)
    assert (before, after) == (b'GET', b'GET')
    assert isinstance(error, TorrelqueTooLargeError)
    assert error.size is not None
    assert error.size > LARGE
    assert error.limit == 1000
    assert 'its limit is 1,000 bytes' in str(error)


async def test_calls_that_belong_together_fail_together() -> None:
    server = Server(never_alone)
    with pytest.raises(TorrelqueTooLargeError):
        await repeat([SMALL, HUGE], server.attempt, three_times, together=True)
    apart = [batch for batch in server.batches if (SMALL in batch) != (HUGE in batch)]
    assert apart == [], 'they are never sent apart from each other'


async def test_a_large_call_is_not_too_large_where_the_server_is_away() -> None:
    server = fail(100)
    with pytest.raises(TorrelqueConnectionError):
        await repeat([HUGE], server.attempt, three_times)


async def test_nor_where_it_is_slow() -> None:
    server = fail(1, TorrelqueResponseTimeout('late'))
    assert await repeat([HUGE, SMALL], server.attempt, three_times) == [b'SET', b'GET']
    assert [len(batch) for batch in server.batches] == [2, 2]


async def test_a_server_that_says_so() -> None:
    says = TorrelqueReplyError('ERR Protocol error: invalid bulk length')
    server = Server(lambda _, batch: [says for _ in batch] if HUGE in batch else None)
    error, fine = await repeat([HUGE, SMALL], server.attempt, three_times)
    assert isinstance(error, TorrelqueTooLargeError)
    assert fine == b'GET'


# Answers that are too large -------------------------------------------------------------------------------------------

CULPRIT: Call[Reply] = Call('HGETALL', (b'culprit',))


async def no_pause(_: float) -> None: ...


def breaks_over(culprit: Call[Reply], error: Exception = CUT) -> Server:
    def answer(_: Server, batch: Batch) -> None:
        if culprit in batch:
            raise error

    return Server(answer)


async def test_only_the_call_whose_answer_is_too_large_fails() -> None:
    server = breaks_over(CULPRIT)
    before, error, after = await repeat([SMALL, CULPRIT, SMALL], server.attempt, three_times, pause=no_pause)
    assert (before, after) == (b'GET', b'GET')
    assert isinstance(error, TorrelqueTooLargeError)
    assert 'the answer may be too large, see client-output-buffer-limit (1000)' in str(error)
    assert error.__cause__ is CUT
    assert len([batch for batch in server.batches if batch == (CULPRIT,)]) == TRIES_OF_ANSWER


async def test_calls_that_belong_together_fail_together_over_an_answer() -> None:
    server = breaks_over(CULPRIT)
    with pytest.raises(TorrelqueTooLargeError):
        await repeat([SMALL, CULPRIT], server.attempt, three_times, together=True, pause=no_pause)
    assert [batch for batch in server.batches if (SMALL in batch) != (CULPRIT in batch)] == []


@pytest.mark.parametrize('times', range(1, 2 + TRIES_OF_ANSWER))
async def test_connections_that_break_for_a_while_make_no_answer_too_large(times: int) -> None:
    server = fail(times, CUT)
    assert await repeat([SMALL], server.attempt, three_times, pause=no_pause) == [b'GET']
    assert len(server.batches) == times + 1


@pytest.mark.parametrize('error', [CUT, BROKEN])
async def test_no_answer_is_too_large_where_the_server_answers_nothing(error: Exception) -> None:
    def answer(server: Server, batch: Batch) -> None:
        raise CUT if len(server.batches) <= 2 else error

    server = Server(answer)
    with pytest.raises(TorrelqueConnectionError, match=str(error)) as caught:
        await repeat([SMALL] * 3, server.attempt, three_times, pause=no_pause)
    assert not isinstance(caught.value, TorrelqueTooLargeError)
    assert len(server.batches) <= 2 + TRIES_OF_ANSWER + 4 + 3


async def test_a_connection_that_cannot_be_made_is_no_sign_of_a_large_answer() -> None:
    server = breaks_over(CULPRIT, BROKEN)
    with pytest.raises(TorrelqueConnectionError, match='reset'):
        await repeat([CULPRIT], server.attempt, three_times, pause=no_pause)
    assert len(server.batches) == 4
