from __future__ import annotations

import hashlib
from binascii import crc32
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from torrelque.core.commands import ENQUEUE, enqueue_in, enqueue_item
from torrelque.core.keys import Keys, shard_name
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Batch, Call, Operation, Reply, Script, blocking_drive
from torrelque.core.scripts import load
from torrelque.core.sharding import layout as sharding
from torrelque.core.sharding.layout import Layout, RecordKeys
from torrelque.errors import TorrelqueConnectionError, TorrelqueShardsError, TorrelqueUsageError
from torrelque.transports.memory.server import MemoryServer

SCRIPTS = load(sharded=True)
MAIN = Keys.of_queue('{q}')
PLAIN = Keys.of_queue('q')
RECORDS = RecordKeys(MAIN, PLAIN, lambda shard: shards(shard + 1)[shard])
NOW = 1_700_000_000.0
FIRST = 1_700_000_000_000
"""The generation of what is opened then."""

NUMBERS = (1, 2, 3, 7, 16, 255, 256, 999, 1000)


def shards(number: int) -> list[Keys]:
    return [Keys.of_queue(shard_name('q', shard)) for shard in range(number)]


def random_ids(count: int) -> list[str]:
    return [hashlib.md5(b'%d' % number, usedforsecurity=False).hexdigest() for number in range(count)]


# Homes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('number', NUMBERS)
def test_an_id_is_written_for_the_shard_that_is_wanted(number: int) -> None:
    step = max(1, number // 50)
    for shard in (*range(0, number, step), number - 1):
        for random in random_ids(5):
            written = sharding.write_id(random, shard, number)
            assert sharding.home_of(written, number) == shard
            assert len(written) == 32
            assert written[:20] == random[:20]
            assert written == written.lower()


def test_ids_are_32_digits_whatever_the_number_and_the_shard() -> None:
    (random,) = random_ids(1)
    assert all(
        len(sharding.write_id(random, shard, number)) == 32 for number in range(1, 1001, 37) for shard in range(number)
    )


def test_ids_of_a_shard_differ_in_their_last_digits_too() -> None:
    random, *others = random_ids(1000)
    written = {sharding.write_id(random[:20] + other[20:], 7, 1000) for other in others}
    assert len(written) == len(others)


def test_a_home_is_the_same_for_good() -> None:
    """Written down here, as it is in queues that are in use."""
    assert [sharding.home_of('a task', number) for number in (1, 2, 3, 16, 1000)] == [0, 1, 1, 1, 305]
    assert sharding.home_of(b'a task', 16) == sharding.home_of('a task', 16) == crc32(b'a task') % 16
    assert sharding.home_of('é', 16) == sharding.home_of('é'.encode(), 16)
    assert sharding.home_of('s1@1700000005', 16) == sharding.home_of('s1@5.25', 16) == sharding.home_of('s1', 16)
    assert sharding.mark_of(b'acme') == f'@~{crc32(b"acme"):08x}'
    for number in (3, 16, 1000):
        of_group = sharding.home_of('acme', number)
        assert sharding.home_of(f's1{sharding.mark_of(b"acme")}@1700000005.5', number) == of_group
    assert sharding.mark_of(b'') == ''


def test_random_ids_are_spread_evenly() -> None:
    homes = [sharding.home_of(task_id, 16) for task_id in random_ids(16_000)]
    counts = [homes.count(shard) for shard in range(16)]
    assert 850 < min(counts) <= max(counts) < 1150  # five times what chance makes of 1000


@pytest.mark.parametrize(
    ('nonce', 'shard'),
    [
        (sharding.nonce_of('f00', 0), 0),
        (sharding.nonce_of('f00', 999), 999),
        ('f00', None),
        ('f~0', None),
        ('f~x~', None),
        ('~', None),
    ],
)
def test_a_claim_tells_where_it_was_made(nonce: str, shard: int | None) -> None:
    assert sharding.shard_of_claim(f'17:{nonce}.1:3') == shard


# Layouts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('layout', 'total'),
    [
        (Layout(1, 3), 3),
        (Layout(2, 3, (5,)), 5),
        (Layout(3, 8, (5, 2)), 8),
        (Layout(4, 1, (1000, 2)), 1000),
    ],
)
def test_all_shards_that_may_hold_tasks_count(layout: Layout, total: int) -> None:
    assert layout.total == total
    assert all(home < total for task_id in random_ids(200) for home in layout.homes(task_id))


