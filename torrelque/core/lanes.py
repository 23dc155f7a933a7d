"""Lanes make calls that change a queue safe to repeat, to cancel and to delay.

Theory of operation. A client that loses its connection does not know whether
the server ran its last call. If it sends the call again, a task may be added
twice; if it does not, a task may be lost. The call may also still be on its way
and run after the client has moved on.

A *lane* settles this. It is a record on the server, in one key, of the last call
that was made on it: the call's sequence number, the lane's nonce, a phase and
the call's answer. The server gives out a number for each lane (``mint``); the
client adds a nonce that no other client has, because a server that failed over
to a stale replica may give out the same number again. Each call carries number,
nonce and sequence, and the script compares them with the record first:

====================  ==========================================================
the record            the script
====================  ==========================================================
an older sequence     runs the call, and replaces the record
this sequence, open   does nothing, and returns the recorded answer
this one, closed      does nothing, and answers ``CLOSED``
a later sequence      does nothing, and answers ``LATE``
another nonce, none   does nothing, and answers ``NOLANE``
====================  ==========================================================

So a call that arrives twice takes effect once, with one answer. ``settle`` makes
an end of a call whose outcome is unknown. If the call has run, ``settle`` returns
the recorded answer (a claim is undone instead, since its caller may be gone). If
it has not, ``settle`` closes the record, so that a late copy does nothing.

``OK`` means that the call has run, now or before. ``NOLANE`` means that the lane
has expired or was lost in a fail-over: the call had no effect, and is made again
on a new lane. ``LATE`` and ``CLOSED`` answer copies that no caller waits for any
more. ``SHARDED`` and ``RESHARDED`` refuse a call because the queue has another
number of shards than the client assumes.

A lane has one call in flight, so a client has a pool of them. They expire 15
minutes after their last use, longer than any call is repeated.

The same idea is known elsewhere as client sessions in Raft (section 6.3 of the
thesis), as RIFL's completion records, and as Kafka's idempotent producer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torrelque.core.commands import MAX_ITEMS, NEW_IDS
from torrelque.core.keys import Keys
from torrelque.core.protocol import Arg, Call, Interrupted, Operation, Reply, Script, as_is
from torrelque.core.scripts import ScriptSet
from torrelque.core.wording import counted
from torrelque.errors import (
    TorrelqueError,
    TorrelqueReplyError,
    TorrelqueShardsError,
    TorrelqueTooLargeError,
    is_unavailable,
    mark_unsent,
)

__all__ = ('MAX_CLAIM', 'Lane', 'Lanes')

T = TypeVar('T')

MAX_CLAIM = 190
"""Maximum number of tasks in a claim. With 20 stale, 20 due and 20 dropped ones, a call touches at most 250 items."""

_MINTS_A_CALL = 3
"""How often to make a lane for one call. A server that loses lanes as soon as they are made keeps nothing."""


class Lane:
    """A lane as its client knows it.

    Attributes:
        number: The server's number for it; empty until the server has made the lane.
        nonce: Text that no other lane has.
        sequence: The sequence number of the last call.
    """

    __slots__ = ('nonce', 'number', 'sequence')

    def __init__(self) -> None:
        self.number: str = ''
        self.nonce: str = ''
        self.sequence: int = 0


class Lanes:
    """The lanes of one client.

    Each lane gets its own nonce, the client's and a counter, because after a
    fail-over to a stale replica a server may give out a lane's number again,
    even to the same client.

    Args:
        scripts: The scripts.
        keys: The keys of the queue, or of a shard.
        nonce: Text without blanks that no other client has.
    """

    def __init__(self, scripts: ScriptSet, keys: Keys, nonce: str) -> None:
        self._scripts = scripts
        self._keys = keys
        self._known: dict[str, tuple[Script, tuple[Arg, ...]]] = {}  # scripts with their keys
        self._nonce = nonce
        self._made = 0
        self._free: list[Lane] = []
        self._standing: dict[str, str] = {}  # the nonces of lanes that exist on the server, by number
        self._unsettled: list[tuple[str, str, int]] = []
        self.claim_limit: int = MAX_CLAIM
        """Maximum number of tasks to ask for in one claim. Reduced when the server refuses a reply as too large."""
        self.needy: dict[bytes, None] = {}
        """Ids of schedules that need more times, as claims reported them."""

    @property
    def unsettled(self) -> bool:
        """Whether there are calls whose outcome is unknown, because the server did not answer."""
        return bool(self._unsettled)

    def borrow(self) -> Lane:
        """Return a lane without a call in flight. Pass it to `give_back` after the call."""
        return self._free.pop() if self._free else Lane()

    def give_back(self, lane: Lane) -> None:
        """Return a lane that has no call in flight any more to the pool."""
        self._free.append(lane)

    def script(self, name: str, args: tuple[Arg, ...], parse: Callable[[Reply], T]) -> Call[T]:
        """Return a call of a script with the queue's keys."""
        known = self._known.get(name)
        if known is None:
            script = self._scripts[name]
            known = self._known[name] = script, self._keys.of(script)
        return Call(*known, args, parse)

    def call(
        self, name: str, args: tuple[Arg, ...], parse: Callable[[Reply], T], lane: Lane | None = None
    ) -> Operation[T]:
        """Run a script that changes the queue on a lane.

        If interrupted, the call is settled. If it has run, its answer is returned; if not, it never will, and the
        interruption is raised. A server that refuses all calls, for example because it fails over, would refuse
        to settle it, so that is left to `settle_all`. A call that was refused because of the number of shards is
        settled as well, because a late copy of it could run once that number has changed.

        Args:
            name: The script's name.
            args: The arguments after lane, nonce and sequence.
            parse: Makes the result from the parts of the reply after its outcome.
            lane: The lane; None for one of the pool.

        Returns:
            The result of ``parse``.

        Raises:
            Interrupted: The call did not run, or its outcome is still unknown.
            TorrelqueReplyError: The server refused the call.
            TorrelqueShardsError: The queue has another number of shards.
        """
        used = lane or self.borrow()
        try:
            answer = yield from self._attempt(used, name, args)
        except (Interrupted, TorrelqueShardsError) as failure:
            answer = yield from self._settle(used, failure)
        except TorrelqueTooLargeError as error:  # the call may have run, as it may be its answer that is too large
            try:
                answer = yield from self._settle(used, Interrupted(error))
            except Interrupted:
                raise error from None
        except TorrelqueReplyError as error:
            if not is_unavailable(error):
                raise
            if not used.number:  # `mint` was refused, so the call was not sent
                mark_unsent(error)
            self._settle_later(used)
            raise Interrupted(error) from None
        finally:
            if lane is None:
                self.give_back(used)
        return parse(answer)

    def drop(self) -> Operation[None] | None:
        """Return an operation that lets all lanes expire, except those with an unsettled call; None if there are none.

        Call it when no call is in flight any more.
        """
        lanes = [word for lane in self._standing.items() for word in lane]
        self._standing = {}
        self._free.clear()
        return self._drop(lanes) if lanes else None

    def _drop(self, lanes: list[str]) -> Operation[None]:
        try:
            for first in range(0, len(lanes), 2 * MAX_ITEMS):
                yield from self.script('drop', tuple(lanes[first : first + 2 * MAX_ITEMS]), as_is)
        except (Interrupted, Exception):  # noqa: BLE001 - then they expire later
            return

    def settle_all(self) -> Operation[None]:
        """Settle the calls that could not be settled when they were interrupted. Stops at the first failure."""
        while self._unsettled:
            yield from self.script('settle', self._unsettled[0], as_is)
            self._unsettled.pop(0)

    def _attempt(self, lane: Lane, name: str, args: tuple[Arg, ...]) -> Operation[Sequence[Reply]]:
        outcome = b''
        for _ in range(_MINTS_A_CALL):
            if not lane.number:
                self._made += 1
                lane.nonce = f'{self._nonce}.{self._made:x}'
                lane.number = yield from self.script('mint', (lane.nonce,), _text)
                lane.sequence = 0
                self._standing[lane.number] = lane.nonce
            lane.sequence += 1
            parts: Sequence[Reply] = yield from self.script(
                name, (lane.number, lane.nonce, lane.sequence, *args), as_is
            )
            outcome = parts[0]
            if outcome == b'OK':
                return parts[1:]
            if outcome == b'RESHARDED':
                raise TorrelqueShardsError('the number of shards of the queue has changed')
            if outcome == b'SHARDED':
                shards = parts[1].split()[0].decode()
                raise TorrelqueShardsError(f'the queue has {counted(shards, "shard")}, not none: pass shards={shards}')
            self._leave(lane)
            if outcome != b'NOLANE':
                break
            if args[:1] == (NEW_IDS,):  # the lane may have been lost after the call had run
                args = ('2', *args[1:])
        # No caller waits for a call that is answered LATE or CLOSED, unless a lane has two owners.
        raise TorrelqueError(f'the server refused {name!r} as {outcome!r}')

    def _settle(self, lane: Lane, failure: Interrupted | TorrelqueShardsError) -> Operation[Sequence[Reply]]:
        """Return a call's answer if it ran. Raises ``failure`` if it did not, and Interrupted if that is unknown."""
        if isinstance(failure, Interrupted) and not lane.number:  # `mint` was interrupted, so the call was not sent
            if failure.cause is not None:
                mark_unsent(failure.cause)
            raise failure
        try:
            parts: Sequence[Reply] = yield from self.script('settle', (lane.number, lane.nonce, lane.sequence), as_is)
        except (Interrupted, TorrelqueReplyError) as error:
            self._settle_later(lane)
            if isinstance(failure, Interrupted):
                raise failure from None
            raise error if isinstance(error, Interrupted) else Interrupted(error) from None
        if parts[0] != b'finished':
            raise failure
        return parts[1:]

    def _settle_later(self, lane: Lane) -> None:
        """Leave the lane to `settle_all`, and use it no more."""
        if lane.number:
            self._unsettled.append((lane.number, lane.nonce, lane.sequence))
            self._leave(lane)

    def _leave(self, lane: Lane) -> None:
        """Have the next call make a new lane."""
        self._standing.pop(lane.number, None)
        lane.number = ''


def _text(reply: Reply) -> str:
    text: str = reply.decode()
    return text
