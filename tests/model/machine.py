"""What callers, their connections, 0.9's clients and strangers may do to a queue, in any order.

Each step goes to the server in memory and to a real one; after each the replies,
all keys with their expiries, and what was published must agree. And a script
that fails must have changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.model.real import EPOCH, RealServer, comparable
from tests.model.scheduling import ScheduleSteps
from tests.model.steps import Step, lane_numbers, odd_numbers, step, steps
from torrelque.core.commands import ADD, ENQUEUE, RELEASE
from torrelque.core.keys import LOGICAL_NAMES, Keys
from torrelque.core.protocol import Arg, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import MemoryServer
from torrelque.transports.memory.prelude import Limits

__all__ = (
    'KEYS', 'MENDED_AFTER', 'ModelMachine', 'Target', 'ids',
)  # fmt: skip

KEYS = Keys.of_queue('q')
IDS = (b'a', b'b', b'c', b'2:x:', b'\xff \n')
FAULTS: dict[str, tuple[tuple[str, ...], ...]] = {
    'ghost': (('HDEL', 'tasks', 'id'), ('LPUSH', 'pending', 'id')),
    'twice': (('LPUSH', 'pending', 'id'),),
    'lost': (('LREM', 'pending', '0', 'id'), ('ZREM', 'working', 'id')),
    'deadline': (('ZADD', 'working', 'inf', 'id'),),
    'expiring': (('HSET', 'tasks', 'id', '1'),),  # over a result that is kept
    'ignored': (('HSET', 'task', 'expires', '9e9', 'cancel_time', '1'), ('HDEL', 'counters', 'uses')),
    'result': (('HDEL', 'tasks', 'id'), ('HSET', 'task', 'result', '1')),
}
"""What an audit repairs of a task: commands that bring it about."""

MENDED_AFTER = 4
"""Calls that a broken collection lasts."""

ids = st.sampled_from(IDS)
some_ids = st.lists(ids, max_size=3)
willing = st.sampled_from(('0.000000', '0.004000', '5.000000', '60.000000'))
delays = st.sampled_from(('', '', '-5.000000', '0.000000', '0.250000', '3.000000', '9.999999', '86400.000000'))
timeouts = st.sampled_from(('300', '5', '0.25', '4.123456'))
limits = st.sampled_from(('', '', '1', '2'))
caps = st.sampled_from(('', '', 1, 2))
headers = st.sampled_from((b'', b'{"a": "b"}'))
modes = st.sampled_from(('', 'replace', 'replace', 'replace', 'only'))
expiries = st.sampled_from(
    ('', '', '+0.000000', '+0.250000', '+3.000000', '+60.000000', f'{EPOCH + 5:.6f}', '-1.000000')
)
on_expiry = st.sampled_from(('', '', 'reject'))
limits_of_queues = st.sampled_from(
    (b'', b'', b'1 - - -', b'2 - - -', b'- 1 250000 1', b'- 7 3000000 2', b'- 3 10000000 3', b'2 4 1000000 4', b'x')
)
payloads = st.sampled_from((b'1', b'', b'\x00\r\n'))
moments = st.sampled_from((-400.0, -0.5, 0.0, 0.25, 5.0, 400.0))


STATE_FIELDS = (
    'dequeue_count', 'dequeue_base', 'requeue_count', 'revision', 'timeout', 'max_dequeues', 'enqueue_time', 'expires',
    'expires', 'on_expiry',
)  # fmt: skip


class Target(NamedTuple):
    """Whose claim an item means: a receipt (the latest is 0), wrong in one way or another, or a bare id's."""

    receipt: int
    id: bytes
    flaw: str


targets = st.builds(
    Target, st.integers(0, 5), ids, st.sampled_from(('', '', '', '', 'bare', 'token', 'count', 'odd count'))
)


@dataclass
class Lane:
    number: bytes
    nonce: str
    sequence: int = 0


class _Heard(MemoryServer):
    """Notes what is published, on whatever channel."""

    def __init__(self, clock: Callable[[], float], heard: list[tuple[bytes, bytes]]) -> None:
        super().__init__(clock)
        self._heard = heard

    def _publish(self, channel: bytes, data: bytes) -> int:
        self._heard.append((channel, data))
        return 0


