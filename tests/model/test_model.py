"""The server in memory does what real servers do.

HYPOTHESIS_PROFILE=long goes on for hours, with other steps each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests import servers
from tests.model.grouped import GroupedMachine
from tests.model.machine import ModelMachine, Target
from tests.model.plays import PLAYS, SHARDED_PLAYS
from tests.model.real import RealServer, clocked_scripts
from tests.model.sharded import ShardedMachine
from tests.transports.settings import NEWEST_AND_OLDEST
from torrelque.core.protocol import Script
from torrelque.core.scripts import ScriptSet

settings.register_profile(
    'ci',
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile('long', settings.get_profile('ci'), max_examples=100_000, derandomize=False)

PROFILE_NAME = os.environ.get('HYPOTHESIS_PROFILE', 'ci')
PROFILE = settings.get_profile(PROFILE_NAME)
SHORT = PROFILE if PROFILE_NAME != 'ci' else settings(PROFILE, max_examples=100)
SHORTER = PROFILE if PROFILE_NAME != 'ci' else settings(PROFILE, max_examples=25)


@pytest.fixture(autouse=True)
def _the_same_steps_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Hypothesis would also try constants of all imported modules, so any change would change the steps."""
    if PROFILE_NAME == 'ci':
        provider = 'hypothesis.internal.conjecture.providers.HypothesisProvider'
        monkeypatch.setattr(f'{provider}._maybe_draw_constant', lambda *_, **_options: None)


def play(machine: type[ModelMachine], name: str) -> None:
    state = machine()
    state.begin()
    for step, arguments in (PLAYS | SHARDED_PLAYS)[name]:
        getattr(state, step)(**arguments)


def assert_shows(machine: type[ModelMachine], fault: str) -> None:
    with pytest.raises(AssertionError) as caught:
        play(machine, fault)
    assert 'ERR user_script' not in str(caught.value)  # a script that cannot run proves nothing


@contextmanager
def machine_of(
    server: servers.Server, scripts: ScriptSet, base: type[ModelMachine] = ModelMachine
) -> Iterator[type[ModelMachine]]:
    """A machine that compares with this server, running these scripts."""
    connection = RealServer(server, scripts)

    class Machine(base):  # type: ignore[valid-type, misc]  # mypy wants to know it beforehand
        real = connection

    try:
        yield Machine
    finally:
        connection.close()


def mutated(old: str, new: str, *, sharded: bool = False) -> ScriptSet:
    """The scripts with a fault."""
    scripts = clocked_scripts(sharded=sharded)
    assert any(old in script.source for script in scripts.values())
    return {name: Script(name, script.source.replace(old, new), script.keys) for name, script in scripts.items()}


def started(name: str) -> servers.Server:
    server = servers.shared(name)
    server.start()  # a test may have killed it
    return server


@pytest.mark.timeout(300 if PROFILE_NAME == 'ci' else 0)
def test_agrees_with_a_real_server(server: servers.Server) -> None:
    few = server.name not in NEWEST_AND_OLDEST
    with machine_of(server, clocked_scripts()) as machine:
        run_state_machine_as_test(machine, settings=SHORTER if few else PROFILE)


CALLS: dict[str, dict[str, Any]] = {
    'enqueue': {'items': [(b'a', b'1', '300', '', '', b'')], 'skip': 0},
    'claim': {'n': 0, 'willing': '0.000000', 'cap': ''},
    'release': {'items': [(Target(0, b'a', 'bare'), (3, '', b''))]},
    'cancel': {'task_id': b'a', 'running': 'ask'},
    'redrive': {'task_ids': [b'a']},
    'purge': {'task_ids': [b'a'], 'age': None},
    'flow': {'mode': 'resume', 'end': None, 'reason': b'', 'limits': b''},
    'regulate': {'name': b'g', 'text': b'1 - - - - - -'},
    'erase': {'force': 0},
    'unschedule': {'name': b'r', 'owner': b'', 'rank': None},
}


