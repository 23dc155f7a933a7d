"""A scenario about groups and schedules, while workers are killed.

The id of a task ends with its group, and that of a schedule's begins with the schedule. So the journal of transitions
can say of each delivery whether its group's turn had come, and of each slot how many tasks it added.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import anyio

from tests.chaos.crews import ENOUGH
from tests.chaos.flow import WORKING, Driver, Journal, drive, listening
from tests.chaos.ledger import Books, Ledger
from tests.chaos.stage import COMBINATIONS, LEASE, QUEUE, Stage
from tests.servers import Client
from torrelque import Torrelque, connect

__all__ = ('GroupJournal', 'groups_and_schedules')

PENDING, DELAYED = '0', '2'
ORDERED = ('o0', 'o1', 'o2', 'o3')
LIMITED = ('c0', 'c1')
"""With the default limit."""

OWN, RATED = 'd0', 'r0'
WEIGHTS: Mapping[str, int] = {'w1': 1, 'w3': 3}
GROUPS = (*ORDERED, *LIMITED, OWN, RATED, *WEIGHTS)
RATE = 20
"""Deliveries a second of the rated group, evenly spaced."""

BACKLOG = {'w1': 80, 'w3': 240}
"""Tasks that wait in the beginning; 20 in each other group."""

ROUNDS = 1 / 1 + 1 / 3
"""By how many rounds what two groups with backlogs have had may differ: by a task of each."""

SCHEDULES: Mapping[str, dict[str, object]] = {
    'beat': {'every': 0.05},
    'into': {'every': 0.1, 'group': ORDERED[0]},
    'cron': {'cron': '* * * * * *'},
}
STEPS = {'beat': 0.05, 'into': 0.1, 'cron': 1.0}
"""Seconds between two slots."""


def group_of(task_id: str) -> str:
    """Return the group that a task belongs to, or ''."""
    schedule, _, slot = task_id.partition('@')
    return str(SCHEDULES[schedule].get('group', '')) if slot else task_id.partition('/')[2]


class GroupJournal(Journal):
    """Judges transitions of tasks in groups and of schedules, too.

    Attributes:
        served: Deliveries of each group.
        slots: The times of the tasks that each schedule has added.
    """

    def __init__(self) -> None:
        super().__init__()
        self.served: Counter[str] = Counter()
        self.slots: dict[str, list[float]] = {name: [] for name in SCHEDULES}
        self._groups: dict[str, Journal] = {name: Journal() for name in GROUPS}
        for name, journal in self._groups.items():
            journal.violations, journal.figures = self.violations, self.figures
            if name in ORDERED:
                journal.mark('slots 1')
        self._status: dict[str, str] = {}
        self._gone: set[str] = set()
        self._lines: dict[str, list[str]] = {name: [] for name in GROUPS}
        self._turns: Counter[str] = Counter()
        self._deliveries: defaultdict[str, list[str]] = defaultdict(list)

    def mark(self, text: str) -> None:
        """Note what the driver did, ``in`` a group or in all."""
        what, *words = text.split(maxsplit=2)
        if what == 'in':
            self._groups[words[0]].mark(words[1])
        else:
            super().mark(text)

    def transition(self, task_id: str, status: str, moment: float) -> None:
        """Judge one."""
        super().transition(task_id, status, moment)
        if task_id in self._gone:
            self.violations.append(f'{task_id}: {status} after its end')
        elif task_id not in self._status and '@' in task_id:
            schedule, _, slot = task_id.partition('@')
            self.slots[schedule].append(float(slot))
        group = group_of(task_id)
        if group:
            self._judge(group, task_id, status)
            self._groups[group].transition(task_id, status, moment)
        self._status[task_id] = status
        if status not in (PENDING, WORKING, DELAYED):
            self._gone.add(task_id)

    def _judge(self, group: str, task_id: str, status: str) -> None:
        line = self._lines[group]
        if status == PENDING and task_id not in line:
            line.append(task_id)
        if status == WORKING:
            self.served[group] += 1
            self._deliveries[group].append(task_id)
            if group in ORDERED and task_id != line[0]:
                self.violations.append(f'{task_id}: delivered before {line[0]}')
            if group in WEIGHTS:
                self._take_turn(group)
        elif status not in (PENDING, DELAYED):
            line.remove(task_id)

    def _take_turn(self, group: str) -> None:
        """Compare what groups have had since each of them had waiting tasks."""
        if any(all(self._status.get(each) != PENDING for each in self._lines[name]) for name in WEIGHTS):
            self._turns.clear()
            return
        self._turns[group] += 1
        self.figures['turns compared'] += 1
        rounds = [self._turns[name] / weight for name, weight in WEIGHTS.items()]
        if max(rounds) - min(rounds) > ROUNDS + 0.001:
            self.violations.append(f'{group} had more than its share: {dict(self._turns)}')

    def check_fences(self, fences: Mapping[str, Sequence[int]]) -> None:
        """Compare the order of fences with that of deliveries. Consumers that were killed may not have told theirs."""
        total = Counter(itertools.chain.from_iterable(self._deliveries.values()))
        told = {each: iter(sorted(fences[each])) for each in total if len(fences.get(each, ())) == total[each]}
        for group, deliveries in self._deliveries.items():
            numbers = [next(told[each]) for each in deliveries if each in told]
            self.figures['fences compared'] += len(numbers)
            for before, after in itertools.pairwise(numbers):
                if before >= after:
                    self.violations.append(f'{group}: fence {after} was given after {before}')

    def check_slots(self, schedule: str, first: float, after: float) -> None:
        """Each time from ``first`` until ``after`` has added one task."""
        step = STEPS[schedule]
        expected = [first + number * step for number in range(round((after - first) / step))]
        self.figures['slots'] += len(expected)
        found = sorted(self.slots[schedule])
        if [round(each, 3) for each in found] != [round(each, 3) for each in expected]:
            self.violations.append(f'{schedule}: added {found}, the times are {expected}')


class GroupDriver(Driver):
    """Changes limits of groups and cancels, and kills workers meanwhile; at last no group may be stuck."""

    def __init__(self, journal: GroupJournal, stage: Stage, queue: Torrelque, marks: Client) -> None:
        super().__init__(stage, queue, marks)
        self._journal = journal

    @property
    def deeds(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What is done in turn."""
        return self._limit_one, self.cancel, self._limit_each, self.pause

    async def run(self, seconds: float) -> None:
        """Do all that."""
        await super().run(seconds)
        served = self._journal.served.copy()
        end = time.monotonic() + ENOUGH
        while stuck := [group for group in GROUPS if self._journal.served[group] == served[group]]:
            if time.monotonic() > end:
                self._journal.violations.append(f'stuck: {stuck}')
                return
            await anyio.sleep(0.02)

    async def _limit_one(self) -> None:
        await self._limit_groups(OWN, OWN)

    async def _limit_each(self) -> None:
        await self._limit_groups('*', *LIMITED)

    async def _limit_groups(self, name: str, *groups: str) -> None:
        for slots in self.rng.sample((1, 2, 4), 2):
            for group in groups:
                self.mark(f'in {group} lifting')
            await self.queue.limit(group=name, concurrency=slots)
            for group in groups:
                self.mark(f'in {group} slots {slots}')
            await self.live_on(0.1)