def test_where_a_task_can_be_its_home_comes_first_and_each_once() -> None:
    layout = Layout(3, 4, (3, 2))
    for task_id in random_ids(100):
        homes = layout.homes(task_id)
        assert homes[0] == sharding.home_of(task_id, 4)
        assert set(homes) == {sharding.home_of(task_id, number) for number in (4, 3, 2)}
        assert len(homes) == len(set(homes))


def test_another_number_is_told_with_the_one_to_pass() -> None:
    sharding.check_number(Layout(1, 3), 3, 'q')
    with pytest.raises(TorrelqueShardsError, match="queue 'q' has 3 shards, not 4: pass shards=3"):
        sharding.check_number(Layout(1, 3), 4, 'q')


# What is recorded ----------------------------------------------------------------------------------------------------


class Queue:
    """The layout of a queue on a server in memory; the connection breaks after ``patience`` more batches."""

    def __init__(self) -> None:
        self.server = MemoryServer(lambda: NOW)
        self.patience: float = float('inf')

    def execute(self, batch: Batch) -> Sequence[Reply]:
        if self.patience <= 0:
            raise TorrelqueConnectionError('cut off')
        self.patience -= 1
        return self.server.execute(batch)

    def open(self, number: int) -> Layout:
        """As a queue object does at its first call."""
        layout, begun = blocking_drive(sharding.open_layout(SCRIPTS, RECORDS, number), self.execute)
        return self.carry_out(layout) if begun else layout

    def carry_out(self, layout: Layout) -> Layout:
        return blocking_drive(self.relayout(layout), self.execute)

    @staticmethod
    def relayout(layout: Layout) -> Operation[Layout]:
        return sharding.relayout(SCRIPTS, RECORDS, layout)

    def intend(self, layout: Layout) -> None:
        blocking_drive(sharding.intend(SCRIPTS, MAIN, layout), self.execute)

    def read(self) -> tuple[Layout | None, Layout | None]:
        return blocking_drive(sharding.read_layout(MAIN), self.execute)

    def told(self, number: int) -> list[int]:
        """The number of shards that each shard has recorded; 0 for none."""
        texts = [self.server.call(Call('HGET', (keys['counters'],), ('shards',))) for keys in shards(number)]
        return [int(text.split()[0]) if text else 0 for text in texts]


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_a_new_queue_has_as_many_as_its_first_user_thinks(queue: Queue) -> None:
    assert queue.read() == (None, None)
    assert queue.open(3) == Layout(FIRST, 3)
    assert queue.read() == (Layout(FIRST, 3), None)
    assert queue.told(4) == [3, 3, 3, 0]


def test_an_existing_queue_has_those_that_it_has(queue: Queue) -> None:
    queue.open(3)
    before = queue.server.snapshot()
    assert queue.open(5) == Layout(FIRST, 3)
    assert queue.server.snapshot() == before


def test_of_two_that_open_a_new_queue_at_once_one_decides(queue: Queue) -> None:
    first, second = (sharding.open_layout(SCRIPTS, RECORDS, number) for number in (2, 3))
    batches = [next(first), next(second)]
    results: list[tuple[Layout, bool]] = []
    while len(results) < 2:
        for operation, batch in zip((first, second), list(batches), strict=True):
            if not batch:
                continue
            place = batches.index(batch)
            try:
                batches[place] = operation.send(queue.execute(batch))
            except StopIteration as stop:
                batches[place] = ()
                results.append(stop.value)
    assert results == [(Layout(FIRST, 2), True)] * 2


