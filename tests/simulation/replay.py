"""A real server does what the simulated one did: the same replies, and the same keys in the end.

A world is recorded: each call with the server's time, each hint that a wait took, each key whose time was over. A real
server whose scripts run on the test's clock gets the same in the same order, many calls at once, and now and
then everything that it holds is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.model.real import CLOCK_KEY, DUMP, EXPIRE, LEFT, clocked_scripts, comparable, keys_of
from tests.servers import Client, Server
from tests.simulation.clients import SCRIPTS
from tests.simulation.configs import Config
from tests.simulation.server import ObservedKeyspace, ObservedServer
from tests.simulation.shards import SCRIPTS as SHARD_SCRIPTS
from tests.simulation.world import World
from torrelque.core.keys import Keys
from torrelque.core.protocol import Call, Reply, Script
from torrelque.core.scripts import ScriptSet
from torrelque.transports.memory.keyspace import Plain

__all__ = ('Disagreement', 'Done', 'Recording', 'Replayer', 'record')

CALLS_AT_ONCE = 100
LOOK_EVERY = 20
"""Calls between two comparisons of all keys."""

APART = frozenset(('SCRIPT LOAD', 'TIME'))
"""What a real server would answer otherwise, having other scripts, and a clock of its own."""


class Disagreement(AssertionError):  # noqa: N818 - that is the word for it
    """The simulated server and a real one did different things."""


@dataclass(slots=True)
class Done:
    """A call as it was executed at a time. Calls of ``DUMP`` are answered by a snapshot."""

    now: float
    call: Call[Any]
    reply: Reply = None


class _RecordingKeyspace(ObservedKeyspace):
    def __init__(self, shards: Sequence[Keys], expire: Callable[[float, Sequence[bytes]], object]) -> None:
        super().__init__(shards)
        self._expire = expire

    def move_to(self, now: float) -> None:
        due = [key for key, at in self._expiries.items() if at < int(now * 1000)] if self._expiries else []
        if due:
            self._expire(now, due)
        super().move_to(now)


class Recording(ObservedServer):
    """The simulated server, which remembers in ``done`` all that it did."""

    def __init__(self, clock: Callable[[], float], shards: Sequence[Keys]) -> None:
        super().__init__(clock, shards)
        self._db = _RecordingKeyspace(shards, self._expire)
        self.done: list[Done] = []
        self._looked = 0

    def call(self, call: Call[Reply]) -> Reply:
        if call.command in APART:
            return super().call(call)
        self._db.move_to(round(self._clock(), 6))
        done = Done(self._db.now, call)
        self.done.append(done)
        done.reply = super().call(call)
        if len(self.done) - self._looked >= LOOK_EVERY:
            self.look()
        return done.reply

    def look(self) -> None:
        """Compare all keys here."""
        keys = self.snapshot()
        self.done.append(Done(self._db.now, Call(DUMP), keys))
        self._looked = len(self.done)

    def _pop(self, key: bytes) -> Reply:
        reply = super()._pop(key)
        self.done.append(Done(self._db.now, Call('ZPOPMIN', (key,)), reply and reply[1:]))
        return reply

    def _expire(self, now: float, keys: Sequence[bytes]) -> None:
        self.done.append(Done(now, Call(EXPIRE, args=tuple(keys)), len(keys)))


def record(seed: int, config: Config) -> tuple[World, list[Done]]:
    """Run a world to its end. Raises Violation."""
    recordings: list[Recording] = []

    def make(clock: Callable[[], float], shards: Sequence[Keys]) -> Recording:
        recordings.append(Recording(clock, shards))
        return recordings[0]

    world = World(seed, config, make_server=make)
    world.run()
    (recording,) = recordings
    recording.look()
    return world, recording.done


class Replayer:
    """A connection to a real server that does what was recorded."""

    def __init__(self, client: Client, name: str, scripts: ScriptSet) -> None:
        self._client = client
        self._name = name
        sharded = clocked_scripts(sharded=True)
        self._clocked = {SHARD_SCRIPTS[name].sha: script for name, script in sharded.items()}
        self._clocked.update({SCRIPTS[name].sha: script for name, script in scripts.items()})  # perhaps with a fault
        for script in (*self._clocked.values(), DUMP, EXPIRE, LEFT):
            client.command('SCRIPT', 'LOAD', script.source)

    @classmethod
    @contextmanager
    def on(cls, server: Server, scripts: ScriptSet | None = None) -> Iterator[Replayer]:
        """``scripts``: others than those of the library, on the test's clock."""
        with server.client() as client:
            yield cls(client, server.name, scripts or clocked_scripts())

    def replay(self, done: Sequence[Done]) -> None:
        """From an empty server on. Raises Disagreement at the first reply or key that differs."""
        self._client.command('FLUSHALL')
        for at in range(0, len(done), CALLS_AT_ONCE):
            self._replay_some(done[at : at + CALLS_AT_ONCE])

    def _replay_some(self, done: Sequence[Done]) -> None:
        batch: list[Call[Any]] = []
        for each in done:
            batch.append(Call('SET', (CLOCK_KEY,), (repr(each.now),)))
            batch.append(self._translated(each))
        for each, reply in zip(done, self._client.execute(batch)[1::2], strict=True):
            _compare(self._name, each, reply)

    def _translated(self, done: Done) -> Call[Any]:
        """The call on the test's clock."""
        call = done.call
        if isinstance(call.command, Script):
            return Call(self._clocked.get(call.command.sha, call.command), call.keys, call.args)
        if call.command == 'PEXPIRE':
            key, milliseconds = (*call.keys, *call.args)
            return Call('PEXPIREAT', (key,), (int(done.now * 1000) + int(milliseconds),))
        if call.command == 'PTTL':
            return Call(LEFT, (*call.keys, *call.args))
        return call


def _compare(name: str, done: Done, reply: Reply) -> None:
    if done.call.command is not DUMP:
        expected, found = comparable(done.call, done.reply), comparable(done.call, reply)
        if expected != found:
            raise Disagreement(f'at {done.now!r} {done.call}: {expected} was simulated, {name} answered {found}')
        return
    simulated: dict[bytes, Plain] = done.reply
    keys = keys_of(reply)
    for key in sorted(simulated.keys() | keys.keys()):
        if simulated.get(key) != keys.get(key):
            raise Disagreement(
                f'at {done.now!r} {key!r}: {simulated.get(key)} was simulated, {name} has {keys.get(key)}'
            )
