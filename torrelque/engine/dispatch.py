"""Chooses the keys for each call. A plain queue has only one set; see `torrelque.engine.sharded` for shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import TypeVar

from torrelque.core.auditing import Violation, audit
from torrelque.core.commands import ADD, ENQUEUE, Answer, Command, Item, Outcome
from torrelque.core.flow import FLOW, Record, read
from torrelque.core.groups import DEFAULT, REGULATE, recheck
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
"""Number of items that are checked and serialised in one turn of the event loop, in a few milliseconds."""


_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)


def random_id() -> str:
    """Return a random id. Draws many at once from the system, because that is faster."""
    try:
        return _drawn.pop()
    except IndexError:
        digits = os.urandom(16 * 64).hex()
        _drawn.extend([digits[at : at + 32] for at in range(32, len(digits), 32)])
        return digits[:32]


class Dispatcher:
    """Sends the calls of a plain queue. `ShardedDispatcher` overrides it for queues with shards.

    If the queue has shards, the scripts refuse to add or claim tasks here. A call that finds
    nothing checks once whether that is the reason, and is refused as well.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime: Runtime = runtime
        runtime.run_with(self.make_session)
        self._is_plain = False
        self.add: Command = ENQUEUE if runtime.transport.on_cluster else ADD
        """The command for tasks with ids that were drawn just now. On a cluster, looking for them probes the slot."""

    @cached_property
    def _engine(self) -> Engine:
        return self.runtime.engine

    def make_session(self) -> Session | ShardedSession:
        """Return a session for the whole queue."""
        return self.runtime.session_of(self.runtime.keys, os.urandom(8).hex())

    async def ready(self) -> None:
        """Read the layout, if that is needed. Raises TorrelqueUsageError if the object expects another one."""

    @property
    def layout(self) -> Layout | None:
        """The layout that this object knows; None before it is known, and in a plain queue."""
        return None

    async def is_changed(self, since: Layout | None = None) -> bool:
        """Whether to look again for a task that was not found, because the layout has changed.

        Args:
            since: The `layout` of the first look. Another caller may have updated it meanwhile.

        Raises:
            TorrelqueShardsError: The queue has another number of shards than the object expects.
        """
        if not self._is_plain:
            self._is_plain = await self._engine.run(sharding.check_plain(self.runtime.keys, self.runtime.name))
        return False

    async def audit(self, result_ttl: float, *, repair: bool) -> list[Violation]:
        """Check the queue's invariants, on each shard and between them.

        Args:
            result_ttl: How long to keep a state without a task, in seconds.
            repair: Repair what is safe to repair.

        Returns:
            The violations.
        """
        await self.is_changed()
        scripts, on_cluster = self.runtime.scripts, self.runtime.transport.on_cluster
        return await self._engine.run(
            audit(scripts, self.runtime.keys, result_ttl, repair=repair, on_cluster=on_cluster)
        )

    async def scan_nodes(self) -> Sequence[Arg | None]:
        """Return the nodes for `scan_states`: a key on each, or None for the only server."""
        await self.is_changed()
        return (None,)

    async def scan_states(self, near: Arg | None, cursor: bytes) -> tuple[bytes, list[tuple[Keys, list[str]]]]:
        """Take a step through the ids that have a state, including those of kept results.

        Args:
            near: The node, from `scan_nodes`.
            cursor: b'0', or the cursor that the step before returned.

        Returns:
            The next cursor, b'0' at the end, and ids with the keys of their shard.
        """
        del near
        cursor, ids = await self._engine.run(scan_results(self.runtime.keys, cursor))
        return cursor, [(self.runtime.keys, ids)]

    async def totals_elsewhere(self) -> list[TorrelqueQueueStats]:
        """Return the totals of former shards."""
        return []

    async def change_flow(self, item: Item) -> Answer:
        """Pause or resume the queue or set its limits, everywhere.

        Safe to repeat. Of a call that is cancelled or fails, only some shards may have heard.
        """
        await self.is_changed()
        (answer,) = await self._engine.submit(FLOW, [item])
        return answer

    async def limit_group(self, item: Item) -> None:
        """Set the limits of a group, or of each that has none of its own. Safe to repeat, like `change_flow`."""
        await self.is_changed()
        await self._engine.submit(REGULATE, [item])
        if item[1] == DEFAULT:
            await self._engine.run(recheck(self.runtime.scripts, self.first))

    async def read_flow(self) -> Record:
        """Read the record of a pause and of limits."""
        return await self.read_first(read)

    async def read_first(self, make: Callable[[Keys], Operation[T]]) -> T:
        """Run an operation on the first shard, which records what concerns all."""
        await self.is_changed()
        return await self._engine.run(make(self.first))

    def may_go_elsewhere(self, error: Exception) -> bool:
        """Whether a new task may go to another shard after this error, because it was certainly not added."""
        del error
        return False

    def new_id(self, group: str | None = None) -> str:
        """Return a random id for a task, of a group if it has one."""
        del group
        return random_id()

    @property
    def first(self) -> Keys:
        """The keys that the queue has with any layout: its own, or those of its first shard."""
        return self.runtime.keys

    async def keys(self) -> Sequence[Keys]:
        """Return the keys of each shard that may have tasks; the queue's own without shards."""
        await self.is_changed()
        return (self.runtime.keys,)

    def known_keys(self) -> Sequence[Keys]:
        """Return the same, as far as it is known without asking the server."""
        return (self.runtime.keys,)

    async def all_keys(self) -> Sequence[Keys]:
        """Return the same, including former shards."""
        return await self.keys()

    async def forget(self, parts: Sequence[Keys]) -> None:
        """Remove what is left after all tasks were deleted, and forget the layout."""

    async def keys_of(self, task_id: str) -> Keys:
        """Return the keys of the shard where a task is, or would be."""
        del task_id
        return self.runtime.keys

    async def keys_for(self, command: Command, item: Item) -> tuple[Keys, Item]:
        """Return the keys and the arguments for a command on one item."""
        return self.runtime.keys, command.arguments([item])

    async def each(self, make: Callable[[Keys], Operation[T]]) -> list[T]:
        """Run an operation on each shard, and return the results."""
        await self.is_changed()
        return [await self._engine.run(make(self.runtime.keys))]

    async def write_all(self, items: Iterable[T], write: Callable[[T], W]) -> list[W]:
        """Check and serialise all items of a bulk call, in chunks between which other tasks run.

        Callers send nothing before the last item has been checked.
        """
        written: list[W] = []
        left = iter(items)
        while chunk := [write(item) for item in islice(left, CHUNK)]:
            written += chunk
            if len(chunk) == CHUNK:
                await self._engine.checkpoint()
        return written

    async def _submit(self, command: Command, items: Sequence[Item], shard: int = 0) -> list[Answer]:
        """Run a command on the items of one call, and again on those that the server put off."""
        answers = await self._engine.submit(command, items, shard)
        while Outcome.AGAIN in answers:
            left = [at for at, answer in enumerate(answers) if answer is Outcome.AGAIN]
            found = await self._engine.submit(command, [items[at] for at in left], shard)
            for at, answer in zip(left, found, strict=True):
                answers[at] = answer
        return answers

    async def one(self, command: Command, item: Item) -> Answer:
        """Run a command on one item, and return the answer. Safe to cancel."""
        (answer,) = await self._engine.submit(command, [item])
        if answer is Outcome.AGAIN:
            (answer,) = await self._submit(command, [item])
        if answer is Outcome.UNKNOWN:
            await self.is_changed()
        return answer

    async def many(
        self, command: Command, items: Sequence[Item], on_progress: Progress | None
    ) -> list[Answer | Exception]:
        """Run a command on many items, in calls of bounded size.

        Args:
            command: The command.
            items: The items.
            on_progress: Called after each call with the number of items done and of all items; None for none.

        Returns:
            An answer for each item, or the error of its call.

        Raises:
            TorrelqueUsageError: The queue object cannot be used in this way.
        """
        answers: list[Answer | Exception] = []
        for part in split(items, command.limit):
            try:
                answers += await self._submit(command, part)
            except TorrelqueUsageError:
                raise
            except Exception as error:  # noqa: BLE001 - the answer to each; other parts succeeded
                answers += [renew(error) for _ in part]
            if on_progress is not None:
                on_progress(len(answers), len(items))
        if Outcome.UNKNOWN in answers:
            await self.is_changed()
        return answers

    def fire_and_forget(self, command: Command, item: Item) -> None:
        """Run a command on one item without waiting for the answer."""
        self._engine.fire_and_forget(command, [item])
