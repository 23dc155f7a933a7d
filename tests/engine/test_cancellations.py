"""What listeners hear of cancelled tasks, and over how many connections."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager

import anyio
import pytest

from tests.engine.listeners import Counting, Waits, subscribed, until
from torrelque import Torrelque, TorrelqueReplyError, WaitSharer
from torrelque.engine import subscriptions
from torrelque.engine.cancellations import Cancellations
from torrelque.errors import TorrelqueConnectionError
from torrelque.testing import VirtualClock
from torrelque.transports.base import Listener, Message

pytestmark = pytest.mark.anyio

MANY = 10_000


class Refusing(Counting):
    """A server whose user may not subscribe to the channel of cancellations."""

    refused = 0

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self._refusing(super().listen())

    @asynccontextmanager
    async def _refusing(self, listening: AbstractAsyncContextManager[Listener]) -> AsyncIterator[Listener]:
        async with listening as listener:
            subscribe = listener.subscribe

            async def refuse(channel: bytes) -> None:
                if channel == b'q:cancel':
                    self.refused += 1
                    raise TorrelqueReplyError('NOPERM No permissions to access a channel')
                await subscribe(channel)

            listener.subscribe = refuse  # type: ignore[method-assign]
            yield listener


async def claim(queue: Torrelque, *task_ids: str) -> None:
    for task_id in task_ids:
        await queue.enqueue('a', task_id=task_id, task_timeout=3600)
    assert len(await queue.dequeue_nowait(max_tasks=len(task_ids))) == len(task_ids)


async def hear_nothing(queue: Torrelque) -> None:
    async with aclosing(queue.cancellations()) as announced:
        async for each in announced:
            pytest.fail(f'heard {each}')


@pytest.mark.parametrize('shards', [None, 3])
async def test_each_cancellation_of_a_running_task_is_announced(shards: int | None) -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q', shards=shards) as queue:
        ids = [f'{number}' for number in range(9)]
        for task_id in ids:
            await claim(queue, task_id)
        with anyio.fail_after(20):
            async with aclosing(queue.cancellations()) as announced:
                for _ in range(shards or 1):
                    assert await anext(announced) is None
                for task_id in ids:
                    await queue.cancel(task_id, running='ask')
                    assert await anext(announced) == (task_id, 'ask')
                    await queue.cancel(task_id, running='end')
                    assert await anext(announced) == (task_id, 'end')
                await queue.enqueue('a', task_id='pending')
                await queue.cancel('pending', running='end')
                with anyio.move_on_after(0.01):
                    pytest.fail(f'a pending task was announced: {await anext(announced)}')
        assert (transport.opened, transport.open) == (1, 1)
    assert transport.open == 0


async def test_listeners_and_watchers_share_a_connection() -> None:
    transport = Counting()
    async with Torrelque(transport, queue='q') as queue:
        await claim(queue, 'a')
        async with anyio.create_task_group() as tasks, aclosing(queue.cancellations()) as first:
            assert await anext(first) is None
            tasks.start_soon(Waits(queue, 'a').run)
            await subscribed(queue, 'a')
            async with aclosing(queue.cancellations()) as second:
                assert await anext(second) is None
                await queue.cancel('a', running='end')
                assert await anext(first) == await anext(second) == ('a', 'end')
        assert transport.opened == 1


async def test_an_interruption_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(_message: Message) -> None:
        monkeypatch.undo()
        raise TorrelqueConnectionError('cut off')

    transport = Counting()
    async with Torrelque(transport, queue='q') as queue, aclosing(queue.cancellations()) as announced:
        await claim(queue, 'a', 'b')
        assert await anext(announced) is None
        (line,) = queue._engine.hub._lines.values()
        monkeypatch.setattr(line, '_deliver', cut)  # from the message after the next
        await queue.cancel('a', running='ask')
        assert await anext(announced) == ('a', 'ask')
        await queue.cancel('a', running='end')
        with anyio.fail_after(20):
            assert await anext(announced) is None
            await queue.cancel('b', running='end')
            assert await anext(announced) == ('b', 'end')
        assert transport.opened == 2


async def test_who_may_not_subscribe_still_watches_and_tries_seldom() -> None:
    clock = VirtualClock()
    transport = Refusing(clock=clock)
    async with Torrelque(transport, queue='q') as queue:
        await claim(queue, 'a')
        waits = Waits(queue, 'a')
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits.run)
            tasks.start_soon(hear_nothing, queue)
            await clock.advance(1)
            assert transport.open == 1
            assert b'q:task:a' in {channel for line in queue._engine.hub._lines.values() for channel in line.standing}
            before = transport.opened
            await clock.advance(600)
            assert transport.opened - before <= 600 / subscriptions.REFUSED
            await queue.release('a', result=1)
            await clock.advance(0)
            assert [state.result for state in waits.states] == [1]
            tasks.cancel_scope.cancel()


async def test_of_queues_that_share_a_connection_only_those_that_may_not_be_heard_are_not() -> None:
    transport, sharer = Refusing(), WaitSharer(3)
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(Torrelque(transport, queue=name)) for name in ('q', 'a', 'b')]
        for queue in queues:
            stack.enter_context(queue.share_waits(sharer))
        heard = [await stack.enter_async_context(aclosing(queue.cancellations())) for queue in queues[1:]]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear_nothing, queues[0])
            for queue, announced in zip(queues[1:], heard, strict=True):
                await claim(queue, 'a')
                with anyio.fail_after(20):
                    assert await anext(announced) is None
                    await queue.cancel('a', running='ask')
                    while await anext(announced) is None:
                        pass
            tasks.cancel_scope.cancel()


async def test_nothing_is_kept_of_announcements_that_were_heard() -> None:
    async with Torrelque(Counting(), queue='q') as queue:
        await claim(queue, 'a')
        feed = Cancellations(queue._dispatcher)
        assert await anext(feed) is None
        for _ in range(MANY // 100):
            for _ in range(10):
                await queue.cancel('a', running='ask')
            for _ in range(10):
                assert await anext(feed) == ('a', 'ask')
        assert not feed._found
        assert not any(inbox.messages for _, inbox in feed._inboxes.values())
        await feed.aclose()
        await feed.aclose()
        assert not queue._engine.hub._inboxes
        with pytest.raises(StopAsyncIteration):
            await anext(feed)


async def test_a_listener_can_be_dropped() -> None:
    async with Torrelque(Counting(), queue='q') as queue:
        announced = queue.cancellations()
        assert await anext(announced) is None
        del announced
        gc.collect()  # Trio warns about generators that are dropped
        await until(lambda: not queue._engine.hub._inboxes)
        announced = queue.cancellations()
        with pytest.raises(ZeroDivisionError):
            await announced.athrow(ZeroDivisionError())
