"""Those who keep schedules, and what has to hold of the tasks that schedules add."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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

    def fired(
        self, name: bytes, schedule: Mapping[bytes, bytes], slots: Sequence[float], now: float, last: View | None
    ) -> None:
        """A claim had a schedule add tasks for these times. ``last``: what was known of its last task before."""
        require(bool(schedule), 'added a task for a schedule that is gone', name)
        self._pauses.check([name], now)
        period = float(schedule[b'every'] or schedule[b'cron'])
        anchor = float(schedule[b'anchor']) if schedule[b'every'] else 0.0
        timing = schedule[b'every'], schedule[b'cron'], anchor
        for slot in slots:
            task_id = slot_id(name.decode(), slot).encode()
            require(task_id not in self._fired, 'two tasks for one time', task_id)
            self._fired.add(task_id)
            require(slot <= now + 1e-6, 'added before its time', task_id, now)
            off = (slot - anchor) / period
            require(abs(off - round(off)) * period < 1e-5, 'added at a time that is none', task_id, schedule)
        if schedule[b'missed'] == b'skip':
            require(len(slots) == 1, 'made up for more than the last time', name, slots)
            if schedule[b'next'] or schedule[b'every']:
                require(now - slots[0] < period + 1e-5, 'made up for an earlier time', name, slots, now)
        elif schedule[b'overlap'] == b'1':
            before = self._last.get(name)
            if before is not None and before[0] == timing:
                require(slots[0] - before[1] < period + 1e-5, 'left a time out', name, slots, before)
        if schedule[b'overlap'] == b'0':
            require(len(slots) == 1 and last is None, 'added a task beside the last one', name, slots, last)
        self._last[name] = timing, slots[-1]

    def changed(self, name: bytes) -> None:
        """Times may have been left out."""
        self._last.pop(name, None)


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
