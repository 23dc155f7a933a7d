"""Decides which shard gets the next new task."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

__all__ = ('IDS_A_TURN', 'Turns')

IDS_A_TURN = 250
"""Number of ids for one shard before it is the next shard's turn."""


class Turns:
    """The turns of a queue's shards. Lost shards have none, unless all are lost.

    Servers take turns, and so do the shards of each, so that all servers have the same load. Ids that are drawn in
    the same step are for one shard, so that the tasks are added in one call.

    Args:
        server_of: Returns which server has a shard now.

    Attributes:
        lost: The shards that do not answer.
    """

    def __init__(self, server_of: Callable[[int], Hashable]) -> None:
        self._server_of = server_of
        self.lost: set[int] = set()
        self._turn = (-1, 0, 0)  # the step, how many ids were drawn in it, and their shard
        self._round: list[int] = []  # the shards whose turns come next, in reverse
        self._rounds = 0

    def take(self, step: int, shards: int) -> int:
        """Return the shard for the next id.

        Args:
            step: The number of the engine's step.
            shards: The number of shards.
        """
        last_step, count, shard = self._turn
        if last_step != step or count >= IDS_A_TURN:
            count, shard = 0, self._next(shards)
        self._turn = step, count + 1, shard
        return shard

    def _next(self, shards: int) -> int:
        if not self._round:
            of_server: dict[Hashable, list[int]] = {}
            usable = [shard for shard in range(shards) if shard not in self.lost]
            for shard in usable or range(shards):
                of_server.setdefault(self._server_of(shard), []).append(shard)
            for own in of_server.values():
                first = self._rounds % len(own)
                own[:] = own[first:] + own[:first]
            longest = max(len(own) for own in of_server.values())
            self._rounds += longest
            self._round = [own[at % len(own)] for at in reversed(range(longest)) for own in of_server.values()]
        return self._round.pop()

    def restart(self) -> None:
        """Begin a new round with the next id, because the shards or their servers have changed."""
        self._turn, self._round = (-1, 0, 0), []

    def lose(self, shards: Iterable[int], total: int) -> list[int] | None:
        """Record that shards do not answer.

        Args:
            shards: The shards.
            total: The number of shards that may have tasks.

        Returns:
            The shards that answered before. None if no shard would be left; then these count as before.
        """
        self.lost = {shard for shard in self.lost if shard < total}
        new = sorted({shard for shard in shards if shard < total} - self.lost)
        if len(self.lost) + len(new) >= total:
            return None
        self.lost.update(new)
        self.restart()
        return new

    def find(self, shards: Iterable[int]) -> list[int]:
        """Record that shards answer, and return those that were lost."""
        found = sorted(self.lost.intersection(shards))
        self.lost.difference_update(found)
        self.restart()
        return found
