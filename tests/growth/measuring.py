"""Runs a pattern and says what grows with its rounds."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import anyio

from tests.growth.census import Census
from tests.growth.loops import drop_cancelled_timers
from tests.growth.stage import SOON, Setting, Stage, quiet
from tests.transports.settings import LOOPS

__all__ = ('PATTERNS', 'Pattern', 'Report', 'Round', 'leave_out_old_objects', 'measure', 'pattern')

Round = Callable[[], Awaitable[None]]
"""One round of a pattern."""

Play = Callable[[Stage], AbstractAsyncContextManager[Round]]

MOST_LOOKS = 12
"""Looks at what is held until it is taken as it is."""

LOOKS_IN_VAIN = 2

LOOK_AFTER = 0.02
"""Seconds before each look, in which what has begun may end."""

REGULAR_COUNTS = 3

MARKS = (1, 4, 8, 16, 32, 64)
"""After how many times N rounds is counted; the later ones only where something has grown until then."""

MOST_EXPLAINED = 6
"""Kinds of things whose holders are named."""

NOISE = 4
"""What grows by less than one in this number of rounds is noise."""


@dataclass(frozen=True)
class Pattern:
    """Something that users do again and again. ``play`` prepares it and gives a function that does it once.

    ``rounds`` is N in the short form; ``bounded`` names what may grow up to a bound, with that bound.
    """

    name: str
    play: Play
    rounds: int
    warm_up: int
    clients: tuple[str, ...]
    asyncio_only: bool
    bounded: Mapping[str, int]

    def runs_on(self, setting: Setting) -> bool:
        if self.asyncio_only and setting.loop == 'trio':
            return False
        return setting.client.removesuffix('-cluster') in self.clients

    @property
    def on_server(self) -> bool:
        """Whether it does something to a server that nobody does to a cluster or a model here."""
        return 'memory' not in self.clients


PATTERNS: dict[str, Pattern] = {}

CLIENTS = ('redis_py', 'coredis', 'native', 'memory')
SERVER_CLIENTS = CLIENTS[:3]

BOUNDED: Mapping[str, int] = {
    # Lanes are kept for as many calls as were under way at once, and expire by themselves.
    'key {q}:lane:*': 64,
    'key q:lane:*': 64,
}
"""What may grow up to a bound in every pattern."""


def pattern(
    *,
    rounds: int = 4,
    warm_up: int = 6,
    clients: tuple[str, ...] = CLIENTS,
    asyncio_only: bool = False,
    bounded: Mapping[str, int] | None = None,
) -> Callable[[Callable[[Stage], AsyncIterator[Round]]], Callable[[Stage], AsyncIterator[Round]]]:
    """Register the asynchronous generator, which yields once, as a pattern of its name."""

    def register(play: Callable[[Stage], AsyncIterator[Round]]) -> Callable[[Stage], AsyncIterator[Round]]:
        PATTERNS[play.__name__] = Pattern(
            play.__name__,
            asynccontextmanager(play),
            rounds,
            warm_up,
            clients,
            asyncio_only,
            {**BOUNDED, **(bounded or {})},
        )
        return play

    return register


@dataclass
class Report:
    """What was held after N, 4N and 8N rounds, and where something had grown, 16N to 64N."""

    pattern: Pattern
    setting: Setting
    rounds: int
    counts: list[str] = field(default_factory=list)
    """As text: objects would count themselves."""
    explained: list[str] = field(default_factory=list)

    def growing(self) -> dict[str, tuple[int, ...]]:
        """What grew, with its counts.

        Flat is what, between 4N rounds and 8N, gains less than one in `NOISE` rounds; what has gained less than that
        since the first count, whatever happened between; and what does not go on growing as fast in later rounds: what
        is idle at one look and busy at the next differs by dozens of objects, however many rounds there were.
        """
        counts = [Counter(json.loads(text)) for text in self.counts]
        first, middle, last = counts[:REGULAR_COUNTS]
        marked = list(zip(self.marks, counts, strict=True))[REGULAR_COUNTS - 1 :]

        def noise(name: str, rounds: int = 4 * self.rounds) -> float:
            # One object more has some entries.
            return max(1, rounds / NOISE) * (3 if name.startswith('entries of ') else 1)

        return {
            name: tuple(count[name] for count in counts)
            for name in sorted(last, key=_interest)
            if last[name] - middle[name] > noise(name)
            and last[name] - first[name] > 2 * noise(name)
            and last[name] > self.pattern.bounded.get(name, 0)
            and all(
                now[name] - last[name] > noise(name, mark - 8 * self.rounds)
                and now[name] - before[name] > noise(name, mark - mark_before) / 2
                for (mark_before, before), (mark, now) in pairwise(marked)
            )
        }

    def per_round(self, name: str) -> float:
        """How much it gained in a round, of late."""
        counts = self.growing()[name]
        return (counts[-1] - counts[1]) / (self.marks[len(counts) - 1] - self.marks[1])

    def __str__(self) -> str:
        lines = [f'{self.pattern.name} on {self.setting}: held after {", ".join(map(str, self.marks))} rounds']
        lines += [
            f'    {name}: {", ".join(map(str, counts))} ({self.per_round(name):+.2f} a round)'
            for name, counts in self.growing().items()
        ]
        return '\n'.join([*lines, *self.explained])

    @property
    def marks(self) -> tuple[int, ...]:
        """After how many rounds was counted."""
        return tuple(times * self.rounds for times in MARKS[: len(self.counts)])


def measure(
    pattern: Pattern, setting: Setting, rounds: int | None = None, explain: Callable[[str], str] | None = None
) -> Report:
    """Run a pattern in an event loop of its own. ``explain`` is asked about what grows while it is still there."""
    report = Report(pattern, setting, rounds or pattern.rounds)
    backend, options = LOOPS[setting.loop]
    stage = Stage(setting)
    try:
        leave_out_old_objects()
        with quiet():
            anyio.run(partial(_measure, report, stage, explain), backend=backend, backend_options=options)
    finally:
        stage.close()
    return report


async def _measure(report: Report, stage: Stage, explain: Callable[[str], str] | None) -> None:
    async with report.pattern.play(stage) as play:
        done = -report.pattern.warm_up
        for mark in (times * report.rounds for times in MARKS):
            if len(report.counts) >= REGULAR_COUNTS and not report.growing():
                return
            while done < mark:
                with anyio.fail_after(SOON):
                    await play()
                done += 1
            report.counts.append(json.dumps(await _settled_count(stage)))
        if explain is not None:
            report.explained += [explain(name) for name in list(report.growing())[:MOST_EXPLAINED]]


async def _settled_count(stage: Stage) -> Census:
    """The least of everything in a few looks, until some find nothing less than those before."""
    least: Census = Counter()
    in_vain = 0
    for look in range(MOST_LOOKS):
        await anyio.sleep(LOOK_AFTER)
        drop_cancelled_timers()
        gc.collect()
        now = stage.count()
        in_vain = in_vain + 1 if look and all(now[name] >= number for name, number in least.items()) else 0
        least = least & now if look else now
        if in_vain == LOOKS_IN_VAIN:
            break
    return least


def _interest(name: str) -> tuple[bool, bool, str]:
    """What says most about a cause comes first."""
    return name.startswith('entries of '), name.startswith('object ') and 'torrelque' not in name, name


def leave_out_old_objects() -> None:
    """Counting is quick then, and other tests' leftovers do not count."""
    gc.collect()
    gc.freeze()
