"""Clients of earlier versions beside those of this one: what they do not know, they leave alone.

A version that does not know a feature is this one with the letter taken from its scripts: that is all it has to know.

A real one is there, too: `older_scripts.zip` has the scripts and their loader as they were before limits, schedules,
groups and cancellations of running tasks. It was made by::

    git archive --format=zip -9 --prefix=older_scripts/ -o tests/queue/older_scripts.zip 56c415d:torrelque/core/scripts

What that version sent is what this one sends, except that a requeue has one word less for each task. It wrote claims
in another form, so neither version takes a claim of the other for live: who did not make it cannot end it.
"""

from __future__ import annotations

import importlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import pytest

from tests.model.real import DUMP
from tests.servers import Server
from torrelque import Task, Torrelque, TorrelqueLeaseLostError, TorrelqueNewerError
from torrelque.core.commands import REQUEUE, Answer, Command, Item
from torrelque.core.protocol import Script
from torrelque.core.scripts import load
from torrelque.transports.memory.prelude import FEATURES
from torrelque.transports.native import NativeTransport

pytestmark = pytest.mark.anyio

LETTERS = 'pelscgh'
"""Letters of the features, in the order in which versions began to know them."""

KNOWN_BEFORE = 'pe'
"""Those that the version in the archive knows."""

VERSIONS = [(letter, real) for real in (False, True) for letter in LETTERS if not (real and letter in KNOWN_BEFORE)]
"""The letter that a version does not know, and whether it is the one in the archive."""

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


def scripts_before(letter: str) -> Mapping[str, Script]:
    """Those of this version without a feature."""
    known = f"'[^%s{LETTERS.partition(letter)[0]}]'"
    return {name: Script(name, KNOWN.sub(known, script.source), script.keys) for name, script in load().items()}


