"""A model of 0.9: its producers, consumers and sweeps, as plain commands on the client's clock."""

from __future__ import annotations

import json
import time
import uuid

from tests.servers import Client
from torrelque.core.protocol import Arg

PENDING, WORKING, DELAYED, COMPLETED = range(4)


class Legacy:
    """One 0.9 client of a queue. Each step is one transaction, where 0.9 had a script or a MULTI."""

    def __init__(self, client: Client, queue: str) -> None:
        self._client = client
        self._queue = queue

    def enqueue(self, data: object, *, timeout: float = 300, delay: float | None = None) -> str:
        task_id = uuid.uuid4().hex
        steps: list[tuple[Arg, ...]] = [('HSET', self._key('tasks'), task_id, json.dumps(data))]
        state: dict[str, Arg] = {'enqueue_time': str(time.time()), 'timeout': str(timeout)}
        if delay is None:
            state['status'] = PENDING
            steps.append(('LPUSH', self._key('pending'), task_id))
        else:
            state['status'] = DELAYED
            steps.append(('ZADD', self._key('delayed'), str(time.time() + delay), task_id))
        self._transaction(*steps, self._set(task_id, state))
        return task_id

    def take(self) -> str | None:
        """The first half of a dequeue."""
        moved = self._client.command('RPOPLPUSH', self._key('pending'), self._key('dequeueing'))
        return None if moved is None else str(moved.decode())

    def claim(self, task_id: str) -> object:
        """The second half. None if the task has been done meanwhile."""
        timeout = float(self._client.command('HGET', self._state(task_id), 'timeout') or 300)
        now = time.time()
        self._transaction(
            ('LREM', self._key('dequeueing'), 1, task_id),
            ('ZADD', self._key('working'), str(now + timeout), task_id),
            self._set(task_id, {'status': WORKING, 'last_dequeue_time': str(now)}),
            ('HINCRBY', self._state(task_id), 'dequeue_count', 1),
        )
        data = self._client.command('HGET', self._key('tasks'), task_id)
        return None if data is None else json.loads(data)

    def dequeue(self) -> tuple[str, object] | None:
        task_id = self.take()
        return None if task_id is None else (task_id, self.claim(task_id))

    def requeue(self, task_id: str, delay: float | None = None) -> None:
        remove = ('ZREM', self._key('working'), task_id)
        if delay is not None:
            self._transaction(
                remove,
                ('ZADD', self._key('delayed'), str(time.time() + delay), task_id),
                self._set(task_id, {'status': DELAYED}),
            )
        else:
            self._transaction(remove, ('LPUSH', self._key('pending'), task_id), *self._requeued(task_id))

    def release(self, task_id: str, result: object = None) -> None:
        steps: list[tuple[Arg, ...]] = [
            ('ZREM', self._key('working'), task_id),
            ('HDEL', self._key('tasks'), task_id),
        ]
        if result is None:
            steps.append(('DEL', self._state(task_id)))
        else:
            state: dict[str, Arg] = {
                'status': COMPLETED,
                'result': json.dumps(result),
                'release_time': str(time.time()),
            }
            steps += [self._set(task_id, state), ('EXPIRE', self._state(task_id), 3600)]
        self._transaction(*steps)

    def sweep(self) -> tuple[int, int, int]:
        counts = [self._return('working'), self._return('delayed')]
        there = self._client.command('LRANGE', self._key('dequeueing'), 0, -1)
        seen = self._client.command('SMEMBERS', self._key('undequeued'))
        abandoned = [task_id.decode() for task_id in there if task_id in seen]
        for task_id in abandoned:
            self._transaction(('LREM', self._key('dequeueing'), 1, task_id), ('LPUSH', self._key('pending'), task_id))
        self._client.command('DEL', self._key('undequeued'))
        fresh = [task_id for task_id in there if task_id.decode() not in abandoned]
        if fresh:
            self._client.command('SADD', self._key('undequeued'), *fresh)
        return counts[0], counts[1], len(abandoned)

    def _return(self, place: str) -> int:
        ids = self._client.command('ZRANGEBYSCORE', self._key(place), 0, str(time.time()))
        for encoded in ids:
            task_id = encoded.decode()
            self._transaction(
                ('ZREM', self._key(place), task_id),
                ('LPUSH', self._key('pending'), task_id),
                *self._requeued(task_id),
            )
        return len(ids)

    def _requeued(self, task_id: str) -> list[tuple[Arg, ...]]:
        return [
            self._set(task_id, {'status': PENDING, 'last_requeue_time': str(time.time())}),
            ('HINCRBY', self._state(task_id), 'requeue_count', 1),
        ]

    def _set(self, task_id: str, fields: dict[str, Arg]) -> tuple[Arg, ...]:
        return 'HSET', self._state(task_id), *(word for field in fields.items() for word in field)

    def _transaction(self, *steps: tuple[Arg, ...]) -> None:
        self._client.command('MULTI')
        for step in steps:
            self._client.command(*step)
        self._client.command('EXEC')

    def _key(self, name: str) -> str:
        return f'{self._queue}:{name}'

    def _state(self, task_id: str) -> str:
        return f'{self._queue}:task:{task_id}'
