"""What consumers know of shards: which of them rest, and how their keys are named in a survey."""

from __future__ import annotations

import math

import pytest

from torrelque.core import scripts
from torrelque.core.keys import Keys, shard_name
from torrelque.core.lanes import Lanes
from torrelque.core.sharding.partners import LOOKED_AT, Shard, name_of, tails_of

KEYS = Keys.of_queue(shard_name('e:mail', 12))


def test_a_name_and_a_tail_make_a_key() -> None:
    assert [name_of(KEYS) + tail for tail in tails_of(KEYS)] == [KEYS[name] for name in LOOKED_AT]
    assert tails_of(KEYS) == tails_of(Keys.of_queue(shard_name('e:mail', 3)))


@pytest.mark.parametrize(
    ('name', 'value'),
    [('busy', True), ('expected', 1), ('hinted', True), ('asked', 1), ('alarm', 5.0), ('lost', OSError())],
)
def test_a_shard_of_which_something_is_known_does_not_rest(name: str, value: object) -> None:
    shard = Shard(12, Lanes(scripts.load(sharded=True), KEYS, 'n'), KEYS)
    assert shard.rests
    assert shard.alarm == math.inf
    setattr(shard, name, value)
    assert not shard.rests
