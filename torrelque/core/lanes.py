"""Lanes: what makes a mutating call safe to repeat, to cancel and to delay.

A lane is a record on the server with the sequence and the answer of the last
call made on it. A call that arrives again is answered from the record; one that
arrives late does nothing. A lane has one call in flight, so there is a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torrelque.core.commands import MAX_ITEMS
from torrelque.core.keys import Keys
from torrelque.core.protocol import Arg, Call, Interrupted, Operation, Reply, Script, as_is
from torrelque.core.scripts import ScriptSet
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
"""Tasks a claim: with 20 stale, 20 due and 20 dropped ones a call touches no more than 250, as all calls do."""

_MINTS_A_CALL = 3
"""A lane that is gone as soon as it was made means a server that keeps nothing."""


class Lane:
    """A lane as its client knows it: ``number`` (empty until the server made it), ``nonce``, last ``sequence``."""

    __slots__ = ('nonce', 'number', 'sequence')

    def __init__(self) -> None:
        self.number: str = ''
        self.nonce: str = ''
        self.sequence: int = 0


class Lanes:
    """The lanes of one client, whose ``nonce`` nobody else has.

    Each lane that is made gets a nonce of its own, this one and a number: after
    a fail-over to a replica that lagged a server may give out a lane's number
    again, to the same client, too.
    """

    def __init__(self, scripts: ScriptSet, keys: Keys, nonce: str) -> None:
        self._scripts = scripts
        self._keys = keys
        self._known: dict[str, tuple[Script, tuple[Arg, ...]]] = {}  # scripts with their keys
        self._nonce = nonce
        self._made = 0
        self._free: list[Lane] = []
        self._standing: dict[str, str] = {}  # the nonces of those that the server has, by number
        self._unsettled: list[tuple[str, str, int]] = []
        self.claim_limit: int = MAX_CLAIM
        """Tasks that one claim may ask for. Fewer once the server refused an answer that was too large."""

    @property
    def unsettled(self) -> bool:
        """Whether calls are left whose end is unknown because nobody answered."""
        return bool(self._unsettled)

    def borrow(self) -> Lane:
        """A lane with no call in flight."""
        return self._free.pop() if self._free else Lane()

    def give_back(self, lane: Lane) -> None:
        """The lane has no call in flight any more."""
        self._free.append(lane)

    def script(self, name: str, args: tuple[Arg, ...], parse: Callable[[Reply], T]) -> Call[T]:
        """A call of a script with the queue's keys."""
        known = self._known.get(name)
        if known is None:
            script = self._scripts[name]
            known = self._known[name] = script, self._keys.of(script)
        return Call(*known, args, parse)

    def call(
        self, name: str, args: tuple[Arg, ...], parse: Callable[[Reply], T], lane: Lane | None = None
    ) -> Operation[T]:
        """Run a mutating script on a lane: the given one, or one of the pool.

        ``parse`` gets what the reply holds after its outcome. When interrupted,
        the call is settled: if it turns out to have been done, its answer is
        returned, otherwise it never will be and the interruption is raised.
        A server that is failing over, or refuses everybody for other reasons,
        would not settle it either: that is left to `settle_all`. A call that is
        refused for the number of shards is settled, too, before its error is
        raised: a copy of it that came later would be done once the number is as
        it says.
        """
        used = lane or self.borrow()
        try:
            answer = yield from self._attempt(used, name, args)
        except Interrupted as interrupted:
            answer = yield from self._settle(used, interrupted)
        except TorrelqueTooLargeError as error:  # the call may be done: it may be its answer that is too large
            try:
                answer = yield from self._settle(used, Interrupted(error))
            except Interrupted:
                raise error from None
        except TorrelqueShardsError as error:
            answer = yield from self._settle_refused(used, error)
        except TorrelqueReplyError as error:
            if not is_unavailable(error):
                raise
            if not used.number:  # it was a lane being made that was refused
                mark_unsent(error)
            self._settle_later(used)
            raise Interrupted(error) from None
        finally:
            if lane is None:
                self.give_back(used)
        return parse(answer)

    def drop(self) -> Operation[None] | None:
        """The call that lets all lanes expire, when none is under way any more; None if there are no lanes.

        Those with an unsettled call are not among them.
        """
        lanes = [word for lane in self._standing.items() for word in lane]
        self._standing = {}
        self._free.clear()
        return self._drop(lanes) if lanes else None

    def _drop(self, lanes: list[str]) -> Operation[None]:
        try:
            for first in range(0, len(lanes), 2 * MAX_ITEMS):
                yield from self.script('drop', tuple(lanes[first : first + 2 * MAX_ITEMS]), as_is)
        except (Interrupted, Exception):  # noqa: BLE001 - they expire by themselves, only later
            return

    def settle_all(self) -> Operation[None]:
        """Settle what could not be settled when it was interrupted. Stops at the first that cannot be now."""
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
                raise TorrelqueShardsError('the queue has another number of shards by now')
            if outcome == b'SHARDED':
                shards = parts[1].split()[0].decode()
                raise TorrelqueShardsError(f'the queue has {shards} shards, not none: pass shards={shards}')
            self._leave(lane)
            if outcome != b'NOLANE':
                break
        # LATE and CLOSED answer calls that nobody waits for any more, so they mean two owners of one lane.
        raise TorrelqueError(f'the server refused {name!r} as {outcome!r}')

    def _settle(self, lane: Lane, interrupted: Interrupted) -> Operation[Sequence[Reply]]:
        call = lane.number, lane.nonce, lane.sequence
        if not lane.number:  # it was a lane being made that was cut off: nothing was sent on it
            if interrupted.cause is not None:
                mark_unsent(interrupted.cause)
            raise interrupted
        try:
            parts: Sequence[Reply] = yield from self.script('settle', call, as_is)
        except (Interrupted, TorrelqueReplyError):
            self._settle_later(lane)
            raise interrupted from None
        if parts[0] != b'finished':
            raise interrupted
        return parts[1:]

    def _settle_refused(self, lane: Lane, refusal: TorrelqueShardsError) -> Operation[Sequence[Reply]]:
        try:
            parts: Sequence[Reply] = yield from self.script('settle', (lane.number, lane.nonce, lane.sequence), as_is)
        except Interrupted:
            self._settle_later(lane)
            raise
        except TorrelqueReplyError as error:
            self._settle_later(lane)
            raise Interrupted(error) from None
        if parts[0] != b'finished':
            raise refusal
        return parts[1:]

    def _settle_later(self, lane: Lane) -> None:
        """The lane is not used any more."""
        if lane.number:
            self._unsettled.append((lane.number, lane.nonce, lane.sequence))
            self._leave(lane)

    def _leave(self, lane: Lane) -> None:
        """Open it again with the next call."""
        self._standing.pop(lane.number, None)
        lane.number = ''


def _text(reply: Reply) -> str:
    text: str = reply.decode()
    return text
