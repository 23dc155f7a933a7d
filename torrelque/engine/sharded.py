"""Chooses the shard to which each call goes."""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

from torrelque.core.auditing import Violation, audit
from torrelque.core.backoff import Backoff
from torrelque.core.commands import ENQUEUE, Answer, Command, Item, Outcome, enqueue_in, group_of, only_replacing
from torrelque.core.consumers import SLICE
from torrelque.core.flow import FLOW
from torrelque.core.keys import LOGICAL_NAMES, SHARD_NAMES, Keys, shard_name, shard_of_name, tagged
from torrelque.core.merging import split
from torrelque.core.models import TorrelqueQueueStats
from torrelque.core.operations import are_known, queue_stats, scan_tasks
from torrelque.core.protocol import Arg, Call, Operation, Reply
from torrelque.core.schedules import scan_schedules
from torrelque.core.sharding import layout as sharding
from torrelque.core.sharding.layout import MAX_SHARDS, Layout, RecordKeys
from torrelque.core.sharding.scanning import scan_shards
from torrelque.core.sharding.session import ShardedSession
from torrelque.core.wording import counted
from torrelque.engine.auditing import audit_shards
from torrelque.engine.dispatch import CHUNK, Dispatcher, Progress, random_id
from torrelque.engine.listing import Listing
from torrelque.engine.runtime import Runtime
from torrelque.engine.turns import Turns
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueShardsError,
    TorrelqueUsageError,
    TorrelqueValueError,
    is_unavailable,
    is_unsent,
    renew,
)

__all__ = ('ShardedDispatcher',)

T = TypeVar('T')

logger: logging.Logger = logging.getLogger('torrelque')

TRIES = 5
"""Maximum number of attempts to make a call while the number of shards changes."""

MOST_FORMER = 8
"""Maximum number of former layouts that may still have tasks. Each makes looking for an unknown id slower."""

PROBE_BACKOFF = Backoff(0.5, 4.0)
"""Pauses between probes of lost shards, while tasks are added."""


