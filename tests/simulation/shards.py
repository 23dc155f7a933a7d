"""A queue over several shards: its clients, which route calls as `torrelque.engine.sharded` does, and its rules."""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.simulation.clients import CANCELLED, Behaviour, Client, nobody
from tests.simulation.rules import Rules, require
from tests.simulation.server import NOWHERE, ObservedServer, View
from torrelque.core import operations, scripts
from torrelque.core.commands import CANCEL, ENQUEUE, PURGE, REDRIVE, Command, Item, Outcome, enqueue_in, only_replacing
from torrelque.core.flow import FLOW
from torrelque.core.groups import REGULATE
from torrelque.core.keys import LOGICAL_NAMES, SHARD_NAMES, Keys, shard_name
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Arg, Call, Reply, Script, blocking_drive
from torrelque.core.session import Session
from torrelque.core.sharding import layout as sharding
from torrelque.core.sharding.layout import Layout, RecordKeys
from torrelque.core.sharding.session import ShardedSession
from torrelque.errors import TorrelqueShardsError

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = (
    'KEYS',
    'MAIN',
    'SCRIPTS',
    'ShardedClient',
    'ShardedRules',
    'client_of',
    'id_beside',
    'keys_of',
    'lose_record',
    'open_queue',
    'records_of',
    'uneven',
)

SCRIPTS = scripts.load(sharded=True)
MAIN = Keys.of_queue('{q}')
KEYS = tuple(Keys.of_queue(shard_name('q', shard)) for shard in range(16))
"""Of as many shards as there may ever be."""

TOGETHER = tuple(
    Keys({name: (KEYS[0] if name == 'bell' else keys)[name].decode() for name in (*LOGICAL_NAMES, *SHARD_NAMES)})
    for keys in KEYS
)
"""The same for a queue on one server, whose shards share a bell."""

SHARD_OF_WAKE = {keys['wake']: shard for shard, keys in enumerate(KEYS)}

UNEVEN = (0, 0, 0, 0, 0, 0, 1, 1, 2)
"""Of the tasks without a chosen id, one for each of these numbers belongs to that shard."""

TRIES = 5


def keys_of(world: World) -> Sequence[Keys]:
    """Of all shards, as all who call the server of this world know them: they ring where its consumers wait."""
    failovers = world.config.failovers
    return TOGETHER if world.servers == 1 and not (failovers and failovers.moves) else KEYS


def records_of(world: World) -> RecordKeys:
    """There are no clients here that know of no shards: `tests/core/test_sharding.py` has them."""
    return RecordKeys(MAIN, None, keys_of(world).__getitem__)


def open_queue(world: World) -> None:
    """As the first user did."""
    _newest(world)


def lose_record(world: World) -> None:
    """The number of shards is forgotten by one of them, or, while all of them know it, by the queue itself."""
    server = world.server
    layout, begun = blocking_drive(sharding.read_layout(MAIN), server.execute)
    if layout is None or begun is not None:
        return
    shards = list(keys_of(world)[: layout.total])
    told = [server._db.hash_at(keys['counters']).get(b'generation') for keys in shards]
    keys: Keys = world.random.choice([*shards, *([MAIN] if told == [b'%d' % layout.generation] * len(told) else [])])
    world.tell(f'the record {keys["counters"]!r} is lost')
    (lost,) = server.execute([Call('DEL', (keys['counters'],))])  # as a call, which a replay repeats on a real server
    world.ledger.tally['lost records'] += lost
    world.pauses.forget()
    for own, rules in zip(world.keys, world.rules.parts, strict=True):
        rules.counters_lost = rules.counters_lost or own == keys


def uneven(world: World, name: str) -> str:
    """An id that belongs to one shard more likely than to another."""
    return sharding.write_id(f'{name}-{crc32(name.encode()):012x}', world.random.choice(UNEVEN), 3)


def id_beside(world: World, group: bytes) -> str:
    """An id that belongs to the shard of a group."""
    count = world.config.shards[0]
    return sharding.write_id(f'{world.new_id()}-{0:011x}', sharding.home_of(group, count), count)


def client_of(nonce: str) -> str:
    """Whose lane a nonce is on."""
    return nonce.partition('~')[0]


