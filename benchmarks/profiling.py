"""Where the time of one task goes: in the client by layer, in the server by script.

The client's part is sampled: each millisecond of CPU that the process used, a signal's handler looks which code runs.
Python runs it between two steps of its own code, so time in C counts for what called it; uvloop, all C, would be
counted for whatever runs next, so this is on asyncio's own event loop. The server's part is from `INFO commandstats`,
where EVALSHA has the time of whole scripts, and each command the time and number of its calls within them.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import anyio

import torrelque
from benchmarks.metering import ServerInfo
from benchmarks.rows import BULK, CALLERS
from benchmarks.systems import make_payload
from torrelque.embedded import EmbeddedServer

TASKS = 20_000
INTERVAL = 0.001
"""Seconds of CPU between two samples."""

LAYERS = (
    ('/benchmarks/', 'the benchmark'),
    ('/torrelque/transports/native/', 'native transport, with packing, parsing and sending'),
    ('/torrelque/engine/', 'engine'),
    ('/torrelque/transports/', 'transports'),
    ('/torrelque/core/codec', 'payloads: JSON'),
    ('/json/', 'payloads: JSON'),
    ('/torrelque/core/', 'core'),
    ('/torrelque/worker/', 'worker'),
    ('/torrelque/', 'queue object'),
    ('/selectors.py', 'event loop'),
    ('/asyncio/', 'event loop'),
    ('/anyio/', 'anyio'),
)
"""Which layer a file belongs to: the first whose part its path contains."""

NOT_IN_SCRIPTS = frozenset({'evalsha', 'eval', 'script|load', 'info', 'bzpopmin', 'hello', 'client|setinfo', 'ping'})


class Sampler(AbstractContextManager['Sampler']):
    """Counts, while it is entered, in which layer the process spends its CPU time."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def __enter__(self) -> Sampler:
        self._begin = time.process_time()
        self._previous = signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._previous)
        self.seconds = time.process_time() - self._begin

    def _look(self, number: int, frame: FrameType | None) -> None:
        self.seen[_layer(frame.f_code.co_filename) if frame else 'other'] += 1

    def costs(self, tasks: int) -> dict[str, float]:
        """Microseconds a task in each layer."""
        total = sum(self.seen.values())
        return {layer: count / total * self.seconds / tasks * 1e6 for layer, count in self.seen.items()}


@dataclass
class Stage:
    """What the server did during one part of the tasks' way."""

    name: str
    info: ServerInfo
    _before: dict[str, tuple[int, float]] = field(default_factory=dict)
    cells: tuple[float, ...] = ()

    def begin(self) -> None:
        self._before = self._read()
        self._cpu = self.info.cpu()

    def end(self, tasks: int) -> None:
        cpu = self.info.cpu() - self._cpu
        spent = {
            name: (calls - self._before.get(name, (0, 0.0))[0], usec - self._before.get(name, (0, 0.0))[1])
            for name, (calls, usec) in self._read().items()
        }
        scripts, in_scripts = spent.get('evalsha', (0, 0.0))
        inner = [value for name, value in spent.items() if name not in NOT_IN_SCRIPTS]
        self.cells = (
            tasks / scripts,
            cpu / tasks * 1e6,
            in_scripts / tasks,
            sum(usec for _, usec in inner) / tasks,
            sum(calls for calls, _ in inner) / tasks,
        )

    def _read(self) -> dict[str, tuple[int, float]]:
        found = {}
        for name, text in self.info.read('commandstats').items():
            values = dict(part.split('=', 1) for part in text.split(','))
            found[name.removeprefix('cmdstat_')] = int(values['calls']), float(values['usec'])
        return found


async def _share(calls: int, call: Callable[[], Awaitable[object]]) -> None:
    """Let 50 callers share this number of calls."""
    left = calls

    async def repeat() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    async with anyio.create_task_group() as group:
        for _ in range(CALLERS):
            group.start_soon(repeat)