class ModelMachine(ScheduleSteps, RuleBasedStateMachine):
    """Subclasses say which server is the ``real`` one."""

    real: RealServer

    def __init__(self) -> None:
        super().__init__()
        self._real = self.real
        self._scripts = self.real.scripts
        self._now = EPOCH
        self._published: list[tuple[bytes, bytes]] = []
        self._memory = _Heard(lambda: self._now, self._published)
        self._lanes: list[Lane] = []
        self._minted = 0
        self._history: list[tuple[str, tuple[Arg, ...]]] = []
        self._receipts: list[tuple[bytes, bytes, bytes]] = []
        self._broken: dict[bytes, int] = {}
        self._epoch_lost = False
        self._newer = 0
        self._snapshot: dict[bytes, Any] = {}

    @initialize()
    def begin(self) -> None:
        self._real.reset()
        for _ in range(3):
            self.mint()

    @rule(step=st.deferred(steps))
    def do(self, step: Step) -> None:
        name, arguments = step
        getattr(self, name)(**arguments)

    # Both servers ------------------------------------------------------------

    def _both(self, call: Call[Reply]) -> Reply:
        """Send a call to both, compare, and return the reply."""
        before, self._published[:] = self._snapshot, []
        answered = self._memory.call(call)
        expected, keys, published = self._real.call(call)
        name = call.command.name if isinstance(call.command, Script) else call.command
        said = f'{name} {call.args} on {self._real.name}: {expected}'
        assert comparable(call, answered) == comparable(call, expected), said
        self._snapshot = self._memory.snapshot()
        assert self._snapshot == keys, said
        assert self._published == published, said
        failed = isinstance(expected, TorrelqueReplyError) and expected.code != 'LEASELOST'  # that may leave a hint
        if isinstance(call.command, Script) and failed:
            assert keys == before, f'it changed something: {said}'
        return expected

    def _verb(self, name: str, *args: Arg) -> Reply:
        script = self._scripts[name]
        reply = self._both(Call(script, KEYS.of(script), args))
        if self._newer:
            self._newer -= 1
            if not self._newer:
                self._command('HDEL', KEYS['counters'], 'uses')
        for key in list(self._broken):
            self._broken[key] -= 1
            if not self._broken[key]:
                del self._broken[key]
                self._command('DEL', key)
        return reply

    def _command(self, name: str, *words: Arg) -> Reply:
        return self._both(Call(name, words[:1], words[1:]))

    def _laned(self, name: str, place: int, *args: Arg, skip: int = 0) -> Reply:
        """A new call on a lane. Like a client it makes the lane anew if that is gone."""
        if place >= len(self._lanes):
            return self._verb(name, b'77', 'n', 1, *args)
        lane = self._lanes[place]
        lane.sequence += 1 + skip
        words = (lane.number, lane.nonce, lane.sequence, *args)
        self._history.append((name, words))
        reply = self._verb(name, *words)
        if reply == [b'NOLANE']:
            self.mint()
        self._learn(name, words, reply)
        return reply

    def _learn(self, name: str, words: Sequence[Arg], reply: Reply) -> None:
        if name == 'claim' and isinstance(reply, list) and len(reply) > 4:
            token = b':'.join(word if isinstance(word, bytes) else str(word).encode() for word in words[:3])
            counts = [more.partition(b' ')[0] or b'1' for more in reply[7::4]]
            self._receipts += [(task_id, token, count) for task_id, count in zip(reply[4::4], counts, strict=True)]

    def _claim_of(self, target: Target) -> tuple[Arg, ...]:
        if target.flaw == 'bare' or not self._receipts:
            return target.id, '', ''
        task_id, token, count = self._receipts[-1 - target.receipt % len(self._receipts)]
        flawed: dict[str, tuple[Arg, ...]] = {
            '': (task_id, token, count),
            'token': (task_id, b'1:n:1', count),
            'count': (task_id, token, int(count) + 1),
            'odd count': (task_id, token, f' {int(count)}.0'),
        }
        return flawed[target.flaw]

    # Time --------------------------------------------------------------------

    @step(5, seconds=st.sampled_from((0.000001, 0.003, 0.25, 1.0, 3.0, 5.000001, 10.0, 60.0, 300.0, 901.0, -0.5, -5.0)))
    def time_passes(self, seconds: float) -> None:
        self._now = round(self._now + seconds, 6)  # servers know the microseconds
        self._real.move_to(self._now, self._snapshot)
        self._snapshot = self._memory.snapshot()

    @step(6, later=st.sampled_from((-0.001, 0.0, 0.05)))
    def the_next_event_comes(self, later: float) -> None:
        events = [
            score
            for key in (KEYS['working'], KEYS['delayed'], KEYS['schedules'], KEYS['groups'] + b':held')
            for kind, content, _ in [self._snapshot.get(key, ('none', {}, None))]
            if kind == 'zset'
            for score in content.values()
            if score < EPOCH * 2
        ]
        counters = self._counters()
        end = counters.get(b'paused', b'')
        if end.startswith(b'4'):
            events.append(float(end))
        if b'l' in counters.get(b'uses', b''):
            limits = Limits(counters, KEYS['counters'], self._now)
            events += [time for time in (limits.allowed(0)[1],) if time is not None]
        if events:
            self.time_passes(max(0.0, min(events) - self._now) + later)

    # Callers -----------------------------------------------------------------

    @step(1)
    def mint(self) -> None:
        self._minted += 1
        nonce = f'n.{self._minted}'  # no two lanes share one, even if the server gives out a number again
        number = self._verb('mint', nonce)
        if isinstance(number, bytes):
            assert self._epoch_lost or all(lane.number != number for lane in self._lanes)
            self._lanes = [*self._lanes[-2:], Lane(number, nonce)]

    @step(1, lanes=st.lists(lane_numbers, min_size=1, max_size=2), flaw=st.sampled_from(('', '', 'x')))
    def drop(self, lanes: list[int], flaw: str) -> None:
        known = [self._lanes[lane] for lane in lanes if lane < len(self._lanes)] or [Lane(b'77', 'n')]
        self._verb('drop', *(word for lane in known for word in (lane.number, lane.nonce + flaw)))

    @step(
        10,
        lane=lane_numbers,
        items=st.lists(
            st.tuples(ids, payloads, timeouts, delays, limits, headers)
            | st.tuples(ids, payloads, timeouts, delays, limits, headers, modes, expiries, on_expiry),
            min_size=1,
            max_size=4,
        ),
        skip=st.sampled_from((0, 0, 0, 1)),
    )
    def enqueue(self, lane: int, items: list[tuple[Arg, ...]], skip: int) -> None:
        ids = [item[0] for item in items]
        known = any(KEYS.state_of(bytes(task_id)) in self._snapshot for task_id in ids)  # type: ignore[arg-type]
        queued = self._snapshot.get(KEYS['tasks'], ('none', {}, None))[1]
        are_new = not known and len({*ids}) == len(ids) and not any(task_id in queued for task_id in ids)
        self._laned('enqueue', lane, *(ADD if are_new else ENQUEUE).arguments(items), skip=skip)

    @step(14, lane=lane_numbers, n=st.integers(0, 5), willing=willing, cap=caps)
    def claim(self, lane: int, n: int, willing: str, cap: Arg) -> None:
        self._laned('claim', lane, n, willing, *([cap] if cap else []))

    @step(
        6,
        lane=lane_numbers,
        items=st.lists(
            st.tuples(
                targets,
                st.sampled_from(((3, '', b''), (4, '', b''), (3, 1000, b'"r"'), (4, 3600000, b''), (3, -1000, b''))),
            ),
            min_size=1,
            max_size=3,
        ),
    )
    def release(self, lane: int, items: list[tuple[Target, tuple[Arg, ...]]]) -> None:
        words = RELEASE.arguments([(*self._claim_of(target), *rest) for target, rest in items])
        self._laned('release', lane, *words)

    @step(
        6,
        lane=lane_numbers,
        items=st.lists(
            st.tuples(targets, delays, st.sampled_from(('', '', '7', '0.5')), st.sampled_from(('', '', '1'))),
            min_size=1,
            max_size=3,
        ),
    )
    def requeue(self, lane: int, items: list[tuple[Target, str, str, str]]) -> None:
        words = (word for target, *rest in items for word in (*self._claim_of(target), *rest, ''))
        self._laned('requeue', lane, *words)

    @step(3, lane=lane_numbers, items=st.lists(targets, min_size=1, max_size=3), cap=caps)
    def reject(self, lane: int, items: list[Target], cap: Arg) -> None:
        words = (word for target in items for word in (*self._claim_of(target), b'no \xc3\xa9', cap))
        self._laned('reject', lane, *words)

    @step(4, lane=lane_numbers, items=st.lists(targets, min_size=1, max_size=3))
    def giveback(self, lane: int, items: list[Target]) -> None:
        self._laned('giveback', lane, *(word for target in items for word in self._claim_of(target)))

    @step(3, items=st.lists(st.tuples(targets, st.sampled_from(('', '0.001000', '30.000000'))), min_size=1, max_size=3))
    def extend(self, items: list[tuple[Target, str]]) -> None:
        self._verb('extend', '', '', '', *(word for target, t in items for word in (*self._claim_of(target), t)))

    @step(
        3,
        lane=lane_numbers,
        items=st.lists(st.tuples(targets, st.sampled_from((b'1 - ', b'2 3 n\xc3\xa9'))), min_size=1, max_size=3),
    )
    def progress(self, lane: int, items: list[tuple[Target, bytes]]) -> None:
        self._laned('progress', lane, *(word for target, text in items for word in (*self._claim_of(target), text)))

    @step(4, lane=lane_numbers, task_id=ids, running=st.sampled_from(('', 'end', 'ask', 'ask')))
    def cancel(self, lane: int, task_id: bytes, running: str) -> None:
        self._laned('cancel', lane, task_id, running)

    @step(3, lane=lane_numbers, task_ids=st.lists(ids, min_size=1, max_size=3))
    def redrive(self, lane: int, task_ids: list[bytes]) -> None:
        self._laned('redrive', lane, *task_ids)

    @step(2, lane=lane_numbers, task_ids=st.lists(ids, min_size=1, max_size=3), age=st.sampled_from((None, 0.0, 2.0)))
    def purge(self, lane: int, task_ids: list[bytes], age: float | None) -> None:
        before = '' if age is None else f'{self._now - age:.6f}'
        self._laned('purge', lane, *(word for task_id in task_ids for word in (task_id, before)))

    @step(
        5,
        lane=lane_numbers,
        mode=st.sampled_from(('pause', 'pause', 'resume', 'limit', 'limit', 'limit')),
        end=st.sampled_from((None, None, 0.25, 3.0, 60.0, 0.0, -1.0)),
        reason=st.sampled_from((b'', b'', b'why \xc3\xa9')),
        limits=limits_of_queues,
    )
    def flow(self, lane: int, mode: str, end: float | None, reason: bytes, limits: bytes) -> None:
        words: dict[str, list[Arg]] = {
            'pause': ['inf' if end is None else f'{self._now + end:.6f}', reason],
            'limit': [limits],
            'resume': [],
        }
        self._laned('flow', lane, mode, *words[mode])

    @step(
        2,
        revision=st.sampled_from(('', '7', '4000000001000', '9000000000000', 'x')),
        pause=st.sampled_from((('', '', ''), ('inf', '4000000000.000000', 'why'), ('4000000005.500000', '', ''))),
        limits=limits_of_queues,
    )
    def flow_of_another_shard(self, revision: str, pause: tuple[str, ...], limits: bytes) -> None:
        self._verb('flow', '', '', '', 'copy', revision, *pause, limits)

    @step(1, value=odd_numbers, place=st.integers(0, 3))
    def limits_hold_anything(self, value: bytes, place: int) -> None:
        words = [b'2', b'1', b'250000', b'2']
        words[place] = value
        self._command('HSET', KEYS['counters'], 'limits', b' '.join(words))

    @step(
        1,
        field=st.sampled_from(('flow', 'paused', 'paused', 'paused_since', 'arrival', 'limited_since')),
        value=odd_numbers,
    )
    def a_pause_holds_anything(self, field: str, value: bytes) -> None:
        self._command('HSET', KEYS['counters'], field, value)

    def _counters(self) -> dict[bytes, bytes]:
        kind, content, _ = self._snapshot.get(KEYS['counters'], ('none', {}, None))
        return dict(content) if kind == 'hash' else {}

    @step(3, kind=st.sampled_from(('stale', 'due', 'expired')), cap=caps)
    def sweep(self, kind: str, cap: Arg) -> None:
        self._verb('sweep', kind, *([cap] if cap else []))

    @step(4, lane=lane_numbers, willing=willing, cap=caps)
    def tick(self, lane: int, willing: str, cap: Arg) -> None:
        number = self._lanes[lane].number if lane < len(self._lanes) else ''
        self._verb('tick', number, willing, *([cap] if cap else []))

    @step(1, seen=some_ids, marked=some_ids, forgotten=some_ids)
    def undequeue(self, seen: list[bytes], marked: list[bytes], forgotten: list[bytes]) -> None:
        self._verb('undequeue', len(seen), len(marked), *seen, *marked, *forgotten)

    @step(1, place=st.sampled_from(('tasks', 'working', 'delayed', 'rejected')))
    def look(self, place: str) -> None:
        self._verb('stats')
        self._verb('page', place, 0, 100)

    @step(2, mode=st.sampled_from(('deep', 'shallow')), task_ids=some_ids)
    def inspect(self, mode: str, task_ids: list[bytes]) -> None:
        self._verb('inspect', mode, *task_ids)

    @step(5, fault=st.sampled_from(tuple(FAULTS)), made=st.booleans(), task_id=ids)
    def repair(self, fault: str, made: bool, task_id: bytes) -> None:
        for name, place, *words in FAULTS[fault] if made else ():
            key = _state(task_id) if place == 'task' else KEYS[place]
            self._command(name, key, *(task_id if word == 'id' else word for word in words))
        self._verb('repair', fault, task_id, 3_600_000)

    @step(1, lane=lane_numbers)
    def mend_a_lane(self, lane: int) -> None:
        self._verb('repair', 'lane', self._lanes[lane].number if lane < len(self._lanes) else '77', 3_600_000)

    @step(
        2,
        worker=st.sampled_from((b'v', b'w', b'', b'\xff')),
        age=st.sampled_from((None, None, '0.000000', '7.250000')),
        lifetime=st.sampled_from((1000, 30_000)),
    )
    def announce(self, worker: bytes, age: str | None, lifetime: int) -> None:
        said: tuple[Arg, ...] = () if age is None else (age, b'{"a": 1} ')
        self._verb('announce', lifetime, worker, *said)

    @step(1, worker=st.sampled_from((b'v', b'w')), text=st.one_of(odd_numbers, st.sampled_from((b'1 2 {}', b'  4e9'))))
    def an_announcement_is_anything(self, worker: bytes, text: bytes) -> None:
        self._command('HSET', KEYS['workers'], worker, text)
        self._verb('workers', 0, 100)

    @step(
        1,
        fault=st.sampled_from(('timer', 'workers', 'key', 'leftover', 'flow')),
        name=st.sampled_from(('wake', 'undequeued', 'tasks')),
    )
    def mend_a_key(self, fault: str, name: str) -> None:
        self._verb('repair', fault, name, 3_600_000)

    @step(1, lane=lane_numbers, force=st.sampled_from((0, 1)))
    def erase(self, lane: int, force: int) -> None:
        self._laned('erase', lane, force)

    @step(1, task_ids=some_ids, others=st.booleans())
    def wipe_states(self, task_ids: list[bytes], others: bool) -> None:
        counters = _state(b'2') + b':counters'  # of a queue whose name begins as the states do
        if others:
            self._command('SET', counters, '1')
        self._verb('wipe', 'states', *task_ids)
        self._command('DEL', counters)

    @step(1, lane=lane_numbers)
    def wipe_the_rest(self, lane: int) -> None:
        self._verb('wipe', 'lanes', self._lanes[lane].number if lane < len(self._lanes) else '77')
        if self._verb('wipe', 'rest') == 0:
            self._epoch_lost = True

    @step(1, task_id=ids, score=st.sampled_from(('inf', '-inf')))
    def a_deadline_never_comes(self, task_id: bytes, score: str) -> None:
        self._command('ZADD', KEYS['working'], score, task_id)

    @step(
        1,
        mode=st.sampled_from(('', 'raise')),
        whose=targets,
        item=st.tuples(ids, payloads, timeouts, delays),
        more=st.sampled_from(((), ('replace', '', ''), ('replace', '+3.000000', 'reject'))),
    )
    def pipeline_of_the_users_own(self, mode: str, whose: Target, item: tuple[Arg, ...], more: tuple[str, ...]) -> None:
        claim = self._claim_of(whose)
        self._verb('enqueue', '', mode, '', *ENQUEUE.arguments([(*item, '', b'', *more)]))
        self._verb('requeue', '', mode, '', *claim, '', '', '', '')
        self._verb('release', '', mode, '', *RELEASE.arguments([(*claim, 3, '', b'')]))

    # Connections -------------------------------------------------------------

    @step(7, back=st.integers(0, 6))
    def an_earlier_call_arrives_again(self, back: int) -> Reply:
        if not self._history:
            return None
        name, words = self._history[-1 - back % len(self._history)]
        reply = self._verb(name, *words)
        self._learn(name, words, reply)
        return reply

    @step(
        6, lane=lane_numbers, ahead=st.sampled_from((-1, 0, 0, 0, 1)), later=st.sampled_from(('', 'claim', 'enqueue'))
    )
    def a_call_is_settled(self, lane: int, ahead: int, later: str) -> None:
        """With ``later`` the call that was settled arrives afterwards."""
        chosen = self._lanes[lane] if lane < len(self._lanes) else Lane(b'77', 'n')
        self._verb('settle', chosen.number, chosen.nonce, chosen.sequence + ahead)
        if ahead > 0:
            chosen.sequence += ahead
            if later == 'claim':
                self._verb('claim', chosen.number, chosen.nonce, chosen.sequence, 2, '5.000000')
            elif later == 'enqueue':
                args = ENQUEUE.arguments([(b'a', b'1', '5', '', '', '')])
                self._verb('enqueue', chosen.number, chosen.nonce, chosen.sequence, *args)

    # 0.9's clients -----------------------------------------------------------

    @step(2, finish=st.booleans())
    def claim_as_in_09(self, finish: bool) -> None:
        task_id = self._command('RPOPLPUSH', KEYS['pending'], KEYS['dequeueing'])
        if finish and isinstance(task_id, bytes):
            self._finish_claim_as_in_09(task_id)

    @step(1, task_id=ids)
    def finish_claim_as_in_09(self, task_id: bytes) -> None:
        self._finish_claim_as_in_09(task_id)

    def _finish_claim_as_in_09(self, task_id: bytes) -> None:
        if self._command('LREM', KEYS['dequeueing'], 1, task_id) == 1:
            state = _state(task_id)
            self._command('ZADD', KEYS['working'], f'{self._now + 5:.6f}', task_id)
            self._command('HSET', state, 'last_dequeue_time', f'{self._now:.6f}', 'status', 1)
            self._command('HINCRBY', state, 'dequeue_count', 1)

    @step(1, task_id=ids)
    def release_as_in_09(self, task_id: bytes) -> None:
        self._command('ZREM', KEYS['working'], task_id)
        self._command('HDEL', KEYS['tasks'], task_id)
        self._command('DEL', _state(task_id))

    @step(2, task_id=ids, place=st.sampled_from(('working', 'delayed')))
    def sweep_as_in_09(self, task_id: bytes, place: str) -> None:
        if self._command('ZREM', KEYS[place], task_id) == 1:
            state = _state(task_id)
            self._command('LPUSH', KEYS['pending'], task_id)
            self._command('HSET', state, 'last_requeue_time', f'{self._now:.6f}', 'status', 0)
            self._command('HINCRBY', state, 'requeue_count', 1)

    # Anybody -----------------------------------------------------------------

    @step(1)
    def a_hint_is_taken(self) -> None:
        self._command('ZPOPMIN', KEYS['wake'])

    @step(1, task_id=ids, place=st.sampled_from(('pending', 'working', 'delayed', 'rejected')), moment=moments)
    def an_id_is_listed_anywhere(self, task_id: bytes, place: str, moment: float) -> None:
        if place == 'pending':
            self._command('LPUSH', KEYS[place], task_id)
        else:
            self._command('ZADD', KEYS[place], f'{self._now + moment:.6f}', task_id)

    @step(
        1,
        task_id=ids,
        field=st.sampled_from(STATE_FIELDS),
        value=odd_numbers,
    )
    def a_state_holds_anything(self, task_id: bytes, field: str, value: bytes) -> None:
        self._command('HSET', _state(task_id), field, value)

    @step(1, task_id=ids)
    def a_state_is_no_hash(self, task_id: bytes) -> None:
        self._command('SET', _state(task_id), 'a string')

    @step(1, seconds=st.sampled_from((604_700.0, 604_801.0)))
    def a_week_passes(self, seconds: float) -> None:
        self.time_passes(seconds)

    @step(1, task_id=ids)
    def a_state_is_gone(self, task_id: bytes) -> None:
        self._command('DEL', _state(task_id))

    @step(1, task_id=ids)
    def a_payload_is_gone(self, task_id: bytes) -> None:
        self._command('HDEL', KEYS['tasks'], task_id)

    @step(1, letters=st.sampled_from((b'z', b'ez', b'', b'e ', b' ', b'p', b'pz', b's')))
    def a_later_version_is_used(self, letters: bytes) -> None:
        """For some calls; then nobody uses it any more."""
        self._command('HSET', KEYS['counters'], 'uses', letters)
        self._newer = MENDED_AFTER

    @step(1, counter=st.sampled_from(('claimed', 'enqueued')), value=odd_numbers)
    def a_counter_holds_anything(self, counter: str, value: bytes) -> None:
        self._command('HSET', KEYS['counters'], counter, value)

    @step(1, mark=st.sampled_from((('shards', '3'), ('shards', '5 3'), ('intended', '7 4'), ('intended', ''), None)))
    def it_has_shards(self, mark: tuple[str, str] | None) -> None:
        """Or a queue that has none by all that is recorded."""
        if mark is None:
            self._command('HDEL', KEYS['counters'], 'shards', 'intended', 'enqueued', 'claimed')
        else:
            self._command('HSET', KEYS['counters'], *mark)

    @step(
        1,
        name=st.sampled_from(('timer', 'epoch', 'lane')),
        value=st.sampled_from(
            (b'', b'text', b'0', b'7|', b'|4000000000', b'7|4000000000', b'1|x|2', b'1 n open', b'9 n open ')
        ),
    )
    def a_string_holds_anything(self, name: str, value: bytes) -> None:
        self._epoch_lost = self._epoch_lost or name == 'epoch'
        value = value.replace(b' n ', b' %b ' % self._lanes[0].nonce.encode())
        self._command('SET', KEYS[name] if name != 'lane' else self._lane_key(), value)

    @step(1, name=st.sampled_from([name for name in LOGICAL_NAMES if name != 'task']))
    def a_key_is_of_a_wrong_type(self, name: str) -> None:
        """For some calls; then it is removed."""
        if self._broken:
            return
        key = KEYS[name] if name != 'lane' else self._lane_key()
        self._epoch_lost = self._epoch_lost or name == 'epoch'
        self._command('DEL', key)
        if name in ('timer', 'epoch', 'lane', 'pending', 'dequeueing'):
            self._command('SADD', key, b'a')
        else:
            self._command('LPUSH', key, b'a')
        self._broken[key] = MENDED_AFTER

    def _lane_key(self) -> bytes:
        return KEYS['lane'] + b':' + self._lanes[0].number


def _state(task_id: bytes) -> bytes:
    return KEYS['task'] + b':' + task_id
