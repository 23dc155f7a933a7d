"""Samples all queues of a server periodically and keeps the results. Independent of the screen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anyio
import anyio.abc

from torrelque import (
    Schedule,
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueQueueStats,
    TorrelqueReplyError,
    Transport,
    WorkerInfo,
    connect,
    queues,
)
from torrelque.cli.presence import try_workers
from torrelque.cli.settings import AS_BYTES, find_shards
from torrelque.cli.top.sampling import History, Sample

__all__ = ('Monitor', 'Watched')

RETRY_TIMEOUT = 1.0
"""How long a call is retried before the server counts as away, in seconds."""

RESPONSE_TIMEOUT = 5.0
"""Seconds of silence after which the server counts as away."""

AT_ONCE = 100
"""Number of queues whose statistics are requested together."""

SEARCH_PAUSE = 5.0
"""Seconds between two searches for queues."""

SEARCH_SHARE = 20
"""Minimum pause after a search, in durations of the search, because it scans all keys."""


SCHEDULES_PAUSE = 2.0
"""Minimum number of seconds between two readings of a queue's schedules."""


@dataclass
class Watched:
    """A queue and its samples."""

    queue: Torrelque
    history: History = field(default_factory=History)
    workers: list[WorkerInfo] | None = None
    """Its workers; None if they are unknown."""
    schedules: list[Schedule] = field(default_factory=list)
    """Its schedules, as far as this user may read them. They are read less often than the rest."""
    schedules_at: float = -math.inf
    """When to read them again, on the monotonic clock."""
    trouble: str = ''
    """Why its statistics cannot be read, although the server is reachable."""

    @property
    def name(self) -> str:
        return self.queue.queue

    @property
    def stats(self) -> TorrelqueQueueStats | None:
        return self.history.latest


class Monitor:
    """Samples the queues of a server. While the server is away, `away` is the reason, and the last figures stay.

    Args:
        url: The URL of the server.
        queue: The only queue to sample; None samples all that are found.
        interval: Time between two samples, in seconds.
        on_change: Called whenever there is something new to show.
    """

    def __init__(
        self, url: str, *, queue: str | None, interval: float, on_change: Callable[[], object] = lambda: None
    ) -> None:
        self._client = connect(url, retry_timeout=RETRY_TIMEOUT, response_timeout=RESPONSE_TIMEOUT)
        self._named = queue
        self._interval = interval
        self._on_change = on_change
        self._watched: dict[str, Watched] = {}
        self._look_again = anyio.Event()
        self.connected: bool = False
        """Whether the monitor has ever connected."""
        self.searched: bool = False
        """Whether all keys have been scanned once. If that found no queue, there is none."""
        self.away: str = ''
        """Why the server is unreachable; empty while it is reachable."""
        self._away_since = 0.0
        self.server_time: float | None = None
        """The server's clock at the last sample, in Unix time."""

    @property
    def away_for(self) -> float:
        """Seconds since the server went away; 0 while it is reachable."""
        return time.monotonic() - self._away_since if self.away else 0.0

    @property
    def interval(self) -> float:
        return self._interval

    def __iter__(self) -> Iterator[Watched]:
        return iter(list(self._watched.values()))

    def __getitem__(self, name: str) -> Watched:
        return self._watched[name]

    def get(self, name: str) -> Watched | None:
        return self._watched.get(name)

    def look_again(self) -> None:
        """Take the next sample now."""
        self._look_again.set()

    async def run(self) -> None:
        """Run until cancelled. Raises TorrelqueError if the server is unreachable from the start."""
        async with self._client as client:
            self.connected = True
            self._clock = Torrelque(client)
            if self._named is not None:
                await self._watch(client, self._named)
                self.searched = True
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._sample_for_ever)
                    if self._named is None:
                        group.start_soon(self._search_for_ever, client)
            finally:
                for watched in self:
                    await watched.queue.aclose()

    async def _watch(self, client: Transport, name: str) -> None:
        if name not in self._watched:
            shards = await find_shards(client, name)
            self._watched[name] = Watched(Torrelque(client, queue=name, serialiser=AS_BYTES, shards=shards))

    # Sampling

    async def _sample_for_ever(self) -> None:
        while True:
            self._look_again = anyio.Event()
            await self._sample()
            self._on_change()
            with anyio.move_on_after(self._interval):
                await self._look_again.wait()

    async def _sample(self) -> None:
        try:
            everything = list(self._watched.values())
            for first in range(0, max(len(everything), 1), AT_ONCE):
                await self._sample_some(everything[first : first + AT_ONCE])
        except TorrelqueError as error:
            if not self.away:
                self._away_since = time.monotonic()
            self.away = str(error)
        else:
            self.away = ''

    async def _sample_some(self, some: list[Watched]) -> None:
        """Read the time and the statistics together. Raises TorrelqueError if none can be read."""
        now: list[float] = []
        figures: dict[str, TorrelqueQueueStats] = {}
        errors: list[TorrelqueError] = []

        async def ask_time() -> None:
            try:
                now.append(await self._clock.get_server_time())
            except TorrelqueError as error:
                errors.append(error)

        async def ask(watched: Watched) -> None:
            try:
                figures[watched.name] = await watched.queue.get_queue_stats()
                watched.workers = await try_workers(watched.queue)
                await _read_schedules(watched, figures[watched.name].schedules)
            except TorrelqueConnectionError as error:
                errors.append(error)
            except TorrelqueError as error:
                watched.trouble = str(error)

        async with anyio.create_task_group() as group:
            group.start_soon(ask_time)
            for watched in some:
                group.start_soon(ask, watched)
        if errors:
            raise errors[0]
        self.server_time = now[0]
        for watched in some:
            if watched.name in figures:
                watched.trouble = ''
                watched.history.add(Sample(now[0], figures[watched.name]))

    # Searching

    async def _search_for_ever(self, client: Transport) -> None:
        while True:
            begun = time.monotonic()
            try:
                await self._search(client)
            except TorrelqueError:
                pause = self._interval  # sampling reports that the server is away
            else:
                pause = max(SEARCH_PAUSE, SEARCH_SHARE * (time.monotonic() - begun))
            await anyio.sleep(pause)

    async def _search(self, client: Transport) -> None:
        found = set()
        async for name in queues(client):
            if name not in self._watched:
                await self._watch(client, name)
                self.look_again()
            found.add(name)
        gone = [self._watched.pop(name) for name in self._watched.keys() - found]
        for watched in gone:
            await watched.queue.aclose()
        if gone or not self.searched:
            self.searched = True
            self._on_change()


async def _read_schedules(watched: Watched, number: int) -> None:
    """Read the schedules of a queue, unless that was done a moment ago. Longer readings are less frequent."""
    begun = time.monotonic()
    if not number:
        watched.schedules = []
    elif begun >= watched.schedules_at:
        try:
            watched.schedules = [each async for each in watched.queue.schedules()]
        except TorrelqueReplyError as error:
            if error.code not in ('NOPERM', 'WRONGTYPE'):
                raise
        took = time.monotonic() - begun
        watched.schedules_at = begun + max(SCHEDULES_PAUSE, SEARCH_SHARE * took)
