"""What the worlds bring about in which the queue's slot moves, and how nodes answer that have it not."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.configs import CONFIGS
from tests.simulation.moving import MovingNetwork, MovingSlot
from tests.simulation.server import KEYS
from tests.simulation.world import World
from torrelque.core.protocol import Call, Reply
from torrelque.errors import TorrelqueReplyError

WORLDS = 15


def test_what_the_worlds_bring_about(monkeypatch: pytest.MonkeyPatch) -> None:
    tally, refusals = Counter[str](), Counter[str]()
    answer = MovingNetwork._answer

    def watched(self: MovingNetwork, *args: object) -> Reply:
        reply: Reply = answer(self, *args)  # type: ignore[arg-type]  # it is handed on
        if isinstance(reply, TorrelqueReplyError):
            refusals[reply.code] += 1
        return reply

    monkeypatch.setattr(MovingNetwork, '_answer', watched)
    for seed in range(WORLDS):
        world = World(seed, CONFIGS['moves'])
        world.run()
        tally += world.ledger.tally
    assert tally['moves'] > 5 * WORLDS
    assert refusals['TRYAGAIN'] > 5 * WORLDS
    assert refusals['MOVED'] > 0
    assert tally['enqueues confirmed'] > 0
    assert tally['ends acknowledged'] > 0
    assert not any('lost' in what or 'forgotten' in what for what in tally)


def test_a_node_answers_by_what_it_has_then() -> None:
    world = World(1, CONFIGS['moves'])
    network, slot = world.network, world.nodes
    assert isinstance(network, MovingNetwork)
    assert isinstance(slot, MovingSlot)
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
    slot.moving = True
    assert refusal() == 'TRYAGAIN'
    slot.arrive()
    assert ask() == b'1'


def test_the_rest_of_a_batch_finds_the_slot_gone() -> None:
    world = World(1, CONFIGS['moves'])
    network, slot = world.network, world.nodes
    assert isinstance(network, MovingNetwork)
    assert isinstance(slot, MovingSlot)
    network.faults = type(network.faults)()
    heard: list[Reply] = []
    network._go_on([Call('PING'), Call('GET', (KEYS['epoch'],))], [], heard.extend, slot.term - 1, wrote=False)
    world.scheduler.run()
    assert isinstance(heard[1], TorrelqueReplyError)
    assert heard[1].code == 'MOVED'
