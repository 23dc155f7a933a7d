"""Clients of 1.0: a session each, driven as the engine does, over connections that repeat what times out."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.choices import Moment
from tests.simulation.scheduler import Event
from tests.simulation.server import KEYS
from torrelque.core import scripts
from torrelque.core.combinators import together
from torrelque.core.commands import ClaimedTask, Command, Item
from torrelque.core.keys import Keys
from torrelque.core.machine import Wait
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Batch, Interrupted, Operation, Reply
from torrelque.core.session import Session
from torrelque.core.sharding.session import ShardedSession
from torrelque.errors import TorrelqueConnectionError, TorrelqueError

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ('CANCELLED', 'SCRIPTS', 'Behaviour', 'Caller', 'Client', 'Run', 'Waiting', 'nobody')

SCRIPTS = scripts.load()
CANCELLED = object()
CLOSING_TIME = 2.0

Behaviour = Generator['float | Moment | Ticket', Any, None]
"""What a caller does: it yields how long to sleep, or a ticket to wait for (and is sent it, or CANCELLED)."""


class Client:
    """One queue object, in one process."""

    confirms = False
    """Whether its writes are waited for."""
    acts: Sequence[Callable[[Any], Behaviour]] = ()
    """What its callers do beside what all do."""

    def __init__(self, world: World, nonce: str, offset: float | None = None) -> None:
        self.world = world
        self.nonce = nonce
        self.random = world.random
        # Clients' clocks are not the server's; those of one machine are one.
        self.offset = world.random.uniform(-1e6, 1e6) if offset is None else offset
        self.max_rejected = world.cap()
        self.queues_behind = world.random.random() < world.config.behind
        self.session: Session | ShardedSession = self.make_session(nonce)
        self.callers: list[Caller] = []
        self.held: dict[ClaimedTask, None] = {}  # what callers of the plain sort have in their hands
        self.before_closing: list[Callable[[], object]] = []
        self.dead = False
        self.closed_cleanly = False
        self._closing = False
        self._backlog: list[Callable[[], object]] | None = None  # what happens while it is paused
        self._stepping: Event | None = None
        self._timer: Event | None = None
        self.until = math.inf
        self._runs: dict[Run, None] = {}
        self._waits: dict[Waiting, None] = {}

    def make_session(self, nonce: str) -> Session | ShardedSession:
        session = Session(
            SCRIPTS, KEYS, nonce=nonce, clock=self.clock, jitter=self.random.random,
            block_limit=self.random.choice((8.0, 8.0, 2.5)), max_rejected=self.max_rejected,
            behind=self.queues_behind, upcoming=self.world.upcoming,
        )  # fmt: skip
        session._consumers._least_beside = 1  # as few as wait here
        return session

    def clock(self) -> float:
        return self.world.scheduler.now + self.offset

    @property
    def available(self) -> bool:
        return not (self.dead or self._closing or self.paused)

    def may_be_told(self, error: Exception) -> bool:
        """Whether this error, which none but the server can have, may reach a caller."""
        return False

    @property
    def stopping(self) -> bool:
        """Whether callers should come to an end."""
        return self._closing or self.world.ending

    @property
    def paused(self) -> bool:
        return self._backlog is not None

    @property
    def quiet(self) -> bool:
        """Nothing is under way, and the session has nothing left to do."""
        return not (self._runs or self._waits) and self.until == math.inf

    @property
    def sessions(self) -> Sequence[Session]:
        """One for each shard."""
        return (self.session,) if isinstance(self.session, Session) else self.session._sessions

    @property
    def accidents(self) -> Mapping[str, float]:
        """What befalls it, and how often a second."""
        return self.world.config.accidents

    def befall(self, accident: str) -> bool:
        """Have an accident. Returns whether it is gone, and somebody takes its place."""
        match accident:
            case 'pause':
                self.pause(self.random.choice((1, 10, 60)) * self.random.random())
            case 'kill':
                self.kill()
            case 'shut':
                self.shut_down()
        return accident != 'pause'

    def serves(self, shard: int) -> bool:
        """Whether its consumers get tasks of this shard, or queue."""
        return True

    def some_keys(self) -> Keys:
        """Those of its queue, or of one shard."""
        return self.world.some_keys()

    @property
    def waits(self) -> bool:
        """Whether a caller waits for a task."""
        return bool(self.session._consumers._waiters)

    # What befalls it -----------------------------------------------------------

    def do(self, action: Callable[[], object]) -> None:
        """Something happens to the client: now, after its pause, or never."""
        if self.dead:
            return
        if self._backlog is not None:
            self._backlog.append(action)
        else:
            action()

    def later(self, delay: float | Moment, action: Callable[[], object]) -> Event:
        return self.world.scheduler.after(delay, lambda: self.do(action))

    def kill(self) -> None:
        self.dead = True
        for wait in self._waits:
            wait.break_off()

    def pause(self, seconds: float) -> None:
        if self._backlog is None:
            self._backlog = []
            self.world.scheduler.after(seconds, self._resume)

    def _resume(self) -> None:
        backlog, self._backlog = self._backlog or [], None
        for action in backlog:
            self.do(action)

    def shut_down(self) -> None:
        """As the engine does: finish within a time, cut off what is left, and be gone."""
        self._closing = True
        for caller in list(self.callers):
            caller.cancel()
        for prepare in list(self.before_closing):
            prepare()
        self.session.close()
        for wait in list(self._waits):
            wait.break_off()
            wait.is_over()
        self._step()
        self.later(CLOSING_TIME, self._cut_off)
        self.later(2 * CLOSING_TIME, self.kill)

    def _cut_off(self) -> None:
        for run in list(self._runs):
            run.interrupt()

    # The engine's part ---------------------------------------------------------

    def spawn(self, behaviour: Behaviour, *, steady: bool = False) -> Caller:
        """Somebody begins to use the client; ``steady``: who is cancelled by nothing but the end."""
        caller = Caller(self, behaviour, steady=steady)
        self.callers.append(caller)
        caller.resume(None)
        return caller

    def perform(self, operation: Operation[Any]) -> Ticket:
        """Run an operation that is not merged, for somebody who waits for what comes of it."""
        ticket = _Performance()
        ticket.run = self.run(_told(operation, ticket))
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Somebody waits for it no longer."""
        if not isinstance(ticket, _Performance):
            self.session.leave(ticket)
        elif not ticket.done:
            ticket.run.interrupt()

    def poke(self) -> None:
        """Something changed: step soon, once for all that changes meanwhile."""
        if self._stepping is None and not self.dead:
            late = self.world.network.happens('late')
            self._stepping = self.later(late * self.random.random(), self._step)

    def _step(self) -> None:
        if self._stepping is not None:
            self._stepping.cancel()
            self._stepping = None
        turn = self.session.poll()
        for operations in (*turn.groups, *([each] for each in turn.dedicated)):
            self.run(together(operations))
        for wait in turn.waits:
            self._waits[self.make_waiting(wait)] = None
        if self._timer is not None:
            self._timer.cancel()
        # A little later, lest it comes by rounding a little early, again and again.
        self.until = turn.until
        self._timer = self.world.scheduler.at(turn.until - self.offset + 1e-6, lambda: self.do(self.poke))
        if self._closing and not (self._runs or turn.groups or turn.dedicated):
            self.closed_cleanly = not any(each._owed or each.lanes.unsettled for each in self.sessions)
            self.kill()

    def make_waiting(self, wait: Wait) -> Waiting:
        return Waiting(self, wait)

    def make_run(self, operation: Operation[Any]) -> Run:
        return Run(self, operation)

    def run(self, operation: Operation[Any]) -> Run:
        """Drive an operation to its end."""
        run = self.make_run(operation)
        self._runs[run] = None
        run.step(operation.send, None)
        return run

    def ended(self, run: Run) -> None:
        del self._runs[run]
        self.poke()

    def submit(self, verb: Command, items: Sequence[Item]) -> Generator[Ticket, Any, Any]:
        """Ask for a verb; returns a ticket with an answer for each item, or CANCELLED."""
        return (yield self.session.submit(verb, items, nobody))

    def wait_broke(self, prefix: bytes = b'') -> None:
        """The server with which it waits for such keys has gone."""
        for waiting in list(self._waits):
            if waiting.key.startswith(prefix):
                waiting.fail()