@pytest.mark.parametrize('first', CALLS)
@pytest.mark.parametrize('name', ['redis-6.2', 'valkey-9.1'])
def test_a_call_that_arrives_again_on_a_lane_of_the_same_number_does_nothing(name: str, first: str) -> None:
    """The number was given out again once the queue was deleted; what was recorded since is another call's answer."""
    with machine_of(started(name), clocked_scripts(), GroupedMachine) as machine:
        for second, arguments in CALLS.items():
            state = machine()
            state.begin()
            state.wipe_the_rest(lane=0)
            getattr(state, first)(lane=0, **CALLS[first])
            getattr(state, second)(lane=2, **arguments)
            assert state.an_earlier_call_arrives_again(back=1) == [b'NOLANE']


def test_announcements_agree_whatever_the_id() -> None:
    with machine_of(started('valkey-9.1'), clocked_scripts()) as machine:
        state = machine()
        state.begin()
        for worker in (b'', b'v', b'\xff'):
            state.announce(worker=worker, age='0.000000', lifetime=30_000)


@pytest.mark.parametrize('name', PLAYS)
def test_what_is_played_agrees_without_a_fault(name: str) -> None:
    with machine_of(started('valkey-9.1'), clocked_scripts(), GroupedMachine) as machine:
        play(machine, name)