def _newest(world: World) -> Layout:
    """The newest layout, carried out if it was only begun."""
    records, execute = records_of(world), world.server.execute
    layout, _ = blocking_drive(sharding.open_layout(SCRIPTS, records, world.config.shards[0]), execute)
    return blocking_drive(sharding.relayout(SCRIPTS, records, layout), execute)


class ShardedClient(Client):
    """A queue object over shards, which it takes to be on one server or on two."""

    def make_session(self, nonce: str) -> ShardedSession:
        self.layout = _newest(self.world)
        self._following = False
        block_limit, keys = self.random.choice((8.0, 8.0, 2.5)), keys_of(self.world)

        def make(shard: int) -> Session:
            return Session(
                SCRIPTS, keys[shard], nonce=sharding.nonce_of(nonce, shard), clock=self.clock,
                jitter=self.random.random, block_limit=block_limit, max_rejected=self.max_rejected,
            )  # fmt: skip

        return ShardedSession(
            make, keys[: self.layout.total], node_of=self.node_of, on_generation=self._compare_generation,
            clock=self.clock, jitter=self.random.random, block_limit=block_limit, max_rejected=self.max_rejected,
            at_once=self.at_once,
        )  # fmt: skip

    @property
    def at_once(self) -> bool:
        return self.world.servers == 1

    def node_of(self, key: bytes) -> Hashable:
        """Which server it takes a key to be on."""
        return SHARD_OF_WAKE[key] % self.world.servers

    @property
    def acts(self) -> Sequence[Callable[[ShardedClient], Behaviour]]:  # type: ignore[override]  # not written
        return (_reshard, _reshard) if len(self.world.config.shards) > 1 else ()

    # The layout ----------------------------------------------------------------

    def _compare_generation(self, generation: int) -> None:
        if generation != self.layout.generation and not self._following:
            self._following = True
            self.spawn(self._follow(), steady=True)

    def _follow(self) -> Behaviour:
        yield from self.catch_up()
        self._following = False

    def reload(self, *, again: bool = False) -> Generator[Ticket, Any, bool | None]:
        """Use the newest layout; whether it is another, None if it could not be read."""
        known = self.layout
        ticket = yield self.perform(sharding.refresh_layout(SCRIPTS, records_of(self.world), known, again=again))
        if ticket is CANCELLED or ticket.error is not None:
            return None
        assert isinstance(self.session, ShardedSession)
        self.world.ledger.tally['restored'] += ticket.value[1] or again
        layout = ticket.value[0]
        if layout.generation > self.layout.generation:
            self.session.resize(keys_of(self.world)[: layout.total])
            self.layout = layout
        return self.layout != known

    def catch_up(self) -> Generator[Ticket, Any, bool | None]:
        """After a shard refused a call: whether it may be repeated."""
        changed = yield from self.reload()
        if changed is False:
            changed = yield from self.reload(again=True)
        return changed is not None

    # Calls ---------------------------------------------------------------------

    def submit(self, verb: Command, items: Sequence[Item]) -> Generator[Ticket, Any, Any]:
        if verb in (FLOW, REGULATE):
            assert isinstance(self.session, ShardedSession)
            return (yield self.session.submit(verb, items, nobody, 0))
        result = Ticket((), nobody)
        answers: dict[int, Any] = {}
        failure: Any = None
        for _ in range(TRIES):
            left = [at for at in range(len(items)) if at not in answers]
            failure = yield from (
                self._add(items, left, answers) if verb is ENQUEUE else self._do(verb, items, answers)
            )
            if failure is None and verb is not ENQUEUE and Outcome.UNKNOWN in answers.values():
                changed = yield from self.reload()  # they may be where this client has not looked
                if changed is None:
                    return CANCELLED
                if changed:
                    continue
            if failure is None:
                result.resolve([answers[at] for at in range(len(items))])
                return result
            if failure is CANCELLED or not isinstance(failure, TorrelqueShardsError):
                break
            if not (yield from self.catch_up()):
                return CANCELLED
        if failure is CANCELLED:
            return CANCELLED
        assert failure is not None
        result.fail(failure)
        return result

    def _do(self, verb: Command, items: Sequence[Item], answers: dict[int, Any]) -> Generator[Ticket, Any, Any]:
        """To each item where its task is likely to be, then where it may be; what went wrong, if anything did."""
        places = [self._homes(verb, item) for item in items]
        for rank in range(max(map(len, places), default=0)):
            of_shard: dict[int, list[int]] = {}
            for at, homes in enumerate(places):
                if rank < len(homes) and answers.get(at, Outcome.UNKNOWN) is Outcome.UNKNOWN:
                    of_shard.setdefault(homes[rank], []).append(at)
            failure = yield from self._submit_each(verb, items, of_shard, answers)
            if failure is not None:
                return failure
        return None

    def _add(self, items: Sequence[Item], left: Sequence[int], answers: dict[int, Any]) -> Generator[Ticket, Any, Any]:
        """To its home, unless it is where it was at home before."""
        layout, of_shard = self.layout, dict[int, list[int]]()
        for at in left:
            home, *before = self._homes(ENQUEUE, items[at])
            for place in before:
                task_id = items[at][0]
                assert isinstance(task_id, bytes)
                keys = keys_of(self.world)[place]
                ticket = yield self.perform(sharding.clear_former(SCRIPTS, keys, layout.generation, [task_id]))
                if ticket is CANCELLED or ticket.error is not None:
                    return ticket if ticket is CANCELLED else ticket.error
                if ticket.value == [True]:
                    failure = yield from self._replace(items, at, place, answers)
                    if failure is not None:
                        return failure
                    break
            else:
                of_shard.setdefault(home, []).append(at)
        return (yield from self._submit_each(enqueue_in(layout.generation), items, of_shard, answers))

    def _replace(
        self, items: Sequence[Item], at: int, place: int, answers: dict[int, Any]
    ) -> Generator[Ticket, Any, Any]:
        """An item is queued on a former home."""
        only = only_replacing(items[at])
        if only is None:
            answers[at] = Outcome.EXISTING
            return None
        failure = yield from self._submit_each(enqueue_in(self.layout.generation), {at: only}, {place: [at]}, answers)
        if failure is None and answers[at] is Outcome.UNKNOWN:  # it has ended meanwhile
            failure = yield from self._add(items, [at], answers)
        return failure

    def _submit_each(
        self,
        verb: Command,
        items: Sequence[Item] | Mapping[int, Item],
        of_shard: Mapping[int, Sequence[int]],
        answers: dict[int, Any],
    ) -> Generator[Ticket, Any, Any]:
        assert isinstance(self.session, ShardedSession)
        tickets = [
            (self.session.submit(verb, [items[at] for at in places], nobody, shard), places)
            for shard, places in of_shard.items()
        ]
        failure: Any = None
        for waited, (ticket, places) in enumerate(tickets):
            if (yield ticket) is CANCELLED:
                for other, _ in tickets[waited + 1 :]:
                    self.leave(other)
                return CANCELLED
            if ticket.error is not None:
                failure = ticket.error if not isinstance(failure, Exception) else failure
            else:
                answers.update(zip(places, ticket.value, strict=True))
        return failure

    def _homes(self, verb: Command, item: Item) -> list[int]:
        """The shards where an item's task can be, the likeliest first."""
        if verb not in (ENQUEUE, CANCEL, REDRIVE, PURGE) and item[1]:
            shard = sharding.shard_of_claim(str(item[1]))
            assert shard is not None
            return [shard]
        assert isinstance(item[0], bytes)
        return self.layout.homes(item[0].decode())


