"""What is recorded of pauses and limits, and how shards get it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.core.support import KEYS, SCRIPTS, end, names
from torrelque import Limits, Pause, TorrelqueTypeError, TorrelqueValueError
from torrelque.core import flow
from torrelque.core.keys import Keys

OTHER = Keys.of_queue('p')


def test_a_pause_as_arguments() -> None:
    assert flow.pause_item(None, None) == ('pause', 'inf', b'')
    assert flow.pause_item('why', 1_800_000_000) == ('pause', '1800000000.000000', b'why')
    moment = datetime(2027, 1, 15, 8, tzinfo=UTC)
    assert flow.pause_item(None, moment) == ('pause', '1800000000.000000', b'')


@pytest.mark.parametrize('bad', ['soon', b'1', True, timedelta(1), []])
def test_an_end_of_a_wrong_type(bad: Any) -> None:  # noqa: ANN401 - on purpose
    with pytest.raises(TorrelqueTypeError, match='until must be a datetime or a Unix time'):
        flow.pause_item(None, bad)


@pytest.mark.parametrize('bad', [math.nan, math.inf, -1, 1.8e12, datetime(2027, 1, 1)])  # noqa: DTZ001 - on purpose
def test_an_end_that_is_none(bad: Any) -> None:  # noqa: ANN401 - on purpose
    with pytest.raises(TorrelqueValueError, match='until must be a'):
        flow.pause_item(None, bad)


@pytest.mark.parametrize(
    ('arguments', 'text', 'limits'),
    [
        ((None, None, None), b'', Limits()),
        ((50, None, None), b'50 - - -', Limits(50)),
        ((None, (100, 60), None), b'- 100 60000000 100', Limits(None, (100, 60.0), 100)),
        ((5, [3, 0.5], 1), b'5 3 500000 1', Limits(5, (3, 0.5), 1)),
        ((None, None, None, True), b'- - - - strict', Limits(strict=True)),
        ((2, None, None, False), b'2 - - -', Limits(2)),
    ],
)
def test_limits_as_arguments(arguments: tuple[Any, Any, Any], text: bytes, limits: Limits) -> None:
    assert flow.limits_item(*arguments) == ('limit', text)
    assert flow.limits_of([b'1', b'', b'', b'', text]) == limits


@pytest.mark.parametrize('text', [b'x', b'0 0 0 0', b'-1 - - -', b'1.5 5', b'- 5 x 5', b'- 5 5'])
def test_malformed_limits_are_none(text: bytes) -> None:
    assert flow.limits_of([b'1', b'', b'', b'', text]) == Limits()


def test_the_newest_of_some_records() -> None:
    operation = flow.newest((KEYS, OTHER, KEYS))
    assert names(next(operation)) == ['HMGET']
    operation.send([[b'7', b'', b'', b'', b'']])
    operation.send([[b'12', b'inf', b'1.5', b'why', b'2 - - -']])
    assert end(operation, [[None] * 5]) == [b'12', b'inf', b'1.5', b'why', b'2 - - -']


def test_a_copy() -> None:
    (call,) = next(flow.copy(SCRIPTS, OTHER, [b'12', b'inf', b'1.5', b'why', b'2 - - -']))
    assert call.args == ('', '', '', 'copy', b'12', b'inf', b'1.5', b'why', b'2 - - -')


@pytest.mark.parametrize(
    ('uses', 'until', 'pause'),
    [
        (b'p', b'inf', Pause(1.5, None, 'why')),
        (b'p', b'101.0', Pause(1.5, 101.0, 'why')),
        (b'p', b'99.0', None),
        (b'', b'inf', None),
    ],
)
def test_the_load(uses: bytes, until: bytes, pause: Pause | None) -> None:
    operation = flow.load(SCRIPTS, KEYS, 5)
    (sweep,) = next(operation)
    assert sweep.args == ('stale', 5)
    operation.send([[250, 1]])
    operation.send([[3, 0]])
    assert end(operation, [2, [uses, until, b'1.5', b'why'], [b'100', b'0']]) == (2, pause)
