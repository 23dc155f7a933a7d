"""Those who set the limits of groups, and what has to hold of groups: worked out apart from the scripts' model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation import shards
from tests.simulation.asking import ask, succeeded
from tests.simulation.clients import Behaviour, Client
from tests.simulation.pausing import change
from tests.simulation.rules import Args, Changes, Rules, items_of, require, tasks_of
from tests.simulation.server import ObservedShard, Terms, View, terms_of
from torrelque.core.groups import REGULATE, recheck
from torrelque.core.protocol import Call
from torrelque.core.sharding import layout as sharding

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = (
    'LEVELS', 'GroupRules', 'be_strict_for_a_while', 'lift_groups_at_last', 'limit_groups_for_a_while',
    'order_one_group', 'some_line',
)  # fmt: skip

ORDERED = b'ordered'
GROUPS = (b'a', b'b', ORDERED, b'z')
"""Of them one is ordered from the beginning, and stays so in most worlds."""

LEVELS = (b'high', b'', b'low')
WEIGHTS = {b'high': 16.0, b'': 4.0, b'low': 1.0}
RATES = (b'- - -', b'1 300000 1', b'3 2000000 3', b'2 50000 1', b'1 1000000 1', b'7 5000000 4')

UNGROUPED = b''

Passed = dict[bytes, Counter[bytes]]
"""Of lines that wait: how often each other line was served since."""


class GroupRules:
    """What one shard has to keep to."""

    def __init__(self, shard: ObservedShard, rules: Rules) -> None:
        self._shard = shard
        self._rules = rules
        self.tally: Counter[str] = Counter()
        self._terms: dict[bytes, Terms] = {}
        self._deliveries: dict[bytes, list[tuple[float, bytes]]] = {}
        self._numbers: dict[bytes, int] = {}  # of tasks that were in ordered groups all the time: their order
        self._last, self._before_all = 0, 0
        self._retried: dict[bytes, tuple[float, bool]] = {}  # tasks that wait: until when, and whether others do
        self._passing: set[bytes] = set()  # tasks that are requeued behind the others
        self._buried: set[bytes] = set()  # dead letters that hold their groups, if those are to be held
        self._fences: dict[bytes, int] = {}
        self._passed: Passed = {}
        self._passed_levels: Passed = {}
        self._uses = b''

    def forget(self) -> None:
        """The server has become what it was some time ago."""
        for known in (self._deliveries, self._numbers, self._retried, self._buried, self._passed, self._fences):
            known.clear()

    # Judging -------------------------------------------------------------------

    def check(self, name: str, args: Args, reply: Sequence[Any], changes: Changes, now: float) -> None:
        """A call was executed."""
        self._check_index()
        self._note_terms()
        taken = tasks_of(reply) if name == 'claim' and changes else {}
        mine = {task_id: self._group_of(task_id, changes) for task_id in taken}
        if taken:
            self._check_fairness(mine, changes)
            for task_id, group in mine.items():
                if group:
                    self._check_taken(task_id, group, changes, now)
                    self._check_fence(group, task_id, taken[task_id])
            for group in set(mine.values()) - {UNGROUPED}:
                self._check_limits(group, now)
        if name == 'requeue' and changes:
            self._note_retries(args, reply[1], changes, now)
        for task_id in changes if name == 'enqueue' else ():  # replaced, and at once
            self._retried.pop(task_id, None)
        for task_id in self._in_order(name, args, reply, changes):
            self._follow(task_id, *changes[task_id])
        self._note_lines(now)

    def _note_terms(self) -> None:
        """Limits may be others than before."""
        for group in GROUPS:
            terms = terms_of(self._shard.group_limits(), group)
            if terms != self._terms.get(group):
                self._terms[group] = terms
                self._deliveries.pop(group, None)
                self._passed.clear()

    def _group_of(self, task_id: bytes, changes: Changes) -> bytes:
        return (changes[task_id][1].state if task_id in changes else {}).get(b'group', UNGROUPED)

    def _group(self, task_id: bytes) -> bytes | None:
        return self._rules.shadow[task_id].state.get(b'group')

    def _check_index(self) -> None:
        """Each group with waiting tasks is in one of three places; the claimed ones of each are known."""
        shard = self._shard
        working = Counter[bytes]()
        listed: dict[bytes, set[bytes]] = {}
        for task_id in shard.working():
            group = shard.state(task_id).get(b'group')
            if group is not None:
                listed.setdefault(group, set()).add(task_id)
                working[group] += 1
        ready, blocked, held, idle = (shard.group_index(kind) for kind in ('', 'blocked', 'held', 'idle'))
        for group in {*shard.groups(), *listed, *ready, *blocked, *held}:
            places = [group in place for place in (ready, blocked, held)]
            waiting = shard.group_pending(group)
            require(sum(places) == bool(waiting), 'a group that is not in one place', group, places, waiting)
            claimed = listed.get(group, set())
            known = shard.group_working(group)
            require(known == claimed, 'claims of a group that are not its own', group, known, claimed)
            require(not (group in ready and group in idle), 'a group that is idle and ready', group)

    def _check_limits(self, group: bytes, now: float) -> None:
        terms, claimed = self._terms[group], len(self._shard.group_working(group))
        require(claimed <= terms.slots, 'claimed more of a group at once than is permitted', group, claimed, terms)
        if terms.interval == math.inf:
            return
        deliveries = self._deliveries[group]
        for place, (begin, _) in enumerate(deliveries):
            most, count = terms.burst + (now - begin) * 1e6 / terms.interval, len(deliveries) - place
            require(count <= most + 1e-3, 'claimed more of a group in a time than is permitted', group, begin, now)

    def _check_taken(self, task_id: bytes, group: bytes, changes: Changes, now: float) -> None:
        self.tally['grouped'] += 1
        self._deliveries.setdefault(group, []).append((now, task_id))
        terms = self._terms[group]
        waiting = self._shard.group_pending(group)
        for other in (task_id, *waiting):
            until, holds_all = self._retried.get(other, (0.0, False))
            over = until <= now + 1e-5 or not (holds_all or other == task_id)
            require(over, 'a group that was to wait does not', group, task_id, other)
        if terms.dead:
            dead = [each for each in self._buried if self._group(each) == group]
            require(not dead, 'passed a dead letter that holds its group', group, task_id, dead)
        if not terms.ordered:
            return
        number = self._numbers.get(task_id)
        for other in waiting if number is not None else ():
            before = self._numbers.get(other, math.inf) < (number or 0)
            require(not before, 'taken out of order', group, task_id, other)
            self.tally['ordered'] += 1

    def _check_fence(self, group: bytes, task_id: bytes, task: tuple[object, ...]) -> None:
        fence = int(self._shard.state(task_id)[b'fence'])
        require(fence > self._fences.get(group, 0), 'a fence that does not increase', group, fence)
        require(task[5:] == (group, fence), 'told of another group or fence', task, group, fence)
        self._fences[group] = fence

    def returned(self, task_id: bytes) -> None:
        """A delivery was none."""
        for deliveries in self._deliveries.values():
            for place in reversed(range(len(deliveries))):
                if deliveries[place][1] == task_id:
                    del deliveries[place]
                    return

    # Order ---------------------------------------------------------------------

    def _note_retries(self, args: Args, letters: bytes, changes: Changes, now: float) -> None:
        for letter, (task_id, _, _, delay, *_, hold) in zip(letters, items_of(args, 7), strict=True):
            if letter != ord('o'):
                continue
            if task_id in changes and hold == b'pass':
                self._numbers.pop(task_id, None)
                self._passing.add(task_id)
            if task_id not in changes or not delay:
                continue
            new = changes[task_id][1]
            group = new.state.get(b'group')
            alone = hold != b'pass' and self._terms[group].ordered if group else False
            if group and new.pending and (hold == b'group' or alone):
                self._retried[task_id] = min(now + float(delay), new.expiry or math.inf), hold == b'group'

    def _follow(self, task_id: bytes, old: View, new: View) -> None:
        """Keep account of which task comes when."""
        held = task_id in self._buried
        if not new.pending:
            self._retried.pop(task_id, None)
        if new.rejected is None:
            self._buried.discard(task_id)
        group = new.state.get(b'group')
        if not group or not (new.pending or new.working):
            self._numbers.pop(task_id, None)
        if not group or new.payload is None:
            return
        terms = self._terms[group]
        if new.rejected is not None and old.rejected is None and terms.dead:
            self._buried.add(task_id)
        if terms.ordered and len(self._shard.group_working(group)) <= 1:
            self._number(task_id, group, old, new, in_front=held)
        else:
            self._forget_order({*self._shard.group_pending(group), *self._shard.group_working(group), task_id})

    def _number(self, task_id: bytes, group: bytes, old: View, new: View, *, in_front: bool) -> None:
        """A task of an ordered group that joins it has its place from then on."""
        joins = old.working is None and (old.payload is None or old.delayed is not None or old.rejected is not None)
        moved = old.payload is not None and old.state.get(b'group') != group
        passes = task_id in self._passing
        self._passing.discard(task_id)
        if not (new.pending and (joins or moved or passes)):
            return
        if in_front:
            self._forget_order(self._shard.group_working(group))  # they may come back in front of it
            self._before_all -= 1
            self._numbers[task_id] = self._before_all
        else:
            self._last += 1
            self._numbers[task_id] = self._last

    def _forget_order(self, ids: Collection[bytes]) -> None:
        for task_id in ids:
            self._numbers.pop(task_id, None)

    def _in_order(self, name: str, args: Args, reply: Sequence[Any], changes: Changes) -> Sequence[bytes]:
        """The tasks that changed, in the order in which they join their lines."""
        done: list[bytes] = []
        if name == 'enqueue' and changes:
            items = zip(reply[1], items_of(args, 6, 4), strict=True)
            done = [item[0] for letter, item in items if letter in b'nr']
        elif name == 'redrive':
            done = list(args[3:])
        elif name == 'claim':  # schedules add theirs in an order of their own, before those that are due return
            new = {task_id for task_id, (old, _) in changes.items() if old.payload is None}
            done = [task_id for group in GROUPS for task_id in reversed(self._shard.group_pending(group))]
            done = [task_id for task_id in done if task_id in new]

        def key(task_id: bytes) -> tuple[float, float, bytes]:
            old, _ = changes[task_id]
            place = done.index(task_id) if task_id in done else 0
            if name == 'claim' and task_id in done:
                place -= len(done)
            return (-place if task_id in self._buried else place), old.delayed or 0.0, task_id

        return sorted(changes, key=key)

    # Fairness ------------------------------------------------------------------

    def _check_fairness(self, taken: Mapping[bytes, bytes], changes: Changes) -> None:
        """No line that waits is passed more often than its weight and the other's allow."""
        ended = [old for task_id, (old, _) in changes.items() if old.pending and task_id not in taken]
        for old in ended:  # had its turn, with a task that has expired or reached its limit
            self._passed.pop(old.state.get(b'group', UNGROUPED), None)
            self._passed_levels.pop(old.state.get(b'level', b''), None)
        for line in set(self._passed) - {UNGROUPED} - set(taken.values()):
            if line not in self._shard.group_index(''):  # it was held before any was taken
                del self._passed[line]
        _pass(self._passed, list(taken.values()), self._weight)
        levels = [self._shard.state(task_id).get(b'level', b'') for task_id, group in taken.items() if not group]
        if self._shard.is_strict:
            waiting = [level for level in LEVELS if self._shard.level_pending(level)]
            for level in levels:
                above = [each for each in waiting if LEVELS.index(each) < LEVELS.index(level)]
                require(not above, 'a task of a higher level waits', level, above)
            self._passed_levels.clear()
        _pass(self._passed_levels, levels, WEIGHTS.__getitem__)

    def _weight(self, line: bytes) -> float:
        return self._terms[line].weight if line else 1.0

    def _note_lines(self, now: float) -> None:
        """Which lines wait and could be served, after a call."""
        waiting = {group for group in self._shard.group_index('') if self._shard.may_go(group, now)}
        levels = [level for level in LEVELS if self._shard.level_pending(level)]
        if levels:
            waiting.add(UNGROUPED)
        self._passed = {line: self._passed.get(line, Counter()) for line in waiting}
        self._passed_levels = {level: self._passed_levels.get(level, Counter()) for level in levels}


