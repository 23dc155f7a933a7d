"""Members in the order of their scores, then of their bytes."""

from __future__ import annotations

import math
import random

from torrelque.transports.memory.sorted_set import SortedSet


def made(**scores: float) -> SortedSet:
    zset = SortedSet()
    for member, score in scores.items():
        zset.add(member.encode(), score)
    return zset


def test_order() -> None:
    zset = made(b=1, c=0, a=1)
    assert zset.ordered() == [(0, b'c'), (1, b'a'), (1, b'b')]
    assert zset.first() == (0, b'c')
    assert SortedSet().first() is None


def test_a_score_is_changed() -> None:
    zset = made(a=1, b=2)
    assert not zset.add(b'a', 3)
    assert (zset.ordered(), len(zset)) == ([(2, b'b'), (3, b'a')], 2)


def test_removing() -> None:
    zset = made(a=1, b=1)
    assert zset.remove(b'a')
    assert not zset.remove(b'a')
    assert zset.ordered() == [(1, b'b')]


def test_between() -> None:
    zset = made(a=1, b=2, c=2, d=3)
    assert zset.between(2, 2) == [(2, b'b'), (2, b'c')]
    assert zset.between(-math.inf, math.inf, 2) == [(1, b'a'), (2, b'b')]
    assert zset.between(2, 3, 0) == zset.between(4, 9) == []


def test_it_agrees_with_sorting_all_the_while() -> None:
    rng, zset, scores = random.Random(7), SortedSet(), dict[bytes, float]()
    for _ in range(2000):
        member = b'%d' % rng.randrange(40)
        if rng.random() < 0.3:
            assert zset.remove(member) == (scores.pop(member, None) is not None)
        else:
            score = float(rng.randrange(10))
            assert zset.add(member, score) == (member not in scores)
            scores[member] = score
        assert zset.scores == scores
        assert zset.ordered() == sorted((score, member) for member, score in scores.items())
