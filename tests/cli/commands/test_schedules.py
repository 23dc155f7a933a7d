"""`torrelque schedule`, `schedules`, `unschedule` and `fire`."""

from __future__ import annotations

from tests.cli.support import Command


def test_schedules(command: Command) -> None:
    assert command('schedules').out == ''
    assert command('schedule', 'ping', '{"a": 1}', '--every', '1h', '--no-overlap') == (0, 'scheduled ping\n', '')
    report = ['schedule', 'report', '"daily"', '--cron', '0 7 * * mon-fri', '--tz', 'Europe/Vienna', '-H', 'a=b']
    assert command(*report, '--missed', 'all', '--max-dequeues', '3', '--task-timeout', '1m').status == 0
    assert command(*report, '--json').lines == [{'queue': 'trq', 'id': 'report', 'scheduled': True}]
    out = command('schedules').out
    assert 'every 3600 s' in out
    assert '0 7 * * mon-fri Europe/Vienna' in out
    found = {fields['id']: fields for fields in command('schedules', '--json').lines}
    assert found['ping']['task'] == {'a': 1}
    assert (found['ping']['every'], found['ping']['overlap'], found['ping']['cron']) == (3600, False, None)
    assert (found['report']['task'], found['report']['missed'], found['report']['headers']) == (
        'daily',
        'skip',
        {'a': 'b'},
    )
    fired = command('fire', 'ping').out.strip()
    assert fired.startswith('ping@')
    assert command('fire', 'report', '--json').lines[0]['id'].startswith('report@')
    assert 'trq' in command('queues').out
    assert command('schedule', 'grouped', '1', '--every', '1h', '--group', 'acme').status == 0
    assert command('schedule', 'low', '1', '--every', '1h', '--priority', 'low').status == 0
    found = {fields['id']: (fields['group'], fields['priority']) for fields in command('schedules', '--json').lines}
    assert found == {
        'ping': (None, 'normal'),
        'report': (None, 'normal'),
        'grouped': ('acme', 'normal'),
        'low': (None, 'low'),
    }
    more = ['--delay', '5s', '--expires-in', '1m', '--on-expiry', 'reject', '--time-limit', '30s', '--owner', 'app']
    assert command('schedule', 'low', '1', '--every', '1h', '--priority', 'low', *more).status == 0
    (low,) = (each for each in command('schedules', '--json').lines if each['id'] == 'low')
    assert [low[name] for name in ('delay', 'expires_in', 'on_expiry', 'owner')] == [5, 60, 'reject', 'app']
    assert 30.0 in map(float, low['headers'].values())
    command.assert_refused(['schedule', 'low', '1', '--every', '1h'], 1, ".*'app'.*")
    command.assert_refused(
        ['schedule', 'x', '1', '--every', '1h', '--on-expiry', 'drop'], 2, "on_expiry='drop' needs .*"
    )
    assert 'The queue has schedules: 4.' in command('stats').out
    assert command('stats', '--json').lines[0]['schedules'] == 4
    for name in ('grouped', 'low'):
        command('unschedule', name)
    assert command('unschedule', 'ping') == (0, 'unscheduled ping\n', '')
    command.assert_refused(['unschedule', 'ping'], 1, "no schedule 'ping' in queue 'trq'")
    command.assert_refused(['schedule', 'x', 'a'], 2, 'the payload is not JSON: .*')
    command.assert_refused(['schedule', 'x', '1'], 2, 'give either cron or every, .*')
    command.assert_refused(['schedule', 'x', '1', '--cron', '* *'], 2, r"cron is not a cron expression .*, got '\* \*'")


def test_a_queue_with_nothing_but_a_schedule_is_found(command: Command) -> None:
    command('schedule', 'ping', '1', '--every', '1h')
    assert 'trq' in command('queues').out