def _reshard(client: ShardedClient) -> Behaviour:
    """Change the number of shards, as `torrelque.Torrelque.reshard` does."""
    wanted = client.random.choice(client.world.config.shards)
    for _ in range(TRIES):
        if (yield from client.reload()) is None:
            return
        layout = client.layout
        former = tuple(number for number in (layout.shards, *layout.former) if number != wanted)
        if layout.shards == wanted:
            if not layout.former or not (yield from _is_drained(client, layout)):
                return
            former = ()
        client.world.ledger.tally['drained' if layout.shards == wanted else 'resharded'] += 1
        ticket = yield client.perform(sharding.intend(SCRIPTS, MAIN, Layout(layout.generation + 1, wanted, former)))
        if ticket is CANCELLED or ticket.error is not None:
            return


def _is_drained(client: ShardedClient, layout: Layout) -> Generator[Ticket, Any, bool]:
    """Whether every task and every result is at home."""
    for shard, keys in enumerate(keys_of(client.world)[: layout.total]):
        for scan in (partial(operations.scan_tasks, SCRIPTS, keys, None), partial(operations.scan_results, keys)):
            cursor = b''
            while cursor != b'0':
                ticket = yield client.perform(scan(cursor or b'0'))
                if ticket is CANCELLED or ticket.error is not None:
                    return False
                cursor, ids = ticket.value
                if any(sharding.home_of(task_id, layout.shards) != shard for task_id in ids):
                    return False
    return True


