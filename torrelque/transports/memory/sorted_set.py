"""A sorted set, as servers have it: members in the order of their scores, then of their bytes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

__all__ = ('SortedSet',)


class SortedSet:
    """Members with scores. ``scores`` is for reading only."""

    __slots__ = ('_order', 'scores')

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self._order: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self.scores)

    def add(self, member: bytes, score: float) -> bool:
        """Add a member or change its score; whether it is new."""
        old = self.scores.get(member)
        if old is not None:
            self._take_out(member, old)
        self.scores[member] = score
        insort(self._order, (score, member))
        return old is None

    def remove(self, member: bytes) -> bool:
        """Whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        self._take_out(member, score)
        return True

    def first(self) -> tuple[float, bytes] | None:
        """The lowest score, and whose it is."""
        return self._order[0] if self._order else None

    def ordered(self) -> list[tuple[float, bytes]]:
        """Scores and members, in order."""
        return list(self._order)

    def between(self, low: float, high: float, limit: int | None = None) -> list[tuple[float, bytes]]:
        """The first ``limit`` of those with scores from ``low`` to ``high``, both included."""
        start = bisect_left(self._order, (low, b''))
        end = bisect_right(self._order, high, lo=start, key=_score)
        return self._order[start : end if limit is None else min(end, start + limit)]

    def _take_out(self, member: bytes, score: float) -> None:
        del self._order[bisect_left(self._order, (score, member))]


def _score(item: tuple[float, bytes]) -> float:
    return item[0]