def older_scripts() -> Mapping[str, Script]:
    """Those of the archive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).with_name('older_scripts.zip'))
        scripts: Mapping[str, Script] = importlib.import_module('older_scripts').load()
    return scripts


@asynccontextmanager
async def older_version(client: NativeTransport, letter: str, *, real: bool = False) -> AsyncIterator[Torrelque]:
    """A queue object that knows what the version before this feature knew; it has enqueued a task."""
    scripts = older_scripts() if real else scripts_before(letter)
    assert letter not in letters_of(scripts['claim'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('torrelque.engine.runtime._scripts_for', lambda **_: scripts)
        queue = Torrelque(client, queue='q')
    if real:
        _send_shorter_requeues(queue)
    async with queue:
        await queue.enqueue('old')  # it works as long as nobody uses the feature
        yield queue


def _send_shorter_requeues(queue: Torrelque) -> None:
    one = queue._dispatcher.one

    async def shorter(command: Command, item: Item) -> Answer:
        return await one(command, item[:-1] if command is REQUEUE else item)

    queue._dispatcher.one = shorter  # type: ignore[method-assign]


def content(server: Server) -> object:
    with server.client() as client:
        client.command('SCRIPT', 'LOAD', DUMP.source)
        return sorted((key, value) for key, _, value, _ in client.command('EVALSHA', DUMP.sha, 0))


def test_each_feature_has_its_row() -> None:
    """A version with another feature adds its letter to these, and what brings it about."""
    assert {frozenset(letters_of(script)) for script in load().values() if letters_of(script)} == {frozenset(LETTERS)}
    assert set(LETTERS) == set(USES) == set(bytes(FEATURES).decode()) - {' '}


def test_the_archive_is_of_an_older_version() -> None:
    scripts = older_scripts()
    known = {frozenset(letters_of(script)) for script in scripts.values() if letters_of(script)}
    assert known == {frozenset(KNOWN_BEFORE)}
    assert scripts.keys() < load().keys()


@pytest.mark.parametrize(('letter', 'real'), VERSIONS)
async def test_an_older_client_changes_nothing(
    queue: Torrelque, client: NativeTransport, server: Server, letter: str, *, real: bool
) -> None:
    async with older_version(client, letter, real=real) as older:
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
        assert (await queue.get_queue_stats()).working == 2
        await queue.release(other)
        if letter in ENDS:
            await ENDS[letter](queue)
            await older.release(held)
        else:
            await queue.requeue(held.id)  # as once its lease has ended
        assert await queue.audit() == []


@pytest.mark.parametrize(('letter', 'real'), VERSIONS[1:])  # a pause wakes nobody
async def test_an_older_consumer_that_waits_hears_of_it(
    queue: Torrelque, client: NativeTransport, letter: str, *, real: bool
) -> None:
    async with older_version(client, letter, real=real) as older:
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


@pytest.mark.parametrize(('letter', 'real'), [each for each in VERSIONS if each[0] in ENDS])
async def test_a_fleet_of_both_loses_nothing(
    queue: Torrelque, client: NativeTransport, letter: str, *, real: bool
) -> None:
    """The feature comes and goes while consumers of both versions work."""
    async with older_version(client, letter, real=real) as older:
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


class Fleet:
    """Clients of both versions, which get each other's tasks; a claim that nobody ends expires."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.deeds: Counter[str] = Counter()
        self.expired: list[tuple[Torrelque, Task]] = []
        self._random = random.Random(5)

    async def produce(self, name: str, producer: Torrelque, tasks: int) -> None:
        for number in range(tasks):
            delay, expiry = self._random.choice((None, None, 0.02)), self._random.choice((None, None, 600))
            await producer.enqueue(f'{name} {number}', delay=delay, expires_in=expiry, task_timeout=1)

    async def consume(self, name: str, consumer: Torrelque) -> None:
        deeds = (self._release, self._release, self._requeue, self._delay, self._give_back, self._reject, self._overrun)
        while True:
            task = await consumer.dequeue(ENOUGH)
            deed = self._release if task.dequeue_count > 1 else self._random.choice(deeds)
            self.deeds[f'{name}: {deed.__name__}'] += 1
            self.deeds[f'{name} from {task.data.split()[0]}'] += 1
            await deed(consumer, task)

    async def _release(self, queue: Torrelque, task: Task) -> None:
        await queue.release(task)
        self.done[task.data] += 1

    async def _requeue(self, queue: Torrelque, task: Task) -> None:
        await queue.requeue(task)

    async def _delay(self, queue: Torrelque, task: Task) -> None:
        await queue.requeue(task, delay=0.01)

    async def _give_back(self, queue: Torrelque, task: Task) -> None:
        await queue.giveback(task)

    async def _reject(self, queue: Torrelque, task: Task) -> None:
        await queue.reject(task, 'why')
        await queue.redrive(task.id)

    async def _overrun(self, queue: Torrelque, task: Task) -> None:
        self.expired.append((queue, task))


async def test_both_work_on_a_queue_that_uses_nothing_newer(queue: Torrelque, client: NativeTransport) -> None:
    fleet, each = Fleet(), 120
    async with older_version(client, 'l', real=True) as older:
        await queue.release(await queue.dequeue(ENOUGH))
        with anyio.fail_after(ENOUGH):
            async with anyio.create_task_group() as tasks:
                for name, consumer in (('old', older), ('new', queue)) * 2:
                    tasks.start_soon(fleet.consume, name, consumer)
                tasks.start_soon(fleet.produce, 'old', older, each)
                tasks.start_soon(fleet.produce, 'new', queue, each)
                while len(fleet.done) < 2 * each:  # noqa: ASYNC110 - four consumers add to it
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()
        assert set(fleet.done.values()) == {1}
        for owner, other in ((older, queue), (queue, older)):
            await owner.enqueue('held')
            task = await owner.dequeue(ENOUGH)
            with pytest.raises(TorrelqueLeaseLostError):
                await other.release(task)
            await owner.release(task)
        assert len(fleet.deeds) == 2 * 6 + 2 * 2, fleet.deeds
        for ender, task in fleet.expired:
            with pytest.raises(TorrelqueLeaseLostError):
                await ender.release(task)
        stats = await queue.get_queue_stats()
        assert (stats.tasks, stats.total_completed) == (0, 2 * each + 3)
        assert await queue.audit() == []
