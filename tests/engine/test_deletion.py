"""A queue is deleted whole, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.support import dead_letters, opened
from torrelque import Torrelque, TorrelqueUsageError

pytestmark = pytest.mark.anyio


async def fill(queue: Torrelque) -> None:
    await dead_letters(queue, 2)
    await queue.enqueue_many(range(5))
    await queue.enqueue('later', delay=10)
    await queue.release((await queue.dequeue(max_tasks=2))[0], result='kept')


def keys_of(queue: Torrelque) -> set[bytes]:
    return set(queue._runtime.transport.server.snapshot())  # type: ignore[attr-defined]  # the transport in memory


@pytest.mark.parametrize('shards', [None, 3])
async def test_a_queue_with_tasks_is_kept_unless_forced(shards: int | None) -> None:
    async with opened(shards=shards) as (queue, _):
        await fill(queue)
        before = keys_of(queue)
        said = "queue 'q' has 3 pending, 1 claimed and 1 delayed tasks and 2 dead letters"
        with pytest.raises(TorrelqueUsageError, match=said):
            await queue.delete()
        assert keys_of(queue) == before
        await queue.delete(force=True)
        assert keys_of(queue) == set()
        await queue.enqueue('again')
        assert (await queue.dequeue(1)).data == 'again'


async def test_an_empty_queue_needs_no_force() -> None:
    async with opened() as (queue, _):
        await queue.enqueue(1)
        await queue.release(await queue.dequeue(), result='kept')
        await queue.delete()
        assert keys_of(queue) == set()
        await queue.delete()  # once more


async def test_a_producer_that_goes_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (queue, _):
        await queue.enqueue(1)
        run, adding = queue._engine.run, True

        async def add_and_run(*arguments: Any) -> Any:  # noqa: ANN401 - an operation and its result
            nonlocal adding
            if adding:
                adding = False
                await queue.enqueue(2)
            return await run(*arguments)

        monkeypatch.setattr(queue._engine, 'run', add_and_run)
        queue._dispatcher._is_plain = True  # which would be looked up first
        with pytest.raises(TorrelqueUsageError, match=r"tasks were added to queue 'q' meanwhile: stop its producers"):
            await queue.delete(force=True)
        assert (await queue.dequeue(1)).data == 2
