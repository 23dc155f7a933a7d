"""The rows of the table: what each measures, on any system."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread

from benchmarks.metering import Meter, ServerInfo
from benchmarks.systems import Payload, System, make_payload

CALLERS = 50
"""Tasks of the event loop that call at the same time, and handlers of a worker."""

BULK = 100
"""Tasks a call in the rows about bulks."""

BULK_CALLERS = 10
"""Callers with bulks: with 50 there are 5,000 tasks on their way, among which 0.9's claims have to search theirs."""

WARM_UP_TASKS = 500
"""Tasks that are worked off before the meter starts."""

TRIVIAL = 'return 1'

Result = dict[str, Any]
Settings = Mapping[str, float]


async def call_for(
    settings: Settings, call: Callable[[], Awaitable[int]], meter: Meter, callers: int = CALLERS
) -> Result:
    """Let callers make one call after the other, and measure for some seconds. A call returns its number of tasks."""
    done = counted = 0
    stopped = False
    news = anyio.Event()

    async def repeat() -> None:
        nonlocal done
        while not stopped:
            count = await call()
            done += count  # read only now: others have added meanwhile
            news.set()

    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(repeat)
        await anyio.sleep(settings['warm_up'])
        await news.wait()
        news = anyio.Event()
        before = done
        meter.start()
        await anyio.sleep(settings['seconds'])
        await news.wait()  # on a very busy machine
        counted = done - before
        meter.stop()
        stopped = True
    return meter.result(counted)


async def _call_from_threads(settings: Settings, call: Callable[[], None], meter: Meter) -> Result:
    """The same with a thread for each caller, and one task a call."""
    done, stopped = [0] * CALLERS, threading.Event()

    def call_on(number: int) -> None:
        while not stopped.is_set():
            call()
            done[number] += 1

    async def repeat(number: int) -> None:
        await to_thread.run_sync(call_on, number, limiter=CapacityLimiter(1))

    async with anyio.create_task_group() as group:
        for number in range(CALLERS):
            group.start_soon(repeat, number)
        try:
            await anyio.sleep(settings['warm_up'])
            before = sum(done)
            meter.start()
            await anyio.sleep(settings['seconds'])
            meter.stop()
            counted = sum(done) - before
        finally:
            stopped.set()
    return meter.result(counted)


async def floor(system: System, meter: Meter, settings: Settings) -> Result:
    """A script that does nothing, called by its hash: the least that a call costs on this client."""

    async def call() -> int:
        await system.evaluate(TRIVIAL)
        return 1

    await call()
    return await call_for(settings, call, meter)


async def enqueue(system: System, meter: Meter, settings: Settings) -> Result:
    if system.merges:
        return await _enqueue_many(system, meter, settings, CALLERS, 1)
    task = make_payload()
    if system.threaded:
        return await _call_from_threads(settings, partial(system.enqueue_now, task), meter)

    async def call() -> int:
        await system.enqueue(task)
        return 1

    return await call_for(settings, call, meter)


async def enqueue_100(system: System, meter: Meter, settings: Settings) -> Result:
    return await _enqueue_many(system, meter, settings, BULK, BULK_CALLERS)


async def _enqueue_many(system: System, meter: Meter, settings: Settings, count: int, callers: int) -> Result:
    tasks = [make_payload()] * count

    async def call() -> int:
        await system.enqueue_many(tasks)
        return count

    return await call_for(settings, call, meter, callers)


async def lifecycle(system: System, meter: Meter, settings: Settings) -> Result:
    if system.merges:
        return await _lifecycle_many(system, meter, settings, CALLERS, 1)
    return await _lifecycle(system, meter, settings, CALLERS)


async def lifecycle_lone(system: System, meter: Meter, settings: Settings) -> Result:
    """One caller: no other call to merge with."""
    return await _lifecycle(system, meter, settings, 1)


async def lifecycle_100(system: System, meter: Meter, settings: Settings) -> Result:
    return await _lifecycle_many(system, meter, settings, BULK, BULK_CALLERS)


async def _lifecycle(system: System, meter: Meter, settings: Settings, callers: int) -> Result:
    task = make_payload()

    async def call() -> int:
        await system.lifecycle(task)
        return 1

    return await call_for(settings, call, meter, callers)


async def _lifecycle_many(system: System, meter: Meter, settings: Settings, count: int, callers: int) -> Result:
    tasks = [make_payload()] * count

    async def call() -> int:
        return await system.lifecycle_many(tasks)

    return await call_for(settings, call, meter, callers)


async def _preload(system: System, count: int, delay: float | None = None) -> None:
    """Add many tasks, as quickly as the system can."""
    left = count

    async def add() -> None:
        nonlocal left
        while left > 0:
            now = min(BULK, left)
            left -= now
            await system.enqueue_many([make_payload()] * now, delay)

    async with anyio.create_task_group() as group:
        for _ in range(CALLERS):
            group.start_soon(add)


