"""Processes that use several queues of one server: their queue objects share waits, as `torrelque.WaitSharer` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tests.simulation.clients import SCRIPTS, Client, Waiting
from tests.simulation.configs import NONE
from tests.simulation.network import LATE
from tests.simulation.rules import Rules, require
from tests.simulation.scheduler import Event
from tests.simulation.shards import ShardedRules
from torrelque.core.keys import Keys
from torrelque.core.machine import Wait
from torrelque.core.protocol import Reply
from torrelque.core.session import Session
from torrelque.core.shared_waits import Round, SharedWait, SharedWaits
from torrelque.errors import TorrelqueConnectionError

if TYPE_CHECKING:
    from tests.simulation.shares import SharedWorker
    from tests.simulation.world import World

__all__ = ('KEYS', 'Process', 'QueueClient', 'RulesOfQueues')

KEYS = tuple(Keys.of_queue(f'q{number}') for number in range(3))
LONGEST_CROWD = 17.0
"""Seconds for which a process may have more than one blocked call, where nothing breaks: two slices."""

GATHERING = 0.005
"""Seconds for which the first to wait gives the others time to join, as a transport says."""


class RulesOfQueues(ShardedRules):
    """Those of each queue: a call to one changes no other."""

    def __init__(self, parts: Sequence[Rules]) -> None:
        self._join(parts, KEYS)

    def check_all(self) -> None:
        for part in self.parts:
            part.check_all()


class Process:
    """Queue objects of one process, one for each queue, on one client."""

    def __init__(self, world: World, nonce: str) -> None:
        self.world = world
        self.nonce = nonce
        self.offset = world.random.uniform(-1e6, 1e6)
        self.workers: list[SharedWorker] = []
        self.waits = SharedWaits(len(world.keys))
        self.calls: dict[Round, _Call] = {}
        self._dead = False
        self._backlog: list[Callable[[], object]] | None = None
        self._crowded_since = math.inf  # since when there is more than one blocked call
        self._opened = 0
        self.members = [self._open(number) for number in range(len(world.keys))]

    def _open(self, number: int) -> QueueClient:
        self._opened += 1
        return QueueClient(self, f'{self.nonce}-{self._opened}', number)

    def clock(self) -> float:
        return self.world.scheduler.now + self.offset

    def later(self, delay: float, action: Callable[[], object]) -> Event:
        """Do something later in this process, as `Client.later` does."""
        return self.world.scheduler.after(delay, lambda: self.do(action))

    def do(self, action: Callable[[], object]) -> None:
        if self._backlog is not None:
            self._backlog.append(action)
        elif not self._dead:
            action()

    def kill(self) -> None:
        self._dead = True
        for each in self.members:
            Client.kill(each)

    def pause(self, seconds: float) -> None:
        if self._backlog is None:
            self._backlog = []
            self.world.scheduler.after(seconds, self._resume)
            for each in self.members:
                Client.pause(each, seconds)

    def _resume(self) -> None:
        backlog, self._backlog = self._backlog or [], None
        for action in backlog:
            self.do(action)

    def shut_down(self) -> None:
        for worker in list(self.workers):
            worker.cancel()
        for each in self.members:
            Client.shut_down(each)

    def reopen(self, number: int) -> QueueClient | None:
        """Close a queue object and open another, unless workers use it. The others go on waiting."""
        if self.workers:
            return None
        Client.shut_down(self.members[number])
        self.members[number] = self._open(number)
        return self.members[number]

    def check(self) -> None:
        """Have one blocked call, or for a while one more for each other queue at the most."""
        now, blocked = self.world.scheduler.now, sum(call.is_blocked for call in self.calls.values())
        require(blocked <= len(self.members), 'more blocked calls than queues', blocked)
        if blocked <= 1:
            self._crowded_since = math.inf
            return
        self._crowded_since = min(self._crowded_since, now)
        if self.world.config.faults is NONE:
            require(now - self._crowded_since <= LONGEST_CROWD, 'blocked calls that do not become one', blocked)


class QueueClient(Client):
    """One queue object of a process. What befalls the first befalls the process."""

    def __init__(self, process: Process, nonce: str, number: int) -> None:
        self.process = process
        self.number = number
        self.keys = process.world.keys[number]
        super().__init__(process.world, nonce, process.offset)

    def make_session(self, nonce: str) -> Session:
        session = Session(
            SCRIPTS, self.keys, nonce=nonce, clock=self.clock, jitter=self.random.random,
            block_limit=self.random.choice((8.0, 8.0, 2.5)), max_rejected=self.max_rejected,
            behind=self.queues_behind, upcoming=self.world.upcoming,
        )  # fmt: skip
        session.share_waits(shared=True)
        return session

    @property
    def accidents(self) -> Mapping[str, float]:
        known = self.world.config.accidents
        return known if self.number == 0 else {name: rate for name, rate in known.items() if name == 'reopen'}

    def serves(self, shard: int) -> bool:
        return shard == self.number

    def some_keys(self) -> Keys:
        return self.keys

    @property
    def waits(self) -> bool:
        return super().waits or any(worker.may_take(self.number) for worker in self.process.workers)

    def make_waiting(self, wait: Wait) -> Waiting:
        return _SharedWaiting(self, wait)

    def befall(self, accident: str) -> bool:
        process = self.process
        match accident:
            case 'kill':
                process.kill()
            case 'shut':
                process.shut_down()
            case 'pause':
                process.pause(self.random.choice((1, 10, 60)) * self.random.random())
            case 'reopen':
                member = process.reopen(self.number)
                if member is not None:
                    self.world.clients.append(member)
                    self.world.people(member)
        return accident in ('kill', 'shut')


class _SharedWaiting(Waiting):
    """The wait of one queue object, in one call with others."""

    def __init__(self, client: QueueClient, wait: Wait) -> None:
        self._client: QueueClient = client
        self._then = wait.then
        self.key = wait.key
        self._waits = client.process.waits
        self._wait = SharedWait(wait.key, client.clock() + wait.seconds)
        self._join()

    def _join(self) -> None:
        process = self._client.process
        self._round, self._leads = self._waits.join(self._wait)
        if self._leads:
            process.calls[self._round] = _Call(process, self._round)
        call = process.calls[self._round]
        call.members.append(self)
        call.look()

    def is_over(self) -> None:
        del self._client._waits[self]

    def break_off(self) -> None:
        """The process is gone, or its queue object is closed."""
        call = self._client.process.calls.get(self._round)
        if call is None:
            return
        if self in call.members:
            call.members.remove(self)
        if not self._waits.leave(self._round, self._wait) and not self._leads:
            call.look()
            return
        call.break_off()
        self._waits.interrupted(self._round)
        for each in call.members:
            each.go_on()

    def fail(self) -> None:
        call = self._client.process.calls.get(self._round)
        if call is not None:
            call.fail()

    def go_on(self) -> None:
        """The round is over: so is the wait, or it joins the next one."""
        wait = self._wait
        if self not in self._client._waits:
            return
        require(wait.state != 'alone', 'the server refused a round')
        if wait.state == 'waits':
            self._join()
            return
        self.is_over()
        if wait.error is not None:
            self._then.failed(wait.error)
        else:
            member = None if wait.reply is None else wait.reply[1]
            self._client.world.tell(f'{self._client.nonce} is unblocked, hinted: {member is not None}')
            self._then.ended(member, None)
        self._client.poke()


class _Call:
    """The blocking call of one round."""

    def __init__(self, process: Process, round_: Round) -> None:
        self._process = process
        self._round = round_
        self.members: list[_SharedWaiting] = []
        self.is_blocked = False
        self._break_off: Callable[[], None] = lambda: None
        self._patience: Event | None = None
        self._gathering = self._later(GATHERING, self._begin)

    def _later(self, seconds: float, action: Callable[[], object]) -> Event:
        return self._process.later(seconds, action)

    def look(self) -> None:
        """Begin if nobody else is to be expected."""
        process = self._process
        if not self.is_blocked and process.waits.is_complete(self._round, process.clock()):
            self._gathering.cancel()
            self._gathering = self._later(0, self._begin)

    def _begin(self) -> None:
        process, world = self._process, self._process.world
        call, seconds = process.waits.begin(self._round, process.clock())
        world.tell(f'{process.nonce} blocks for {seconds:.3f} on {len(call.keys)}')
        self.is_blocked = True
        process.check()
        keys = [wait.key for wait in self._round.waits]
        self._break_off = world.network.wait(keys, seconds, lambda key, _: process.do(lambda: self._ended(key)))
        patience = seconds + LATE + world.random.uniform(0.3, 2)
        if world.network.happens('unblock'):
            patience = world.random.uniform(0, patience)
        self._patience = self._later(patience, self.fail)

    def _ended(self, key: bytes | None) -> None:
        if not self.is_blocked:
            return
        reply: Reply = None if key is None else [key, b'hint', b'0']
        self._over()
        self._process.waits.ended(self._round, reply, self._process.clock())
        self._go_on()

    def fail(self) -> None:
        """Its connection breaks."""
        if self.is_blocked:
            self.break_off()
            self._process.waits.failed(self._round, TorrelqueConnectionError('the wait broke'))
            self._go_on()

    def break_off(self) -> None:
        self._break_off()
        self._over()

    def _over(self) -> None:
        self.is_blocked = False
        self._process.calls.pop(self._round, None)
        self._process.check()
        self._gathering.cancel()
        if self._patience is not None:
            self._patience.cancel()

    def _go_on(self) -> None:
        for each in self.members:
            each.go_on()
