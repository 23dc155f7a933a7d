"""A world: a server, a network, clients and what befalls them; and what has to hold when it comes to rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from tests.simulation import (
    callers,
    grouping,
    limiting,
    operators,
    pausing,
    scheduling,
    shards,
    shares,
    sharing,
    workers,
)
from tests.simulation.choices import Choice, Choices, Dice
from tests.simulation.clients import SCRIPTS, Client
from tests.simulation.configs import NONE, Config
from tests.simulation.failing import FailingNetwork
from tests.simulation.forks import fork
from tests.simulation.history import LedgerOfReplicas, RulesOfReplicas
from tests.simulation.ledger import Ledger
from tests.simulation.legacy import LegacyClient
from tests.simulation.moving import MovingNetwork, MovingServer, MovingSlots
from tests.simulation.moving_clients import PatientShardedClient
from tests.simulation.network import Network, name_of
from tests.simulation.nodes import Nodes
from tests.simulation.patience import PatientClient
from tests.simulation.rules import Rules, require
from tests.simulation.scheduler import Scheduler
from tests.simulation.server import KEYS, ObservedServer
from torrelque.core.auditing import audit
from torrelque.core.consumers import SLICE
from torrelque.core.keys import Keys
from torrelque.core.protocol import Call, Reply, blocking_drive

__all__ = ('World', 'simulate')

CHOSEN = tuple(f'chosen-{number}' for number in range(4))

BEGINNING = 4_000_000_000.0
"""In 2096, so that a real server on which this is replayed carries out no expiry by itself."""

REST = 30.0
"""Seconds in which whatever is under way ends: four time-outs, and the pause before something is settled again."""

PROMPT = 0.1
"""Seconds for some round trips on a network that works."""

LANE_TTL = 900.0
LEFT = ('counters', 'epoch', 'rejected', 'tasks', 'wake', 'ring', 'undequeued')
"""What may be left when all tasks are gone; the last three do no harm."""


Tracer = Callable[[float, str], object]


class World:
    """``trace`` gets what the server executes, and what befalls clients. ``only``: the choices it may make."""

    def __init__(
        self,
        seed: int,
        config: Config,
        trace: Tracer | None = None,
        only: Collection[Choice] | None = None,
        make_server: Callable[[Callable[[], float], Sequence[Keys]], ObservedServer] = ObservedServer,
    ) -> None:
        self.config = config
        self.random = Dice(seed)
        self.choices = Choices(self.random, only)
        self.scheduler = Scheduler(self.random)
        self.trace = trace
        self.scripts = shards.SCRIPTS if config.shards else SCRIPTS
        self.servers = 1
        failovers = config.failovers
        moves = failovers is not None and failovers.moves
        self.nodes: Nodes | None = None
        self.server = (MovingServer if moves else make_server)(self.server_time, self.keys)
        self.rules, self.ledger = self._make_rules()
        self.pauses = pausing.Pauses()
        self.group_rules: list[grouping.GroupRules] = []
        for part in self.rules.parts:
            limits = limiting.LimitRules(part.server)
            part.on_claim = partial(_all_of, (self.pauses.check, limits.check))
            part.on_return = limits.returned
            part.on_fire = scheduling.ScheduleRules(self.pauses)
            if config.groups:
                of_groups = grouping.GroupRules(part.server, part)
                self.group_rules.append(of_groups)
                part.on_call = of_groups.check
                part.on_return = partial(_both, limits.returned, of_groups.returned)
        make_network = MovingNetwork if moves else FailingNetwork if failovers else Network
        self.network = make_network(
            self.scheduler, self.random, self.choices, self.server, self.execute, trace and self.tell, config.faults
        )
        if failovers is not None:
            assert isinstance(self.network, FailingNetwork)
            self.network.nodes = self.nodes = (MovingSlots if moves else Nodes)(self, failovers)
        self.clients: list[Client] = []
        self.legacy_clients: list[LegacyClient] = []
        self.ending = False
        self.working_off = False
        self._ids: list[str] = []
        self._idle_since: dict[Rules, float] = {}
        self._uses = b''
        if config.shards:
            self.servers = self.random.choice((1, 2))
            shards.open_queue(self)
        grouping.order_one_group(self)

    def _make_rules(self) -> tuple[Rules, Ledger]:
        if self.config.failovers and not self.config.shards:
            (shard,) = self.server.shards
            failing = RulesOfReplicas(shard, self.server_time)
            return failing, LedgerOfReplicas(failing, lambda: self.scheduler.now, self.chosen)
        parts = [Rules(shard, self.server_time, legacy=bool(self.config.legacy)) for shard in self.server.shards]
        if self.config.queues:
            rules: Rules = sharing.RulesOfQueues(parts)
        else:
            rules = shards.ShardedRules(parts, self.server) if self.config.shards else parts[0]
        calm = self.config.faults is NONE and not self.config.accidents
        return rules, Ledger(rules, legacy=bool(self.config.legacy), calm=calm)

    # What clients need ---------------------------------------------------------

    upcoming = staticmethod(scheduling.upcoming)
    """Computes times of schedules."""

    chosen = CHOSEN
    """Ids that callers choose, again and again."""

    @property
    def beginning(self) -> float:
        """The server's time when the world's is 0."""
        return BEGINNING + self.nodes.skew if self.nodes else BEGINNING

    def server_time(self) -> float:
        return self.beginning + self.scheduler.now

    def execute(self, call: Call[Any]) -> Reply:
        reply = self.command(call)
        self.rules.judge(call, reply)
        return reply

    def command(self, call: Call[Any]) -> Reply:
        """Execute a call that is a part of something, which is judged as a whole."""
        reply = self.server.call(call)
        if self.trace is not None and reply is not None:
            self.trace(self.scheduler.now, f'{name_of(call)} {call.args} -> {reply}')
        return reply

    def cap(self) -> int | None:
        """How many dead letters one client keeps."""
        return self.random.choice(self.config.caps) if self.config.caps else None

    def new_id(self) -> str:
        name = f't{len(self._ids)}'
        self._ids.append(shards.uneven(self, name) if self.config.shards else name)
        return self._ids[-1]

    def some_id(self) -> str:
        return self.random.choice((*self.chosen, *self._ids[-20:]))

    @property
    def keys(self) -> Sequence[Keys]:
        """Those of the queue, or of each of its shards, or of each queue."""
        if self.config.queues:
            return sharing.KEYS[: self.config.queues]
        return shards.keys_of(self)[: max(self.config.shards)] if self.config.shards else (KEYS,)

    def some_keys(self) -> Keys:
        """Those of one shard, if there are several."""
        return self.random.choice(self.keys) if len(self.keys) > 1 else self.keys[0]

    def cancels(self) -> bool:
        """Whether the call that is being made will be cancelled."""
        return not self.ending and self.choices.happens(self.config.cancel, 'cancel')

    def tell(self, text: str) -> None:
        if self.trace is not None:
            self.trace(self.scheduler.now, text)

    # The course of things ------------------------------------------------------

    def run(self) -> None:
        """Trouble, rest, sometimes once more after a long time, and the end."""
        for _ in range(self.random.randint(*self.config.clients)):
            self.add_client(f'c{len(self.clients)}')
        self._trouble()
        self._rest()
        if self.choices.happens(0.2, 'again'):
            self.scheduler.run()
            self.scheduler.leap(LANE_TTL + 100)
            self._trouble()
            self._rest()
        self._drain()

    def add_client(self, nonce: str) -> None:
        for client in self.make_clients(nonce):
            self.people(client)

    def make_clients(self, nonce: str) -> Sequence[Client]:
        """A client, or one for each queue in a process."""
        if not self.config.queues:
            return [self.make_client(nonce)]
        members = sharing.Process(self, nonce).members
        self.clients += members
        return members

    def make_client(self, nonce: str) -> Client:
        sharded, patient = bool(self.config.shards), self.nodes is not None
        make = {
            (False, False): Client,
            (False, True): PatientClient,
            (True, False): shards.ShardedClient,
            (True, True): PatientShardedClient,
        }[sharded, patient]
        client = make(self, nonce)
        self.clients.append(client)
        return client

    def people(self, client: Client) -> None:
        """Callers and workers for a client, and what will befall it."""
        for number in range(self.random.randint(*self.config.callers)):
            client.spawn(callers.live(client, f'{client.nonce}/{number}'))
        employ = shares.employ if self.config.queues else workers.employ
        for number in range(self.random.randint(*self.config.workers)):
            client.spawn(employ(client, f'{client.nonce}/w{number}'))
        for accident, rate in client.accidents.items():
            self._plan(client, accident, rate)

    def _trouble(self) -> None:
        self.tell('trouble')
        if self.ending:
            self.ending = False
            self.network.faults = self.config.faults
            for client in self.clients:
                if client.available:
                    self.people(client)
        self.legacy_clients = [LegacyClient(self, f'old{number}') for number in range(self.config.legacy)]
        for legacy_client in self.legacy_clients:
            self._plan(legacy_client, 'kill', self.config.accidents.get('kill', 0))
        if self.config.longest_wait is not None:
            self._watch(self.config.longest_wait)
        operators.audit_all_along(self)
        if self.config.later:
            at = self.config.seconds * self.random.random()
            self.scheduler.after(at, lambda: None if self.ending else self._use_later_version())
        if self.nodes:
            self.nodes.begin()
        self.scheduler.run(self.scheduler.now + self.config.seconds)

    def _use_later_version(self) -> None:
        self._uses = self.command(Call('HGET', (KEYS['counters'],), ('uses',))) or b''
        self.command(Call('HSET', (KEYS['counters'],), ('uses', self._uses + b'z')))

    def _plan(self, client: Client | LegacyClient, accident: str, rate: float) -> None:
        """Let an accident befall somebody, again and again."""

        def happen() -> None:
            if not self.ending and not client.dead:
                if self.choices.may(accident, client.nonce):
                    self._befall(client, accident)
                self._plan(client, accident, rate)

        if rate > 0:
            self.scheduler.after(self.random.expovariate(rate), happen)

    def _befall(self, client: Client | LegacyClient, accident: str) -> None:
        if isinstance(client, LegacyClient):
            client.kill()
            return
        if not client.available:
            return
        self.tell(f'{accident} {client.nonce}')
        if accident == 'forget':
            shards.lose_record(self)
            return
        if accident == 'fork':
            child = fork(client, f'{client.nonce}&{self.scheduler.now:.6f}')
            self.clients.append(child)
            child.spawn(callers.inherit(child))
            self.people(child)
            return
        if client.befall(accident):
            successor = f'{client.nonce}+'
            self.scheduler.after(self.random.random() * 5, lambda: None if self.ending else self.add_client(successor))

    def _rest(self) -> None:
        """The network works, callers come to an end: nothing is left in working for nobody."""
        self.tell('rest')
        self.ending = True
        if self.config.later:  # the later version knows how to undo that
            self.command(Call('HSET', (KEYS['counters'],), ('uses', self._uses)))
        self.network.faults = NONE
        if self.nodes:
            self.nodes.end()
        self.scheduler.run(self.scheduler.now + 60)  # the longest pause
        for client in self.clients:
            for caller in list(client.callers):
                client.do(caller.cancel)
        self.scheduler.run(self.scheduler.now + REST)
        for client in self.clients:
            require(client.dead or client.quiet, 'a client that does not come to rest', client.nonce)
        if not self.config.later:  # there a copy of a claim that was refused may be done after the undoing
            self._check_nobodys()
        self.rules.check_all()
        self._audit()

    def _check_nobodys(self) -> None:
        """Cancellation: what is in working is there for somebody who is gone, or who gave up."""
        clients = {client.nonce: client for client in self.clients}
        for task_id in self.server.working():
            receipt = self.rules.shadow[task_id].receipt
            if receipt is None or (task_id, *receipt) in self.ledger.abandoned:
                continue
            claim = self.rules.claims[(task_id, *receipt)]
            client = clients[_owner(receipt[0])]
            gone = client.dead and (claim.delivered or not client.closed_cleanly)
            require(gone or claim.legacy, 'in working for nobody', task_id, receipt)

    def _drain(self) -> None:
        """One consumer that behaves gets everything, as soon as it is available; nothing else is left."""
        self.tell('drain')
        self.working_off = True
        last = self.make_clients('last')
        for client in last:
            client.spawn(callers.drain(client))
        self.scheduler.run(self.network.last_arrival)
        events = [*self.server.working().values(), *self.server.delayed().values(), self.server_time()]
        spread = self.nodes.spread if self.nodes else 0.0
        until = max(max(events) - self.beginning + spread, self.network.last_arrival) + 5
        self.scheduler.run(until, unless=self._worked_off)
        require(not self.server.queued(), 'not worked off in time', self.server.queued(), self.server.working())
        self.scheduler.run(self.scheduler.now + SLICE + 1)  # a hint that is left over is taken down by who waits
        self.working_off = False
        for client in last:
            for caller in list(client.callers):
                caller.cancel()
        self.scheduler.run()
        self.rules.check_all()
        self._audit()
        self.scheduler.leap(LANE_TTL + (1 if self.nodes is None else self.nodes.longest_leap))
        self._check_left()
        self._audit()

    def _audit(self) -> None:
        for keys in self.keys:
            found = blocking_drive(
                audit(self.scripts, keys, operators.RESULT_TTL, repair=False),
                lambda batch: [self.execute(call) for call in batch],
            )
            require(not operators.unexpected(self, found), 'an audit found something', found)

    def _worked_off(self) -> bool:
        return self.scheduler.now > self.network.last_arrival and not self.server.queued()

    def _check_left(self) -> None:
        left = self.server.snapshot()
        allowed = {shards.MAIN['counters']} if self.config.shards else set()
        for keys, rules in zip(self.keys, self.rules.parts, strict=True):
            dead = {task_id for task_id, view in rules.shadow.items() if view.rejected is not None}
            allowed |= {keys['groups'] + kind for kind in (b':idle', b':arrivals', b':limits')}
            allowed |= {keys['groups'] + b':rejected:' + rules.server.state(each).get(b'group', b'') for each in dead}
            allowed |= {keys[name] for name in LEFT} | {keys['task'] + b':' + task_id for task_id in dead}
            if keys['tasks'] in left:
                tasks = left[keys['tasks']][1]
                require(isinstance(tasks, dict) and tasks.keys() == dead, 'payloads are left', tasks, dead)
        require(left.keys() <= allowed, 'something is left', left.keys() - allowed)

    # No waiting ----------------------------------------------------------------

    def _watch(self, longest: float) -> None:
        """Nothing waits for longer than that while somebody waits for it."""
        if self.ending:
            return
        waiting, now = [client for client in self.clients if client.available and client.waits], self.scheduler.now
        for number, (shard, rules) in enumerate(zip(self.server.shards, self.rules.parts, strict=True)):
            waits = any(client.serves(number) for client in waiting)
            if waits and shard.to_be_had(self.server_time()):
                since = max(self._idle_since.setdefault(rules, now), rules.last_claim - self.beginning)
                require(
                    now - since <= longest,
                    'a task waits beside a consumer',
                    shard.pending(),
                    shard.first_event(self.server_time()),
                )
            else:
                self._idle_since.pop(rules, None)
        self._check_underway()
        self.scheduler.after(0.05, lambda: self._watch(longest))

    def _check_underway(self) -> None:
        """Cancellation, promptly: what was claimed for somebody is handed over, or given back."""
        clients = {client.nonce: client for client in self.clients}
        for task_id in self.server.working():
            receipt = self.rules.shadow[task_id].receipt
            assert receipt is not None
            claim = self.rules.claims[(task_id, *receipt)]
            if not claim.delivered and clients[_owner(receipt[0])].available:
                require(
                    self.server_time() - claim.made < PROMPT, 'neither handed over nor given back', task_id, receipt
                )


def _all_of(checks: Sequence[Callable[[Sequence[bytes], float], None]], taken: Sequence[bytes], now: float) -> None:
    for check in checks:
        check(taken, now)


def _both(first: Callable[[bytes], None], second: Callable[[bytes], None], task_id: bytes) -> None:
    first(task_id)
    second(task_id)


def _owner(token: bytes) -> str:
    """The client that made a claim."""
    return shards.client_of(token.split(b':')[1].decode().rpartition('.')[0])


def simulate(seed: int, config: Config, trace: Tracer | None = None) -> int:
    """Run a world to its end; how many steps it took. Raises Violation."""
    world = World(seed, config, trace)
    world.run()
    return world.scheduler.steps
