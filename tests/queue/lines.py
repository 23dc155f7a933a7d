"""A queue as its scripts see it, on a real server with the test's own clock: for groups and priorities."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.servers import Client
from torrelque.core import flow, groups
from torrelque.core.claiming import Claim, claim
from torrelque.core.codec import JSON
from torrelque.core.commands import (
    CANCEL,
    ENQUEUE,
    GIVEBACK,
    PURGE,
    REDRIVE,
    REJECT,
    RELEASE,
    REQUEUE,
    ClaimedTask,
    Command,
    Item,
    Priority,
    cancel_item,
    claim_item,
    enqueue_words,
    expiry_words,
    line_words,
    new_item,
    purge_item,
    redrive_item,
    reject_item,
    release_item,
    requeue_item,
)
from torrelque.core.keys import Keys
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.core.operations import sweep
from torrelque.core.protocol import Call, Operation, Script, blocking_drive
from torrelque.core.scripts import load

CLOCK = """
local function clock()
  return tonumber(redis.call('GET', 'clock-of-lines'))
end
local function expire(key, milliseconds)
  redis.call('PEXPIRE', key, milliseconds)
end
local function put(key, value, milliseconds)
  redis.call('SET', key, value, 'PX', milliseconds)
end
"""

_numbers = itertools.count()
COMPLETED = TorrelqueTaskStatus.COMPLETED


class LinesQueue:
    """Runs scripts one by one, and checks the indexes of groups after each."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = f'lines-{next(_numbers)}'
        self.keys = Keys.of_queue(self.name)
        self.scripts = load(CLOCK)
        self.lanes = Lanes(self.scripts, self.keys, 'n')
        self.lane = Lane()
        self.last: Claim | None = None
        self.now = 1_700_000_000.0
        self.at(0)

    def at(self, later: float) -> None:
        """Let time pass."""
        self.now += later
        self.client.command('SET', 'clock-of-lines', f'{self.now:.6f}')

    def run(self, operation: Operation[Any]) -> Any:  # noqa: ANN401
        result = blocking_drive(operation, self.client.execute)
        self.check()
        return result

    def do(self, verb: Command, *items: Item) -> str:
        """Run a verb on items, and return their letters."""
        answers = self.run(self.lanes.call(verb.name, verb.arguments(items), verb.parse))
        return ''.join(chr(answer.value) for answer in answers)

    def enqueue(self, *ids: str, timeout: float = 300, delay: float | None = None, most: int | None = None,
                expires: float | None = None, replace: bool = False, group: str | None = None,
                level: Priority | None = None) -> str:  # fmt: skip
        words = enqueue_words(300, None, timeout, delay, most)
        expiry = expiry_words(expires, None, None, delay)
        return self.do(
            ENQUEUE,
            *(
                new_item(JSON, str, each, words, each, replace=replace, expiry=expiry, line=line_words(group, level))
                for each in ids
            ),
        )

    def claim(self, count: int = 1) -> list[ClaimedTask]:
        last: Claim = self.run(claim(self.lanes, count, 0.0, self.lane, 0.0))
        self.last = last
        return last.tasks

    def take(self, count: int = 1) -> str:
        """Claim, and return the ids joined by blanks."""
        return ' '.join(task.receipt.id for task in self.claim(count))

    def take_all(self, count: int = 1) -> str:
        """Claim and release until there is nothing more."""
        taken = []
        while tasks := self.claim(count):
            taken += [task.receipt.id for task in tasks]
            self.release(*(task.receipt.id for task in tasks))
        return ' '.join(taken)

    def release(self, *ids: str) -> str:
        return self.do(RELEASE, *(release_item(each, COMPLETED, None, None) for each in ids))

    def requeue(self, *ids: str, delay: float | None = None, hold: str = '') -> str:
        return self.do(REQUEUE, *((*requeue_item(each, delay, None)[:-1], hold) for each in ids))

    def giveback(self, *ids: str) -> str:
        return self.do(GIVEBACK, *(claim_item(each) for each in ids))

    def reject(self, *ids: str, cap: int | None = None) -> str:
        return self.do(REJECT, *(reject_item(each, 'why', cap) for each in ids))

    def redrive(self, *ids: str) -> str:
        return self.do(REDRIVE, *(redrive_item(each, 0.0) for each in ids))

    def purge(self, *ids: str) -> str:
        return self.do(PURGE, *(purge_item(each, 9e9) for each in ids))

    def cancel(self, task_id: str) -> str:
        return self.do(CANCEL, cancel_item(task_id))

    def limit(self, group: str = '', *, concurrency: int | None = None, rate: Any = None, burst: int | None = None,  # noqa: ANN401
              strict: bool = False, weight: int | None = None, ordered: bool | None = None, dead: str | None = None
              ) -> None:  # fmt: skip
        if group:
            item = groups.limits_item(group, concurrency, rate, burst, weight, ordered, dead)
            assert self.do(groups.REGULATE, item) == 'o'
            if group == '*':
                self.run(groups.recheck(self.scripts, self.keys))
        else:
            assert self.do(flow.FLOW, flow.limits_item(concurrency, rate, burst, strict)) == 'o'

    def tick(self) -> None:
        script = self.scripts['tick']
        self.run(iter(Call(script, self.keys.of(script), ('0', '0'))))

    def sweep(self) -> None:
        self.run(sweep(self.scripts, self.keys))

    def call(self, name: str, *args: Any) -> Any:  # noqa: ANN401
        script: Script = self.scripts[name]
        return self.run(iter(Call(script, self.keys.of(script), args)))

    def key(self, name: str) -> str:
        return f'{self.name}:{name}'

    def index(self, name: str) -> dict[str, float]:
        """One of groups, blocked, held, idle."""
        reply = self.client.command('ZRANGE', self.key('groups' if name == 'groups' else f'groups:{name}'), 0, -1,
                                    'WITHSCORES')  # fmt: skip
        return {member.decode(): float(score) for member, score in zip(*[iter(reply)] * 2, strict=True)}

    def take_hint(self) -> bool:
        """Whether there is a hint; forgets it."""
        return bool(self.client.command('DEL', self.key('wake')))

    def check(self) -> None:
        """Each group with waiting tasks is in one index, and each set of claimed ids is what the states say."""
        keys = [key.decode() for key in self.client.command('KEYS', self.key('groups:*'))]
        waiting = {key.removeprefix(self.key('groups:pending:')) for key in keys if ':groups:pending:' in key
                   and self.client.command('TYPE', key) == b'list'}  # fmt: skip
        indexed = Counter(name for index in ('groups', 'blocked', 'held') for name in self.index(index))
        assert indexed == Counter(waiting)
        claimed = Counter[tuple[str, str]]()
        for task_id in self._members('ZRANGE', 'working', 0, -1):
            group = self.client.command('HGET', self.key(f'task:{task_id}'), 'group')
            if group:
                claimed[group.decode(), task_id] += 1
        recorded = Counter[tuple[str, str]]()
        for key in keys:
            if ':groups:working:' in key and self.client.command('TYPE', key) == b'set':
                group = key.removeprefix(self.key('groups:working:'))
                recorded.update((group, each) for each in self._members('SMEMBERS', f'groups:working:{group}'))
        assert recorded == claimed

    def _members(self, command: str, name: str, *more: Any) -> Iterable[str]:  # noqa: ANN401
        return [each.decode() for each in self.client.command(command, self.key(name), *more)]
