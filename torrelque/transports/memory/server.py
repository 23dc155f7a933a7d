"""A server in memory, which executes the core's calls one at a time. The executable specification of the scripts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from torrelque.core.protocol import Arg, Batch, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.commands import COMMANDS, score_text
from torrelque.transports.memory.keyspace import Keyspace, Plain
from torrelque.transports.memory.prelude import Run
from torrelque.transports.memory.verbs import VERBS

__all__ = ('MemoryServer',)

C = TypeVar('C', bound=Callable[..., object])


class MemoryServer:
    """Answers like a real server, with plain functions: no event loop, no I/O, no threads.

    :meth:`call` executes one call of the core, and a script by the Python model of its verb. For example::

        server = MemoryServer()
        server.call(Call('SET', (b'greeting',), (b'hello',)))
        assert server.call(Call('GET', (b'greeting',))) == b'hello'
        stats = blocking_drive(queue_stats(scripts, keys), server.execute)

    Args:
        clock: Returns the server's time, in Unix seconds. It is rounded to microseconds.
    """

    replicas: int = 0
    """Number of replicas that WAIT and WAITAOF report at once; there are none to wait for."""

    fsyncs: bool = True
    """Whether WAITAOF reports that all is on disk. With False, writes are never confirmed."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._db = Keyspace()
        self._waiters: dict[bytes, dict[object, Callable[[Reply], object]]] = {}  # in the order of their coming
        self._subscribers: dict[bytes, dict[object, Callable[[bytes], object]]] = {}
        self._published: list[tuple[bytes, bytes]] = []

    # Calls -------------------------------------------------------------------

    def call(self, call: Call[Reply]) -> Reply:
        """Execute one call and return its reply, unparsed. A refusal is a TorrelqueReplyError as a value.

        Callbacks run before this returns; they must not call the server.
        """
        self._db.move_to(round(self._clock(), 6))
        try:
            if isinstance(call.command, Script):
                return self._run_script(call.command, call)
            return self._run_command(call)
        except TorrelqueReplyError as error:
            return error.with_traceback(None)
        finally:
            if self._published:
                self._deliver()
            if self._waiters:
                self._serve()

    def execute(self, batch: Batch) -> list[Reply]:
        """Execute some calls in order."""
        return [self.call(call) for call in batch]

    def snapshot(self) -> dict[bytes, Plain]:
        """Return the type, content and expiry (Unix milliseconds or None) of each key, as plain values."""
        self._db.move_to(round(self._clock(), 6))
        return self._db.snapshot()

    # Waiting and listening ---------------------------------------------------

    def wait(self, keys: bytes | Sequence[bytes], callback: Callable[[Reply], object]) -> Callable[[], None]:
        """Do as BZPOPMIN without a time-out: pop a member when there is one, for the caller that has waited longest.

        Of several keys, the first that has a member counts. ``callback`` is called once, perhaps at once, with
        ``[key, member, score]`` or an error reply. Returns a function that ends the wait; it may be called again, and
        afterwards.
        """
        self._db.move_to(round(self._clock(), 6))
        keys = [keys] if isinstance(keys, bytes) else keys
        try:
            there = [key for key in keys if len(self._db.zset_at(key))]
        except TorrelqueReplyError as error:
            callback(error.with_traceback(None))
            return _nothing
        if there:
            callback(self._pop(there[0]))
            return _nothing

        def end() -> None:
            for end_one in ends:
                end_one()

        def receive(reply: Reply) -> None:
            end()
            callback(reply)

        ends = [_join(self._waiters, key, receive) for key in keys]
        return end

    def subscribe(self, channel: bytes, callback: Callable[[bytes], object]) -> Callable[[], None]:
        """Have ``callback`` called with what is published on a channel, in order. Returns a function that ends it."""
        return _join(self._subscribers, channel, callback)

    # Within ------------------------------------------------------------------

    def _run_script(self, script: Script, call: Call[Reply]) -> Reply:
        verb = VERBS.get(script.name)
        if verb is None:
            return TorrelqueReplyError(f'NOSCRIPT No matching script: there is no model of {script.name!r}')
        keys = dict(zip(script.keys, _encode(call.keys), strict=True))
        return verb(Run(self._db, keys, _encode(call.args), self._publish))

    def _run_command(self, call: Call[Reply]) -> Reply:
        name, *words = str(call.command).split()
        args = [*_encode(words), *_encode(call.keys), *_encode(call.args)]
        name = name.upper()
        try:
            if name in COMMANDS:
                return COMMANDS[name](self._db, args)
            return self._run_command_of_its_own(name, args)
        except (ValueError, KeyError, IndexError) as error:
            return TorrelqueReplyError(f'ERR wrong arguments for {name}: {error}')

    def _run_command_of_its_own(self, name: str, args: list[bytes]) -> Reply:
        if name == 'PUBLISH':
            channel, data = args
            return self._publish(channel, data)
        if name == 'BZPOPMIN':  # as in a transaction: it does not wait; `wait` does
            key, _ = args
            return self._pop(key)
        if name == 'WAIT':
            _, _ = map(int, args)
            return self.replicas
        if name == 'WAITAOF':
            _, _, _ = map(int, args)
            return [int(self.fsyncs), self.replicas]
        if name == 'SCRIPT' and len(args) == 2 and args[0].upper() == b'LOAD':  # noqa: PLR2004 - a word and a source
            return hashlib.sha1(args[1], usedforsecurity=False).hexdigest().encode()
        return TorrelqueReplyError(f'ERR unknown command {name!r}')

    def _publish(self, channel: bytes, data: bytes) -> int:
        receivers = len(self._subscribers.get(channel, ()))
        if receivers:
            self._published.append((channel, data))
        return receivers

    def _deliver(self) -> None:
        published, self._published = self._published, []
        for channel, data in published:
            for callback in list(self._subscribers.get(channel, {}).values()):
                callback(data)

    def _serve(self) -> None:
        """Give what there is to those who wait, first come first served."""
        for key in list(self._waiters):
            waiters = self._waiters.get(key, {})
            while waiters and self._db.type_at(key) == 'zset':
                waiters.pop(next(iter(waiters)))(self._pop(key))
            if not waiters:
                self._waiters.pop(key, None)

    def _pop(self, key: bytes) -> Reply:
        first = self._db.zset_at(key).first()
        if first is None:
            return None
        score, member = first
        self._db.zrem(key, (member,))
        return [key, member, score_text(score)]


def _join(places: dict[bytes, dict[object, C]], name: bytes, callback: C) -> Callable[[], None]:
    """Add a callback under a name. Returns a function that removes it, if it is still there."""
    token = object()
    places.setdefault(name, {})[token] = callback

    def end() -> None:
        place = places.get(name, {})
        if place.pop(token, None) is not None and not place:
            del places[name]

    return end


def _encode(words: Sequence[Arg]) -> list[bytes]:
    return [word if isinstance(word, bytes) else str(word).encode() for word in words]


def _nothing() -> None:
    """Ends a wait that is over."""
