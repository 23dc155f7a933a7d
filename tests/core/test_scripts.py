"""The scripts as text: what can be told without a server."""

from __future__ import annotations

import re

import pytest

from tests.core.support import SCRIPTS
from torrelque.core import scripts
from torrelque.core.keys import LOGICAL_NAMES
from torrelque.core.protocol import Script

# Introduced after Redis 6.2, or refused by one of the supported servers.
TOO_NEW = ('LMPOP', 'ZMPOP', 'SPUBLISH', 'FCALL', 'HEXPIRE', 'EXPIRETIME', 'SINTERCARD', 'LCS', 'WAITAOF')


@pytest.fixture(params=sorted(SCRIPTS))
def script(request: pytest.FixtureRequest) -> Script:
    return SCRIPTS[request.param]


def test_there_is_one_for_each_verb() -> None:
    assert set(SCRIPTS) == set(scripts.VERBS)
    assert len({each.sha for each in SCRIPTS.values()}) == len(SCRIPTS)


def test_loading_again_gives_the_same_shas() -> None:
    assert {name: each.sha for name, each in scripts.load().items()} == {n: s.sha for n, s in SCRIPTS.items()}


def test_the_servers_part_can_be_replaced() -> None:
    other = scripts.load('local function clock()\n  return 4\nend\n')
    assert {name for name in SCRIPTS if 'clock()' in SCRIPTS[name].source} == {
        name for name in SCRIPTS if 'return 4' in other[name].source
    }
    assert 'return 4' in other['claim'].source
    assert all("redis.call('TIME')" not in each.source for each in other.values())


def test_a_script_brings_what_it_uses(script: Script) -> None:
    defined = re.findall(r'^local function (\w+)', script.source, re.MULTILINE)
    common = _outside_branches(script.source)
    assert len(common) == len(set(common))
    for name in defined:
        assert len(re.findall(rf'\b{name}\b', script.source)) > defined.count(name), f'{name} is of no use'


def _outside_branches(source: str) -> list[str]:
    """The functions that each call of a script defines. Branches may define the same ones, each for itself."""
    found, depth = [], 0
    for line in source.splitlines():
        defined = re.match(r'local function (\w+)', line)
        if defined and not depth:
            found.append(defined[1])
        code = re.sub(r"'[^']*'|--.*", '', line)
        depth += len(re.findall(r'\b(?:function|if|do|repeat)\b', code)) - len(re.findall(r'\b(?:end|until)\b', code))
    assert depth == 0
    return found


def test_what_only_rare_branches_need_is_made_in_them() -> None:
    shared = scripts._Shared(
        """
local kept
local function low() kept = 1 end
local function high() low() end
local function common()
  -- rarely
  low()
  -- end
end
local function needless() end
"""
    )
    source = 'common()\nif a then\n  -- rarely\n  high()\n  -- end\nend\n'
    assert shared.with_used(source).splitlines() == [
        'local kept',
        'local function common()',
        'local function low() kept = 1 end',
        'low()',
        'end',
        'common()',
        'if a then',
        'local function low() kept = 1 end',
        'local function high() low() end',
        'high()',
        'end',
    ]


def test_what_is_rare_is_made_in_its_branch() -> None:
    common = re.split(r'^local outcome', SCRIPTS['claim'].source, flags=re.MULTILINE)[0]
    for name in ('plan_return', 'bury', 'trim', 'set_aside', 'take_timer', 'shards_of', 'open_lines'):
        assert f'local function {name}(' in SCRIPTS['claim'].source
        assert f'local function {name}(' not in common


def test_the_prelude_is_shared_with_no_more_than_it_takes() -> None:
    assert "redis.call('TIME')" in SCRIPTS['mint'].source
    assert 'local function number' in SCRIPTS['mint'].source  # used by way of nothing else
    assert 'local function hint' not in SCRIPTS['mint'].source
    assert 'local function earliest' in SCRIPTS['enqueue'].source  # by way of hint
    assert all('\n--' not in each.source for each in SCRIPTS.values())
    assert all(each.source.startswith('--!df flags=allow-undeclared-keys\n') for each in SCRIPTS.values())


def test_on_a_cluster_what_publishes_does_so_to_the_shard() -> None:
    sharded = scripts.load(on_cluster=True)
    publishing = {name for name, each in SCRIPTS.items() if "redis.pcall('PUBLISH'" in each.source}
    assert publishing == {name for name, each in sharded.items() if "redis.pcall('SPUBLISH'" in each.source}
    assert all(sharded[name].source.count("'PUBLISH'") == 1 for name in publishing)  # for servers without the other
    assert all(sharded[name].sha == SCRIPTS[name].sha for name in set(SCRIPTS) - publishing)
    assert publishing


def test_keys_are_declared_known_and_made_locals(script: Script) -> None:
    assert set(script.keys) <= set(LOGICAL_NAMES)
    assert len(set(script.keys)) == len(script.keys)
    _, first = script.source.splitlines()[:2]
    assert first.startswith(f'local {", ".join(script.keys)} = KEYS[1]')
    assert first.count('KEYS[') == len(script.keys)


def test_nothing_newer_than_redis_6_2_is_used(script: Script) -> None:
    commands = set(re.findall(r"redis\.p?call\('(\w+)'", script.source))
    assert commands.isdisjoint(TOO_NEW)
    assert not script.source.startswith('#!')


def test_keys_are_removed_at_once(script: Script) -> None:
    """With UNLINK they stay, on KeyDB, while anybody's SCAN runs."""
    assert 'UNLINK' not in script.source


def test_time_is_read_once(script: Script) -> None:
    times = script.source.count("redis.call('TIME')")
    assert times <= 1
    calls = 2 if script.name == 'release' else 1  # one for results; one where limits are in force
    assert len(re.findall(r'\bclock\(\)', script.source)) == times * (1 + calls)  # where it is defined and called


def test_nothing_is_left_to_chance(script: Script) -> None:
    assert 'math.random' not in script.source
    assert 'RANDOMKEY' not in script.source
