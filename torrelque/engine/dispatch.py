"""Where calls go: in a plain queue all to one place; `torrelque.engine.sharded` has the routes of one with shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import TypeVar

from torrelque.core.auditing import Violation, audit
from torrelque.core.commands import Answer, Command, Item, Outcome
from torrelque.core.keys import Keys
from torrelque.core.merging import split
from torrelque.core.models import TorrelqueQueueStats
from torrelque.core.operations import scan_results
from torrelque.core.protocol import Arg, Operation
from torrelque.core.session import Session
from torrelque.core.sharding import layout as sharding
from torrelque.core.sharding.layout import Layout
from torrelque.core.sharding.session import ShardedSession
from torrelque.engine.engine import Engine
from torrelque.engine.runtime import Runtime
from torrelque.errors import TorrelqueUsageError, renew

__all__ = ('CHUNK', 'Dispatcher', 'Progress', 'random_id')

T = TypeVar('T')

W = TypeVar('W')

Progress = Callable[[int, int], object]

CHUNK = 250
"""Items that are checked and serialised in one turn of the event loop: a few milliseconds."""


_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)


def random_id() -> str:
    """An id for a task that was given none. The system is asked for many at once."""
    try:
        return _drawn.pop()
    except IndexError:
        digits = os.urandom(16 * 64).hex()
        _drawn.extend([digits[at : at + 32] for at in range(32, len(digits), 32)])
        return digits[:32]


class Dispatcher:
    """The routes of a plain queue.

    To add or to claim tasks where the queue has shards is refused by the scripts.
    What finds nothing in such a place looks once whether it should be refused, too.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime: Runtime = runtime
        runtime.run_with(self.make_session)
        self._is_plain = False

    @cached_property
    def _engine(self) -> Engine:
        return self.runtime.engine

    def make_session(self) -> Session | ShardedSession:
        """The state machine for all places."""
        return self.runtime.session_of(self.runtime.keys, os.urandom(8).hex())

    async def ready(self) -> None:
        """Know where calls go. Raises TorrelqueUsageError if that is not as the queue object was told."""

    @property
    def layout(self) -> Layout | None:
        """Where tasks are, as far as this object knows; None if that is not known yet, or never changes."""
        return None

    async def is_changed(self, since: Layout | None = None) -> bool:
        """Whether a task that was not found is to be looked for again, as tasks are elsewhere by now.

        ``since`` is the `layout` with which it was looked for: another caller may
        have learned of the new one meanwhile.

        Raises TorrelqueShardsError if the queue has another number of shards than
        the queue object was told.
        """
        if not self._is_plain:
            self._is_plain = await self._engine.run(sharding.check_plain(self.runtime.keys, self.runtime.name))
        return False

    async def audit(self, result_ttl: float, *, repair: bool) -> list[Violation]:
        """Check the invariants in each place and between them; states without a task are kept for ``result_ttl`` s."""
        await self.is_changed()
        scripts, on_cluster = self.runtime.scripts, self.runtime.transport.on_cluster
        return await self._engine.run(
            audit(scripts, self.runtime.keys, result_ttl, repair=repair, on_cluster=on_cluster)
        )

    async def scan_places(self) -> Sequence[Arg | None]:
        """The places for `scan_states` to look at, each a key on a server."""
        await self.is_changed()
        return (None,)

    async def scan_states(self, near: Arg | None, cursor: bytes) -> tuple[bytes, list[tuple[Keys, list[str]]]]:
        """Take a step through the ids that have a state, also those whose result is kept: the next cursor, and ids."""
        del near
        cursor, ids = await self._engine.run(scan_results(self.runtime.keys, cursor))
        return cursor, [(self.runtime.keys, ids)]

    async def totals_elsewhere(self) -> list[TorrelqueQueueStats]:
        """The totals of places where nothing is any more."""
        return []

    def may_go_elsewhere(self, error: Exception) -> bool:
        """Whether a new task may go to another place after this error, as it is certain that it was not added."""
        del error
        return False

    def new_id(self) -> str:
        """An id for a task that was given none."""
        return random_id()

    async def keys(self) -> Sequence[Keys]:
        """The keys of each place where tasks may be."""
        await self.is_changed()
        return (self.runtime.keys,)

    async def all_keys(self) -> Sequence[Keys]:
        """The same, with places where there were tasks once."""
        return await self.keys()

    async def forget(self, places: Sequence[Keys]) -> None:
        """All tasks of the queue are deleted: remove what belongs to none, and know nothing of the places any more."""

    async def keys_of(self, task_id: str) -> Keys:
        """The keys of the place where a task is, or would be."""
        del task_id
        return self.runtime.keys

    async def keys_for(self, verb: Command, item: Item) -> tuple[Keys, Item]:
        """The keys for a verb to an item, and its arguments."""
        return self.runtime.keys, verb.arguments([item])

    async def each(self, make: Callable[[Keys], Operation[T]]) -> list[T]:
        """Run an operation in each place; the results."""
        await self.is_changed()
        return [await self._engine.run(make(self.runtime.keys))]

    async def write_all(self, items: Iterable[T], write: Callable[[T], W]) -> list[W]:
        """Check and serialise all items of a bulk call, a chunk at a time, while other tasks run.

        Nothing is sent before the last of them is known to be good.
        """
        written: list[W] = []
        left = iter(items)
        while chunk := [write(item) for item in islice(left, CHUNK)]:
            written += chunk
            if len(chunk) == CHUNK:
                await self._engine.checkpoint()
        return written

    async def one(self, verb: Command, item: Item) -> Answer:
        """Do a verb to one item."""
        (answer,) = await self._engine.submit(verb, [item])
        if answer is Outcome.UNKNOWN:
            await self.is_changed()
        return answer

    async def many(
        self, verb: Command, items: Sequence[Item], on_progress: Progress | None
    ) -> list[Answer | Exception]:
        """Do a verb to many items; an answer for each, or the error of the call that it was in."""
        answers: list[Answer | Exception] = []
        for part in split(items, verb.limit):
            try:
                answers += await self._engine.submit(verb, part)
            except TorrelqueUsageError:
                raise
            except Exception as error:  # noqa: BLE001 - the answer to each, as others were done
                answers += [renew(error) for _ in part]
            if on_progress is not None:
                on_progress(len(answers), len(items))
        if Outcome.UNKNOWN in answers:
            await self.is_changed()
        return answers

    def fire_and_forget(self, verb: Command, item: Item) -> None:
        """Do a verb to one item whose answer nobody waits for."""
        self._engine.fire_and_forget(verb, [item])
