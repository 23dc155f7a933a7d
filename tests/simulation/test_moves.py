"""What the worlds bring about in which the queue's slot moves, and how nodes answer that have it not."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation import shards
from tests.simulation.configs import CONFIGS
from tests.simulation.moving import MovingNetwork, MovingSlots
from tests.simulation.server import KEYS
from tests.simulation.world import World
from torrelque.core.protocol import Call, Reply
from torrelque.core.sharding.partners import name_of, tails_of
from torrelque.errors import TorrelqueReplyError

WORLDS = 15


@pytest.mark.parametrize('name', ['moves', 'moves-shards'])
def test_what_the_worlds_bring_about(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tally, refusals = Counter[str](), Counter[str]()
    answer = MovingNetwork._answer

    def watched(self: MovingNetwork, *args: object) -> Reply:
        reply: Reply = answer(self, *args)  # type: ignore[arg-type]  # it is handed on
        if isinstance(reply, TorrelqueReplyError):
            refusals[reply.code] += 1
        return reply

    monkeypatch.setattr(MovingNetwork, '_answer', watched)
    for seed in range(WORLDS):
        world = World(seed, CONFIGS[name])
        world.run()
        tally += world.ledger.tally
    assert tally['moves'] > 5 * WORLDS
    assert refusals['TRYAGAIN'] > 5 * WORLDS
    assert refusals['MOVED'] > 0
    if name == 'moves':
        assert tally['enqueues confirmed'] > 0
        assert tally['ends acknowledged'] > 0
    assert not any('lost' in what or 'forgotten' in what for what in tally)


def test_a_node_answers_by_what_it_has_then() -> None:
    world = World(1, CONFIGS['moves'])
    network, slots = world.network, world.nodes
    assert isinstance(network, MovingNetwork)
    assert isinstance(slots, MovingSlots)
    network.faults = type(network.faults)()
    heard: list[Reply] = []

    def ask() -> Reply:
        network.send([Call('GET', (KEYS['epoch'],))], heard.extend)
        world.scheduler.run(world.scheduler.now + 0.05)
        return heard.pop()

    def refusal() -> str:
        reply = ask()
        assert isinstance(reply, TorrelqueReplyError)
        return reply.code

    world.server.call(Call('SET', (KEYS['epoch'],), (b'1',)))
    assert ask() == b'1'
    slots.slot_of(KEYS['epoch']).moving = True
    assert refusal() == 'TRYAGAIN'
    slots.arrive(b'')
    assert ask() == b'1'


def test_the_rest_of_a_batch_finds_the_slot_gone() -> None:
    world = World(1, CONFIGS['moves'])
    network, slots = world.network, world.nodes
    assert isinstance(network, MovingNetwork)
    assert isinstance(slots, MovingSlots)
    network.faults = type(network.faults)()
    heard: list[Reply] = []
    slots.arrive(b'')
    network._go_on([Call('PING'), Call('GET', (KEYS['epoch'],))], [], heard.extend, slots.term - 1, wrote=False)
    world.scheduler.run()
    assert isinstance(heard[1], TorrelqueReplyError)
    assert heard[1].code == 'MOVED'


def test_a_survey_looks_at_the_shards_of_its_node_only() -> None:
    world = World(1, CONFIGS['moves-shards'])
    slots = world.nodes
    assert isinstance(slots, MovingSlots)
    script = shards.SCRIPTS['survey']
    for shard, keys in enumerate(world.keys):
        slots.slot_of(keys['wake']).nodes = [(0, min(shard, 1))]
    _, findings = world.command(
        Call(script, world.keys[0].of(script), (20_000, 1, '', *tails_of(world.keys[0]), *map(name_of, world.keys)))
    )
    assert findings.split() == [b'%d=x' % shard for shard in range(1, len(world.keys))]
    assert world.keys[0]['bell'] in world.server.snapshot()
    assert world.keys[1]['bell'] not in world.server.snapshot()
