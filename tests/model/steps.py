"""How the steps of a machine are registered, and what several of them choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import hypothesis.strategies as st

__all__ = ('STEPS', 'Step', 'Steps', 'lane_numbers', 'odd_numbers', 'step', 'steps')

F = TypeVar('F', bound=Callable[..., object])

lane_numbers = st.sampled_from((0, 0, 0, 1, 1, 1, 2, 2, 2, 9))
odd_numbers = st.sampled_from(
    (b'7', b'-2', b'1.5', b'x', b'', b' 3 ', b'0x10', b'1_0', b'nan', b'inf', b'1e400', b'9e14', b'1e16')
)

Step: TypeAlias = tuple[str, dict[str, Any]]
Steps: TypeAlias = dict[str, tuple[int, st.SearchStrategy[dict[str, Any]]]]

STEPS: Steps = {}
"""Methods of the machine: how often each is wanted, and its arguments. Hypothesis would choose rules evenly."""


def step(weight: int, table: Steps = STEPS, **arguments: st.SearchStrategy[Any]) -> Callable[[F], F]:
    def register(method: F) -> F:
        table[method.__name__] = weight, st.fixed_dictionaries(arguments)
        return method

    return register


def steps(table: Steps = STEPS) -> st.SearchStrategy[Step]:
    names = [name for name, (weight, _) in table.items() for _ in range(weight)]
    return st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), table[name][1]))