@pytest.mark.parametrize('steps', [1, 2, 3, 5])
def test_the_keys_of_one_that_another_opens_meanwhile_are_not_foreign(queue: Queue, steps: int) -> None:
    answered = 0

    def execute(batch: Batch) -> Sequence[Reply]:
        nonlocal answered
        answered += 1
        replies = queue.execute(batch)
        if answered == steps:
            queue.open(3)
        return replies

    layout, begun = blocking_drive(sharding.open_layout(SCRIPTS, RECORDS, 3), execute)
    assert (layout, begun) == (Layout(FIRST, 3), False)


@pytest.mark.parametrize('foreign', [MAIN, PLAIN, *shards(3)], ids=lambda keys: keys['counters'].decode())
def test_the_keys_of_a_queue_without_shards_are_refused(queue: Queue, foreign: Keys) -> None:
    queue.server.call(Call('HSET', (foreign['counters'],), ('enqueued', '1')))
    before = queue.server.snapshot()
    with pytest.raises(TorrelqueUsageError, match='there is a queue without shards already') as raised:
        queue.open(3)
    assert repr(foreign['counters'].decode()) in str(raised.value)
    assert queue.server.snapshot() == before


@pytest.mark.parametrize('on_cluster', [False, True])
@pytest.mark.parametrize('steps', range(14))
def test_either_it_is_opened_or_a_task_is_added_without_shards(queue: Queue, steps: int, on_cluster: bool) -> None:
    """Whenever the task comes while another client opens the queue. On a cluster the keys are the same."""
    plain = MAIN if on_cluster else PLAIN
    places = RECORDS._replace(plain=None) if on_cluster else RECORDS
    lanes, added = Lanes(load(), plain, 'plain'), list[bool]()

    def enqueue() -> None:
        item = enqueue_item('a', b'data', 300, None, None, b'')
        try:
            blocking_drive(lanes.call('enqueue', ENQUEUE.arguments([item]), ENQUEUE.parse), queue.server.execute)
        except TorrelqueShardsError:
            added.append(False)
        else:
            added.append(True)

    def execute(batch: Batch) -> Sequence[Reply]:
        nonlocal steps
        if steps == 0:
            enqueue()
        steps -= 1
        return queue.execute(batch)

    def open_queue() -> Operation[Layout]:
        layout, _ = yield from sharding.open_layout(SCRIPTS, places, 3)
        return (yield from sharding.relayout(SCRIPTS, places, layout))

    try:
        layout = blocking_drive(open_queue(), execute)
    except TorrelqueUsageError:
        assert added == [True]
        assert queue.read() == (None, None)
    else:
        if not added:
            enqueue()
        assert added == [False]
        assert queue.read() == (layout, None)
        assert queue.open(3) == layout


def test_a_copy_of_a_refused_call_does_nothing(queue: Queue) -> None:
    """It comes when the number is as it says, as an outdated record was restored, and the call was repeated since."""
    layout = queue.open(1)
    counters, generation = shards(1)[0]['counters'], b'generation'
    queue.server.call(Call('HSET', (counters,), (generation, layout.generation + 1)))
    verb = enqueue_in(layout.generation)
    arguments = verb.arguments([enqueue_item('a', b'data', 300, None, None, b'')])
    sent: list[Call[Any]] = []

    def execute(batch: Batch) -> Sequence[Reply]:
        sent.extend(batch)
        return queue.execute(batch)

    with pytest.raises(TorrelqueShardsError):
        blocking_drive(Lanes(SCRIPTS, shards(1)[0], 'n').call('enqueue', arguments, verb.parse), execute)
    queue.server.call(Call('HSET', (counters,), (generation, layout.generation)))
    (copy,) = (call for call in sent if isinstance(call.command, Script) and call.command.name == 'enqueue')
    assert queue.server.call(copy) == [b'CLOSED']
    assert queue.server.call(Call('LLEN', (shards(1)[0]['pending'],))) == 0


