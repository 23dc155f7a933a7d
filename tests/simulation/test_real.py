"""Real servers do what the simulated one did, in whole worlds."""

from __future__ import annotations

import sys

import pytest

from tests import servers
from tests.model.real import clocked_scripts
from tests.simulation import __main__ as command
from tests.simulation.configs import CONFIGS
from tests.simulation.replay import Disagreement, Replayer, record
from torrelque.core.protocol import Script
from torrelque.core.scripts import ScriptSet

SEEDS = {'valkey-9.1': range(3), 'redis-8.2': range(3, 4), 'redis-7.0': range(4, 5), 'redis-6.2': range(2)}
SEEDS_FOR_FAULTS = 60


ON_ONE_SERVER = [name for name, config in CONFIGS.items() if config.failovers is None]


@pytest.mark.parametrize('name', ON_ONE_SERVER)
def test_worlds_end_in_the_same_state(server: servers.Server, name: str) -> None:
    with Replayer.on(server) as replayer:
        for seed in SEEDS[server.name]:
            _, done = record(seed, CONFIGS[name])
            assert len(done) > 100
            replayer.replay(done)


def _mutated(old: str, new: str) -> ScriptSet:
    scripts = clocked_scripts()
    assert any(old in script.source for script in scripts.values())
    return {name: Script(name, script.source.replace(old, new), script.keys) for name, script in scripts.items()}


@pytest.mark.parametrize(
    ('name', 'old', 'new'),
    [
        pytest.param(
            'mixed',
            'claim.token == token and claim.count == tonumber(count)\nand claim.deadline == tonumber(score)',
            'true',
            id='no fence',
        ),
        pytest.param('alone', "return 'LATE'", 'return nil', id='late calls are done'),
        pytest.param('alone', "record('closed', '')", '', id='settled calls are done when they arrive'),
        pytest.param('calm', "0, '0', 1, '1'", "0, '0'", id='one hint for many tasks'),
        pytest.param('calm', 'clock() * 1000) + milliseconds', 'clock() * 1000) + 1', id='other expiries'),
    ],
)
def test_a_fault_is_found(name: str, old: str, new: str) -> None:
    server = servers.shared('valkey-9.1')
    server.start()
    with Replayer.on(server, _mutated(old, new)) as replayer:
        assert any(_disagrees(replayer, seed, name) for seed in range(SEEDS_FOR_FAULTS))


def _disagrees(replayer: Replayer, seed: int, name: str) -> bool:
    _, done = record(seed, CONFIGS[name])
    try:
        replayer.replay(done)
    except Disagreement:
        return True
    return False


def test_the_command_replays(
    server: servers.Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['simulation', '--config', 'alone', '--seeds', '2', '--real', server.name])
    assert command.main() == 0
    assert f'calls and looks on {server.name}' in capsys.readouterr().out
