"""Looks at every queue of a server, again and again, and remembers what it saw. Knows nothing of the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anyio
import anyio.abc

from torrelque import (
    Torrelque,
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueQueueStats,
    Transport,
    connect,
    queues,
)
from torrelque.cli.settings import AS_BYTES, find_shards
from torrelque.cli.top.sampling import History, Sample

__all__ = ('Monitor', 'Watched')

RETRY_TIMEOUT = 1.0
"""Seconds for which a call is repeated before the server counts as away."""

RESPONSE_TIMEOUT = 5.0
"""Seconds of silence after which the server counts as away."""

AT_ONCE = 100
"""Queues whose statistics are asked for in one go."""

SEARCH_PAUSE = 5.0
"""Seconds between two searches for queues."""

SEARCH_SHARE = 20
"""A search walks through all keys: it is followed by a pause so many times as long, if that is more."""


@dataclass
class Watched:
    """One queue, and what was seen of it."""

    queue: Torrelque
    history: History = field(default_factory=History)
    trouble: str = ''
    """Why its statistics cannot be read, while the server is there."""

    @property
    def name(self) -> str:
        return self.queue.queue

    @property
    def stats(self) -> TorrelqueQueueStats | None:
        return self.history.latest


class Monitor:
    """The queues of the server at ``url``: those named, or all that are found.

    ``on_change`` is called whenever there is something new to show. While the
    server is away, `away` says why and the last figures stay.
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
        """Whether it was ever."""
        self.searched: bool = False
        """Whether all keys were walked through once, so that no queues means that there are none."""
        self.away: str = ''
        """Why the server cannot be asked; empty while it can."""
        self._away_since = 0.0
        self.server_time: float | None = None
        """The server's clock when it was last asked, in Unix time."""

    @property
    def away_for(self) -> float:
        """Seconds since the server was found to be away; 0 while it is not."""
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
        """Look until cancelled. Raises TorrelqueError if the server cannot be reached in the first place."""
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
        """Time and statistics, sent together. Raises TorrelqueError where none of it can be read."""
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
                pause = self._interval  # sampling tells that the server is away
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