class ShardedRules(Rules):
    """Those of each shard, which have one account of claims, and: a task is on one shard, where it may be."""

    def __init__(self, parts: Sequence[Rules], server: ObservedServer) -> None:
        self._execute = server.execute
        self._join(parts, KEYS)

    def _join(self, parts: Sequence[Rules], keys_of_parts: Sequence[Keys]) -> None:
        self._parts = parts
        first = parts[0]
        for part in parts[1:]:
            part.claims, part.incarnations = first.claims, first.incarnations
            part.handed_out, part.redrives = first.handed_out, first.redrives
            part.replaced = first.replaced
        self.claims, self.incarnations = first.claims, first.incarnations
        self.handed_out, self.redrives = first.handed_out, first.redrives
        self.replaced = first.replaced
        self.shadow: Mapping[bytes, View] = _Shadows(parts)  # type: ignore[assignment]  # it is only read
        self._of_key: dict[Arg | None, Rules] = {
            key: part for keys, part in zip(keys_of_parts, parts, strict=False) for key in _all_of(keys)
        }

    @property
    def parts(self) -> Sequence[Rules]:
        return self._parts

    def judge(self, call: Call[Any], reply: Reply) -> None:
        mine = self._of_key.get(call.keys[0] if call.keys else None, self._parts[0])
        ids: Sequence[Arg] = ()
        if isinstance(call.command, Script) and call.command.name == 'enqueue':
            own = int(call.args[3])
            begin = 8 if own < 6 else 4
            if (len(call.args) - begin) % own:
                call = Call(call.command, call.keys, call.args[:-1])  # but for the number of shards
            ids = call.args[begin::own]
        mine.judge(call, reply)
        for part in self._parts:
            if part is not mine:
                require(not part._changes(), 'a call to one shard changed another', call)
        for task_id in ids:
            assert isinstance(task_id, bytes)
            places = [part for part in self._parts if part.shadow.get(task_id, NOWHERE).payload is not None]
            require(len(places) <= 1, 'a task on two shards', task_id)

    def check_all(self) -> None:
        records = RecordKeys(MAIN, None, KEYS.__getitem__)  # opening a layout rings nowhere
        layout, _ = blocking_drive(sharding.open_layout(SCRIPTS, records, len(self._parts)), self._execute)
        for shard, part in enumerate(self._parts):
            part.check_all()
            for task_id, view in part.shadow.items():
                home = view.payload is None or shard in layout.homes(task_id.decode())
                require(home, 'a task where nobody looks for it', task_id, shard, layout)
        for task_id in self.shadow:
            known = [shard for shard, part in enumerate(self._parts) if part.shadow.get(task_id, NOWHERE).state]
            require(len(known) <= 1, 'an old result beside the task', task_id, known)


class _Shadows(Mapping[bytes, View]):
    """What is known of each task, wherever it is."""

    def __init__(self, parts: Sequence[Rules]) -> None:
        self._parts = parts

    def __getitem__(self, task_id: bytes) -> View:
        views = [part.shadow[task_id] for part in self._parts if task_id in part.shadow]
        if not views:
            raise KeyError(task_id)
        return max(views, key=lambda view: view.payload is not None)

    def __iter__(self) -> Iterator[bytes]:
        return iter(dict.fromkeys(task_id for part in self._parts for task_id in part.shadow))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _all_of(keys: Keys) -> Sequence[bytes]:
    return list(keys._encoded.values())