@pytest.mark.parametrize('name', SHARDED_PLAYS)
def test_what_is_played_on_shards_agrees_without_a_fault(name: str) -> None:
    with machine_of(started('valkey-9.1'), clocked_scripts(sharded=True), ShardedMachine) as machine:
        play(machine, name)


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        pytest.param('if nonce ~= ARGV[2] then', 'if false then', id='a lane of another client will do'),
        pytest.param(' and claim.count == tonumber(count)', '', id='a fence without the count'),
        pytest.param('claim.token == token and ', '', id='a fence without the token'),
        pytest.param('\nand claim.deadline == tonumber(score)', '', id='a fence without the deadline'),
        pytest.param(' and token == live_token', '', id='the token of the claim before will do'),
        pytest.param("key, 'claim', claim_text(", "key, 'x', claim_text(", id='extended, but not its claim'),
        pytest.param("or limit ~= '' or headers ~= '' then", 'then', id='no claim sees limits and headers'),
        pytest.param('if delivery ~= run_count or', 'if not run_count or', id='a claim records wrong counts'),
        pytest.param("return 'LATE'", 'return nil', id='late calls are done'),
        pytest.param("record('closed', '')", '', id='settled calls are done when they arrive'),
        pytest.param(
            'remove_keys(finished)',
            '',
            id='a result expires under a new task of the same id',
        ),
        pytest.param("redis.call('LREM', postponed.key, 0, postponed.id)", '', id='what is postponed stays in pending'),
        pytest.param("variadic('ZREM', delayed, advanced)", '', id='what is due at once stays delayed'),
        pytest.param(
            " and 'w' or redis.call('ZSCORE', rejected",
            " and 'pending' or redis.call('ZSCORE', rejected",
            id='what is worked on is replaced',
        ),
        pytest.param('state.expiry and state.expiry.time <= tonumber(present)', 'nil', id='what has expired starts'),
        pytest.param('state.expiry and math.min(due', 'nil and math.min(due', id='what expires waits until it is due'),
        pytest.param("letters = (any_expires and 'e' or '') .. letters", '', id='nobody knows that tasks expire'),
        pytest.param(
            "has_used('c') and redis.call(", 'nil and redis.call(', id='who is asked to end a task may requeue it'
        ),
        pytest.param(
            "redis.call('HSET', counters, 'uses', (features or '') .. 'c')", '', id='nobody knows that tasks are to end'
        ),
        pytest.param('if number(enqueued, 0) == 0 then', 'if false then', id='tasks beside the shards'),
        pytest.param('if number(claimed, 0) == 0 then', 'if false then', id='consumers beside the shards'),
        pytest.param('string.find(values[1], UNKNOWN)', 'false', id='features of a later version are ignored'),
        pytest.param('if #reply == 4 then', 'if false then', id='a repeated claim with nothing left is not told so'),
        pytest.param("0, '0', 1, '1'", "0, '0'", id='one hint for many tasks'),
        pytest.param('minded and minded <= event', 'minded', id='any timer will do'),
        pytest.param("redis.pcall('PUBLISH', key, revision .. ' ' .. status)", '', id='silent transitions'),
        pytest.param("rejected, ids)\nvariadic('HDEL', tasks, ids)\n", 'rejected, ids)\n', id='a cap leaves payloads'),
        pytest.param('math.min(surplus, added + 20)', 'surplus + 1', id='a cap removes one too many'),
        pytest.param(
            "redis.call('HEXISTS', tasks, id) == 0 and not is_anothers", 'not is_anothers', id='states of tasks wiped'
        ),
        pytest.param(' and not is_anothers(id)', '', id="another queue's states wiped"),
        pytest.param('told[index] = state and', 'told[index] = false and', id='tasks vanish in silence'),
        pytest.param("variadic('ZADD', missing, scores)", '', id='ids without a payload are dropped'),
        pytest.param("redis.call('ZREM', missing, id)", '', id='what came back stays set aside'),
        pytest.param("if letters ~= '' then", 'if false then', id='an ignored task stays ignored'),
        pytest.param(' and 0 or kept)', ' and 0 or 0)', id='a repair of what is listed twice leaves none'),
        pytest.param(
            "local waiting = redis.call('LLEN', pending)\n",
            'local waiting = 0\n',
            id='writes before a look at what may be of a wrong type',
        ),
        pytest.param('return pause and 0 or', 'return', id='a pause is not heeded'),
        pytest.param('and math.max(pause, time or pause) or time', 'and time', id='the end of a pause is missed'),
        pytest.param('limits.slots - claimed', 'limits.slots', id='claims do not count'),
        pytest.param('claimed - (freed or 0)', 'claimed', id='stale claims hold their slots'),
        pytest.param('set_arrival(time + count', 'set_arrival(time', id='deliveries do not count'),
        pytest.param('(now), limits.burst * limits.interval', '(now), math.huge', id='old rates stay'),
        pytest.param('if spared > 0 then', 'if false then', id='what is given back counts'),
        pytest.param('if touched or limited then', 'if touched then', id='a slot is free and nobody hears of it'),
        pytest.param("letter = 'u'\nend\n", 'end\n', id='a pause that is over'),
        pytest.param('number(new[1], 0) > number(revision, 0)', 'true', id='old records of a pause overwrite new ones'),
        pytest.param(
            "and name then\ntouch(name, 'nowhere')", 'and name then\n', id='a schedule does not place a group'
        ),
        pytest.param(
            "if rank then\nredis.call('PERSIST', key)", 'if false then', id='a schedule expires with an earlier record'
        ),
        pytest.param(
            'elsewhere = values[1] ~= PENDING and (', 'elsewhere = false and (', id='claims what is elsewhere'
        ),
    ],
)
def test_a_fault_is_found(old: str, new: str, request: pytest.FixtureRequest) -> None:
    with machine_of(started('valkey-9.1'), mutated(old, new), GroupedMachine) as machine:
        assert_shows(machine, request.node.callspec.id)


