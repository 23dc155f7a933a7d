"""Plays an outage and says who has not come back."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

import anyio
import anyio.to_thread

from tests.growth import census
from tests.growth.census import Census
from tests.growth.loops import drop_cancelled_timers
from tests.growth.measuring import leave_out_old_objects
from tests.growth.stage import quiet
from tests.outages.crews import Crew, crews_on
from tests.outages.troubles import TROUBLES, Trouble
from tests.transports.settings import LOOPS
from torrelque import connect
from torrelque.core.backoff import Backoff

__all__ = ('Report', 'play')

IN_TIME = 15.0
"""Seconds from when the server can be used again until everybody has to be back: a slice and a margin."""

BEFORE = 0.5
"""Seconds in which all come to rest before the outage."""

AFTER = 2.0
"""Seconds after the outage until there is work. By then, consumers have come back, found nothing, and listen."""

FAILURES = 1000
"""How many failures each one stands for in the short form."""

SPARE = 8
"""How many more of each kind of thing each crew may hold after the outage: connections that are kept, for example."""


@dataclass
class Report:
    """How an outage went."""

    late: list[str] = field(default_factory=list)
    """Roles that were not back in time, and members of crews that ended."""
    times: dict[str, float] = field(default_factory=dict)
    """Seconds from the end of the outage until a role was back."""
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What was held before it and after it."""

    def __str__(self) -> str:
        slowest = sorted(self.times.items(), key=lambda item: -item[1])[:3]
        lines = [f'slowest: {", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest)}']
        lines += [f'LATE {each}' for each in self.late]
        lines += [f'GREW {name}: {before} -> {after}' for name, (before, after) in self.grown.items()]
        return '\n    '.join(lines)


def play(trouble: str, loop: str, seconds: float, *, hurry: bool, crews: Sequence[str] = ()) -> Report:
    """An outage of ``seconds``; with ``hurry`` pauses are as long at once as after many failures."""
    report = Report()
    backend, options = LOOPS[loop]
    leave_out_old_objects()
    with quiet(), ExitStack() as stack:
        if hurry:
            stack.enter_context(_longest_pauses())
        happening = stack.enter_context(TROUBLES[trouble]())
        names = [name for name in crews_on(happening, loop) if not crews or name in crews]
        anyio.run(partial(_play, report, happening, names, seconds), backend=backend, backend_options=options)
    return report


async def _play(report: Report, trouble: Trouble, names: Sequence[str], seconds: float) -> None:
    crews = [Crew(name, trouble) for name in names]
    async with anyio.create_task_group() as group:
        for crew in crews:
            group.start_soon(_keep_running, crew, report)
        with anyio.fail_after(20):
            for crew in crews:
                await crew.ready.wait()
        await anyio.sleep(BEFORE)
        before = await _count(trouble)
        await anyio.to_thread.run_sync(trouble.begin)
        await anyio.sleep(seconds)
        await anyio.to_thread.run_sync(trouble.end)
        await anyio.sleep(AFTER)
        begun = anyio.current_time()
        with anyio.move_on_after(IN_TIME):
            await _give_work(trouble, crews)
            while any(crew.missing() for crew in crews):  # noqa: ASYNC110 - there are many to be waited for
                await anyio.sleep(0.02)
        for crew in crews:
            report.late += [f'{crew.name}: {role}' for role in crew.missing()]
            report.times |= {f'{crew.name}: {role}': max(0.0, at - begun) for role, at in crew.done.items()}
        if not report.late:
            report.grown = _grown(before, await _count(trouble), SPARE * len(crews))
        group.cancel_scope.cancel()


async def _keep_running(crew: Crew, report: Report) -> None:
    try:
        await crew.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        report.late.append(f'{crew.name} ended: {error!r}')
        crew.ready.set()


async def _give_work(trouble: Trouble, crews: Sequence[Crew]) -> None:
    async with anyio.create_task_group() as group:
        for crew in crews:
            group.start_soon(_give, trouble, crew)


async def _give(trouble: Trouble, crew: Crew) -> None:
    url = trouble.server.url
    if crew.name.endswith('-cluster'):
        assert trouble.cluster is not None
        url = f'redis+cluster://{trouble.cluster.hosts}'
    async with connect(url) as client:
        await crew.give_work(client)


async def _count(trouble: Trouble) -> Census:
    """The least of everything in a few looks."""
    least: Census | None = None
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for server in trouble.all_servers]
        for _ in range(8):
            await anyio.sleep(0.1)
            drop_cancelled_timers()
            gc.collect()
            now = census.count(clients)
            least = now if least is None else least & now
    assert least is not None
    return least


def _grown(before: Census, after: Census, spare: int) -> dict[str, tuple[int, int]]:
    return {
        name: (before[name], after[name])
        for name in sorted(after)
        if after[name] > before[name] + spare
        and (not name.startswith(('object ', 'entries ', 'key ')) or 'torrelque' in name)
    }


@contextmanager
def _longest_pauses() -> Iterator[None]:
    pause = Backoff.pause

    def at_once(self: Backoff, failures: int, rng: object) -> float:
        return pause(self, failures * FAILURES, rng)  # type: ignore[arg-type]  # as it was given

    with mock.patch.object(Backoff, 'pause', at_once):
        yield