@pytest.mark.parametrize('steps', range(14))
def test_who_opens_it_and_is_cut_off_is_followed_by_any(queue: Queue, steps: int) -> None:
    queue.patience = steps
    with suppress(TorrelqueConnectionError):
        queue.open(3)
    queue.patience = float('inf')
    begun = queue.read() != (None, None)
    assert queue.open(2).shards == (3 if begun else 2)


# Records that are lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('lost', range(5))
def test_a_record_is_restored_from_any_other(queue: Queue, lost: int) -> None:
    queue.open(3)
    layout = Layout(FIRST + 1, 2, (3,))
    queue.intend(layout)
    queue.carry_out(layout)
    before = queue.server.snapshot()
    places = (MAIN, PLAIN, *shards(3))
    for keys in places:
        if keys is not places[lost]:
            queue.server.call(Call('DEL', (keys['counters'],)))
    assert queue.open(3) == layout
    if lost:
        assert queue.carry_out(layout) == layout
    restored, is_restored = blocking_drive(
        sharding.refresh_layout(SCRIPTS, RECORDS, Layout(FIRST, 3), again=True), queue.execute
    )
    assert (restored, is_restored) == (layout, False)
    assert queue.server.snapshot() == before


def test_a_record_of_which_nothing_is_left_is_restored_by_who_knows_it(queue: Queue) -> None:
    layout = Layout(FIRST + 5, 2, (3,))
    assert blocking_drive(sharding.refresh_layout(SCRIPTS, RECORDS, layout), queue.execute) == (layout, True)
    assert queue.read() == (layout, None)
    assert queue.told(3) == [2] * 3
    old = Layout(FIRST, 3)
    assert blocking_drive(sharding.refresh_layout(SCRIPTS, RECORDS, old), queue.execute) == (layout, False)


@pytest.mark.parametrize('foreign', [MAIN, *shards(3)], ids=lambda keys: keys['counters'].decode())
def test_a_record_is_not_restored_over_the_keys_of_another_queue(queue: Queue, foreign: Keys) -> None:
    queue.server.call(Call('HSET', (foreign['counters'],), ('enqueued', '1')))
    before = queue.server.snapshot()
    with pytest.raises(TorrelqueUsageError, match='there is a queue without shards already'):
        blocking_drive(sharding.refresh_layout(SCRIPTS, RECORDS, Layout(FIRST, 3)), queue.execute)
    assert queue.server.snapshot() == before


def test_the_keys_of_a_queue_that_has_these_shards_are_not_foreign(queue: Queue) -> None:
    queue.open(3)
    queue.server.call(Call('HSET', (shards(3)[1]['counters'],), ('enqueued', '1')))
    assert queue.open(3) == Layout(FIRST, 3)


def test_what_is_gone_as_soon_as_it_was_recorded_is_told(queue: Queue) -> None:
    def execute(batch: Batch) -> Sequence[Reply]:
        replies = queue.execute(batch)
        queue.server.call(Call('DEL', (MAIN['counters'],)))
        return replies

    with pytest.raises(TorrelqueUsageError, match='does the server evict keys'):
        blocking_drive(sharding.open_layout(SCRIPTS, RECORDS, 1), execute)


def test_a_change_that_was_begun_is_told_beside_what_is(queue: Queue) -> None:
    queue.open(3)
    wanted = Layout(FIRST + 1, 5, (3,))
    queue.intend(wanted)
    assert queue.read() == (Layout(FIRST, 3), wanted)
    queue.intend(Layout(FIRST + 1, 7, (3,)))  # the first counts
    assert queue.read() == (Layout(FIRST, 3), wanted)
    assert queue.carry_out(wanted) == wanted
    assert queue.read() == (wanted, None)
    assert queue.told(5) == [5] * 5