async def _stages(url: str, bulk: int) -> list[Stage]:
    """All tasks are enqueued, then claimed, then released, so that each time only one script is called."""
    claimed: list[torrelque.Task] = []
    payloads = [make_payload()] * bulk

    async def enqueue() -> None:
        if bulk == 1:
            await queue.enqueue(payloads[0])
        else:
            await queue.enqueue_many(payloads)

    async def claim() -> None:
        if bulk == 1:
            claimed.append(await queue.dequeue())
        else:
            claimed.extend(await queue.dequeue(max_tasks=bulk))

    async def release() -> None:
        tasks, claimed[:] = claimed[:bulk], claimed[bulk:]
        if bulk == 1:
            await queue.release(tasks[0])
        else:
            await queue.release_many(tasks)

    async with torrelque.connect(url) as client, torrelque.Torrelque(client) as queue:
        await queue.enqueue('warms up')
        await queue.release(await queue.dequeue())
        stages = []
        info = ServerInfo(url)
        for name, call in (('enqueue', enqueue), ('claim', claim), ('release', release)):
            stage = Stage(name, info)
            tasks = len(claimed) or TASKS
            stage.begin()
            await _share(tasks // bulk, call)
            stage.end(len(claimed) if name == 'claim' else tasks)
            stages.append(stage)
        info.close()
        return stages


async def _live(url: str) -> Sampler:
    """Single lifecycles by 50 callers."""
    payload = make_payload()

    async def live() -> None:
        await queue.enqueue(payload)
        await queue.release(await queue.dequeue())

    async with torrelque.connect(url) as client, torrelque.Torrelque(client) as queue:
        with Sampler() as sampler:
            await _share(TASKS, live)
        return sampler


async def _work(url: str) -> Sampler:
    """A worker with 50 handlers that do nothing, and a backlog."""
    started = 0

    async def handle(task: torrelque.Task) -> None:
        nonlocal started
        started += 1
        if started == TASKS:
            worker.stop()

    async with torrelque.connect(url) as client, torrelque.Torrelque(client) as queue:
        await queue.enqueue_many([make_payload()] * TASKS)
        worker = torrelque.Worker(queue, handle, concurrency=CALLERS)
        with Sampler() as sampler:
            await worker.run()
        return sampler


def _on_fresh_server(call: Callable[..., Awaitable[Any]], *words: object) -> Any:  # noqa: ANN401 - what the call returns
    with EmbeddedServer(port=0) as server:
        return anyio.run(call, server.url, *words)


def tables() -> str:
    """Measure, and return Markdown."""
    return f'{_client_table()}\n\n{_server_table()}\n'


def _client_table() -> str:
    columns = [_on_fresh_server(call).costs(TASKS) for call in (_live, _work)]
    layers = sorted({layer for column in columns for layer in column}, key=lambda layer: -columns[0].get(layer, 0.0))
    lines = [
        '### Client: CPU of a task by layer, µs',
        '',
        'Native transport on asyncio, single calls by 50 callers, and a worker with 50 handlers.',
        '',
        '| | enqueue, dequeue, release | worker: dequeue, handler, release |',
        '|---|--:|--:|',
    ]
    lines += [f'| {layer} | {" | ".join(f"{column.get(layer, 0.0):.1f}" for column in columns)} |' for layer in layers]
    lines.append(f'| together | {" | ".join(f"{sum(column.values()):.1f}" for column in columns)} |')
    return '\n'.join(lines)


def _server_table() -> str:
    lines = [
        '### Server: CPU of a task by script, µs',
        '',
        'What is not in scripts is reading, parsing and writing; what is not in `redis.call` is Lua. The time in',
        'scripts is on the wall clock, so a busy machine lengthens it.',
        '',
        '| script | calls | tasks a script call | server CPU | in the script | in `redis.call` | `redis.call`s |',
        '|---|---|--:|--:|--:|--:|--:|',
    ]
    for bulk, name in ((1, 'single, by 50 callers'), (BULK, f'{BULK} tasks each')):
        for stage in _on_fresh_server(_stages, bulk):
            cells = ' | '.join(f'{value:.1f}' for value in stage.cells)
            lines.append(f'| {stage.name} | {name} | {cells} |')
    return '\n'.join(lines)


def _layer(path: str) -> str:
    return next((layer for part, layer in LAYERS if part in path), 'other')