def nobody() -> None:
    """A caller sets its own wake when it waits for the ticket."""


class Waiting:
    """A wait for a hint, on a connection of its own."""

    def __init__(self, client: Client, wait: Wait) -> None:
        self._client = client
        self._then = wait.then
        self.key = wait.key
        network, random, seconds = client.world.network, client.random, wait.seconds
        client.world.tell(f'{client.nonce} blocks for {seconds:.3f}')
        self.break_off = network.wait(
            wait.key, seconds, lambda member, reply: client.do(lambda: self._ended(member, reply)), wait.behind
        )
        patience = seconds + random.uniform(0.3, 2)
        if network.happens('unblock'):
            patience = random.uniform(0, patience)
        self._patience = client.later(patience, self.fail)

    def _ended(self, member: bytes | None, reply: Reply) -> None:
        if self in self._client._waits:
            self.is_over()
            self._client.world.tell(f'{self._client.nonce} is unblocked, hinted: {member is not None}')
            self._then.ended(member, reply)
            self._client.poke()

    def fail(self) -> None:
        if self in self._client._waits:
            self.break_off()
            self.is_over()
            self._client.world.tell(f'{self._client.nonce} lost the connection of its wait')
            self._then.failed(TorrelqueConnectionError('the wait broke'))
            self._client.poke()

    def is_over(self) -> None:
        del self._client._waits[self]
        self._patience.cancel()