def groups_and_schedules(stage: Stage, seconds: float) -> None:
    """Groups that are ordered, limited and weighted, and schedules, while workers are killed."""
    journal = GroupJournal()
    with listening(stage.server, journal) as removed:
        first = anyio.run(_prepare, stage, journal)
        stage.groups = (*GROUPS, '')
        for _ in COMBINATIONS[::2]:  # the others take the place of those that are killed
            stage.serve()
        stage.until_all_work()
        anyio.run(drive, stage, seconds, partial(GroupDriver, journal))
        stage.nursery.kill_all()
        after = anyio.run(_end_schedules, stage)
        with Ledger(stage.ledgers, 'schedules') as ledger:
            for schedule, slots in journal.slots.items():
                for slot in slots:
                    ledger.write('enqueuing', task_id := f'{schedule}@{slot:.3f}'.rstrip('0').rstrip('.'))
                    ledger.write('enqueued', task_id)
        stage.settle(removed=removed)
    for schedule in SCHEDULES:
        journal.check_slots(schedule, first[schedule], after[schedule])
    journal.check_fences(Books.read(stage.ledgers).fences)
    stage.report.figures.update(journal.figures)
    stage.report.uncontrolled += journal.violations


async def _prepare(stage: Stage, journal: GroupJournal) -> dict[str, float]:
    """Set limits, schedules and backlogs. Returns when each schedule fires first."""
    async with connect(stage.server.url) as client, Torrelque(client, queue=QUEUE) as queue:
        await queue.limit(group='*', concurrency=2)
        await queue.limit(group=RATED, concurrency=1000, rate=(RATE, 1), burst=1)
        for group in ORDERED:
            await queue.limit(group=group, ordered=True)
        for group, weight in WEIGHTS.items():
            await queue.limit(group=group, concurrency=1000, weight=weight)
        stage.server.command('PUBLISH', f'{QUEUE}:marks', f'in {RATED} rate {RATE} 1 1 {time.monotonic()}')
        with Ledger(stage.ledgers, 'backlog') as ledger:
            for group in GROUPS:
                for number in range(BACKLOG.get(group, 20)):
                    ledger.write('enqueuing', task_id := f'b{number}/{group}')
                    await queue.enqueue(number, task_id=task_id, group=group, task_timeout=LEASE)
                    ledger.write('enqueued', task_id)
        for name, options in SCHEDULES.items():
            await queue.schedule(name, task=name, missed='all', task_timeout=LEASE, **options)  # type: ignore[arg-type]
        return await _times(queue)


async def _end_schedules(stage: Stage) -> dict[str, float]:
    """Remove the schedules, and the rate, so that what is left is worked off soon. Returns when each was to fire."""
    async with connect(stage.server.url) as client, Torrelque(client, queue=QUEUE) as queue:
        after = await _times(queue)
        for name in SCHEDULES:
            await queue.unschedule(name)
        stage.server.command('PUBLISH', f'{QUEUE}:marks', f'in {RATED} lifting')
        await queue.limit(group=RATED)
        return after


async def _times(queue: Torrelque) -> dict[str, float]:
    return {schedule.id: schedule.next or 0.0 async for schedule in queue.schedules()}
