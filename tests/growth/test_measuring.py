"""A leak is found, however small; what comes and goes is not taken for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from tests.growth.measuring import Pattern, Report, Round, measure
from tests.growth.stage import Setting, Stage

KIND = 'object tests.growth.test_measuring.Thing'


class Thing:
    pass


def held_things(hold: Callable[[int], int]) -> Report:
    """Measure a pattern after whose round n this many things are held."""

    @asynccontextmanager
    async def play(stage: Stage) -> AsyncIterator[Round]:
        things: list[Thing] = []
        rounds: Iterator[int] = count(1)

        async def round_() -> None:
            things[:] = [Thing() for _ in range(hold(next(rounds)))]

        yield round_

    pattern = Pattern('things', play, rounds=2, warm_up=1, clients=('memory',), asyncio_only=False, bounded={})
    return measure(pattern, Setting('memory', 'asyncio', None))


@pytest.mark.parametrize('pace', [1, 2])
def test_a_leak_is_found(pace: int) -> None:
    report = held_things(lambda rounds: rounds // pace)
    assert KIND in report.growing()


@pytest.mark.parametrize(
    'hold',
    [lambda _: 5, lambda rounds: 20 * (rounds % 16 > 8), lambda rounds: min(rounds, 40)],
    ids=['constant', 'comes and goes', 'rises to a bound'],
)
def test_no_leak_is_found_in_what(hold: Callable[[int], int]) -> None:
    assert KIND not in held_things(hold).growing()
