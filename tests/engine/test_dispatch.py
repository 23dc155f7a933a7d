"""Where the calls of a plain queue go, and what many answers become."""

from __future__ import annotations

import pytest

from tests.engine.support import opened
from torrelque import Torrelque, TorrelqueConnectionError, TorrelqueShardsError
from torrelque.core.commands import CANCEL, ENQUEUE, Answer, Outcome, enqueue_item
from torrelque.core.sharding import layout as sharding
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


def item(name: str) -> tuple[bytes | str | int, ...]:
    return enqueue_item(name, b'1', 300.0, None, None, b'')


async def test_one_place_holds_everything() -> None:
    async with opened() as (queue, _):
        dispatcher = queue._dispatcher
        assert await dispatcher.keys() == await dispatcher.all_keys() == (queue._runtime.keys,)
        assert await dispatcher.keys_of('a') is queue._runtime.keys
        assert (await dispatcher.audit(60.0, repair=True), await dispatcher.totals_elsewhere()) == ([], [])
        assert dispatcher.layout is None
        assert not dispatcher.may_go_elsewhere(TorrelqueConnectionError('x'))
        assert len({dispatcher.new_id() for _ in range(100)}) == 100


async def test_many_in_parts_and_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (queue, _):
        told: list[tuple[int, int]] = []
        items = [item(str(number)) for number in range(ENQUEUE.limit * 2 + 1)]
        answers = await queue._dispatcher.many(ENQUEUE, items, lambda done, total: told.append((done, total)))
        assert answers == [Outcome.NEW] * len(items)
        assert told == [(ENQUEUE.limit, len(items)), (ENQUEUE.limit * 2, len(items)), (len(items), len(items))]


async def test_a_part_that_fails_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (queue, _):
        submit, calls = queue._engine.submit, 0

        async def fail_the_second(*arguments: object) -> list[Answer]:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise TorrelqueConnectionError('lost')
            return await submit(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(queue._engine, 'submit', fail_the_second)
        size = ENQUEUE.limit
        answers = await queue._dispatcher.many(ENQUEUE, [item(str(number)) for number in range(size * 3)], None)
        assert answers[:size] == answers[-size:] == [Outcome.NEW] * size
        failures = answers[size:-size]
        assert {str(failure) for failure in failures} == {'lost'}
        assert len({id(failure) for failure in failures}) == size, 'each is an error of its own'


async def test_what_is_not_found_is_looked_for_once_where_the_queue_has_shards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as (queue, _):
        looked = 0
        check = sharding.check_plain

        def count(*arguments: object) -> object:
            nonlocal looked
            looked += 1
            return check(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(sharding, 'check_plain', count)
        await queue.enqueue(1)
        for _ in range(3):
            assert await queue._dispatcher.one(CANCEL, ('', '', '', 'none')) is not Outcome.OK
            await queue.get_queue_stats()
        assert looked == 1


async def test_a_queue_with_shards_is_refused() -> None:
    transport = MemoryTransport()
    async with Torrelque(transport, queue='{q}', shards=None) as plain, Torrelque(transport, queue='q', shards=2) as q:
        await q.enqueue(1)
        with pytest.raises(TorrelqueShardsError):
            await plain.get_queue_stats()
