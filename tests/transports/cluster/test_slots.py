"""The slots of keys are those that real servers tell."""

from __future__ import annotations

import random

import pytest

from tests import clusters, servers
from torrelque.transports.cluster.slots import SLOTS, slot_of


def test_examples() -> None:
    assert slot_of(b'123456789') == 0x31C3  # the specification's own example
    assert slot_of('{mail}:pending') == slot_of(b'mail') == slot_of('a{mail}b{other}')
    assert slot_of(7) == slot_of('7')
    assert slot_of('{}a') != slot_of('')
    assert {slot_of(number) for number in range(200_000)} == set(range(SLOTS))


@pytest.mark.parametrize('name', clusters.KINDS)
def test_the_servers_agree(name: str) -> None:
    try:
        cluster = clusters.shared(name)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    rng = random.Random(name)
    keys = [bytes(rng.choices(b'ab{}\x00\xff', k=rng.randrange(12))) for _ in range(500)]
    with cluster.nodes[0].client() as client:
        assert [slot_of(key) for key in keys] == [client.command('CLUSTER', 'KEYSLOT', key) for key in keys]