async def work_off(system: System, meter: Meter, settings: Settings) -> Result:
    """A backlog, a worker with 50 handlers that do nothing; from the start of one handler to that of another."""
    count = int(settings['backlog'])
    await _preload(system, count)
    started = 0
    ended, stop = anyio.Event(), anyio.Event()

    async def handle(task: Payload) -> None:
        nonlocal started
        started += 1
        if started == WARM_UP_TASKS:
            meter.start()
        elif started == count:
            meter.stop()
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(system.work, handle, CALLERS, stop)
        await ended.wait()
        await anyio.sleep(settings['rest'])
        stop.set()
    return meter.result(count - WARM_UP_TASKS)


async def handoff(system: System, meter: Meter, settings: Settings) -> Result:
    """An idle worker: from before the call that adds a task to the start of its handler."""
    count = int(settings['handoffs'])
    called: dict[int, float] = {}
    taken: list[float] = []
    stop = anyio.Event()
    begun = anyio.Event()

    async def handle(task: Payload) -> None:
        nonlocal begun
        taken.append(time.perf_counter() - called[task['number']])
        begun.set()

    async with type(system)(system.url, system.client) as consumer, anyio.create_task_group() as group:
        group.start_soon(consumer.work, handle, CALLERS, stop)
        await anyio.sleep(settings['idle'])
        meter.start()
        for number in range(count):
            begun = anyio.Event()
            called[number] = time.perf_counter()
            await system.enqueue(make_payload(number))
            with anyio.fail_after(10):
                await begun.wait()
            await anyio.sleep(0.003 + random.random() * 0.004)  # so that all are idle again, not in step with anything
        meter.stop()
        await anyio.sleep(settings['rest'])
        stop.set()
    tenth = count // 10  # warms up
    return {**meter.result(count), 'latencies_ms': _in_ms(taken[tenth:])}


async def delayed(system: System, meter: Meter, settings: Settings) -> Result:
    """Tasks with a delay, due one by one over some seconds: how late their handlers start."""
    count, span = int(settings['delayed']), settings['delay_span']
    due: dict[int, float] = {}
    late: list[float] = []
    ended, stop = anyio.Event(), anyio.Event()

    async def handle(task: Payload) -> None:
        late.append(time.time() - due[task['number']])
        if len(late) == count:
            ended.set()

    async with type(system)(system.url, system.client) as consumer, anyio.create_task_group() as group:
        group.start_soon(consumer.work, handle, CALLERS, stop)
        await anyio.sleep(settings['idle'])
        meter.start()
        for number in range(count):
            delay = 1 + random.random() * span
            due[number] = time.time() + delay  # before the call, so that nothing early can hide behind its duration
            await system.enqueue(make_payload(number), delay)
        with anyio.fail_after(span + 90):
            await ended.wait()
        meter.stop()
        await anyio.sleep(settings['rest'])
        stop.set()
    return {**meter.result(count), 'early': sum(seconds < 0 for seconds in late), 'latencies_ms': _in_ms(late)}


async def memory(system: System, meter: Meter, settings: Settings) -> Result:
    """What the server allocates for a pending task."""
    await _preload(system, 1000)
    with ServerInfo(system.url) as info:
        before = info.used_memory()
        await _preload(system, int(settings['stored']))
        await anyio.sleep(0.2)
        return {'bytes': (info.used_memory() - before) / settings['stored']}


async def _at_depth(system: System, meter: Meter, settings: Settings, delay: float | None) -> Result:
    points: list[Result] = []
    depth, held = 1000, 0
    while depth <= settings['deepest']:
        await _preload(system, depth - held, delay)
        held = depth
        points.append({'depth': depth, **await lifecycle(system, meter, settings)})
        depth *= 10
    return {'points': points}


async def depth_pending(system: System, meter: Meter, settings: Settings) -> Result:
    """Single lifecycles beside more and more pending tasks."""
    return await _at_depth(system, meter, settings, None)


async def depth_delayed(system: System, meter: Meter, settings: Settings) -> Result:
    """The same beside delayed tasks, due in a day."""
    return await _at_depth(system, meter, settings, 86_400)


def _in_ms(seconds: list[float]) -> list[float]:
    return [round(value * 1e3, 3) for value in sorted(seconds)]


ROWS: dict[str, Callable[[System, Meter, Settings], Awaitable[Result]]] = {
    'floor': floor,
    'enqueue-single': enqueue,
    'enqueue-100': enqueue_100,
    'work-off': work_off,
    'lifecycle-single': lifecycle,
    'lifecycle-lone': lifecycle_lone,
    'lifecycle-100': lifecycle_100,
    'hand-off': handoff,
    'delayed': delayed,
    'memory': memory,
    'depth-pending': depth_pending,
    'depth-delayed': depth_delayed,
}