def _pass(passed: Passed, served: Sequence[bytes], weight: Callable[[bytes], float]) -> None:
    for line, counts in passed.items():
        for other in served[: served.index(line)] if line in served else served:
            counts[other] += 1
        for other, count in counts.items():
            most = math.ceil(weight(other) / weight(line)) + 2
            require(count <= most, 'a line waits while another is served again and again', line, other, count)
    for line in set(served):
        passed.pop(line, None)


def some_line(client: Client) -> tuple[bytes, bytes]:
    """The group and the level of a task."""
    random, config = client.random, client.world.config
    if config.groups and random.random() < config.groups:
        return random.choice(GROUPS), b''
    return b'', random.choice(LEVELS) if config.levels and random.random() < config.levels else b''


def _set(client: Client, group: bytes, words: bytes) -> Any:  # noqa: ANN401 - a behaviour that returns whether it is done
    """Set the limits of a group, and place those again that the default concerns, unless this is cancelled."""
    world = client.world
    done = bool((yield from ask(client, REGULATE, [('limit', group, words)])))
    if done and world.config.shards:
        copying = sharding.copy_flow(world.scripts, shards.records_of(world), len(world.keys), group)
        copied = yield client.perform(copying)
        done = succeeded(client, copied)
    if done and group == b'*':
        ticket = yield client.perform(recheck(world.scripts, world.keys[0]))
        return succeeded(client, ticket)
    return done


