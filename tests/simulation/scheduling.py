"""Those who keep schedules, and what has to hold of the tasks that schedules add."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tests.simulation.asking import ask
from tests.simulation.clients import Behaviour, Client
from tests.simulation.grouping import some_line
from tests.simulation.pausing import Pauses
from tests.simulation.rules import require
from tests.simulation.server import View
from torrelque.core.commands import Item, Outcome
from torrelque.core.schedules import SCHEDULE, fire_item, remove_item, slot_id

__all__ = ('ScheduleRules', 'fire', 'keep', 'remove', 'remove_at_last', 'upcoming')

NAMES = ('s0', 's1')
PAYLOAD = b'scheduled'
EVERY, CRON = ('0.5', '0.7', '3'), ('0.2', '0.3', '2')
"""Seconds; an expression here is the number of which all times are multiples."""

AHEAD = 10
"""Times that clients compute: few more than those with which more are asked for."""


def upcoming(cron: str, _tz: str, after: float, count: int) -> Sequence[float]:
    period = float(cron)
    first = math.floor(after / period) + 1
    times = [round((first + number) * period, 6) for number in range(min(count, AHEAD))]
    return [time for time in times if time > after]


class ScheduleRules:
    """What is known of the times at which tasks were added."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self._fired: set[bytes] = set()
        self._last: dict[bytes, tuple[object, float]] = {}
        self._lost: set[bytes] = set()
        self._timings: dict[bytes, tuple[bytes, bytes]] = {}
        self._latest = -math.inf
        self._went_back = False
        self.again = 0
        """Tasks that were added once more, because a fail-over lost that they had been."""

    def keep(self) -> tuple[frozenset[bytes], Mapping[bytes, tuple[object, float]]]:
        """What is known now."""
        return frozenset(self._fired), dict(self._last)

    def put_back(self, kept: tuple[frozenset[bytes], Mapping[bytes, tuple[object, float]]]) -> None:
        """Forget all else, as the server has."""
        fired, last = kept
        self._lost |= self._fired - fired
        self._fired, self._last = set(fired), dict(last)

    def fired(
        self,
        name: bytes,
        schedule: Mapping[bytes, bytes],
        slots: Sequence[float],
        now: float,
        last: View | None,
        is_queued: Callable[[bytes], bool],
    ) -> None:
        """A claim had a schedule add tasks for these times.

        ``last``: what was known of its last task before.
        """
        require(bool(schedule), 'added a task for a schedule that is gone', name)
        self.look(now)
        self._pauses.check([name], now)
        period = float(schedule[b'every'] or schedule[b'cron'])
        anchor = float(schedule[b'anchor']) if schedule[b'every'] else 0.0
        timing = schedule[b'every'], schedule[b'cron'], anchor
        for slot in slots:
            task_id = slot_id(name.decode(), slot).encode()
            require(task_id not in self._fired, 'two tasks for one time', task_id)
            self._fired.add(task_id)
            self.again += task_id in self._lost
            require(slot <= now + 1e-6, 'added before its time', task_id, now)
            off = (slot - anchor) / period
            require(abs(off - round(off)) * period < 1e-5, 'added at a time that is none', task_id, schedule)
        if schedule[b'missed'] == b'skip':
            require(len(slots) == 1, 'made up for more than the last time', name, slots)
            # Times that were computed by a faster clock are known before those that it passed over.
            is_behind = self._went_back and now < self._latest + period
            if schedule[b'every'] or (schedule[b'next'] and not is_behind):
                require(now - slots[0] < period + 1e-5, 'made up for an earlier time', name, slots, now)
        elif schedule[b'overlap'] == b'1':
            before = self._last.get(name)
            if before is not None and before[0] == timing:
                between = round((slots[0] - before[1]) / period)
                for number in range(1, between):  # where a clock is behind, an earlier schedule may have had them
                    task_id = slot_id(name.decode(), round(before[1] + number * period, 6)).encode()
                    require(is_queued(task_id), 'left a time out', task_id, slots, before)
        if schedule[b'overlap'] == b'0':
            require(len(slots) == 1 and last is None, 'added a task beside the last one', name, slots, last)
        self._last[name] = timing, slots[-1]

    def look(self, now: float) -> None:
        """A call about schedules is executed."""
        self._went_back |= now < self._latest
        self._latest = max(self._latest, now)

    def changed(self, name: bytes, timing: tuple[bytes, bytes] | None, now: float) -> None:
        """A schedule was added or changed, or removed if it has no ``timing``. Times may have been left out.

        With other times, or after it was removed, it begins from now on. If the clock is behind, these come again.
        """
        self._last.pop(name, None)
        if timing is None or timing != self._timings.get(name):
            self._fired = {each for each in self._fired if not each.startswith(name + b'@') or _slot_of(each) <= now}
        if timing is not None:
            self._timings[name] = timing
        else:
            self._timings.pop(name, None)


def _slot_of(task_id: bytes) -> float:
    return float(task_id.rpartition(b'@')[2])


def keep(client: Client) -> Behaviour:
    """Add or change a schedule."""
    random, world = client.random, client.world
    name, is_cron = random.choice(NAMES), random.random() < 0.5
    missed, overlap = random.choice((('skip', 1), ('skip', 0), ('all', 1)))
    cron = random.choice(CRON) if is_cron else ''
    times = upcoming(cron, '', world.server_time(), AHEAD) if is_cron else ()
    item: Item = (
        name.encode(), 'set', '', cron, 'UTC' if is_cron else '', '' if is_cron else random.choice(EVERY),
        missed, overlap, PAYLOAD, '5',
        random.choice(('', '', '', '1.500000')), random.choice(('', '', 2)), b'', '', '', *some_line(client),
        ' '.join(f'{time:.6f}' for time in times),
    )  # fmt: skip
    if (yield from ask(client, SCHEDULE, [item])):
        world.ledger.tally['schedules'] += 1


def remove(client: Client) -> Behaviour:
    """Remove a schedule, if there is one."""
    yield from ask(client, SCHEDULE, [remove_item(client.random.choice(NAMES))])


def fire(client: Client) -> Behaviour:
    """Have one add a task now."""
    answers = yield from ask(client, SCHEDULE, [fire_item(client.random.choice(NAMES), client.world.server_time())])
    client.world.ledger.tally['fired by hand'] += answers == [Outcome.OK]


def remove_at_last(client: Client) -> Behaviour:
    """Calls of which nobody waits for the answer any more do nothing after that."""
    for name in NAMES if client.world.config.schedules else ():
        while not (yield from ask(client, SCHEDULE, [remove_item(name)])):
            yield 1.0