class ShardedDispatcher(Dispatcher):
    """Sends each call to the home of its task, which is the shard that its id belongs to.

    A call on a claim goes to the shard that the claim's token shows.
    """

    def __init__(self, runtime: Runtime, shards: int) -> None:
        super().__init__(runtime)
        self.add: Command = ENQUEUE  # the call carries the layout's generation
        name = runtime.name
        if shards > MAX_SHARDS:
            raise TorrelqueValueError(f'shards must be at most {MAX_SHARDS}, got {shards}')
        if '{' in name or '}' in name:
            raise TorrelqueValueError(f'queue: with shards a name must have no braces, got {name!r}')
        if shard_of_name(tagged(name)) is not None:
            raise TorrelqueValueError(f'queue: with shards a name must not end like that of a shard, got {name!r}')
        self._wanted = shards
        self._names = {**LOGICAL_NAMES, **SHARD_NAMES, **runtime.renamed}
        self._main = self._keys_at(tagged(name))
        self._plain = self._keys_at(name)
        self._keys: list[Keys] = []
        self._scripts = runtime.scripts
        self._session: ShardedSession | None = None
        self._enqueue = enqueue_in(0)
        self._layout: Layout | None = None
        self._following = False
        self._follow_after = -math.inf
        self._turns = Turns(self._server_of)
        self._probing = False
        self._probes = 0
        self._probe_at = -math.inf
        self._opening = runtime.make_lock()
        self._openers = 0
        self._settling: set[str] = set()
        self.settle_schedule: Callable[[str], Awaitable[object]] = _settle_nothing
        self._know(shards)

    def _keys_at(self, prefix: str, **shared: str) -> Keys:
        return Keys({**{logical: f'{prefix}:{key}' for logical, key in self._names.items()}, **shared})

    def _shard(self, number: int) -> Keys:
        self._know(number + 1)
        return self._keys[number]

    def _know(self, total: int) -> None:
        for shard in range(len(self._keys), total):
            shared = {} if self.runtime.transport.on_cluster or not shard else {'bell': self._keys[0]['bell'].decode()}
            self._keys.append(self._keys_at(shard_name(self.runtime.name, shard), **shared))

    @property
    def known(self) -> Sequence[Keys]:
        """The keys of all known shards."""
        return self._keys

    # The layout ------------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        await self._open(self._wanted)

    async def _open(self, wanted: int | None) -> None:
        """Read the layout. Raises TorrelqueShardsError if the number of shards is not the wanted one."""
        # Callers that already wait go first, because consumers are served in the order in which they came.
        if self._layout is not None and not self._openers:
            return
        self._openers += 1
        try:
            async with self._opening:
                if self._layout is None:
                    found, is_begun = await self._engine.run(
                        sharding.open_layout(self._scripts, self._records, self._wanted)
                    )
                    sharding.check_number(found, wanted or found.shards, self.runtime.name)
                    if is_begun or not await self._is_marked(found):
                        found = await self._engine.run(sharding.relayout(self._scripts, self._records, found))
                    self._adopt(found)
        finally:
            self._openers -= 1

    @property
    def _records(self) -> RecordKeys:
        """The keys that record the layout."""
        on_cluster = self.runtime.transport.on_cluster
        return RecordKeys(self._main, None if on_cluster else self._plain, self._shard)

    async def _is_marked(self, layout: Layout) -> bool:
        """Return whether the scripts refuse objects without shards.

        A user that may not read the mark may not write it either, so it counts as set.
        """
        plain = self._records.plain
        try:
            return plain is None or await self._engine.run(sharding.is_marked(plain, layout))
        except TorrelqueReplyError:
            return True

    @property
    def layout(self) -> Layout | None:
        return self._layout

    async def is_changed(self, since: Layout | None = None) -> bool:
        await self.ready()
        return await self._reload() or since not in (None, self._layout)

    async def _reload(self, *, again: bool = False) -> bool:
        """Use the newest layout, and return whether it changed.

        Completes a change that was begun. If the server has lost its record, restores the
        newest known layout; with ``again`` also if only a shard may have lost its record.
        """
        known = self._ready_layout()
        newest, is_restored = await self._engine.run(
            sharding.refresh_layout(self._scripts, self._records, known, again=again)
        )
        if is_restored:
            number = counted(newest.shards, 'shard')
            logger.warning('Restored the record that queue %r has %s', self.runtime.name, number)
        if newest.generation > self._ready_layout().generation:  # otherwise another caller was faster
            self._adopt(newest)
        return self._ready_layout() != known

    async def catch_up(self) -> None:
        """Recover after a shard refused a call: this object's layout is old, or the shard has lost its record."""
        if not await self._reload():
            await self._reload(again=True)

    def _adopt(self, layout: Layout) -> None:
        """Use a layout."""
        self._know(layout.total)
        if self._session is not None:
            self._session.resize(self._keys[: layout.total])
            self._engine.step_soon()
        self._enqueue = enqueue_in(layout.generation)
        self._layout = layout
        self._turns.restart()

    def _compare_generation(self, generation: int) -> None:
        """Compare the generation that a server has recorded, 0 for none, with the known one."""
        if self._layout is None or generation == self._layout.generation or self._following:
            return
        if self.runtime.transport.now() >= self._follow_after:
            self._following = True
            self._engine.spawn(self._follow)

    async def _follow(self) -> None:
        try:
            await self.catch_up()
        except Exception:
            logger.warning('Cannot read how many shards queue %r has', self.runtime.name, exc_info=True)
            self._follow_after = self.runtime.transport.now() + SLICE
        finally:
            self._following = False

    def make_session(self) -> ShardedSession:
        """Return a session for all shards."""
        nonce, transport = os.urandom(8).hex(), self.runtime.transport
        self._session = ShardedSession(
            lambda shard: self.runtime.session_of(
                self._keys[shard], sharding.nonce_of(nonce, shard), self._settle_soon
            ),
            self._keys,
            node_of=transport.node_of,
            on_generation=self._compare_generation,
            clock=transport.now,
            jitter=random.random,
            block_limit=transport.block_limit,
            max_rejected=self.runtime.max_rejected,
            at_once=not transport.on_cluster,
            on_lost=self._mark,
            nonce=nonce,
        )
        return self._session

    async def reshard(self, shards: int) -> bool:
        """Change the number of shards. Safe to repeat.

        Returns:
            Whether nothing is left on former homes.

        Raises:
            TorrelqueValueError: The number is too large.
            TorrelqueUsageError: There were too many changes, or other clients are changing the number, too.
        """
        if shards > MAX_SHARDS:
            raise TorrelqueValueError(f'shards must be at most {MAX_SHARDS}, got {shards}')
        await self._open(None)
        for _ in range(TRIES):
            await self._reload()
            layout = self._ready_layout()
            former = tuple(number for number in (layout.shards, *layout.former) if number != shards)
            if layout.shards == shards:
                if not layout.former:
                    return True
                await self._bring_all_home(layout)
                if not await self._is_drained(layout):
                    return False
                await self._keep_totals(layout)
                former = ()
            elif len(former) > MOST_FORMER:
                raise TorrelqueUsageError(
                    f'queue {self.runtime.name!r} had too many numbers of shards, {former}, '
                    f'of which tasks may be left: reshard({layout.shards}) until it returns True'
                )
            wanted = Layout(layout.generation + 1, shards, former)
            await self._engine.run(sharding.intend(self._scripts, self._main, wanted))
        raise TorrelqueUsageError(f'the number of shards of queue {self.runtime.name!r} is being changed by others')

    async def _bring_all_home(self, layout: Layout) -> None:
        for shard, keys in enumerate(self._keys[: layout.total]):
            cursor, first = b'0', True
            while first or cursor != b'0':
                first = False
                cursor, found = await self._engine.run(scan_schedules(keys, cursor))
                for schedule_id, values in found:
                    *_, group, _, held = values
                    if held or sharding.home_of(group or schedule_id, layout.shards) != shard:
                        await self.settle_schedule(schedule_id)

    def _settle_soon(self, schedule_id: str) -> None:
        """Complete the move of a schedule in the background."""
        if schedule_id in self._settling:
            return
        self._settling.add(schedule_id)
        self._engine.spawn(partial(self._settle, schedule_id))

    async def _settle(self, schedule_id: str) -> None:
        try:
            await self.settle_schedule(schedule_id)
        except Exception:
            logger.warning(
                'Cannot move schedule %r of queue %r to its shard', schedule_id, self.runtime.name, exc_info=True
            )
        finally:
            self._settling.discard(schedule_id)

    async def _is_drained(self, layout: Layout) -> bool:
        """Return whether every task and result is at home. Nothing is added to former homes, so that stays true."""
        for shard, keys in enumerate(self._keys[: layout.total]):
            cursor, first = b'0', True
            while first or cursor != b'0':
                first = False
                cursor, ids = await self._engine.run(scan_tasks(self._scripts, keys, None, cursor))
                if any(sharding.home_of(task_id, layout.shards) != shard for task_id in ids):
                    return False
        async for shard, found in self._scan(self._of_states):  # after the tasks, because tasks become results
            if any(sharding.home_of(task_id, layout.shards) != shard for task_id in self._keys[shard].ids_in(found)):
                return False
        return True

    @property
    def _of_states(self) -> str:
        return self._names['task'] + ':'

    def _scan(self, rest: str = '') -> Listing[Arg | None, tuple[int, list[bytes]]]:
        """Iterate over the keys of all shards that continue with ``rest`` after the shard's name, some at a time."""
        return Listing(self.runtime.transport.nodes, partial(self._scan_page, rest))

    async def _scan_page(
        self, rest: str, near: Arg | None, cursor: bytes
    ) -> tuple[bytes, list[tuple[int, list[bytes]]]]:
        total = self._ready_layout().total
        cursor, found = await self._engine.run(scan_shards(self.runtime.name, rest, cursor, near))
        return cursor, [(shard, keys) for shard, keys in found.items() if shard < total]

    async def _keep_totals(self, layout: Layout) -> None:
        """Record the totals of the empty shards that leave the queue."""
        for shard in range(layout.shards, layout.total):
            stats = await self._engine.run(queue_stats(self._scripts, self._keys[shard]))
            await self._engine.run(sharding.keep_totals(self._main, shard, stats[6:12]))

    async def audit(self, result_ttl: float, *, repair: bool) -> list[Violation]:
        await self.is_changed()
        layout, on_cluster = self._ready_layout(), self.runtime.transport.on_cluster
        check = partial(audit, self._scripts, result_ttl=result_ttl, repair=repair, on_cluster=on_cluster)
        return await audit_shards(
            self._engine, self._scripts, self._records, layout, self._scan(), check, repair=repair
        )

    async def change_flow(self, item: Item) -> Answer:
        await self.is_changed()
        (answer,) = await self._engine.submit(FLOW, [item], 0)
        if answer is Outcome.OK:
            await self._copy_flow()
        return answer

    async def limit_group(self, item: Item) -> None:
        await super().limit_group(item)
        name = item[1]
        assert isinstance(name, bytes)  # noqa: S101 - as written
        await self._copy_flow(name)

    async def _copy_flow(self, group: bytes | None = None) -> None:
        total = self._ready_layout().total
        await self._engine.run(sharding.copy_flow(self._scripts, self._records, total, group))

    async def scan_nodes(self) -> Sequence[Arg | None]:
        await self.is_changed()
        return await self.runtime.transport.nodes()

    async def scan_states(self, near: Arg | None, cursor: bytes) -> tuple[bytes, list[tuple[Keys, list[str]]]]:
        cursor, found = await self._scan_page(self._of_states, near, cursor)
        return cursor, [(self._keys[shard], self._keys[shard].ids_in(keys)) for shard, keys in found]

    async def totals_elsewhere(self) -> list[TorrelqueQueueStats]:
        totals = await self._engine.run(sharding.read_totals(self._main))
        total, none = self._ready_layout().total, TorrelqueQueueStats(0, 0, 0, 0)
        return [
            TorrelqueQueueStats._make((*none[:6], *each, *none[6 + len(each) :]))
            for shard, each in totals.items()
            if shard >= total
        ]

    def _ready_layout(self) -> Layout:
        assert self._layout is not None  # noqa: S101 - callers waited for `ready`
        return self._layout

    # Homes ----------------------------------------------------------------------------------------------------------

    def new_id(self, group: str | None = None) -> str:
        """Return an id for the shard of a group, or for the shard whose turn it is.

        Tasks added in the same turn go to one shard, in one call.
        """
        self._probe_soon()
        shards = self._shards
        shard = self._turns.take(self._engine.turns, shards) if group is None else sharding.home_of(group, shards)
        return sharding.write_id(random_id(), shard, shards)

    def _server_of(self, shard: int) -> Hashable:
        return self.runtime.transport.node_of(self._keys[shard]['pending'])

    # Lost shards -----------------------------------------------------------------------------------------------------

    def may_go_elsewhere(self, error: Exception) -> bool:
        return is_unsent(error) and 0 < len(self._turns.lost) < self._shards

    def _miss(self, shard: int, error: Exception) -> None:
        """Record that a shard did not answer a call. If the connection broke, all shards of its server are lost."""
        if not is_unavailable(error):
            return
        shards = [shard]
        if isinstance(error, TorrelqueConnectionError):
            server = self._server_of(shard)
            shards = [at for at in range(len(self._keys)) if self._server_of(at) == server]
        self._mark(shards, error)

    def _mark(self, shards: Sequence[int], error: Exception | None) -> None:
        """Record that shards are lost, or without an error that they answer again. New tasks go to the others."""
        if error is None:
            found = self._turns.find(shards)
            if found:
                logger.warning('Shards %s of queue %r answer again', found, self.runtime.name)
            return
        new = self._turns.lose(shards, self._ready_layout().total)
        if new is None:
            return
        self._probe_at = self.runtime.transport.now() + PROBE_BACKOFF.first
        if new:
            logger.warning('Shards %s of queue %r do not answer, others are used: %s', new, self.runtime.name, error)

    def _probe_soon(self) -> None:
        if self._turns.lost and not self._probing and self.runtime.transport.now() >= self._probe_at:
            self._probing = True
            self._engine.spawn(self._probe)

    async def _probe(self) -> None:
        """Check whether lost shards answer again."""
        transport = self.runtime.transport

        async def probe(shard: int) -> None:
            call = Call[Reply]('HGET', (self._keys[shard]['counters'],), ('generation',))
            try:
                (reply,) = await transport.execute_once([call])
            except TorrelqueError as error:
                reply = error
            if not is_unavailable(reply):
                self._mark([shard], None)

        try:
            await self._engine.run_all([partial(probe, shard) for shard in self._turns.lost])
        finally:
            self._probing = False
            self._probes = self._probes + 1 if self._turns.lost else 0
            self._probe_at = transport.now() + PROBE_BACKOFF.pause(self._probes + 1, random.random)

    @property
    def _shards(self) -> int:
        return self._wanted if self._layout is None else self._layout.shards

    @property
    def first(self) -> Keys:
        return self._keys[0]

    async def keys(self) -> Sequence[Keys]:
        await self.is_changed()
        return tuple(self._keys[: self._ready_layout().total])

    def known_keys(self) -> Sequence[Keys]:
        return () if self._layout is None else tuple(self._keys[: self._layout.total])

    async def all_keys(self) -> Sequence[Keys]:
        keys = await self.keys()
        left = await self._engine.run(sharding.read_totals(self._main))
        total = max([len(keys), *(shard + 1 for shard in left)])
        self._know(total)
        return tuple(self._keys[:total])

    async def forget(self, parts: Sequence[Keys]) -> None:
        """Remove the record last, so that a deletion can find all shards after an interruption."""
        for keys in parts:
            await self._engine.run(iter(Call[Reply]('DEL', (keys['bell'],))))
            await self._engine.run(iter(Call[Reply]('DEL', (keys['ring'],))))
        mark = self._records.plain
        if mark is not None:
            await self._engine.run(iter(Call[Reply]('HDEL', (mark['counters'],), ('generation', 'shards', 'intended'))))
        await self._engine.run(iter(Call[Reply]('DEL', (self._main['counters'],))))
        self._layout = None

    async def keys_of(self, task_id: str) -> Keys:
        await self.ready()
        homes = [self._keys[home] for home in self._ready_layout().homes(task_id)]
        if len(homes) > 1:  # the current home comes first: enqueueing there removes what is left in the others
            known = await self._engine.run_each([are_known(keys, [task_id]) for keys in homes])
            homes = [keys for keys, is_known in zip(homes, known, strict=True) if is_known == [True]] or homes
        return homes[0]

    async def keys_for(self, command: Command, item: Item) -> tuple[Keys, Item]:
        await self.ready()
        args = (self._enqueue if command is ENQUEUE else command).arguments([item])
        return self._keys[self._homes(command, item)[0]], args

    async def each(self, make: Callable[[Keys], Operation[T]]) -> list[T]:
        return await self._engine.run_each([make(keys) for keys in await self.keys()])

    def _homes(self, command: Command, item: Item) -> list[int]:
        """Return the shards where an item's task can be, the most likely one first."""
        if command.by_claim and item[1]:
            shard = sharding.shard_of_claim(str(item[1]))
            if shard is not None and shard < len(self._keys):
                return [shard]
        task_id = item[0]
        assert isinstance(task_id, bytes)  # noqa: S101 - all items begin with an encoded id
        return self._ready_layout().homes(task_id)

    # Calls -----------------------------------------------------------------------------------------------------------

    async def one(self, command: Command, item: Item) -> Answer:
        await self.ready()
        for last in range(TRIES - 1, -1, -1):
            layout = self._layout
            try:
                answer = await self._one(command, item)
            except TorrelqueShardsError:
                if not last:
                    raise
                await self.catch_up()
            else:
                if answer is not Outcome.UNKNOWN or not last or not await self.is_changed(layout):
                    return answer
        raise AssertionError  # the last try returned or raised

    async def _one(self, command: Command, item: Item) -> Answer:
        first, *others = self._homes(command, item)
        if command is ENQUEUE:
            try:
                (answer,) = await self._add([item], first)
            except (TorrelqueConnectionError, TorrelqueReplyError) as error:
                self._miss(first, error)
                raise
            return answer
        (answer,) = await self._submit(command, [item], first)
        for shard in others:
            if answer is not Outcome.UNKNOWN:
                break
            (answer,) = await self._submit(command, [item], shard)
        return answer

    async def _add(self, items: Sequence[Item], shard: int) -> list[Answer]:
        """Enqueue items on their home, unless they are queued on a former one.

        `Outcome.AGAIN` is the answer for those whose group has another home by now.
        """
        command, layout = self._enqueue, self._ready_layout()
        elsewhere: dict[int, list[bytes]] = {}
        if layout.former:
            for item in items:
                task_id = item[0]
                assert isinstance(task_id, bytes)  # noqa: S101 - all items begin with an encoded id
                for home in layout.homes(task_id)[1:]:
                    elsewhere.setdefault(home, []).append(task_id)
        queued: dict[Arg, int] = {}
        for home, ids in elsewhere.items():
            found = await self._engine.run(
                sharding.clear_former(self._scripts, self._keys[home], layout.generation, ids)
            )
            queued.update({task_id: home for task_id, is_queued in zip(ids, found, strict=True) if is_queued})
        strays = {item[0] for item in items if _is_astray(item, layout)}
        new = [item for item in items if item[0] not in queued and item[0] not in strays]
        answers = iter(await self._submit(command, new, shard) if new else ())
        return [
            Outcome.AGAIN
            if item[0] in strays
            else await self._replace(item, queued[item[0]], shard)
            if item[0] in queued
            else next(answers)
            for item in items
        ]

    async def _replace(self, item: Item, former: int, shard: int) -> Answer:
        """Enqueue an item whose id is queued on a former home."""
        only = only_replacing(item)
        if only is None:
            return Outcome.EXISTING
        (answer,) = await self._submit(self._enqueue, [only], former)
        if answer is Outcome.UNKNOWN:  # the task has ended meanwhile
            (answer,) = await self._add([item], shard)
        return answer

    async def many(
        self, command: Command, items: Sequence[Item], on_progress: Progress | None
    ) -> list[Answer | Exception]:
        await self.ready()
        answers: list[Answer | Exception | None] = [None] * len(items)
        of_shard: dict[int, list[int]] = {}
        for at, item in enumerate(items):
            if at and not at % CHUNK:
                await self._engine.checkpoint()
            of_shard.setdefault(self._homes(command, item)[0], []).append(at)
        done, failures = 0, list[TorrelqueError]()

        async def submit(shard: int, indexes: Sequence[int]) -> None:
            nonlocal done
            at_first = 0
            for part in split([items[at] for at in indexes], command.limit):
                try:
                    found = await self._part(command, part, shard)
                except TorrelqueUsageError as error:
                    failures.append(error)
                    return
                for at, answer in zip(indexes[at_first : at_first + len(part)], found, strict=True):
                    answers[at] = answer
                at_first += len(part)
                done += len(part)
                if on_progress is not None:
                    on_progress(done, len(items))

        await self._engine.run_all([partial(submit, shard, indexes) for shard, indexes in of_shard.items()])
        if failures:
            raise failures[0]
        return [answer for answer in answers if answer is not None]

    async def _part(self, command: Command, items: Sequence[Item], shard: int) -> Sequence[Answer | Exception]:
        """Run a command on items of one shard. Errors other than TorrelqueUsageError are returned as answers."""
        try:
            return await self._do_part(command, items, shard)
        except TorrelqueUsageError:
            raise
        except Exception as error:  # noqa: BLE001 - the answer to each; other parts may have succeeded
            if command is ENQUEUE:
                self._miss(shard, error)
            return [renew(error) for _ in items]

    async def _do_part(self, command: Command, items: Sequence[Item], shard: int) -> Sequence[Answer | Exception]:
        try:
            if command is ENQUEUE:
                return await self._add(items, shard)
            answers: list[Answer | Exception] = [*await self._submit(command, items, shard)]
            if Outcome.UNKNOWN in answers:
                await self._reload()  # another caller may have done so meanwhile
                for at, answer in enumerate(answers):
                    if answer is Outcome.UNKNOWN and self._homes(command, items[at]) != [shard]:
                        answers[at] = await self._one_of_many(command, items[at])
        except TorrelqueShardsError:
            await self.catch_up()
            return [await self._one_of_many(command, item) for item in items]
        return answers

    async def _one_of_many(self, command: Command, item: Item) -> Answer | Exception:
        try:
            return await self.one(command, item)
        except TorrelqueUsageError:
            raise
        except Exception as error:  # noqa: BLE001 - the answer to this one
            return error

    def fire_and_forget(self, command: Command, item: Item) -> None:
        self._engine.fire_and_forget(command, [item], self._homes(command, item)[0])


async def _settle_nothing(_schedule_id: str) -> None:
    """Move no schedules: nothing keeps any."""


def _is_astray(item: Item, layout: Layout) -> bool:
    """Whether an item's id was drawn for a former home of its group, and has to be drawn again."""
    group, task_id = group_of(item), item[0]
    assert isinstance(task_id, bytes)  # noqa: S101 - all items begin with an encoded id
    return bool(group) and sharding.home_of(group, layout.shards) != sharding.home_of(task_id, layout.shards)