NONE, IN_ORDER = b'- - - - - - -', b'- - - - - 1 -'


def _words(client: Client, group: bytes) -> bytes:
    random = client.random
    concurrency = random.choice((b'-', b'-', b'1', b'2', b'3', b'0'))
    weight = random.choice((b'-', b'-', b'1', b'3'))
    ordered = b'1' if group == ORDERED and random.random() < 0.9 else random.choice((b'-', b'-', b'0', b'1'))
    dead = random.choice((b'-', b'hold', b'hold', b'pass'))
    rate = random.choice(RATES)
    return b' '.join((concurrency, *([rate] if b'-' not in rate else [b'- - -']), weight, ordered, dead))


def limit_groups_for_a_while(client: Client) -> Behaviour:
    """Set limits of a group or of all, of which some are removed again."""
    random = client.random
    group = random.choice((*GROUPS, *[b'*'] * 4))
    if (yield from _set(client, group, _words(client, group))):
        client.world.ledger.tally['limits of groups'] += 1
    if random.random() < 0.5:
        yield random.choice((0.01, 1, 4)) * random.random()
        yield from _set(client, group, IN_ORDER if group == ORDERED else NONE)


def lift_groups_at_last(client: Client) -> Behaviour:
    """Calls of which nobody waits for the answer any more do nothing after that."""
    for group in (*GROUPS, b'*') if client.world.config.groups else ():
        while not (yield from _set(client, group, NONE)):
            yield 1.0


def order_one_group(world: World) -> None:
    """From the beginning."""
    script = world.scripts['regulate']
    for keys in world.keys if world.config.groups else ():
        reply = world.server.call(Call(script, keys.of(script), ('', '', '', 'copy', ORDERED, b'1 ' + IN_ORDER)))
        assert reply == 1


def be_strict_for_a_while(client: Client) -> Behaviour:
    """Serve the levels strictly in order."""
    yield from change(client, ('limit', b'- - - - strict'))
    yield 4 * client.random.random()
    yield from change(client, ('limit', b''))
