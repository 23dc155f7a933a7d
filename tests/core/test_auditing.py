"""The audit's looks: bounded, and only what the last one confirms counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.core.support import KEYS, SCRIPTS, name_of
from torrelque.core.auditing import DEEP, Violation, audit
from torrelque.core.operations import PAGE
from torrelque.core.protocol import Arg, Batch, Call, Reply, blocking_drive
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory import MemoryServer


class Watched:
    """A server in memory that remembers calls, and does something of its own before some of them."""

    def __init__(self) -> None:
        self.server = MemoryServer(lambda: 1000.0)
        self.calls: list[Call[Reply]] = []
        self.before: Callable[[Call[Reply]], object] = lambda _: None

    def command(self, name: str, *words: Arg) -> Reply:
        return self.server.call(Call(name, words[:1], words[1:]))

    def add(self, task_id: str, *, listed: bool = True) -> None:
        self.command('HSET', KEYS['tasks'], task_id, 'payload')
        self.command('HSET', KEYS.state(task_id), 'status', '0')
        if listed:
            self.command('LPUSH', KEYS['pending'], task_id)

    def execute(self, batch: Batch) -> Sequence[Reply]:
        self.calls += batch
        replies = []
        for call in batch:
            self.before(call)
            replies.append(self.server.call(call))
        return replies

    def audit(self, *, repair: bool = False) -> list[Violation]:
        return blocking_drive(audit(SCRIPTS, KEYS, 60.0, repair=repair), self.execute)

    def made(self, name: str) -> list[tuple[Arg, ...]]:
        return [call.args for call in self.calls if name_of(call) == name]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_no_call_is_about_more_than_a_page(watched: Watched) -> None:
    for number in range(2 * PAGE + 3):
        watched.add(str(number))
    assert watched.audit() == []
    sizes = [len(args) - 1 for args in watched.made('inspect')]
    assert max(sizes) == PAGE
    assert sum(sizes) == 2 * PAGE + 3
    assert {args[0] for args in watched.made('inspect')} == {'shallow'}, 'nobody was looked for in the lists'
    assert [args for args in watched.made('LRANGE') if args[0] != -PAGE] == [
        (-2 * PAGE, -PAGE - 1),
        (-3 * PAGE, -2 * PAGE - 1),
    ]


def test_few_are_looked_for_in_the_lists_at_once(watched: Watched) -> None:
    for number in range(2 * DEEP + 1):
        watched.add(str(number), listed=False)
    assert {found.kind for found in watched.audit()} == {'lost'}
    deep = [len(args) - 1 for args in watched.made('inspect') if args[0] == 'deep']
    assert deep == [DEEP, DEEP, 1]


@pytest.mark.parametrize('look', [1, 2, 3])
def test_what_moves_between_two_looks_is_not_wrong(watched: Watched, look: int) -> None:
    """A task in no collection gets into pending just before a look; only the last one is of one moment."""
    watched.add('a', listed=False)
    looks = 0

    def move(call: Call[Reply]) -> None:
        nonlocal looks
        if name_of(call) == 'inspect' and call.args[1:] == (b'a',):
            looks += 1
            if looks == look:
                watched.command('LPUSH', KEYS['pending'], 'a')

    watched.before = move
    assert watched.audit(repair=True) == []
    assert looks >= look
    assert watched.made('repair') == []


def test_what_is_mended_by_itself_is_not_said_to_be_repaired(watched: Watched) -> None:
    watched.add('a', listed=False)

    def move(call: Call[Reply]) -> None:
        if name_of(call) == 'repair':
            watched.command('LPUSH', KEYS['pending'], 'a')

    watched.before = move
    assert [(found.kind, found.repaired) for found in watched.audit(repair=True)] == [('lost', False)]
    assert watched.command('LRANGE', KEYS['pending'], 0, -1) == [b'a']


def test_a_hint_that_is_taken_down_between_two_looks_is_not_wrong(watched: Watched) -> None:
    watched.command('ZADD', KEYS['wake'], '0', '0')
    looks = 0

    def take(call: Call[Reply]) -> None:
        nonlocal looks
        looks += name_of(call) == 'inspect'
        if looks == 2:
            watched.command('DEL', KEYS['wake'])

    watched.before = take
    assert watched.audit(repair=True) == []


def test_several_faults_of_one_task_are_told(watched: Watched) -> None:
    watched.add('a')
    watched.command('LPUSH', KEYS['pending'], 'a')
    watched.command('PEXPIRE', KEYS.state('a'), 1000)
    watched.command('ZADD', KEYS['working'], 'inf', 'a')
    assert [(found.kind, found.repaired) for found in watched.audit(repair=True)] == [
        ('twice', True),
        ('expiring', True),
        ('deadline', True),
    ]


def test_an_error_is_raised_before_anything_else_is_sent() -> None:
    operation = audit(SCRIPTS, KEYS, 60.0, repair=False)
    batch = next(operation)
    with pytest.raises(TorrelqueReplyError, match='NOPERM'):
        operation.send([TorrelqueReplyError('NOPERM no')] * len(batch))


def test_a_group_that_is_placed_meanwhile_is_not_said_to_be_repaired(watched: Watched) -> None:
    watched.command('HSET', KEYS['counters'], 'uses', 'g')
    watched.add('a', listed=False)
    watched.command('HSET', KEYS.state('a'), 'group', 'g')
    watched.command('LPUSH', KEYS.of_groups('pending') + b':g', 'a')

    def place(call: Call[Reply]) -> None:
        if name_of(call) == 'repair':
            watched.command('ZADD', KEYS['groups'], '0', 'g')

    watched.before = place
    assert [(found.kind, found.repaired) for found in watched.audit(repair=True)] == [('group', False)]


def test_groups_are_looked_at_in_pages(watched: Watched) -> None:
    watched.command('HSET', KEYS['counters'], 'uses', 'g')
    for number in range(PAGE + 3):
        watched.command('ZADD', KEYS['groups'], '0', str(number))
    assert {found.kind for found in watched.audit()} == {'group'}
    assert [len(args) - 1 for args in watched.made('inspect') if args[0] == 'groups'] == [PAGE, 3]


def test_tasks_of_groups_and_levels_are_found_where_they_wait(watched: Watched) -> None:
    watched.command('HSET', KEYS['counters'], 'uses', 'gh')
    for task_id, field, value, key in (
        ('a', 'group', 'g', KEYS.of_groups('pending') + b':g'),
        ('b', 'level', 'high', KEYS['pending'] + b':high'),
        ('c', 'level', 'low', KEYS['pending'] + b':low'),
    ):
        watched.add(task_id, listed=False)
        watched.command('HSET', KEYS.state(task_id), field, value)
        watched.command('LPUSH', key, task_id)
    watched.command('ZADD', KEYS['groups'], '0', 'g')
    assert watched.audit() == []
    assert {args[0] for args in watched.made('inspect')} == {'shallow', 'groups'}, 'nobody was looked for in the lists'