class _Performance(Ticket):
    """A ticket that no session knows of."""

    __slots__ = ('run',)
    run: Run

    def __init__(self) -> None:
        super().__init__((), lambda: None)


def _told(operation: Operation[Any], ticket: Ticket) -> Operation[None]:
    """Run it, and tell what came of it."""
    try:
        ticket.resolve((yield from operation))
    except Interrupted as interrupted:
        ticket.fail(interrupted.cause or TorrelqueError('the queue was closed during the call'))
        raise
    except TorrelqueError as error:
        ticket.fail(error)


class Run:
    """An operation under way. Its batches are sent again after each time-out, as clients do, and then fail."""

    def __init__(self, client: Client, operation: Operation[Any]) -> None:
        self.client = client
        self.operation = operation
        self.round = 0
        self.timer: Event | None = None

    def step(self, resume: Callable[[Any], Batch], value: object) -> None:
        self.round += 1
        if self.timer is not None:
            self.timer.cancel()
        try:
            batch = resume(value)
        except (StopIteration, Interrupted):
            self.client.ended(self)
            return
        self._send(batch, self.client.random.choice((0, 1, 3)))

    def interrupt(self) -> None:
        """The engine is being cancelled."""
        self.step(self.operation.throw, Interrupted())

    def _send(self, batch: Batch, retries: int) -> None:
        client, this = self.client, self.round
        network = client.world.network

        def receive(replies: Sequence[Reply]) -> None:
            if self.round == this:
                self.step(self.operation.send, replies)

        def fail() -> None:
            if self.round != this:
                return
            if retries:
                self._send(batch, retries - 1)
            else:
                self.step(self.operation.throw, Interrupted(TorrelqueConnectionError('no answer')))

        attempt = [True]  # a reply to an attempt that was given up comes on a connection that is closed

        def give_up() -> None:
            attempt[0] = False
            fail()

        network.send(batch, lambda replies: client.do(lambda: receive(replies) if attempt[0] else None))
        self.timer = client.later(client.random.choice((0.5, 2, 5)) if network.faults.lose else 30, give_up)


class Caller:
    """Somebody who uses a client: a behaviour, which waits for one thing at a time."""

    def __init__(self, client: Client, behaviour: Behaviour, *, steady: bool = False) -> None:
        self.client = client
        self._behaviour = behaviour
        self._steady = steady
        self._ticket: Ticket | None = None
        self._sleep: object = None

    def resume(self, value: object) -> None:
        try:
            wanted = self._behaviour.send(value)
        except StopIteration:
            self.client.callers.remove(self)
            return
        if isinstance(wanted, Ticket):
            self._ticket = wanted
            wanted.wake = self._wake
            if wanted.done:
                self._wake()
            self.client.poke()
            if not self._steady and self.client.world.cancels():
                # Around the time of the round trip, or while it waits.
                delay = self.client.random.choice((0, 0.004, 0.004, 1, 10)) * self.client.random.random()
                self.client.later(delay, lambda: self.cancel() if self._ticket is wanted else None)
        else:
            self._sleep = sleep = object()
            self.client.later(wanted, lambda: self._awake(None) if self._sleep is sleep else None)

    def cancel(self) -> None:
        """Whatever it asked for, it does not wait for the answer."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self.client.world.tell(f'{self.client.nonce}: a caller leaves, done: {ticket.done}')
            self.client.leave(ticket)
            self.client.poke()
            self.resume(CANCELLED)

    def interrupt(self) -> None:
        """It sleeps no longer."""
        if self._sleep is not None:
            self._awake(CANCELLED)

    def _awake(self, value: object) -> None:
        self._sleep = None
        self.resume(value)

    def _wake(self) -> None:
        # The event loop takes a while to come to it; a cancellation may come first.
        self.client.later(0, self._look)

    def _look(self) -> None:
        ticket = self._ticket
        if ticket is not None and ticket.done:
            self._ticket = None
            self.resume(ticket)
