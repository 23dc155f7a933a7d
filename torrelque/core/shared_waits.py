"""Merges the waits of several queue objects on one server into one blocking call.

Theory of operation. Each queue object waits for its own hint, and could do so on
its own connection. `SharedWaits` puts the waits that begin at about the same
time into a *round*: one ``BZPOPMIN`` of all their keys. The reply names the key
whose hint it popped, so the wait on that key ends. The others begin the next
round at once, and a queue whose time is over leaves.

A round on the server cannot take further keys. A wait that comes later begins
another round, which ends when the earlier one does, so that the two become one.
Until then there are two calls on the server, for one slice at most.

Whatever may have taken a hint of an unknown key, such as a broken connection or
a wait that was cancelled, ends all waits of the round as if each had been
hinted: a look too many does no harm. If the server refuses a round, because of
the type of one key or the user's permissions, each of its waits is repeated
alone, so that only those that are refused fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torrelque.core.protocol import Call, Reply
from torrelque.errors import TorrelqueReplyError, renew

__all__ = ('Round', 'SharedWait', 'SharedWaits')

TOGETHER = 2.0
"""A wait that would end at most this much later, in seconds, ends with the round, so that queues look in step."""

LEAST = 0.25
"""A round that ends sooner than this, in seconds, is not waited for: servers notice the end up to 0.1 s late."""


class SharedWait:
    """The wait of one queue object.

    Attributes:
        key: The sorted set that its hint is in.
        until: When its time is over.
        state: ``waits``, or ``ended`` with a ``reply``, or ``failed`` with an ``error``, or ``alone`` if the call is
            to be made for this wait only.
        reply: The reply, as to its own call.
        error: Why it broke.
    """

    __slots__ = ('error', 'key', 'reply', 'state', 'until')

    def __init__(self, key: bytes, until: float) -> None:
        self.key: bytes = key
        self.until: float = until
        self.state: Literal['waits', 'ended', 'failed', 'alone'] = 'waits'
        self.reply: Reply = None
        self.error: Exception | None = None

    def end(self, reply: Reply) -> None:
        """End with a reply."""
        self.state, self.reply = 'ended', reply

    def end_as_hinted(self) -> None:
        """End as if there was a hint, because one may have been taken."""
        self.end([self.key, b'', b'0'])


class Round:
    """Waits that are, or will be, in one call on the server.

    Attributes:
        waits: The waits.
        until: When the call ends; minus infinity before it begins.
    """

    __slots__ = ('until', 'waits')

    def __init__(self) -> None:
        self.waits: list[SharedWait] = []
        self.until: float = float('-inf')


class SharedWaits:
    """The waits of several queue objects with one client.

    Args:
        members: The number of queue objects.
    """

    def __init__(self, members: int) -> None:
        self.members: int = members
        self._next: Round | None = None
        self._begun: set[Round] = set()

    def join(self, wait: SharedWait) -> tuple[Round, bool]:
        """Add a wait to the next round. Returns the round, and whether the caller has to make its call."""
        first = self._next is None
        if self._next is None:
            self._next = Round()
        self._next.waits.append(wait)
        return self._next, first

    def is_complete(self, round_: Round, now: float) -> bool:
        """Whether no other queue object could join a round, nor will soon, because its own is about to end."""
        elsewhere = sum([len(begun.waits) for begun in self._begun if begun.until - now > LEAST])
        return len(round_.waits) >= self.members - elsewhere

    def begin(self, round_: Round, now: float) -> tuple[Call[Reply], float]:
        """Begin a round. Returns the call, and for how long it blocks, in seconds."""
        self._next = None
        ends = [begun.until for begun in self._begun if begun.until - now > LEAST]
        round_.until = min([wait.until for wait in round_.waits] + ends)
        self._begun.add(round_)
        return self.call([wait.key for wait in round_.waits], round_.until - now)

    def call(self, keys: Sequence[bytes], seconds: float) -> tuple[Call[Reply], float]:
        """Return the call that waits on keys, and for how long it blocks, in seconds."""
        seconds = max(0.001, seconds)  # 0 would be for ever
        return Call('BZPOPMIN', tuple(keys), (f'{seconds:.3f}',)), seconds

    def ended(self, round_: Round, reply: Reply, now: float) -> None:
        """Process the reply to a round's call. Waits that it does not end have to join again."""
        self._begun.discard(round_)
        if isinstance(reply, TorrelqueReplyError):
            for wait in round_.waits:
                if len(round_.waits) > 1:
                    wait.state = 'alone'
                else:
                    wait.end(reply)
            return
        key, member = (None, None) if reply is None else (reply[0], reply[1])
        for wait in round_.waits:
            if key is not None and (wait.key == key or not member):
                wait.end(reply if member else [wait.key, b'', b'0'])
            elif wait.until - now <= (TOGETHER if key is None else 0.0):
                wait.end(None)

    def failed(self, round_: Round, error: Exception) -> None:
        """Process a call that broke."""
        self._begun.discard(round_)
        for wait in round_.waits:
            wait.state, wait.error = 'failed', renew(error)

    def interrupted(self, round_: Round) -> None:
        """Process that a round was cancelled, before or after it began. Has no effect on one that has ended."""
        if round_ is self._next or round_ in self._begun:
            self._next = None if round_ is self._next else self._next
            self._begun.discard(round_)
            for wait in round_.waits:
                wait.end_as_hinted()

    def leave(self, round_: Round, wait: SharedWait) -> bool:
        """Remove a wait that was cancelled. Returns whether the round's call has to be cancelled."""
        if round_ in self._begun:
            return True
        if wait in round_.waits:
            round_.waits.remove(wait)
        return False
