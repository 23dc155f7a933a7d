"""What is recorded of the limits of groups, how shards get them, and the list of groups."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.support import KEYS, SCRIPTS, end, names
from torrelque import GroupInfo, Limits, TorrelqueTypeError, TorrelqueValueError
from torrelque.core import groups
from torrelque.core.codec import JSON
from torrelque.core.commands import group_of, line_words, new_item
from torrelque.core.models import make_group_limits

NONE = b'- - - - - - -'


@pytest.mark.parametrize(
    ('arguments', 'text', 'limits'),
    [
        ((None, None, None, None, None, None), NONE, Limits()),
        ((0, None, None, None, None, None), b'0 - - - - - -', Limits(0)),
        ((5, (100, 60), 1, 3, False, 'pass'), b'5 100 60000000 1 3 0 pass', Limits(5, (100, 60.0), 1, 3)),
        ((None, None, None, None, True, 'hold'), b'- - - - - 1 hold', Limits(ordered=True, dead='hold')),
        ((1, None, None, None, True, None), b'1 - - - - 1 -', Limits(1, ordered=True)),
    ],
)
def test_limits_as_arguments(arguments: tuple[Any, ...], text: bytes, limits: Limits) -> None:
    assert groups.limits_item('é', *arguments) == ('limit', 'é'.encode(), text)
    assert groups.limits_item('*', *arguments)[1] == b'*'
    assert make_group_limits(b'7 ' + text, b'') == limits
    assert make_group_limits(b'', b'7 ' + text) == limits


@pytest.mark.parametrize(
    ('own', 'default', 'limits'),
    [
        (b'1 - - - - 3 - -', b'1 2 5 1000000 5 - 1 hold', Limits(2, (5, 1.0), 5, 3, ordered=True, dead='hold')),
        (b'1 4 7 1000000 1 - 0 pass', b'1 2 5 1000000 5 2 1 hold', Limits(4, (7, 1.0), 1, 2)),
        (b'1 - 7 1000000 1 - - -', b'1 - 5 1000000 5 - - -', Limits(None, (7, 1.0), 1)),
        (b'1', b'2 3 - - - - - -', Limits(3)),
        (b'x y z', b'', Limits()),
        (b'1 two 7 1000000 0 no 2 keep', b'', Limits()),
    ],
)
def test_what_a_group_does_not_name_is_as_in_the_default(own: bytes, default: bytes, limits: Limits) -> None:
    assert make_group_limits(own, default) == limits


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ('', {}, TorrelqueValueError, 'group must not be empty'),
    ('g' * 257, {}, TorrelqueValueError, 'group must have at most 256 characters, got 257'),
    (b'g', {}, TorrelqueTypeError, "group must be a string, got b'g'"),
    ('\ud800', {}, TorrelqueValueError, 'group must be text that UTF-8 can encode'),
    ('g', {'concurrency': -1}, TorrelqueValueError, 'concurrency must be at least 0, got -1'),
    ('g', {'weight': 0}, TorrelqueValueError, 'weight must be at least 1, got 0'),
    ('g', {'weight': 1001}, TorrelqueValueError, 'weight must be at most 1000, got 1001'),
    ('g', {'weight': 1.5}, TorrelqueTypeError, r'weight must be a whole number, got 1\.5'),
    ('g', {'ordered': 1}, TorrelqueTypeError, 'ordered must be True or False, got 1'),
    ('g', {'ordered': True, 'concurrency': 2}, TorrelqueValueError, 'one task run at a time, got concurrency=2'),
    ('g', {'dead': 'stop'}, TorrelqueValueError, "dead must be 'hold' or 'pass', got 'stop'"),
    ('g', {'burst': 2}, TorrelqueTypeError, 'burst needs a rate, got burst=2 and rate=None'),
]


@pytest.mark.parametrize(('group', 'limits', 'kind', 'message'), BAD)
def test_bad_limits(group: Any, limits: dict[str, Any], kind: type[Exception], message: str) -> None:  # noqa: ANN401
    names = ('concurrency', 'rate', 'burst', 'weight', 'ordered', 'dead')
    with pytest.raises(kind, match=message):
        groups.limits_item(group, *[limits.get(name) for name in names])


def test_the_line_of_a_task() -> None:
    assert line_words(None, None) == line_words(None, 'normal') == (b'', '')
    assert line_words(None, 'low') == (b'', 'low')
    assert line_words('é', None) == ('é'.encode(), '')
    plain = new_item(JSON, lambda: 'i', 1, ('300', '', ''), line=line_words(None, 'normal'))
    grouped = new_item(JSON, lambda: 'i', 1, ('300', '', ''), line=line_words('g', None))
    assert plain == (b'i', b'1', '300', '', '', b'')
    assert grouped == (*plain, '', '', '', b'g', '')
    assert (group_of(plain), group_of(grouped)) == (b'', b'g')


@pytest.mark.parametrize(
    ('group', 'priority', 'kind', 'message'),
    [
        ('*', None, TorrelqueValueError, r"group must not be '\*', which stands for the default of all groups"),
        (17, None, TorrelqueTypeError, 'group must be a string, got 17'),
        ('g', 'high', TorrelqueValueError, "either a group or a priority, got group='g' and priority='high'"),
        (None, 'urgent', TorrelqueValueError, "priority must be 'high', 'normal' or 'low', got 'urgent'"),
        (None, 5, TorrelqueValueError, "priority must be 'high', 'normal' or 'low', got 5"),
    ],
)
def test_a_line_that_is_none(group: Any, priority: Any, kind: type[Exception], message: str) -> None:  # noqa: ANN401
    with pytest.raises(kind, match=message):
        line_words(group, priority)


def test_a_changed_default_is_heeded_in_steps() -> None:
    operation = groups.copy_limits(SCRIPTS, KEYS, {b'*': b'7 2 - - - - - -', b'g': b'8 1 - - - - - -'})
    copies = next(operation)
    assert [call.args[3:] for call in copies] == [
        ('copy', b'*', b'7 2 - - - - - -'),
        ('copy', b'g', b'8 1 - - - - - -'),
    ]
    asked = [operation.send([[b'OK', b'o'], [b'OK', b'o']]), operation.send([b'17']), operation.send([b'0'])]
    end(operation, [b'0'])
    words = [call.args[3:] for batch in asked for call in batch]
    assert words == [('recheck', 'blocked', b'0'), ('recheck', 'blocked', b'17'), ('recheck', 'held', b'0')]


def test_the_newest_limits_of_some_shards() -> None:
    operation = groups.newest_limits((KEYS, KEYS))
    assert names(next(operation)) == ['HSCAN']
    operation.send([[b'9', [b'a', b'5 1 - - - - - -']]])
    operation.send([[b'0', [b'b', b'6 1 - - - - - -']]])
    found = end(operation, [[b'0', [b'b', b'4 2 - - - - - -', b'a', b'8']]])
    assert found == {b'a': b'8', b'b': b'6 1 - - - - - -'}


@pytest.mark.parametrize(
    ('place', 'score', 'info'),
    [
        ('groups', b'3.5', GroupInfo('é', 2, 1, 'ready')),
        ('blocked', b'100.25', GroupInfo('é', 2, 1, 'blocked', since=100.25)),
        ('held', b'200', GroupInfo('é', 2, 1, 'held', until=200.0)),
        ('held', b'inf', GroupInfo('é', 2, 1, 'held')),
        ('working', b'', GroupInfo('é', 2, 1, 'idle')),
    ],
)
def test_the_list_of_groups(place: str, score: bytes, info: GroupInfo) -> None:
    operation = groups.list_groups(SCRIPTS, KEYS, place, b'0')
    (call,) = next(operation)
    assert call.args == (place, b'0', 100)
    assert end(operation, [[b'7', 'é'.encode(), 2, 1, score]]) == (b'7', [info])
