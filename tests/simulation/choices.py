"""Chance, so made that one thing can be left out of a world while all else stays as it was.

A draw depends on the seed, the virtual time, and how many there were at this moment: on nothing that happened earlier
or elsewhere. Whatever befalls somebody by chance, and each act of a caller, is a choice, known by its moment. A world
may be told to make no others than some: then a fault that is missing shifts no other.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Generator
from random import Random
from typing import Any, NamedTuple

__all__ = ('Choice', 'Choices', 'Dice', 'Moment')

ACT = 'act'


class Dice(Random):
    """Code that lets time pass reports it by ``move_to``."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._seed = seed
        self.moment = 0.0
        self._draws = self._ties = 0

    def move_to(self, moment: float) -> None:
        if moment != self.moment:
            self.moment = moment
            self._draws = self._ties = 0

    def random(self) -> float:
        return self.getrandbits(53) * 2**-53

    def getrandbits(self, k: int, /) -> int:
        """At most 64 bits."""
        self._draws += 1
        return (hash((self._seed, self.moment, self._draws)) >> (64 - k)) & ((1 << k) - 1)

    def tie(self) -> int:
        """Orders what is due at one moment. It does not count as a draw."""
        self._ties += 1
        return hash((self._seed, self._ties, self.moment))


class Moment(NamedTuple):
    """When to go on. Seconds from now, added up, would be off by a rounding, and other choices be made."""

    time: float


class Choice(NamedTuple):
    """Something that happened by chance, and need not have: an act of ``who``, or what befell somebody."""

    moment: float
    kind: str
    who: str = ''


class Choices:
    """What was chosen in a world, in ``made``. With ``only``, nothing else may be."""

    def __init__(self, dice: Dice, only: Collection[Choice] | None = None) -> None:
        self.made: list[Choice] = []
        self._dice = dice
        self._only = None if only is None else frozenset(only)
        self._turns: dict[str, deque[float]] = defaultdict(deque)
        for choice in sorted(only or ()):
            if choice.kind == ACT:
                self._turns[choice.who].append(choice.moment)

    def happens(self, probability: float, kind: str, who: str = '') -> bool:
        return probability > 0 and self._dice.random() < probability and self.may(kind, who)

    def may(self, kind: str, who: str = '') -> bool:
        """Whether what chance wants to happen now may happen."""
        choice = Choice(self._dice.moment, kind, who)
        if self._only is not None and choice not in self._only:
            return False
        self.made.append(choice)
        return True

    def turn(self, who: str) -> Generator[Moment, Any, bool]:
        """To be run before each act of somebody: waits until it is due. Whether there is one."""
        if self._only is not None:
            turns = self._turns[who]
            if not turns:
                return False
            moment = turns.popleft()
            if moment > self._dice.moment:
                yield Moment(moment)
        self.made.append(Choice(self._dice.moment, ACT, who))
        return True
