"""What is recorded of a pause, and how shards get it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.core.support import KEYS, SCRIPTS, end, names
from torrelque import Pause, TorrelqueTypeError, TorrelqueValueError
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


def test_the_newest_of_some_records() -> None:
    operation = flow.newest((KEYS, OTHER, KEYS))
    assert names(next(operation)) == ['HMGET']
    operation.send([[b'7', b'', b'', b'']])
    operation.send([[b'12', b'inf', b'1.5', b'why']])
    assert end(operation, [[None, None, None, None]]) == [b'12', b'inf', b'1.5', b'why']


def test_a_copy() -> None:
    (call,) = next(flow.copy(SCRIPTS, OTHER, [b'12', b'inf', b'1.5', b'why']))
    assert call.args == ('', '', '', 'copy', b'12', b'inf', b'1.5', b'why')


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
