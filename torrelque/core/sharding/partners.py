"""What the consumers of a queue with shards know of each shard and each server."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torrelque.core.consumers import SLICE, Hint, Look
from torrelque.core.keys import Keys
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.protocol import Arg

__all__ = ('LOOKED_AT', 'Node', 'Partner', 'Shard', 'name_of', 'tails_of')

LOOKED_AT = ('tasks', 'pending', 'delayed', 'working', 'timer', 'wake', 'counters', 'bell', 'schedules', 'groups')
"""The keys of each shard that a survey uses."""


class Partner:
    """A server or a shard, which may stop answering while others answer.

    Attributes:
        failures: The number of failures in a row.
        lost: The error, if it is lost; None if it answers.
        not_before: When to try it again.
    """

    __slots__ = ('failures', 'lost', 'not_before')

    def __init__(self) -> None:
        self.failures: int = 0
        self.lost: Exception | None = None
        self.not_before: float = -math.inf


class Shard(Partner):
    """One shard as its consumers see it."""

    __slots__ = (
        'alarm', 'asked', 'bell', 'busy', 'claimed_at', 'expected', 'hinted', 'lane', 'lanes', 'name', 'number', 'ring',
        'seen', 'wake',
    )  # fmt: skip

    def __init__(self, number: int, lanes: Lanes, keys: Keys) -> None:
        super().__init__()
        self.number: int = number
        self.asked: int = 0  # tasks that the claim in flight asked for, unless it is overdue
        self.claimed_at: float = -math.inf
        self.lanes: Lanes = lanes
        self.lane: Lane = Lane()
        self.wake: bytes = keys['wake']
        self.ring: bytes = keys['ring']
        self.bell: bytes = keys['bell']
        self.name: bytes = name_of(keys)
        self.busy: bool = False
        self.expected: int = 0  # tasks that it probably has
        self.seen: int = 0  # those that a survey found while a claim was in flight, perhaps after the claim ran
        self.alarm: float = math.inf  # when the event is due that this client handles
        self.hinted: bool = False  # it rang, and no claim began since; if none does, others must be rung

    @property
    def promising(self) -> bool:
        """Whether it may soon deliver tasks."""
        return not self.lost and (self.asked > 0 or (self.expected > 0 and not self.busy))

    @property
    def rests(self) -> bool:
        """Whether nothing is known of it that a step would have to look at."""
        idle = not (self.busy or self.expected or self.hinted or self.asked or self.lost)
        return idle and self.alarm == math.inf

    @property
    def active(self) -> bool:
        """Whether a claim is in flight or about to begin."""
        return self.busy or (self.expected > 0 and not self.lost)


class Node(Partner):
    """A server, and the shards that it holds."""

    __slots__ = ('done', 'hint', 'lead', 'lead_at', 'look', 'looked_at', 'members', 'shards', 'surveyed_at')

    def __init__(self, shards: Sequence[int], looked_at: Sequence[Arg]) -> None:
        super().__init__()
        self.lead: int = 0  # counts up to the shard whose slot gets the surveys and waits
        self.lead_at: float = -math.inf  # when a survey by way of that slot failed
        self.shards: Sequence[int] = shards
        self.members: frozenset[int] = frozenset(shards)
        self.looked_at: Sequence[Arg] = looked_at  # what a survey is given
        self.look: Look = Look.WANTED  # the phase of surveys
        self.hint: Hint = Hint.ELSEWHERE
        self.surveyed_at: float = -math.inf
        self.done: int = 0  # the number of its latest answered survey

    def want_survey(self) -> None:
        """Have it surveyed."""
        self.look = self.look.and_wanted

    def end_wait(self, *, taken: bool) -> None:
        """Record the end of a wait. ``taken``: it may have removed a ring that this client will not answer."""
        if taken:
            self.hint = Hint.TAKEN
        elif self.hint is Hint.BLOCKING:
            self.hint = Hint.ELSEWHERE

    def leave_slot(self, now: float) -> None:
        """Survey by way of the next shard's slot, because the server may no longer have this one.

        As long as a wait lasts, the shards are to ring there: rings elsewhere would be heard after the slice only.
        """
        if self.hint is not Hint.BLOCKING:
            self.lead += 1
            self.lead_at = now

    def return_to_slot(self, now: float) -> None:
        """Survey by way of the first shard's slot again.

        Shards ring only where the last survey came from, so all clients are to wait there, except after failures.
        """
        if self.lost is None and self.hint is not Hint.BLOCKING and now - self.lead_at > SLICE / 2:
            self.lead = 0

    @property
    def first(self) -> int:
        """The shard whose slot gets the surveys and waits."""
        return self.shards[self.lead % len(self.shards)]


def name_of(keys: Keys) -> bytes:
    """Return what the keys of a shard begin with: its name."""
    name, brace, _ = keys['wake'].partition(b'}')
    return name + brace


def tails_of(keys: Keys) -> list[bytes]:
    """Return what the keys that a survey uses have after a shard's name. It is the same for all shards."""
    return [keys[name].partition(b'}')[2] for name in LOOKED_AT]
