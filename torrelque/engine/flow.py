"""Flow control: pauses and limits of a queue and of its groups. The part of the public queue class for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Literal

from torrelque.core import checks, flow, groups
from torrelque.core.backoff import Backoff
from torrelque.core.commands import Outcome, cap
from torrelque.core.keys import Keys
from torrelque.core.models import GroupInfo, Limits
from torrelque.core.wording import counted
from torrelque.engine.dispatch import Dispatcher
from torrelque.engine.listing import Listing
from torrelque.engine.runtime import Runtime
from torrelque.errors import TorrelqueTimeoutError, TorrelqueTypeError, TorrelqueUsageError, TorrelqueValueError

__all__ = ('FlowControl',)

IDLE_BACKOFF = Backoff(0.02, 0.5)
"""Pauses between looks at a paused queue, until no task is claimed."""


class FlowControl:
    """The methods of `torrelque.Torrelque` that pause a queue, and limit it and its groups."""

    queue: str
    max_rejected: int | None
    _runtime: Runtime
    _dispatcher: Dispatcher

    async def pause(
        self,
        reason: str | None = None,
        *,
        until: datetime | float | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Pause the queue: no consumer gets a task until the queue is resumed.

        Running tasks continue, and you can still enqueue. The server keeps the pause, so it survives restarts. A
        later call replaces the end. Consumers of 0.9 ignore a pause. Safe to cancel and to repeat.

        Args:
            reason: Shown in the statistics, by ``torrelque top`` and the exporter. None keeps the reason of a pause
                in force.
            until: When the pause ends, by the server's clock: a datetime with a time zone, or a Unix time. With None
                it lasts until `resume`.
            wait: Whether to wait until no task is claimed any more.
            timeout: Maximum number of seconds to wait. None or 0 sets no limit.

        Raises:
            TorrelqueTypeError: An argument has a bad type. Nothing was changed, as with the next one.
            TorrelqueValueError: An argument has a bad value, such as an end in the past.
            TorrelqueTimeoutError: Tasks were still claimed after ``timeout``, and the queue stays paused; or the server
                did not answer in time. The message says whether the queue is paused.
            TorrelqueUsageError: The queue was resumed, or the pause ended, before the wait was over.
        """
        item = flow.pause_item(reason, until)
        if timeout is not None and not wait:
            raise TorrelqueTypeError(f'timeout needs wait=True, got timeout={timeout!r} and wait={wait!r}')
        seconds = checks.check_wait('timeout', timeout)
        waits = checks.check_flag('wait', wait)
        deadline, paused = self._runtime.transport.now() + seconds, False

        def late() -> TorrelqueTimeoutError:
            rest = 'the queue stays paused' if paused else 'the queue may be paused'
            return TorrelqueTimeoutError(f'the server did not answer within {seconds:g} s; {rest}')

        limit = self._runtime.engine.limit
        with limit(deadline, late):
            if await self._dispatcher.change_flow(item) is not Outcome.OK:
                raise TorrelqueValueError(f"until must be in the future by the server's clock, got {until!r}")
        paused = True
        if waits:
            await self._wait_until_idle(seconds, deadline, lambda: limit(deadline, late))

    async def _wait_until_idle(
        self, seconds: float, deadline: float, limited: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Wait until no task is claimed, while the queue is paused."""
        now, scripts = self._runtime.transport.now, self._runtime.scripts
        rounds = 0
        while True:
            with limited():  # not the pauses, which are on the transport's clock
                loads = await self._dispatcher.each(lambda keys: flow.load(scripts, keys, *cap(self.max_rejected)))
            working = sum(load.working for load in loads)
            if not working:
                return
            if any(load.pause is None for load in loads):
                raise TorrelqueUsageError(
                    f'queue {self.queue!r} was resumed, with {counted(working, "task")} still claimed'
                )
            left = deadline - now()
            if left <= 0:
                raise TorrelqueTimeoutError(
                    f'{counted(working, "task")} still claimed after {seconds:g} s; the queue stays paused'
                )
            rounds += 1
            await self._runtime.engine.rest(min(left, IDLE_BACKOFF.pause(rounds, lambda: 0.0)))

    async def resume(self) -> None:
        """End a pause. Consumers take tasks again within milliseconds. Safe to cancel and to repeat."""
        await self._dispatcher.change_flow(flow.RESUME)

    async def limit(
        self,
        *,
        group: str | None = None,
        concurrency: int | None = None,
        rate: tuple[int, float] | None = None,
        burst: int | None = None,
        weight: int | None = None,
        ordered: bool | None = None,
        dead: Literal['hold', 'pass'] | None = None,
        strict: bool | None = None,
    ) -> None:
        """Limit how many tasks of the queue or of a group may run at once, and how many may start in a time.

        Each call sets all limits of the queue or of the group, and removes those that it does not name. The limits
        hold for all consumers on all machines. The server keeps them, so they survive restarts. A lower limit stops
        no running task. With shards, each shard has its share of the limits of the whole queue, but at least 1; those
        of a group hold exactly. Consumers of 0.9 ignore limits. Safe to cancel and to repeat.

        Args:
            group: The group to limit. ``'*'`` sets the default for each group, which supplies what a group's own
                limits do not name. None limits the whole queue; both kinds of limits hold.
            concurrency: Maximum number of tasks claimed at once. None sets no limit. 0 pauses a group; for the
                queue, use `pause`.
            rate: Maximum number of deliveries in a number of seconds, such as ``(100, 60)``. Deliveries of retries
                count, tasks that are given back do not. After a burst, one task may start every
                seconds/deliveries. None sets no limit.
            burst: How many tasks may start at once after a pause. 1 spaces them evenly. None is the number of
                deliveries of ``rate``.
            weight: For a group, from 1 to 1000: its share of the deliveries, compared with that of other groups
                with waiting tasks. None is 1, which is also the weight of all tasks without a group together.
            ordered: For a group: whether its tasks run one at a time, in the order in which they were enqueued or
                became due. A task that is tried again keeps its place, and the group waits for it.
            dead: For a group: ``'hold'`` makes it wait after a task has become a dead letter, until all its dead
                letters are redriven or purged. ``'pass'``, the default, lets it continue.
            strict: For the whole queue: whether a task is delivered only if none of a higher priority waits. None
                and False serve high, normal and low 16:4:1.

        Raises:
            TorrelqueTypeError: An argument has a bad type. Nothing was changed, as with the next one.
            TorrelqueValueError: An argument has a bad value, or is only for a group or only for the queue.
        """
        if group is None:
            for name, value in (('weight', weight), ('ordered', ordered), ('dead', dead)):
                if value is not None:
                    raise TorrelqueValueError(f'{name} needs a group, got {name}={value!r} and group=None')
            await self._dispatcher.change_flow(flow.limits_item(concurrency, rate, burst, strict))
        else:
            if strict is not None:
                raise TorrelqueValueError(f'strict is for the whole queue, got strict={strict!r} and group={group!r}')
            await self._dispatcher.limit_group(
                groups.limits_item(group, concurrency, rate, burst, weight, ordered, dead)
            )

    async def limits(self, group: str | None = None) -> Limits:
        """Return the limits of the queue, or those in force for a group.

        Args:
            group: The group; ``'*'`` is the default for each group. None returns those of the whole queue.

        Raises:
            TorrelqueTypeError: ``group`` is not a string.
            TorrelqueValueError: It cannot be the name of a group.
        """
        if group is None:
            return flow.limits_of(await self._dispatcher.read_flow())
        name = group if group == checks.EVERY_GROUP else checks.check_group('group', group)
        return await self._dispatcher.read_first(lambda keys: groups.read_group_limits(keys, name))

    def groups(self) -> AsyncIterator[GroupInfo]:
        """Iterate over the groups that have waiting or running tasks, each once, in no particular order.

        Works in bounded steps while the queue is in use. A group that changes its state meanwhile may be
        missing. You can stop iterating at any point.
        """
        known: set[str] = set()

        async def sources() -> list[tuple[Keys, str]]:
            return [(keys, place) for keys in await self._dispatcher.keys() for place in groups.PLACES]

        async def page(source: tuple[Keys, str], cursor: bytes) -> tuple[bytes, list[GroupInfo]]:
            cursor, found = await self._runtime.engine.run(groups.list_groups(self._runtime.scripts, *source, cursor))
            new = [info for info in found if info.name not in known]
            known.update(info.name for info in new)
            return cursor, new

        return Listing(sources, page)
