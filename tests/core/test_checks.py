"""Arguments that are refused before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from torrelque.core.checks import (
    LONGEST,
    check_count,
    check_headers,
    check_id,
    check_seconds,
    check_target,
    check_text,
    check_wait,
)  # fmt: skip
from torrelque.core.models import Receipt, Task
from torrelque.errors import TorrelqueTypeError, TorrelqueValueError

RECEIPT = Receipt('id', '7:nonce:1', 3)
TASK = Task(RECEIPT, None, 0, 0)


def test_seconds() -> None:
    assert check_seconds('delay', None) is None
    assert check_seconds('delay', 0) == 0
    assert check_seconds('delay', Decimal('1.5')) == 1.5
    assert check_seconds('delay', -3, negative=True) == -3


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, LONGEST * 2, -1])
def test_seconds_without_a_meaning(value: float) -> None:
    with pytest.raises(TorrelqueValueError, match=r'^delay must .*got '):
        check_seconds('delay', value)


@pytest.mark.parametrize('value', ['abc', '1', b'1', [], object()])
def test_seconds_that_are_no_number(value: object) -> None:
    with pytest.raises(TorrelqueTypeError, match=r'^delay must be a number of seconds, got '):
        check_seconds('delay', value)


def test_waits() -> None:
    assert check_wait('timeout', None) == check_wait('timeout', 0) == check_wait('timeout', math.inf) == math.inf
    assert check_wait('timeout', 2) == 2
    with pytest.raises(TorrelqueValueError, match='must not be negative, got -1'):
        check_wait('timeout', -1)


def test_counts() -> None:
    assert check_count('max_tasks', 1) == 1
    with pytest.raises(TorrelqueValueError, match='max_tasks must be at least 1, got 0'):
        check_count('max_tasks', 0)
    for value in (1.0, '1', True, None):
        with pytest.raises(TorrelqueTypeError, match='max_tasks must be a whole number, got '):
            check_count('max_tasks', value)


@pytest.mark.parametrize('check', [lambda value: check_text('reason', value), check_id])
def test_texts(check: Callable[[Any], str]) -> None:
    assert check('é') == 'é'
    with pytest.raises(TorrelqueValueError, match='must not be empty'):
        check('')
    with pytest.raises(TorrelqueValueError, match='UTF-8'):
        check('\ud800')
    with pytest.raises(TorrelqueTypeError, match=r'must be a string, got b'):
        check(b'bytes')


def test_a_target_is_the_claim_where_one_is_remembered() -> None:
    assert check_target(TASK) is check_target(TASK.id) is RECEIPT
    assert check_target('id') == 'id'
    assert check_id(TASK) == 'id'


def test_headers() -> None:
    assert check_headers(None) is None
    assert check_headers({'trace': ''}) == {'trace': ''}
    with pytest.raises(TorrelqueTypeError, match="got 'n': 1"):
        check_headers({'n': 1})
    with pytest.raises(TorrelqueTypeError, match='must map strings to strings'):
        check_headers([('a', 'b')])
    with pytest.raises(TorrelqueValueError, match='UTF-8'):
        check_headers({'a': '\ud800'})
