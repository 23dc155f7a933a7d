"""A verb done to dead letters: to those that are named, or to the oldest, in bounded steps."""

from __future__ import annotations

import pytest

from tests.engine.support import dead_letters, opened
from torrelque import Torrelque, TorrelqueLookupError, TorrelqueTypeError, TorrelqueValueError
from torrelque.core import operations

pytestmark = pytest.mark.anyio

SHARDS = pytest.mark.parametrize('shards', [None, 3])


async def rejected(queue: Torrelque) -> set[str]:
    return {task_id async for task_id, _ in queue.rejected()}


@SHARDS
async def test_those_that_are_named(shards: int | None) -> None:
    async with opened(shards=shards) as (queue, _):
        ids = await dead_letters(queue, 5)
        assert await queue.redrive(ids[:2]) == 2
        assert await queue.purge(ids[2]) == 1
        assert await rejected(queue) == set(ids[3:])
        assert await queue.redrive(ids[3:], limit=1) == 1
        assert await rejected(queue) == {ids[4]}


@SHARDS
async def test_an_unknown_one_spoils_the_call(shards: int | None) -> None:
    async with opened(shards=shards) as (queue, _):
        ids = await dead_letters(queue, 2)
        names = [f'gone-{number}' for number in range(11)]
        with pytest.raises(TorrelqueLookupError, match="no dead letters in queue 'q': 'gone-") as unknown:
            await queue.redrive([*ids, *names])
        assert str(unknown.value).count('gone-') == 10, 'a message does not grow without end'
        assert await rejected(queue) == set(ids)


@SHARDS
async def test_all_in_pages(shards: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, 'PAGE', 3)
    async with opened(shards=shards) as (queue, _):
        ids = await dead_letters(queue, 10)
        assert await queue.redrive(limit=4) == 4
        assert await queue.redrive() == 6
        assert await queue.redrive() == 0
        stats = await queue.get_queue_stats()
        assert (stats.pending, stats.rejected) == (len(ids), 0)


async def test_the_oldest_first_and_only_those_old_enough() -> None:
    async with opened() as (queue, clock):
        old = await dead_letters(queue, 3)
        await clock.advance(100)
        new = await dead_letters(queue, 2)
        assert await queue.purge(older_than=50, limit=1) == 1
        assert await queue.purge(older_than=50) == 2
        assert await rejected(queue) == set(new)
        assert not set(old) & set(new)


async def test_bad_arguments() -> None:
    async with opened() as (queue, _):
        with pytest.raises(TorrelqueValueError, match='limit'):
            await queue.redrive(limit=0)
        with pytest.raises(TorrelqueTypeError, match='task id must be a string, got 7'):
            await queue.redrive([7])  # type: ignore[list-item]
