"""What is written and read of schedules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.support import KEYS, SCRIPTS, end, names
from torrelque import TorrelqueTypeError, TorrelqueValueError
from torrelque.core import schedules
from torrelque.core.codec import JSON

DEFAULTS = (300.0, None)


def draft(**options: Any) -> schedules.Draft:  # noqa: ANN401 - whatever a caller may say
    return schedules.draft('x', options, JSON, DEFAULTS)


def test_an_interval_as_arguments() -> None:
    made = draft(task={'a': 1}, every=0.5)
    assert made.timing == ('', '', 0.5)
    words = (b'x', 'set', '', '', '', '0.5', 'skip', 1, b'{"a": 1}', '300', '', '', b'', '', '', b'', '', '')
    assert made.write(()) == words
    assert draft(task=1, every=1, group='é').write(())[-3:] == ('é'.encode(), '', '')


def test_a_cron_expression_as_arguments() -> None:
    made = draft(
        task=1, cron='0 7 * * *', tz='Europe/Vienna', owner='app', missed='all', task_timeout=5, delay=2,
        max_dequeues=3, headers={'a': 'b'}, time_limit=4, expires_in=60, on_expiry='reject', priority='low',
    )  # fmt: skip
    headers = b'{"a":"b","torrelque.time_limit":"4"}'
    assert made.write((1.0, 2.5)) == (
        b'x', 'set', 'app', '0 7 * * *', 'Europe/Vienna', '', 'all', 1, b'1', '5', '2.000000', 3, headers, '60.000000',
        'reject', b'', 'low', '1 2.5',
    )  # fmt: skip


def test_other_items() -> None:
    assert schedules.remove_item('x', 'app') == (b'x', 'remove', 'app')
    assert schedules.fire_item('x', 1.25) == (b'x', 'fire', '1.25')
    assert schedules.slot_id('x', 1_700_000_000.0) == 'x@1700000000'
    assert schedules.remove_item('x', '', 5) == (b'x', 'remove', '', 5)
    assert schedules.hold_item('x', 4, 5) == (b'x', 'hold', 4, 5)
    assert schedules.slot_id('x', 1.0, '@~0000abcd') == 'x@~0000abcd@1'


@pytest.mark.parametrize('bad', ['', 'a@b', b'x', None])
def test_bad_ids(bad: Any) -> None:  # noqa: ANN401 - on purpose
    with pytest.raises((TorrelqueTypeError, TorrelqueValueError), match='schedule id must'):
        schedules.check_id(bad)


def test_a_schedule_is_read() -> None:
    operation = schedules.scan_schedules(KEYS, b'0')
    assert names(next(operation)) == ['ZSCAN']
    values = [None] * len(schedules.FIELDS)
    values[0] = b'{"a": 1}'  # type: ignore[call-overload]
    assert names(operation.send([[b'7', [b'x', b'1', b'gone', b'2']]])) == ['HMGET', 'HMGET']
    assert end(operation, [values, [None] * len(values)]) == (b'7', [('x', values)])
    found = schedules.make_schedule('x', values, JSON.loads)
    assert (found.task, found.next, found.every, found.missed, found.overlap) == ({'a': 1}, None, None, 'skip', True)
    assert (found.task_timeout, found.headers, found.max_dequeues) == (300, {}, None)
    assert (found.group, found.priority) == (None, 'normal')


@pytest.mark.parametrize(('missed', 'after'), [(b'skip', 1500), (b'all', 1000)])
def test_a_refill(missed: bytes, after: int) -> None:
    asked: list[tuple[object, ...]] = []

    def upcoming(*arguments: Any) -> list[float]:  # noqa: ANN401
        asked.append(arguments)
        return [2000.0, 2060.5]

    operation = schedules.refill(SCRIPTS, KEYS, b'x', upcoming)
    assert names(next(operation)) == ['HMGET', 'TIME']
    (call,) = operation.send([[b'* * * * *', b'UTC', missed, b'1000', b'9', None], [b'1500', b'600000']])
    assert call.args == ('', '', '', b'x', 'refill', b'9', '2000 2060.5')
    assert asked == [('* * * * *', 'UTC', after, schedules.AHEAD)]


@pytest.mark.parametrize('cron', [None, b'* * * * *'])
def test_no_refill(cron: bytes | None) -> None:
    """It is gone, or there are no more times, or this process cannot compute them."""
    operation = schedules.refill(SCRIPTS, KEYS, b'x', lambda *_: ())
    next(operation)
    end(operation, [[cron, b'UTC', None, b'1000', b'9', None], [b'1500', b'0']])
