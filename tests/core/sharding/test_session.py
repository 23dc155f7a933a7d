"""A session for each shard, made when there are more of them, left when there are fewer."""

from __future__ import annotations

import math
from typing import Any

from tests.core.support import Clock, claimed, names, only
from torrelque.core import scripts
from torrelque.core.combinators import together
from torrelque.core.commands import RELEASE, Outcome, release_item
from torrelque.core.keys import Keys, shard_name
from torrelque.core.merging import Ticket
from torrelque.core.models import TorrelqueTaskStatus
from torrelque.core.protocol import Operation, Reply
from torrelque.core.session import Session
from torrelque.core.sharding.layout import nonce_of
from torrelque.core.sharding.partners import LOOKED_AT
from torrelque.core.sharding.session import ShardedSession

SCRIPTS = scripts.load(sharded=True)
KEYS = [Keys.of_queue(shard_name('q', shard)) for shard in range(5)]


def nobody() -> None:
    pass


class Driver:
    """A sharded session whose calls are answered as if nothing was anywhere."""

    def __init__(self, total: int) -> None:
        self.clock = Clock()
        self.minted = 0
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        self.session = ShardedSession(
            self._make, KEYS[:total], node_of=lambda _: None, on_generation=lambda _: None, clock=self.clock,
            jitter=lambda: 0.0, block_limit=8.0, max_rejected=None, at_once=True,
        )  # fmt: skip

    def _make(self, shard: int) -> Session:
        return Session(SCRIPTS, KEYS[shard], nonce=nonce_of('n', shard), clock=self.clock, jitter=lambda: 0.0)

    @property
    def count(self) -> int:
        return len(self.session._sessions)

    def run(self) -> None:
        """Run what there is to run, until nothing is left."""
        while (turn := self.session.poll()).groups:
            for group in turn.groups:
                self.drive(together(group))
        self.waits = turn.waits

    def drive(self, operation: Operation[Any]) -> None:
        batch = next(operation)
        while True:
            for call, name in zip(batch, names(batch), strict=True):
                self.sent.append((name, call.args))
            try:
                batch = operation.send([self._answer(*only((call,))) for call in batch])
            except StopIteration:
                return

    def _answer(self, name: str, args: tuple[Any, ...]) -> Reply:
        if name == 'mint':
            self.minted += 1
            return b'%d' % self.minted
        if name == 'survey':
            return [b'1', b'']
        return claimed() if name == 'claim' else [b'OK', b'o'] if name == 'release' else 1

    def release(self, shard: int) -> Ticket:
        item = release_item('id', TorrelqueTaskStatus.COMPLETED, None, b'')
        return self.session.submit(RELEASE, [item], nobody, shard)

    def surveyed(self) -> list[int]:
        """How many shards each survey looked at."""
        return [len(args) - 3 - len(LOOKED_AT) for name, args in self.sent if name == 'survey']


def test_a_session_for_each_shard() -> None:
    driver = Driver(2)
    assert driver.count == 2
    driver.session.resize(KEYS[:5])
    assert driver.count == 5


def test_shards_that_are_no_more_are_left_with_their_lanes() -> None:
    driver = Driver(4)
    for shard in range(4):
        driver.release(shard)
    driver.run()
    driver.sent.clear()
    driver.session.resize(KEYS[:2])
    driver.run()
    assert driver.count == 2
    assert sorted(name for name, _ in driver.sent) == ['drop', 'drop']


def test_shards_that_are_no_more_are_not_surveyed() -> None:
    driver = Driver(4)
    ticket = driver.session.dequeue(1, math.inf, nobody)
    driver.run()
    assert driver.surveyed() == [4]
    (wait,) = driver.waits
    driver.session.resize(KEYS[:2])
    wait.then.ended(KEYS[3]['wake'])
    driver.run()
    assert driver.surveyed() == [4, 2]
    assert not ticket.done
    assert [wait.key for wait in driver.waits] == [KEYS[0]['ring']]


def test_a_shard_with_a_call_under_way_is_left_after_it() -> None:
    driver = Driver(3)
    ticket = driver.release(2)
    ((operation,),) = driver.session.poll().groups
    driver.session.resize(KEYS[:1])
    driver.run()
    assert driver.count == 3
    driver.drive(operation)
    assert ticket.value == [Outcome.OK]
    driver.run()
    assert driver.count == 1


def test_an_old_claim_of_a_shard_that_is_no_more_can_be_ended() -> None:
    driver = Driver(3)
    driver.session.resize(KEYS[:1])
    driver.run()
    ticket = driver.release(2)
    driver.run()
    assert ticket.value == [Outcome.OK]
    assert driver.count == 1


def test_shards_can_come_back() -> None:
    driver = Driver(3)
    driver.session.resize(KEYS[:1])
    driver.session.resize(KEYS[:3])
    driver.run()
    assert driver.count == 3
    driver.session.dequeue(1, math.inf, nobody)
    driver.run()
    assert driver.surveyed() == [3]


def test_all_lanes_are_dropped_at_the_end() -> None:
    driver = Driver(3)
    for shard in range(3):
        driver.release(shard)
    driver.run()
    driver.sent.clear()
    driver.session.close()
    (last,) = driver.session.poll().groups
    assert len(last) == 3
    driver.drive(together(last))
    assert [name for name, _ in driver.sent] == ['drop'] * 3
    assert driver.session.poll().groups == []


def test_lanes_are_not_dropped_while_a_call_is_under_way() -> None:
    driver = Driver(2)
    driver.release(0)
    driver.run()
    driver.release(1)
    ((operation,),) = driver.session.poll().groups
    driver.session.close()
    assert driver.session.poll().groups == []
    driver.drive(operation)
    assert len(driver.session.poll().groups) == 1
