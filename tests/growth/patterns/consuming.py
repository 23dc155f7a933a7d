"""Patterns of workers and consumers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import anyio

from tests.growth.measuring import Round, pattern
from tests.growth.patterns.support import Handled, end_all
from tests.growth.stage import SLICE, Stage
from torrelque import Reject, Retry, Task, Torrelque, TorrelqueLeaseLostError, TorrelqueTimeoutError, retry

__all__ = ()


@pattern(rounds=2, warm_up=4)
async def idle_worker(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue, stage.working(queue, Handled()):

        async def play() -> None:
            await anyio.sleep(2 * SLICE)

        yield play


@pattern()
async def lone_tasks(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()
    async with stage.queue() as queue, stage.working(queue, handled):

        async def play() -> None:
            await handled.see(1, queue.enqueue('task'))

        yield play


@pattern()
async def tasks_of_several_queues(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()
    async with (
        stage.transport() as transport,
        stage.make(transport, queue='a') as first,
        stage.make(transport, queue='b') as second,
        stage.working({first: 3, second: 1}, handled),
    ):

        async def play() -> None:
            await handled.see(1, first.enqueue('task'))
            await handled.see(4, second.enqueue_many(['task'] * 4))
            await handled.see(4, first.enqueue_many(['task'] * 4))

        yield play


@pattern()
async def lone_tasks_without_a_worker(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue, anyio.create_task_group() as group:
        handled = Handled()

        async def consume() -> None:
            while True:
                task = await queue.dequeue()
                await queue.release(task)
                handled.tell()

        for _ in range(3):
            group.start_soon(consume)

        async def play() -> None:
            await handled.see(1, queue.enqueue('task'))

        yield play
        group.cancel_scope.cancel()


@pattern(rounds=2, warm_up=4)
async def results_that_expire(stage: Stage) -> AsyncIterator[Round]:
    async def handler(task: Task) -> str:
        return 'result'

    async with stage.queue() as queue, stage.working(queue, handler, result_ttl=0.02):

        async def play() -> None:
            await queue.wait(await queue.enqueue('task'))
            await anyio.sleep(0.02)

        yield play


@pattern()
async def handlers_in_threads(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()

    def handler(task: Task) -> None:
        anyio.from_thread.run_sync(handled.tell)

    async with stage.queue() as queue, stage.working(queue, handler):  # type: ignore[arg-type]  # any will do

        async def play() -> None:
            await handled.see(3, queue.enqueue_many(['task'] * 3))

        yield play


@pattern()
async def time_outs(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def give_up() -> None:
            with suppress(TorrelqueTimeoutError):
                await queue.dequeue(timeout=0.01)

        async def play() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(give_up)

        yield play


@pattern()
async def cancelled_calls(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            for seconds in (0.0, 0.001, 0.003):
                with anyio.move_on_after(seconds):
                    task = await queue.dequeue()
                    with anyio.CancelScope(shield=True):
                        await queue.release(task)
                with anyio.move_on_after(seconds):
                    await queue.get_queue_stats()
                with anyio.move_on_after(seconds):
                    await queue.enqueue('task')
            await queue.get_queue_stats()
            await end_all(queue)

        yield play


@pattern()
async def delayed_tasks(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()
    async with stage.queue() as queue, stage.working(queue, handled):

        async def play() -> None:
            await handled.see(1, queue.enqueue('task', delay=0.01))

        yield play


@pattern()
async def retries(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()

    async def handler(task: Task) -> None:
        if task.attempt == 1:
            raise Retry(0.005)
        if task.attempt == 2:
            raise ValueError('a handler that fails')
        handled.tell()

    async with stage.queue() as queue, stage.working(queue, handler, retry=retry.constant(0.005)):

        async def play() -> None:
            await handled.see(1, queue.enqueue('task'))

        yield play


@pattern(rounds=2, warm_up=4)
async def renewals(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()

    async def handler(task: Task) -> None:
        await anyio.sleep(0.05)
        handled.tell()

    async with stage.queue() as queue, stage.working(queue, handler):

        async def play() -> None:
            await handled.see(1, queue.enqueue('task', task_timeout=0.04))
            await end_all(queue)

        yield play


@pattern()
async def dead_letters_with_a_cap(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()

    async def handler(task: Task) -> None:
        handled.tell()
        raise Reject('no use')

    async with stage.queue(max_rejected=3) as queue, stage.working(queue, handler):

        async def play() -> None:
            await handled.see(1, queue.enqueue('task'))

        yield play


@pattern(rounds=2, warm_up=4)
async def leases_that_expire(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            await queue.enqueue('task', task_timeout=0.01)
            for task in (await queue.dequeue(), await queue.dequeue()):
                with suppress(TorrelqueLeaseLostError):  # the second's too, on a slow machine
                    await queue.release(task)
            await anyio.sleep(0.01)
            await end_all(queue)

        yield play


@pattern()
async def consumers_that_come_and_go(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def consume() -> None:
            for task in await queue.dequeue(max_tasks=2):
                await queue.release(task)

        async def play() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(consume)
                await anyio.sleep(0.005)
                await queue.enqueue_many(['task'] * 60)
            await end_all(queue)

        yield play


@pattern()
async def workers_started_and_stopped(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            handled = Handled()
            async with stage.working(queue, handled):
                await queue.enqueue('task')
                await handled.reach(1)

        yield play


@pattern()
async def cancelled_workers(stage: Stage) -> AsyncIterator[Round]:
    async with stage.queue() as queue:

        async def play() -> None:
            begun = Handled()

            async def handler(task: Task) -> None:
                begun.tell()
                await anyio.sleep_forever()

            async with anyio.create_task_group() as group, stage.working(queue, handler):
                await queue.enqueue('task')
                await begun.reach(1)
                group.cancel_scope.cancel()
            await end_all(queue)

        yield play


@pattern()
async def running_tasks_cancelled(stage: Stage) -> AsyncIterator[Round]:
    begun, ended = Handled(), Handled()

    async def handler(task: Task) -> None:
        begun.tell()
        try:
            await anyio.sleep_forever()
        finally:
            ended.tell()

    async with stage.queue() as queue, stage.working(queue, handler):

        async def play() -> None:
            number = begun.number
            for running in ('end', 'ask'):
                number += 1
                task_id = await queue.enqueue('task')
                await begun.reach(number)
                await queue.cancel(task_id, running=running)
                await ended.reach(number)

        yield play


@pattern(rounds=2, warm_up=4)
async def two_workers_on_one_queue(stage: Stage) -> AsyncIterator[Round]:
    handled = Handled()

    async def add(queue: Torrelque) -> None:
        await handled.see(10, queue.enqueue_many(['task'] * 10))

    async with (
        stage.queue() as one, stage.queue() as other, stage.working(one, handled), stage.working(other, handled),
    ):  # fmt: skip

        async def play() -> None:
            await add(one)
            await add(other)
            await anyio.sleep(2 * SLICE)

        yield play
