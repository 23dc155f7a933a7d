"""The systems that are measured, each behind the same few methods."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Self, TypeAlias

import anyio

PAYLOAD_BYTES = 60

Payload: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Payload], Awaitable[None]]


def make_payload(number: int = 0) -> Payload:
    """A task whose JSON text has 60 bytes."""
    payload: Payload = {'number': number, 'text': ''}
    payload['text'] = 'x' * (PAYLOAD_BYTES - len(json.dumps(payload)))
    return payload


class System(ABC):
    """A queue as one process uses it; entered while it is in use.

    ``client`` names what connects it to the server, where there is a choice.
    """

    merges: ClassVar[bool] = False
    """Where the library merges single calls of many callers, the rows make bulk calls of this."""

    threaded: ClassVar[bool] = False
    """Callers are threads, which call `enqueue_now`."""

    def __init__(self, url: str, client: str) -> None:
        self.url = url
        self.client = client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    @abstractmethod
    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        """Add one task."""

    def enqueue_now(self, task: Payload) -> None:
        """Add one task, and block until it is there."""
        raise NotImplementedError

    async def enqueue_many(self, tasks: list[Payload], delay: float | None = None) -> None:
        """Add many in one call, or in single calls where there is no such call."""
        for task in tasks:
            await self.enqueue(task, delay)

    @abstractmethod
    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        """Consume, with acknowledgement, until `stop`."""

    async def lifecycle(self, task: Payload) -> None:
        """Add a task, claim one, end its claim."""
        raise NotImplementedError

    async def lifecycle_many(self, tasks: list[Payload]) -> int:
        """The same with many at once; how many were ended."""
        raise NotImplementedError

    async def evaluate(self, script: str) -> None:
        """Call a script by its hash: what a call costs on this client at least."""
        raise NotImplementedError


def load(name: str) -> type[System]:
    """The class of a system, by its name: that of a package is not a module's here, lest one be taken for the other."""
    system: type[System] = importlib.import_module(f'benchmarks.systems.use_{name}').Subject
    return system
