"""Clients of 0.9, as they behave while nothing goes wrong for them but their death: plain commands, one by one.

Their own defects are no concern of the simulation, so their connections are good
and they keep within their leases; but they may die at any point.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeVar

from tests.simulation.choices import Moment
from tests.simulation.server import KEYS
from torrelque.core.protocol import Call

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ('LegacyClient',)

T = TypeVar('T')
Steps = Generator['float | Moment', None, None]
PENDING, DEQUEUEING, UNDEQUEUED = KEYS['pending'], KEYS['dequeueing'], KEYS['undequeued']
WORKING, DELAYED, TASKS = KEYS['working'], KEYS['delayed'], KEYS['tasks']


class LegacyClient:
    """Produces, consumes and sweeps."""

    def __init__(self, world: World, nonce: str) -> None:
        self._world = world
        self.nonce = nonce
        self._random = world.random
        self.dead = False
        self._go_on(self._live())

    def kill(self) -> None:
        self._world.tell(f'kill {self.nonce}')
        self.dead = True

    def _go_on(self, steps: Steps) -> None:
        if self.dead:
            return
        delay = next(steps, None)
        if delay is not None:
            self._world.scheduler.after(delay, lambda: self._go_on(steps))

    def _live(self) -> Steps:
        yield self._random.random()
        while not self._world.ending and (yield from self._world.choices.turn(self.nonce)):
            yield from self._random.choice((self._produce, self._consume, self._consume, self._sweep))()
            yield self._random.random() * 2

    def _atomically(self, ids: set[bytes] | None, do: Callable[[], T]) -> T:
        """A transaction, or a script."""
        reply = do()
        self._world.rules.judge_legacy(ids)
        return reply

    def _produce(self) -> Steps:
        task_id = self._world.new_id().encode()
        delay = self._random.choice((None, None, self._random.uniform(0, 10)))
        call = self._world.command

        def enqueue() -> None:
            now = self._world.server_time()
            call(Call('HSET', (TASKS,), (task_id, b'old-' + task_id)))
            if delay is None:
                call(Call('LPUSH', (PENDING,), (task_id,)))
            else:
                call(Call('ZADD', (DELAYED,), (f'{now + delay:.6f}', task_id)))
            state = ('status', 2 if delay else 0, 'timeout', 20, 'enqueue_time', f'{now:.6f}')
            call(Call('HSET', (KEYS['task'] + b':' + task_id,), state))

        self._atomically({task_id}, enqueue)
        yield 0.001

    def _consume(self) -> Steps:
        # BRPOPLPUSH, looked at from outside: it comes to a task some time after the others do.
        moved = self._move()
        while moved is None and not self._world.ending and self._random.random() < 0.97:
            yield 0.02
            moved = self._move()
        if moved is None:
            return
        task_id = moved
        yield self._random.choice((0, 0.01, 0.5)) * self._random.random()
        lease = self._atomically({task_id}, lambda: self._claim(task_id))
        if lease is None:
            return
        incarnation = self._world.rules.incarnations.get(task_id)
        yield self._random.random() * 0.8 * lease
        if task_id not in self._world.server.working() or incarnation != self._world.rules.incarnations.get(task_id):
            return  # its claim was ended; it would not look, and leave something behind
        if self._random.random() < 0.7:
            self._atomically({task_id}, lambda: self._release(task_id))
        else:
            self._atomically({task_id}, lambda: self._requeue(task_id))

    def _move(self) -> bytes | None:
        pending = self._world.server.pending()
        front = {pending[-1]} if pending else set[bytes]()
        call = Call[bytes | None]('RPOPLPUSH', args=(PENDING, DEQUEUEING))
        moved: bytes | None = self._atomically(front, lambda: self._world.command(call))
        return moved

    def _claim(self, task_id: bytes) -> float | None:
        call, now, state = self._world.command, self._world.server_time(), KEYS['task'] + b':' + task_id
        if call(Call('LREM', args=(DEQUEUEING, 1, task_id))) == 0:
            return None
        timeout = float(call(Call('HGET', args=(state, 'timeout'))))
        call(Call('ZADD', args=(WORKING, f'{now + timeout:.6f}', task_id)))
        call(Call('HSET', args=(state, 'last_dequeue_time', f'{now:.6f}', 'status', 1)))
        call(Call('HINCRBY', args=(state, 'dequeue_count', 1)))
        return timeout

    def _release(self, task_id: bytes) -> None:
        call, state = self._world.command, KEYS['task'] + b':' + task_id
        call(Call('ZREM', args=(WORKING, task_id)))
        call(Call('HDEL', args=(TASKS, task_id)))
        if self._random.random() < 0.3:
            call(Call('HSET', args=(state, 'result', b'r', 'release_time', '1', 'status', 3)))
            call(Call('PEXPIRE', args=(state, 5000)))
        else:
            call(Call('DEL', args=(state,)))

    def _requeue(self, task_id: bytes) -> None:
        call, now, state = self._world.command, self._world.server_time(), KEYS['task'] + b':' + task_id
        call(Call('ZREM', args=(WORKING, task_id)))
        if self._random.random() < 0.5:
            call(Call('LPUSH', args=(PENDING, task_id)))
            call(Call('HSET', args=(state, 'last_requeue_time', f'{now:.6f}', 'status', 0)))
            call(Call('HINCRBY', args=(state, 'requeue_count', 1)))
        else:
            call(Call('ZADD', args=(DELAYED, f'{now + 2:.6f}', task_id)))
            call(Call('HSET', args=(state, 'status', 2)))

    def _sweep(self) -> Steps:
        self._atomically(None, self._sweep_now)
        yield 0.001

    def _sweep_now(self) -> None:
        call, now = self._world.command, self._world.server_time()
        for key in (WORKING, DELAYED):
            for task_id in call(Call('ZRANGEBYSCORE', args=(key, 0, f'{now:.6f}'))):
                state = KEYS['task'] + b':' + task_id
                call(Call('LPUSH', args=(PENDING, task_id)))
                call(Call('ZREM', args=(key, task_id)))
                call(Call('HSET', args=(state, 'last_requeue_time', f'{now:.6f}', 'status', 0)))
                call(Call('HINCRBY', args=(state, 'requeue_count', 1)))
        here = call(Call('LRANGE', args=(DEQUEUEING, 0, -1)))
        seen = [task_id for task_id in here if call(Call('SISMEMBER', args=(UNDEQUEUED, task_id)))]
        for task_id in seen:
            call(Call('LREM', args=(DEQUEUEING, 1, task_id)))
            call(Call('LPUSH', args=(PENDING, task_id)))
        call(Call('DEL', args=(UNDEQUEUED,)))
        for task_id in here:
            if task_id not in seen:
                call(Call('SADD', args=(UNDEQUEUED, task_id)))