def test_to_fewer_shards_all_of_them_are_told(queue: Queue) -> None:
    queue.open(5)
    queue.intend(Layout(FIRST + 1, 2, (5,)))
    assert queue.open(5) == Layout(FIRST + 1, 2, (5,))
    assert queue.told(5) == [2] * 5


@pytest.mark.parametrize('steps', range(18))
def test_a_change_that_is_cut_off_is_finished_by_another(queue: Queue, steps: int) -> None:
    """The plain keys record it; five shards are asked for both records, and write them; last the queue itself."""
    queue.open(3)
    wanted = Layout(FIRST + 1, 5, (3,))
    queue.intend(wanted)
    queue.patience = steps
    if steps < 17:
        with pytest.raises(TorrelqueConnectionError):
            queue.carry_out(wanted)
    else:
        queue.carry_out(wanted)
    queue.patience = float('inf')
    assert queue.told(5) == [5 if shard < steps - 11 else 3 if shard < 3 else 0 for shard in range(5)]
    assert queue.read() == ((Layout(FIRST, 3), wanted) if steps < 17 else (wanted, None))
    assert queue.open(3) == wanted
    assert queue.told(5) == [5] * 5
    assert queue.read() == (wanted, None)


def test_a_new_queue_that_was_cut_off_is_finished_by_another(queue: Queue) -> None:
    queue.patience = (
        12  # two reads, five looks for another queue's keys, the intention, three for a pause, a shard told
    )
    with pytest.raises(TorrelqueConnectionError):
        queue.open(3)
    queue.patience = float('inf')
    assert queue.told(3) != [3] * 3
    assert queue.read() == (None, Layout(FIRST, 3))
    assert queue.open(8) == Layout(FIRST, 3)
    assert queue.told(4) == [3, 3, 3, 0]


def test_an_old_change_is_not_recorded_where_the_newer_one_is_lost(queue: Queue) -> None:
    """Otherwise the next change would have a generation that the shards have seen already, with other numbers."""
    queue.open(3)
    old, new = Layout(FIRST + 1, 2, (3,)), Layout(FIRST + 2, 5, (2, 3))
    for layout in (old, new):
        queue.intend(layout)
        queue.carry_out(layout)
    queue.server.call(Call('DEL', (MAIN['counters'],)))
    assert queue.carry_out(old) == new
    assert queue.read() == (new, None)
    assert queue.told(5) == [5] * 5


def test_an_old_change_that_arrives_late_changes_nothing(queue: Queue) -> None:
    queue.open(3)
    old, new = Layout(FIRST + 1, 5, (3,)), Layout(FIRST + 2, 2, (5, 3))
    for layout in (old, new):
        queue.intend(layout)
        queue.carry_out(layout)
    before = queue.server.snapshot()
    assert queue.carry_out(old) == new
    assert queue.carry_out(Layout(FIRST, 3)) == new
    assert queue.server.snapshot() == before


def test_an_old_change_does_not_take_down_one_that_was_begun_since(queue: Queue) -> None:
    queue.open(3)
    queue.intend(Layout(FIRST + 1, 5, (3,)))
    queue.carry_out(Layout(FIRST + 1, 5, (3,)))
    queue.intend(Layout(FIRST + 2, 2, (5, 3)))
    queue.carry_out(Layout(FIRST + 1, 5, (3,)))
    assert queue.read() == (Layout(FIRST + 1, 5, (3,)), Layout(FIRST + 2, 2, (5, 3)))


def test_an_intention_that_comes_again_when_it_was_carried_out_is_in_nobodys_way(queue: Queue) -> None:
    queue.open(3)
    old, new = Layout(FIRST + 1, 5, (3,)), Layout(FIRST + 2, 4, (5, 3))
    queue.intend(old)
    queue.carry_out(old)
    queue.server.call(
        Call('HSETNX', (MAIN['counters'],), ('intended', f'{FIRST + 1} 5 3'))
    )  # as when it was not answered
    assert queue.read() == (old, None)
    queue.intend(new)
    assert queue.read() == (old, new)
