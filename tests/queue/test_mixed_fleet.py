"""Clients of earlier versions beside those of this one: what they do not know, they leave alone.

A version that does not know a feature is this one with the letter taken from its scripts: that is all it has to know.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count

import anyio
import pytest

from tests.model.real import DUMP
from tests.servers import Server
from torrelque import Task, Torrelque, TorrelqueNewerError
from torrelque.core.protocol import Script
from torrelque.core.scripts import load
from torrelque.transports.memory.prelude import FEATURES
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

LETTERS = 'pelscgh'
"""Letters of the features, in the order in which versions began to know them."""

ENOUGH = 20  # seconds, on a machine under load
KNOWN = re.compile(r"'\[\^%s(\w*)\]'")


@pytest.fixture
def anyio_backend() -> str:
    return 'asyncio'


async def use_pause(queue: Torrelque, _: Task) -> None:
    await queue.pause('why')


async def use_expiry(queue: Torrelque, _: Task) -> None:
    await queue.enqueue('expires', expires_in=600)


async def use_limits(queue: Torrelque, _: Task) -> None:
    await queue.limit(concurrency=5)


async def use_cancellation(queue: Torrelque, held: Task) -> None:
    await queue.cancel(held.id, running='ask')


async def use_schedule(queue: Torrelque, _: Task) -> None:
    await queue.schedule('nightly', task='scheduled', every=3600)


async def use_group(queue: Torrelque, _: Task) -> None:
    await queue.enqueue('grouped', group='g')


async def use_priority(queue: Torrelque, _: Task) -> None:
    await queue.enqueue('urgent', priority='high')


USES: Mapping[str, Callable[[Torrelque, Task], Awaitable[None]]] = {
    'p': use_pause,
    'e': use_expiry,
    'l': use_limits,
    's': use_schedule,
    'c': use_cancellation,
    'g': use_group,
    'h': use_priority,
}
"""What a client does that knows the feature; it holds a task."""

ENDS: Mapping[str, Callable[[Torrelque], Awaitable[object]]] = {
    'p': Torrelque.resume,
    'l': Torrelque.limit,
    's': lambda queue: queue.unschedule('nightly'),
}
"""After which the feature is not in use any more. The others leave their letter behind."""


def letters_of(script: Script) -> set[str]:
    return set(''.join(KNOWN.findall(script.source)))


@asynccontextmanager
async def older_version(client: NativeTransport, letter: str) -> AsyncIterator[Torrelque]:
    """A queue object that knows what the version before this feature knew; it has enqueued a task."""
    known = f"'[^%s{LETTERS.partition(letter)[0]}]'"
    scripts = {name: Script(name, KNOWN.sub(known, script.source), script.keys) for name, script in load().items()}
    assert letter not in letters_of(scripts['claim'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('torrelque.engine.runtime._scripts_for', lambda **_: scripts)
        queue = Torrelque(client, queue='q')
    async with queue:
        await queue.enqueue('old')  # it works as long as nobody uses the feature
        yield queue


def content(server: Server) -> object:
    with server.client() as client:
        client.command('SCRIPT', 'LOAD', DUMP.source)
        return sorted((key, value) for key, _, value, _ in client.command('EVALSHA', DUMP.sha, 0))


def test_each_feature_has_its_row() -> None:
    """A version with another feature adds its letter to these, and what brings it about."""
    assert {frozenset(letters_of(script)) for script in load().values() if letters_of(script)} == {frozenset(LETTERS)}
    assert set(LETTERS) == set(USES) == set(bytes(FEATURES).decode()) - {' '}


@pytest.mark.parametrize('letter', LETTERS)
async def test_an_older_client_changes_nothing(
    queue: Torrelque, client: NativeTransport, server: Server, letter: str
) -> None:
    async with older_version(client, letter) as older:
        await queue.enqueue('dead', task_id='dead')
        await queue.enqueue('new')
        held, dead, other = await older.dequeue(ENOUGH), *await queue.dequeue(ENOUGH, max_tasks=2)
        await queue.reject(dead, 'why')
        await USES[letter](queue, other)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: older.enqueue('more'),
            lambda: older.enqueue('more', task_id='old', replace=True),
            lambda: older.dequeue(ENOUGH),
            older.dequeue_nowait,
            lambda: older.extend(held),
            lambda: older.release(held),
            lambda: older.requeue(held),
            lambda: older.requeue(other.id),
            lambda: older.giveback(held),
            lambda: older.reject(held, 'why'),
            lambda: older.cancel(held.id),
            older.sweep,
            lambda: older.audit(repair=True),
            lambda: older.redrive('dead'),
            lambda: older.purge('dead'),
            older.resume,
            older.limit,
            lambda: older.delete(force=True),
        ]
        before = content(server)
        for call in calls:
            with pytest.raises(TorrelqueNewerError, match="queue 'q' uses features of a later version"):
                await call()
            assert content(server) == before
        assert (await older.get_queue_stats()).working == 2
        await queue.release(other)
        if letter in ENDS:
            await ENDS[letter](queue)
            await older.release(held)
        else:
            await queue.requeue(held.id)  # as once its lease has ended
        assert await queue.audit() == []


@pytest.mark.parametrize('letter', LETTERS.replace('p', ''))  # a pause wakes nobody
async def test_an_older_consumer_that_waits_hears_of_it(queue: Torrelque, client: NativeTransport, letter: str) -> None:
    async with older_version(client, letter) as older:
        held = await queue.dequeue(ENOUGH)
        refused: list[Exception] = []

        async def wait() -> None:
            with pytest.raises(TorrelqueNewerError) as caught:
                await older.dequeue(ENOUGH)
            refused.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.05)  # it blocks on the server
            await USES[letter](queue, held)
            if letter in ENDS:
                await queue.release(held)
            await queue.enqueue('new')
        assert refused
        data = {task.data for task in await queue.dequeue_nowait(max_tasks=9)}
        assert data in [{'new', *more} for more in ((), ('expires',), ('grouped',), ('urgent',))]


@pytest.mark.parametrize('letter', ENDS)
async def test_a_fleet_of_both_loses_nothing(queue: Torrelque, client: NativeTransport, letter: str) -> None:
    """The feature comes and goes while consumers of both versions work."""
    async with older_version(client, letter) as older:
        idle = await queue.dequeue(ENOUGH)
        numbers = count()
        done: list[int] = []
        refused = 0

        async def work(consumer: Torrelque) -> None:
            nonlocal refused
            while True:
                try:
                    task = await consumer.dequeue(ENOUGH)
                except TorrelqueNewerError:
                    refused += 1
                    await anyio.sleep(0.001)
                    continue
                await release(consumer, task)
                done.append(task.data)

        async def release(consumer: Torrelque, task: Task) -> None:
            nonlocal refused
            while True:
                try:
                    return await consumer.release(task)
                except TorrelqueNewerError:
                    refused += 1
                    await anyio.sleep(0.001)

        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                for consumer in (queue, queue, older, older):
                    tasks.start_soon(work, consumer)
                for _ in range(20):
                    await queue.enqueue_many([next(numbers) for _ in range(10)])
                    await USES[letter](queue, idle)
                    await anyio.sleep(0.005)
                    await ENDS[letter](queue)
                    await anyio.sleep(0.005)
                total = next(numbers)
                while len(done) < total:  # noqa: ASYNC110 - four consumers add to it
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()
        assert sorted(done) == list(range(total))
        assert refused > 0
        await queue.release(idle)
        assert (await queue.get_queue_stats()).tasks == 0
        assert await queue.audit() == []