@pytest.mark.timeout(300 if PROFILE_NAME == 'ci' else 0)
@pytest.mark.parametrize('name', ['redis-6.2', 'valkey-9.1'])
def test_agrees_with_a_real_server_about_groups(name: str) -> None:
    with machine_of(started(name), clocked_scripts(), GroupedMachine) as machine:
        run_state_machine_as_test(machine, settings=SHORTER)


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        pytest.param("redis.pcall('SREM', group_key('working', name), id)", '', id='claims that ended hold slots'),
        pytest.param('if tags[index] > read_turn() then', 'if false then', id='returning groups enter at the turn'),
        pytest.param("(where == 'return' and name", "(where == 'never' and name", id='ordered tasks lose their place'),
        pytest.param("and index == 'ready' and (not", 'and (not', id='audits believe that groups wait for something'),
        pytest.param('not (score and own == name)', 'not score', id="audits believe in other groups' claims"),
        pytest.param(
            '<= microseconds(now) then\nover', '> 0 then\nover', id='rates are forgotten while they are in force'
        ),
        pytest.param('touch(each.line.name)', '', id='a sweep leaves groups without tasks listed'),
    ],
)
def test_a_fault_of_groups_is_found(old: str, new: str, request: pytest.FixtureRequest) -> None:
    with machine_of(started('valkey-9.1'), mutated(old, new), GroupedMachine) as machine:
        assert_shows(machine, request.node.callspec.id)


@pytest.mark.timeout(300 if PROFILE_NAME == 'ci' else 0)
@pytest.mark.parametrize('name', ['redis-6.2', 'valkey-9.1'])
def test_agrees_with_the_shards_of_a_real_server(name: str) -> None:
    """Those scripts are new and few: the oldest and the newest of the servers will do."""
    with machine_of(started(name), clocked_scripts(sharded=True), ShardedMachine) as machine:
        run_state_machine_as_test(machine, settings=SHORT)


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        pytest.param(
            'number(generation, 0) ~= tonumber(ARGV[#ARGV]) then',
            'false then',
            id='an old number of shards will do',
        ),
        pytest.param('put(shard .. ARGV[BELL], ring, lifetime)', '', id='who waits is not rung for'),
        pytest.param('put(shared, ring, lifetime)', '', id='who waits is not rung for by the bell of all'),
        pytest.param('lifetime == 0 and finding ~= 0', 'false', id='who leaves rings for nobody'),
        pytest.param("redis.pcall('EXISTS', unpack(keys)) == 0", 'true', id='shards with tasks are not looked at'),
        pytest.param("redis.pcall('ZREM', ring, wake, wake .. '+')", '', id='a ring is left over'),
        pytest.param(
            "redis.pcall('ZREM', ring, wake, wake .. '+')", "redis.pcall('DEL', ring)", id='the ring of others removed'
        ),
        pytest.param(
            "redis.pcall('ZADD', ring, 'NX', present, wake)",
            "redis.pcall('ZADD', ring, present, wake)",
            id='who rang first goes to the end',
        ),
        pytest.param("redis.pcall('ZADD', ring, 'NX', present, ARGV[5])", '', id='who waits learns of no change'),
        pytest.param('(not recorded or wanted > generation)', 'true', id='old layouts overwrite new ones'),
        pytest.param(
            'if not recorded and not intended and number', 'if false and number', id='plain queues are taken over'
        ),
        pytest.param("if redis.call('HEXISTS', tasks, ARGV[index]) == 0 then", 'do', id='states of tasks are cleared'),
        pytest.param(
            "number(totals('generation'), 0) ~= tonumber(ARGV[1])",
            'false',
            id='results of another layout are cleared',
        ),
        pytest.param('finding = till and 0 or', 'finding =', id='a paused shard promises tasks'),
        pytest.param('or math.min(finding, most)', 'or finding', id='a full shard promises tasks'),
        pytest.param("redis.call('HDEL', counters, 'intended')", '', id='a change that is done stays begun'),
        pytest.param("minded <= event and 0 or 'e'", "0 or 'e'", id='any timer will do for a shard'),
    ],
)
def test_a_fault_of_shards_is_found(old: str, new: str, request: pytest.FixtureRequest) -> None:
    with machine_of(started('valkey-9.1'), mutated(old, new, sharded=True), ShardedMachine) as machine:
        assert_shows(machine, request.node.callspec.id)
